"""Broken input of every kind ends the command with 2 and one line that names it."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from support.architectures import TOKENIZER, random_module
from support.gguf_files import needed, write_gguf

from calib.__main__ import main

ON = ["--questions", "almanac", "--limit", "3"]
NAME = r"\w+"  # of a model's folder in these tests


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A small model's folder."""
    folder = tmp_path_factory.mktemp("models") / "good"
    for part in (random_module("llama"), TOKENIZER):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(arguments, capfd):
    """The one line of the command; bars and reports of the loading may stand above it."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["report", *arguments])
    assert stopped.value.code == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert "Traceback" not in told.err
    lines = told.err.splitlines()
    assert [line for line in lines if line.startswith("calib: ")] == lines[-1:]
    return lines[-1]


def header(size, text=b"{}"):
    """How a file of safetensors begins."""
    return size.to_bytes(8, "little") + text


NO_JSON = r"'broken' cannot be opened \(.*(JSON|Expecting|recursion)"

# Some versions of transformers look for a type in what is no dictionary, others say so.
NO_TYPE = r"'broken' cannot be opened \((.*model_type|TypeError: )"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": b""}, NO_JSON),
        ({"config.json": b"\xff\xfe\x00"}, NO_JSON),
        ({"config.json": b"[" * 100_000}, NO_JSON),
        ({"config.json": []}, NO_TYPE),
        ({"config.json": "text"}, NO_TYPE),
        ({"config.json": {"hidden_size": "wide"}}, "'hidden_size' expected int"),
        ({"config.json": {"num_attention_heads": 0}}, r"\(ZeroDivisionError: "),
        ({"config.json": {"num_key_value_heads": 3}}, r"\(RuntimeError: "),
        ({"config.json": {"vocab_size": 0}}, r"\(IndexError: "),
        ({"config.json": {"hidden_act": "zork"}}, r"\(KeyError: 'zork'\)"),
        ({"config.json": {"dtype": "zork"}}, "'broken' cannot be opened .*zork"),
        ({"model.safetensors": b""}, "'broken' cannot be opened .*header too small"),
        ({"model.safetensors": header(1 << 50)}, "'broken' cannot be opened .*header too large"),
        ({"model.safetensors": header(2, b"[]")}, "'broken' cannot be opened .*header"),
        ({"model.safetensors": None, "pytorch_model.bin": b"junk"}, "'broken' cannot be opened"),
        ({"model.safetensors": None, "model.safetensors.index.json": b"{"}, NO_JSON),
        ({"model.safetensors": None, "model.safetensors.index.json": []}, r"\(TypeError: "),
        ({"tokenizer.json": None}, "'broken' cannot be opened .*tokenizer"),
        ({"tokenizer.json": b'{"version"'}, NO_JSON),
        ({"tokenizer.json": []}, r"\(TypeError: "),
        ({"tokenizer_config.json": b"{"}, NO_JSON),
        ({"tokenizer_config.json": []}, r"\((AttributeError|TypeError): "),
    ],
)
def test_a_broken_model_is_named(files, words, good, place, capfd):
    shutil.copytree(good, place / "broken")
    for name, content in files.items():
        file = place / "broken" / name
        if isinstance(content, dict):
            content = json.loads(file.read_text()) | content
        if content is None:
            file.unlink()
        else:
            is_json = not isinstance(content, bytes)
            file.write_bytes(json.dumps(content).encode() if is_json else content)
    assert re.search(words, refused(["broken", *ON], capfd))
    assert sorted(os.listdir()) == ["broken"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "argument MODEL: '' is empty"),
        ("a\0b", r"argument MODEL: 'a\\x00b' .* NUL"),
        ("model.gguf", "model.gguf is cut off after 4 bytes; download it again"),
        ("./model.safetensors", "'./model.safetensors' is a file; name a .gguf file, or a folder"),
        ("./gone", "'./gone' is no folder here and no hub id"),
        ("a/b/c", "'a/b/c' is no folder here and no hub id"),
        ("a\nb", r"'a\\nb' is no folder here and no hub id"),
        ("\udcff", r"'\\udcff' is no folder here and no hub id"),
        ("x" * 200, "'x{200}' cannot be opened"),
        ("x" * 5000, r"the output folder 'report-x{5000}' cannot be written \(File name too long"),
        ("a--b", "'a--b' cannot be opened .* no folder here: if it is on the hub"),
    ],
)
def test_what_is_no_model_is_named(source, words, place, capfd):
    (place / "model.gguf").write_bytes(b"GGUF")
    (place / "model.safetensors").write_bytes(header(2))
    assert re.search(words, refused([source, *ON], capfd))
    assert len(os.listdir()) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models"], "the folder 'models' has no config.json and holds cut.gguf, whole.gguf; name"),
        (["models", "--gguf-file", "gone.gguf"], "has no file 'gone.gguf'; it holds cut.gguf"),
        (["models", "--gguf-file", "cut.gguf"], "models/cut.gguf is cut off: its tensors end at"),
        (["models/cut.gguf"], "models/cut.gguf is cut off: its tensors end at byte"),
        (["models/whole.gguf", "--tensor-parallel"], "would be unpacked whole by every process"),
        (["models/whole.gguf", "--remote"], "'models/whole.gguf' is on this machine; open it"),
    ],
)
def test_a_gguf_file_that_cannot_be_opened_is_named(arguments, words, place, capfd):
    needed()
    (place / "models").mkdir()
    write_gguf(place / "models" / "whole.gguf")
    content = (place / "models" / "whole.gguf").read_bytes()
    (place / "models" / "cut.gguf").write_bytes(content[:-999])
    line = refused([*arguments, *ON], capfd)
    assert words in line
    assert "on the hub, check" not in line
    assert os.listdir() == ["models"]


def test_a_report_of_a_gguf_file_names_it(place, capfd):
    needed()
    write_gguf(place / "tiny.gguf", kind="Q8_0")
    main(["report", ".", "--gguf-file", "tiny.gguf", *ON])
    assert capfd.readouterr().out.splitlines()[-1] == os.path.join("report-tiny.gguf", "index.html")
    page = (place / "report-tiny.gguf" / "index.html").read_text(encoding="utf-8")
    assert "quantization Q8_0" in page


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "argument --questions: '' is empty"),
        ("a\0b", "argument --questions: .* NUL"),
        ("gone", "'gone'"),
        ("x" * 5000, "x{5000}"),
        ("\udcff", r"\\udcff"),
        ("junk.parquet", "junk.parquet"),
        ("junk.csv", "junk.csv"),
        ("junk.jsonl", "junk.jsonl"),
        ("folder", "folder"),
    ],
)
def test_what_is_no_set_of_questions_is_named(source, words, place, capfd):
    (place / "folder" / "test.jsonl").mkdir(parents=True)
    for name in ("junk.parquet", "junk.csv", "junk.jsonl"):
        (place / name).write_bytes(b"\xff[junk")
    assert re.search(words, refused(["almanac", "--questions", source], capfd))
    assert len(os.listdir()) == 4


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("", "argument --out: '' is empty"),
        ("a\0b", "argument --out: .* NUL"),
        ("x" * 300, "'x{300}' cannot be written .File name too long"),
        ("a/" * 4000, "cannot be written .File name too long"),
        ("file", "'file' is a file; name another with --out"),
        ("loop", "'loop' is a file; name another with --out"),
        ("file/deep", "'file/deep' cannot be written .Not a directory"),
        ("altered", "altered/run/run.json is altered; name another folder or delete"),
        ("taken", "'taken' cannot be written .File exists"),
    ],
)
def test_where_no_report_can_be_written_is_named(out, words, place, capfd):
    (place / "file").write_text("mine")
    (place / "loop").symlink_to("loop")
    (place / "altered" / "run").mkdir(parents=True)
    (place / "altered" / "run" / "run.json").write_text("[]")
    (place / "taken").mkdir()
    (place / "taken" / "index.html").write_text('<meta name="generator" content="calib report">')
    (place / "taken" / "reading").write_text("in the way")
    assert re.search(words, refused(["almanac", *ON, "--out", out], capfd))


def test_too_little_memory_is_told(monkeypatch, capfd):
    def allocate(*_, **__):
        raise MemoryError

    monkeypatch.setattr("calib.report.write.read_layers", allocate)
    line = refused(["almanac", *ON], capfd)
    assert "the memory does not suffice (MemoryError); what is finished is kept" in line


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1:strict"])
def test_letters_that_the_terminal_does_not_have_are_no_fault(encoding, good, place):
    shutil.copytree(good, place / "μοντέλο")
    surroundings = os.environ | {"PYTHONIOENCODING": encoding, "HF_HUB_OFFLINE": "1"}

    def run(*arguments):
        command = [sys.executable, "-m", "calib", "report", *arguments, *ON]
        return subprocess.run(command, cwd=place, capture_output=True, env=surroundings)

    done = run("μοντέλο", "--out", "έκθεση")
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    said, where = done.stdout.decode(encoding.partition(":")[0]).splitlines()
    assert said.encode().decode("unicode_escape").count("μοντέλο") == 1
    assert (
        where == os.path.join("έκθεση", "index.html").encode("ascii", "backslashreplace").decode()
    )
    assert "μοντέλο" in (place / "έκθεση/index.html").read_text(encoding="utf-8")
    done = run("./λείπει")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.splitlines()[-1].startswith(rb"calib: model './\u03bb")
