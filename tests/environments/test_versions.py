"""What colab.txt keeps of the list that Colab publishes, and the lowest versions of all."""

import re

import pytest
from environments import versions

PUBLISHED = """\
# Do not modify this file directly
aiohttp==3.14.3
huggingface_hub==1.28.0
Jinja2==3.1.6
torch==2.12.0+cu130
torchvision==0.27.0+cu130
"""
KEPT = "# of an older list\n#\nhuggingface-hub==1.27.0\nold_thing==1.0\ntorch==2.11.0\njinja2\n"


def test_the_list_is_renewed_for_the_names_that_are_kept():
    text, gone = versions.rewritten(KEPT, PUBLISHED, "0123456789abcdef", "2026-12-01")
    comment = [line for line in text.splitlines() if line.startswith("#")]
    assert "commit 0123456 of 2026-12-01" in " ".join(comment)
    assert max(map(len, comment)) <= 100
    pins = text.splitlines()[len(comment) :]
    assert pins == ["huggingface_hub==1.28.0", "Jinja2==3.1.6", "torch==2.12.0"]
    assert gone == ["old-thing"]


def test_what_is_kept_is_as_a_refresh_would_write_it():
    text = versions.COLAB.read_text(encoding="utf-8")
    assert len(versions.pins_of(text)) > 50
    commit, day = re.search(r"commit (\w{7}) of (\S+),", text).groups()
    assert versions.rewritten(text, text, commit, day) == (text, [])


def test_a_refresh_takes_the_newest_commit_of_the_list(tmp_path, monkeypatch, capsys):
    asked = []

    class Answer:
        def __init__(self, address):
            asked.append(address)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self):
            commit = b'[{"sha": "abcdef0123", "commit": {"committer": {"date": "2026-12-01T0:0"}}}]'
            return commit if "api.github.com" in asked[-1] else PUBLISHED.encode()

    monkeypatch.setattr(versions, "urlopen", Answer)
    monkeypatch.setattr(versions, "COLAB", tmp_path / "colab.txt")
    versions.COLAB.write_text(KEPT)
    versions.refresh()
    assert asked[1].endswith("/googlecolab/backend-info/abcdef0123/pip-freeze.gpu.txt")
    assert "commit abcdef0 of 2026-12-01" in versions.COLAB.read_text()
    assert versions.COLAB.read_text().endswith("\nJinja2==3.1.6\ntorch==2.12.0\n")
    assert "old-thing" in capsys.readouterr().out


def test_the_lowest_versions_are_printed_as_pip_reads_them(tmp_path, monkeypatch, capsys):
    project = tmp_path / "pyproject.toml"
    monkeypatch.setattr(versions, "PROJECT", project)
    extras = '[project.optional-dependencies]\ngpus = ["accelerate>=1.14"]\n'
    project.write_text('[project]\ndependencies = ["torch>=2.11", "nnsight>=0.8,<0.9"]\n' + extras)
    versions.lowest()
    assert capsys.readouterr().out == "torch==2.11\nnnsight==0.8\naccelerate==1.14\n"
    project.write_text('[project]\ndependencies = ["torch<3"]\n' + extras)
    with pytest.raises(SystemExit, match=r"pyproject.toml says no lower bound .*torch<3"):
        versions.lowest()
