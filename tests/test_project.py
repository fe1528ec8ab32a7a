"""What the project says of itself: README, citation, pinned versions, a light import."""

import re
import subprocess
import sys
import tomllib

import matplotlib
import matplotlib.pyplot as plt
import pytest
from cffconvert import Citation
from conftest import ROOT
from matplotlib.testing.compare import compare_images

import calib

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_example_runs_and_makes_the_readmes_figure(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(example.strip().splitlines()) <= 11
    (shown,) = re.findall(r"!\[[^\]]{40,}\]\((.*?)\)", README)
    monkeypatch.chdir(tmp_path)
    plt.close("all")  # or the example would draw into what another test has left open
    with plt.rc_context():
        matplotlib.rcdefaults()
        exec(compile(example, "README.md", "exec"), {})
        plt.close("all")
    assert "Correction(start=6, end=8" in capsys.readouterr().out
    assert compare_images(str(ROOT / shown), "phases.png", tol=2) is None


def test_the_readmes_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    local = [target for target in targets if "://" not in target]
    assert len(local) >= 6
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_make_explains_the_two_commands():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in re.findall(r"^make (\w+) ", README, re.M):
        assert f"make {command} " in done.stdout
    assert {"book", "test"} <= set(re.findall(r"^make (\w+) ", README, re.M))


def test_the_citation_file_is_valid():
    Citation((ROOT / "CITATION.cff").read_text(encoding="utf-8")).validate()


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"version: {project['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned_to_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["book"], *extras["test"]]
    names = {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in wanted}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins)
    pinned = {normal(name): version for name, version in pins}
    assert len(names) > 15
    assert names - set(pinned) == set()
    assert pinned["torch"] == "2.13.0"


def test_importing_calib_is_light():
    code = "import sys, calib; print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_is_there_and_says_what_it_is():
    assert len(calib.__all__) >= 9
    public = [(name, getattr(calib, name)) for name in calib.__all__]
    public += [(name, getattr(calib.metrics, name)) for name in calib.metrics.__all__]
    silent = [name for name, thing in public if not (thing.__doc__ or "").strip()]
    assert silent == []
    functions = [(n, f) for n, f in public if callable(f) and not isinstance(f, type)]
    assert [n for n, f in functions if ">>>" not in f.__doc__] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'calibrate'"):
        calib.calibrate  # noqa: B018
