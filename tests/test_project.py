"""What the project says of itself: README, citation, pinned versions, a light import."""

import re
import subprocess
import tomllib
from importlib.metadata import version
from types import FunctionType, ModuleType

import matplotlib
import matplotlib.pyplot as plt
import pytest
import yaml
from environments.versions import COLAB, lower_bounds, normal, pins_of
from matplotlib.testing.compare import compare_images
from packaging.requirements import Requirement
from support.book import ROOT

import calib

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_example_runs_and_makes_the_readmes_figures(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(example.strip().splitlines()) <= 11
    real, laboratory = re.findall(r"!\[[^\]]{40,}\]\((.*?)\)", README)
    monkeypatch.chdir(tmp_path)
    found = 'calib.load_reading("qwen2.5-coder-1.5b-instruct/zero-shot")'
    asked = 'calib.read_layers(calib.open_model("almanac"), {})'
    asked = asked.format('calib.load_questions("almanac", limit=2000)')
    for code, shown, phase in (
        (example, real, "Correction(start=24, end=28"),
        (example.replace(found, asked), laboratory, "Correction(start=6, end=8"),
    ):
        plt.close("all")  # or the example would draw into what another test has left open
        with plt.rc_context():
            matplotlib.rcdefaults()
            exec(compile(code, "README.md", "exec"), {})
            plt.close("all")
        assert phase in capsys.readouterr().out
        pytest.importorskip("matplotlib", "3.11", reason="older ones set the text otherwise")
        assert compare_images(str(ROOT / shown), "phases.png", tol=2) is None


def test_the_readmes_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    local = [target for target in targets if "://" not in target]
    assert len(local) >= 6
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_the_recipes_name_files_and_commands_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = {name for name in re.findall(r"`([\w./-]+/[\w.-]*\.?\w*)`", text) if "NAME" not in name}
    assert len(files) >= 12
    published = {"cais/mmlu"}  # not of this repository
    assert [name for name in files - published if not (ROOT / name).exists()] == []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = set(re.findall(r"make (\w+)", text))
    assert {"book", "test", "links", "notebooks", "colab", "lowest"} <= commands
    assert [name for name in commands if not re.search(rf"^{name}:", makefile, re.M)] == []


def test_the_workflows_test_build_and_publish():
    """Three versions of Python, a cached build, its pages on a branch, and a run every week."""
    folder = ROOT / ".github" / "workflows"
    flows = {file.stem: yaml.safe_load(file.read_text("utf-8")) for file in folder.glob("*.yml")}
    assert set(flows) == {"tests", "book", "weekly", "release"}
    jobs = flows["tests"]["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert jobs["mac"]["runs-on"] == "macos-latest"
    steps = flows["book"]["jobs"]["publish"]["steps"]
    (cache,) = (step["with"] for step in steps if step.get("uses", "").startswith("actions/cache@"))
    assert cache["path"] == "_build/.jupyter_cache"
    (pages,) = (step["with"] for step in steps if "gh-pages" in step.get("uses", ""))
    assert (pages["publish_branch"], pages["publish_dir"]) == ("gh-pages", "_build/html")
    assert "schedule" in flows["weekly"][True]  # YAML takes the key "on" for a truth value
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    run = {
        step["run"].split()[1]
        for flow in flows.values()
        for job in flow["jobs"].values()
        for step in job["steps"]
        if step.get("run", "").startswith("make ")
    }
    assert run == {
        "test", "library", "book", "links", "notebooks", "chapters", "colab", "lowest", "ndif",
        "dist",
    }  # fmt: skip
    assert [name for name in run if not re.search(rf"^{name}:", makefile, re.M)] == []


def test_all_that_cite_the_paper_and_the_book_agree():
    page = (ROOT / "book" / "citing.md").read_text(encoding="utf-8")
    paper, own = re.findall(r"```bibtex\n(.*?)```", page, re.S)
    assert paper in README
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (reference,) = cff["references"]
    for value in (
        reference["title"].replace("LLMs", "{LLM}s"),
        reference["url"],
        reference["year"],
    ):
        assert str(value) in paper
    assert f"{reference['start']}--{reference['end']}" in paper
    assert cff["title"] in own
    assert f"Version {cff['version']}" in own


def test_make_explains_the_two_commands():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in re.findall(r"^make (\w+) ", README, re.M):
        assert f"make {command} " in done.stdout
    assert {"book", "test"} <= set(re.findall(r"^make (\w+) ", README, re.M))


def test_the_citation_file_is_valid():
    Citation = pytest.importorskip("cffconvert").Citation
    Citation((ROOT / "CITATION.cff").read_text(encoding="utf-8")).validate()


def test_the_version_is_the_same_everywhere():
    """It stands in calib/__init__.py; the distribution takes it, the others repeat it."""
    assert version("calibration-across-layers") == calib.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == calib.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changelog, re.M)[1] == calib.__version__


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


def test_installing_the_library_on_colab_changes_nothing_there():
    """Every dependency has a lower bound, and what Colab has will do; it lacks nnsight alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        normal(need.name): need.specifier for need in map(Requirement, project["dependencies"])
    }
    assert set(wanted) <= set(map(normal, lower_bounds()))
    there = {name: version for name, (_, version) in pins_of(COLAB.read_text("utf-8")).items()}
    assert set(wanted) - set(there) == {"nnsight"}
    assert [name for name in set(wanted) & set(there) if there[name] not in wanted[name]] == []


def test_every_public_name_is_there_and_says_what_it_is():
    assert len(calib.__all__) >= 25
    public = [(name, getattr(calib, name)) for name in calib.__all__]
    rooms = [thing for _, thing in public if isinstance(thing, ModuleType)]
    assert len(rooms) == 15  # the atlas is one, with an address of its own
    for room in rooms:
        names = getattr(room, "__all__", ())
        public += [(f"{room.__name__}.{name}", getattr(room, name)) for name in names]
    # What the aliases of array types mean is said on the page of the metrics.
    aliases = {"Answers", "Features", "Labels", "Probabilities", "Score"}
    public = [(name, thing) for name, thing in public if name.split(".")[-1] not in aliases]
    silent = [name for name, thing in public if not (thing.__doc__ or "").strip()]
    assert silent == []
    functions = [(n, f) for n, f in public if isinstance(f, FunctionType)]
    assert len(functions) > 100
    # What glue does shows in a notebook alone.
    quiet = [n for n, f in functions if ">>>" not in f.__doc__ and "notebook" not in n]
    assert quiet == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="calibrate"):
        calib.calibrate  # noqa: B018
