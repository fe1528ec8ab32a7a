"""The book's build: its repository's address, and a cache that knows what the pages rest on."""

import importlib.util
import shutil
import subprocess

import pytest
from conftest import ROOT

specification = importlib.util.spec_from_file_location(
    "book_build", ROOT / "book" / "_ext" / "book_build.py"
)
book_build = importlib.util.module_from_spec(specification)
specification.loader.exec_module(book_build)


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
        "calib/evolution.py",
        "calib/metrics/bins.py",
        "calib/laboratory/world.py",
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
