"""The book's build: its repository's address, and a cache that knows what the pages rest on."""

import shutil
import subprocess
from types import SimpleNamespace

import book_build
import pytest
from jupyter_cache import get_cache
from support.book import ROOT


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, ""),
        ({"BOOK_REPOSITORY_URL": "https://example.org/me/book/"}, "https://example.org/me/book"),
        ({"GITHUB_REPOSITORY": "me/book"}, "https://github.com/me/book"),
        (
            {"GITHUB_REPOSITORY": "me/book", "GITHUB_SERVER_URL": "https://git.example.org"},
            "https://git.example.org/me/book",
        ),
        ({"BOOK_REPOSITORY_URL": "https://me:secret@example.org/b.git"}, "https://example.org/b"),
        ({"BOOK_REPOSITORY_URL": "/srv/book.git"}, ""),
    ],
)
def test_the_repositorys_address_is_told_by_the_environment(tmp_path, environment, address):
    assert book_build.repository_url(tmp_path, environment) == address


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("git@github.com:me/book.git", "https://github.com/me/book"),
        ("ssh://git@github.com/me/book.git", "https://github.com/me/book"),
        ("https://token@github.com/me/book", "https://github.com/me/book"),
        ("../elsewhere", ""),
    ],
)
def test_the_repositorys_address_is_told_by_the_remote(tmp_path, remote, address):
    for command in (["init", "-q"], ["remote", "add", "origin", remote]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    assert book_build.repository_url(tmp_path, {}) == address


@pytest.fixture
def checkout(tmp_path):
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "calib", tmp_path / "calib", ignore=skip)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    return tmp_path


def test_the_same_library_has_the_same_digest_wherever_it_lies(checkout):
    assert book_build.library_digest(checkout) == book_build.library_digest(ROOT)


@pytest.mark.parametrize(
    "file",
    [
        "calib/analysis/phases.py",
        "calib/metrics/bins.py",
        "calib/questions/almanac.py",
        "calib/laboratory/almanac/model.safetensors",
        "calib/laboratory/almanac-tuned/tokenizer.json",
        "constraints.txt",
    ],
)
def test_a_change_in_what_the_pages_rest_on_asks_for_new_pages(checkout, file):
    before = book_build.library_digest(checkout)
    content = (checkout / file).read_bytes()
    (checkout / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert book_build.library_digest(checkout) != before


def test_the_interpreters_own_files_change_nothing(checkout):
    before = book_build.library_digest(checkout)
    (checkout / "calib" / "__pycache__").mkdir()
    (checkout / "calib" / "__pycache__" / "evolution.cpython-311.pyc").write_bytes(b"compiled")
    assert book_build.library_digest(checkout) == before


NOTEBOOK = """---
jupytext: {{text_representation: {{extension: .md, format_name: myst}}}}
kernelspec: {{display_name: Python 3, language: python, name: python3}}
---

# {title}

```{{code-cell}} ipython3
{code}
```
"""


def execute(folder, monkeypatch, mode, **cells):
    """Chapters of one cell each, and one page without any; the cache afterwards."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which would be set for good
    for name, code in cells.items():
        (folder / f"{name}.md").write_text(NOTEBOOK.format(title=name, code=code))
    (folder / "page.md").write_text("# Nothing to execute\n")
    config = SimpleNamespace(
        nb_execution_mode=mode,
        nb_execution_cache_path=str(folder / "cache"),
        nb_execution_timeout=60,
    )
    app = SimpleNamespace(config=config, outdir=str(folder / "build"))
    env = SimpleNamespace(doc2path=lambda name: str(folder / f"{name}.md"))
    book_build.execute_side_by_side(app, env, [*cells, "page"])
    return get_cache(config.nb_execution_cache_path)


def test_chapters_are_executed_into_the_cache(tmp_path, monkeypatch):
    """All but what fails: MyST-NB, finding none, executes that again and reports it."""
    cache = execute(
        tmp_path,
        monkeypatch,
        "cache",
        one="print(6 * 7)",
        two="print(6 * 8)",
        failing="print(1 / 0)",
    )
    records = cache.list_cache_records()
    said = {}
    for record in records:
        (cell,) = (c for c in cache.get_cache_bundle(record.pk).nb.cells if c.cell_type == "code")
        said[record.uri.rpartition("/")[2]] = [output["text"] for output in cell.outputs]
    assert said == {"one.md": ["42\n"], "two.md": ["48\n"]}


def test_where_nothing_is_to_be_executed_nothing_is(tmp_path, monkeypatch):
    cache = execute(tmp_path, monkeypatch, "off", one=f"open({str(tmp_path / 'written')!r}, 'w')")
    assert not (tmp_path / "written").exists()
    assert cache.list_cache_records() == []
