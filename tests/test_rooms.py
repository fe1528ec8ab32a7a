"""The house: rooms that import only from those above them, one address for every public name."""

import ast
import json
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from support.book import CHAPTERS, ROOT

import calib

# From the ground up: a room imports only from those before it in this list.
ROOMS = (
    "_checks", "metrics", "questions", "models", "reading", "recalibration", "analysis", "steering",
    "mechanisms", "sampling", "losses", "figures", "report", "laboratory", "notebook", "_arguments",
    "__main__",
)  # fmt: skip
FILES = sorted((ROOT / "calib").rglob("*.py"))


def module_of(file):
    """Its dotted name below calib; the package's own file is ""."""
    parts = file.relative_to(ROOT / "calib").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def imports_of(file):
    """Modules below calib that a file imports: at its top, in functions, for types alone."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative imports hide the room"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            owner, _, inside = name.partition(".")
            if owner == "calib" and inside != "__version__":
                found.add(inside if inside in MODULES else inside.rpartition(".")[0])
    return found


IMPORTS = {name: imports_of(file) for name, file in MODULES.items()}


def test_the_rooms_are_those_of_the_list():
    there = {name.partition(".")[0] for name in MODULES} - {""}
    assert there == set(ROOMS)
    assert sum(map(len, IMPORTS.values())) > 150


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_a_room_imports_only_from_those_above_it(name):
    own = ROOMS.index(name.partition(".")[0])
    below = {other for other in IMPORTS[name] if ROOMS.index(other.partition(".")[0]) > own}
    assert below == set()


def test_no_imports_run_in_a_circle():
    order = list(TopologicalSorter(IMPORTS).static_order())  # CycleError names the circle
    assert set(order) == set(MODULES)


def test_a_room_has_no_private_dealings_with_another_but_the_pass():
    """What is underscored is its room's own; the traced pass alone is at later rooms' hand."""
    dealings = {
        (name, other)
        for name, others in IMPORTS.items()
        for other in others
        if re.search(r"\._\w+$", other) and other.partition(".")[0] != name.partition(".")[0]
    }
    assert {other.partition(".")[0] for _, other in dealings} == {"reading"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_is_one_idea(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 250


def test_no_module_is_hidden_by_a_function_of_its_name():
    modules = [name for name in MODULES if "." in name]
    assert len(modules) > 50
    for name in modules:
        room, _, own = name.rpartition(".")
        module = import_module(f"calib.{name}")
        assert getattr(import_module(f"calib.{room}"), own) is module, name


# The public face


def pages():
    names = [f"book/{name}.md" for name in ("index", *CHAPTERS, "reproducing", "paths", "api")]
    api = sorted((ROOT / "book" / "api").glob("*.md"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / name for name in names), *api]


def addresses(text):
    """Dotted names that a page uses: in code, in links, and as an API page documents them."""
    found = set(re.findall(r"(?<![\w./-])calib(?:\.[A-Za-z_]\w*)+", text))
    for home, names in re.findall(r"^from (calib[.\w]*) import (\([^)]+\)|.+)", text, re.M):
        found |= {f"{home}.{n.split(' as ')[0].strip()}" for n in names.strip("()").split(",")}
    # Documented by their short names, after the directive that names their module.
    home = None
    for directive, name in re.findall(r"^\.\. ([\w:]+):: ([\w.]+)", text, re.M):
        if directive in ("module", "currentmodule"):
            home = name
        elif directive.startswith("auto") or directive.startswith("py:"):
            found.add(name if name.startswith("calib.") else f"{home}.{name}")
    files = (".md", ".yml", ".py", ".safetensors")  # calib.md would be a page
    return {name for name in found if not name.endswith(files)}


def resolved(names):
    """Kind and identity of what each name stands for, by plain attribute access alone."""
    code = (
        "import calib, json, sys\n"
        "found = {}\n"
        "for name in json.load(sys.stdin):\n"
        "    thing = calib\n"
        "    for part in name.split('.')[1:]:\n"
        "        thing = getattr(thing, part)\n"
        "    found[name] = [type(thing).__name__, id(thing)]\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(sorted(names)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_name_in_use_is_there_after_import_calib_and_has_one_address():
    used = {name for page in pages() for name in addresses(page.read_text(encoding="utf-8"))}
    assert len(used) > 150
    found = resolved(used)
    by_thing = {}
    for name, (kind, thing) in found.items():
        if kind in ("function", "type", "ABCMeta", "module"):
            by_thing.setdefault((kind, thing), set()).add(name)
    assert [sorted(names) for names in by_thing.values() if len(names) > 1] == []


def test_importing_calib_is_light():
    heavy = {"torch", "numpy", "pandas", "datasets", "matplotlib"}
    code = f"import sys, calib; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_stub_names_what_type_checkers_see():
    text = Path(calib.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    assert set(re.findall(r"import (\w+) as \1$", text, re.M)) == set(calib.__all__)
    assert (Path(calib.__file__).parent / "py.typed").exists()


def test_the_librarys_tests_are_collected_where_only_it_and_pytest_are_installed():
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from support import bare; bare.hide_the_rest('calibration-across-layers', 'pytest')\n"
        "import pytest; sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider']))"
    )
    bare = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=bare, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert int(re.search(r"^(\d+) tests collected", done.stdout, re.M)[1]) > 2500
    assert "tests/reading/test_layers.py" in done.stdout
    assert "tests/book" not in done.stdout
