"""What a notebook's first cell says of the machine, and what it refuses to start with."""

import re
import subprocess
import sys
from importlib.metadata import requires, version
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
import torch

from calib import notebook


def imported(monkeypatch, name, said):
    """Let a module of this name be there that says this version of itself."""
    module = ModuleType(name)
    module.__version__ = said
    monkeypatch.setitem(sys.modules, name, module)


def test_one_line_names_versions_and_the_gpu(monkeypatch, capsys):
    gpu = SimpleNamespace(name="Tesla T4", total_memory=15_828_320_256)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    notebook.runtime()
    (line,) = capsys.readouterr().out.splitlines()
    names = {"calibration-across-layers": "calib", "torch": "torch"}
    names |= {"transformers": "transformers", "nnsight": "nnsight"}
    versions = " · ".join(f"{name} {version(full)}" for full, name in names.items())
    assert line == f"{versions} · Tesla T4 · 14.7 GiB"


def test_without_a_gpu_it_says_how_to_get_one(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    notebook.runtime()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(" · no GPU: Runtime → Change runtime type → T4")


@pytest.mark.parametrize(
    ("module", "package"), [("numpy", "numpy"), ("sklearn", "scikit-learn"), ("calib", None)]
)
def test_what_was_replaced_after_its_import_asks_for_a_restart(module, package, monkeypatch):
    imported(monkeypatch, module, "0.0.1")
    package = package or "calibration-across-layers"
    said = f"{package} was imported as 0.0.1 and installed as {version(package)}"
    with pytest.raises(RuntimeError, match=rf"^{re.escape(said)}: restart the session \(Runtime"):
        notebook.runtime()


def test_all_that_was_replaced_is_named(monkeypatch):
    imported(monkeypatch, "scipy", "0.0.1")
    imported(monkeypatch, "pandas", "0.0.2")
    with pytest.raises(RuntimeError, match=r"pandas was .* 0\.0\.2 .*scipy was .* 0\.0\.1 "):
        notebook.runtime()


def test_the_tag_of_a_build_is_no_other_version(monkeypatch):
    """On the package index, the build torch 2.13.0+cu130 is called 2.13.0."""
    imported(monkeypatch, "torch", version("torch").partition("+")[0] + "+cu999")
    assert notebook._replaced() == []


def test_every_package_that_the_library_needs_is_known_by_its_module():
    needed = [line for line in requires("calibration-across-layers") if "extra ==" not in line]
    names = [re.match(r"[\w.-]+", line)[0] for line in needed]
    modules = [notebook._MODULES.get(name, name.replace("-", "_")) for name in names]
    assert len(modules) > 15
    assert [module for module in modules if not find_spec(module)] == []


def test_it_is_imported_before_all_that_it_looks_at():
    """Else one that was replaced would fail in its own words, before it is named."""
    code = "import sys, calib.notebook; print({'numpy', 'pandas', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
