"""Runs that survive: killed at every kind of moment, damaged on the disk, out of room."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from support.architectures import TOKENIZER, random_module
from support.killed import SETTINGS, read, read_and_die

from calib import load_questions, open_model, read_layers
from calib.reading._checkpoint import Checkpoint, checksum

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["calib.reading.reading", "transformers.models.llama.modeling_llama"]
)

MOMENTS = [
    ("writing", 1),  # the settings
    ("before it has its name", 1),
    ("after it has its name", 1),
    ("before a batch", 1),
    ("writing", 2),
    ("writing", 5),
    ("before it is forced to the disk", 4),
    ("before it is forced to the disk", 9),
    ("before it has its name", 3),
    ("after it has its name", 4),
    ("before a batch", 4),
    ("after it has its name", 7),
]


def same(a, b):
    for name in ("logits", "labels", "subjects", "posterior"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.residuals[1], b.residuals[1])
    assert a.provenance == b.provenance


@pytest.fixture(scope="module")
def whole():
    """What an uninterrupted run ends with."""
    return read()


@pytest.fixture
def run(tmp_path, whole):
    """The folder of a finished run."""
    same(read(tmp_path / "run"), whole)
    return tmp_path / "run"


def batches_of(folder):
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize(("moment", "count"), MOMENTS)
def test_a_killed_run_goes_on_to_the_same_reading(moment, count, tmp_path, whole):
    folder = tmp_path / "run"
    process = PROCESSES.Process(target=read_and_die, args=(folder, moment, count))
    process.start()
    process.join(120)
    assert process.exitcode == -9
    finished = {file.name: file.stat().st_mtime_ns for file in batches_of(folder)}
    same(read(folder), whole)
    again = {file.name: file.stat().st_mtime_ns for file in batches_of(folder)}
    assert finished.items() <= again.items()  # nothing finished was read again
    assert len(again) >= 10


def test_a_run_killed_again_and_again_gets_there(tmp_path, whole):
    folder = tmp_path / "run"
    for kills in range(1, 5):
        process = PROCESSES.Process(target=read_and_die, args=(folder, "after it has its name", 2))
        process.start()
        process.join(120)
        assert process.exitcode == -9
        # Of the first run's two files one holds the settings; after it each finishes two batches.
        assert len(batches_of(folder)) == 2 * kills - 1
    same(read(folder), whole)


def test_a_second_run_in_one_folder_is_refused_until_the_first_is_dead(tmp_path, whole):
    folder = tmp_path / "run"
    stopped = folder, "before a batch", 4, signal.SIGSTOP
    process = PROCESSES.Process(target=read_and_die, args=stopped)
    process.start()
    late = time.monotonic() + 120
    while len(batches_of(folder)) < 3 and time.monotonic() < late:
        time.sleep(0.05)
    time.sleep(0.2)
    with pytest.raises(ValueError, match=r"another run is at work in .*run; wait .*torchrun --npr"):
        read(folder)
    assert len(batches_of(folder)) == 3
    process.kill()
    process.join()
    same(read(folder), whole)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_stops_nobody(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    for _ in range(2):
        with Checkpoint(tmp_path, {}).at_work(), Checkpoint(tmp_path, {}).at_work():
            pass


def test_only_one_of_two_runs_of_other_settings_gets_an_empty_folder(tmp_path, monkeypatch):
    """The second begins between the other's look into the folder and its writing."""
    link = os.link

    def late(passing, file):
        monkeypatch.setattr(os, "link", link)
        Checkpoint(tmp_path, {"shots": 5}).write(0, {"logits": np.ones(1)})
        link(passing, file)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(ValueError, match=r"run.json: the run was begun with shots = 5, this run h"):
        Checkpoint(tmp_path, {"shots": 0})
    assert Checkpoint(tmp_path, {"shots": 5}).read(0)["logits"].tolist() == [1]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    Checkpoint(tmp_path, {"shots": 5})
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_what_killed_runs_were_writing_is_cleared_away(run, whole):
    """What is young may be another process's work; what is old is nobody's."""
    old, young = (run / f"000001-0.safetensors.{c * 16}.partial" for c in "ab")
    others = run / "film.partial"
    for file in (old, young, others):
        file.write_bytes(b"half")
    for file in (old, others):
        os.utime(file, (time.time() - 7200,) * 2)
    same(read(run), whole)
    assert not old.exists()
    assert young.exists() and others.exists()


@pytest.mark.parametrize("damage", ["truncated", "edited"])
def test_a_damaged_batch_is_named_and_read_again(damage, run, whole):
    file = batches_of(run)[2]
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[:-10])
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.warns(UserWarning, match=rf"{file.name} is truncated or altered; its questions"):
        same(read(run), whole)
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 1}, r"was begun with shots = 2, this run has 1; name another folder"),
        ({"batch_tokens": 800}, r"begun with batch_tokens = 600, this run has 800"),
        ({"keep_residuals": []}, r"begun with keep_residuals = \[1\], this run has \[\]"),
        ({"limit": 59}, r"begun with prompts = '[0-9a-f]{16}'"),
        ({"model": "gpt2"}, r"begun with model = 'LlamaForCausalLM'"),
        ({"weights": 1}, r"begun with weights = '[0-9a-f]{16}'"),
    ],
)
def test_other_settings_on_the_same_folder_are_refused(changes, message, run):
    before = [file.read_bytes() for file in batches_of(run)]
    module = random_module(changes.get("model", "llama"))
    if "weights" in changes:
        module.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1
    questions = load_questions(
        "almanac", subjects=["fair_music", "inn_cookery"], limit=changes.get("limit", 60)
    )
    settings = {name: changes.get(name, value) for name, value in SETTINGS.items()}
    with pytest.raises(ValueError, match=message):
        read_layers(open_model((module, TOKENIZER)), questions, resume=run, **settings)
    assert [file.read_bytes() for file in batches_of(run)] == before


def test_a_folder_with_other_files_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"holds files but no run.json"):
        read(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "content",
    [b'{"shots": 2', b"", b"[]", b'"shots"', b"2", b"null", b"\xff\xfe", b"[" * 100_000],
)
def test_an_altered_run_json_is_refused(content, run):
    (run / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run.json is altered; name another folder or delete"):
        read(run)


def test_a_run_json_that_does_not_tell_everything_is_refused(run):
    about = run / "run.json"
    settings = json.loads(about.read_text())
    del settings["shots"]
    about.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"run.json: .* begun with shots = None, this run has 2"):
        read(run)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        (1 << 40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (60).to_bytes(8, "little")
        + b'{"logits":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}  '[:60]
        + b"12",
    ],
)
def test_a_batch_that_was_written_wrong_is_named(content, tmp_path):
    checkpoint = Checkpoint(tmp_path, {})
    file = tmp_path / f"000003-{checksum(content)}.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file} holds no arrays .*; delete it and call again"):
        checkpoint.read(3)


def test_a_batch_that_another_process_drops_is_read_again(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {})
    (tmp_path / "000003-0.safetensors").write_bytes(b"half")

    def drop_first(*_, **__):
        (tmp_path / "000003-0.safetensors").unlink()

    monkeypatch.setattr(warnings, "warn", drop_first)
    assert checkpoint.read(3) is None


def test_the_settings_of_a_run_can_be_read_by_people(run):
    settings = json.loads((run / "run.json").read_text())
    assert (settings["shots"], settings["architecture"]) == (2, "LlamaForCausalLM")


def test_a_folder_that_cannot_be_made_is_refused_before_the_model_runs(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"file/run cannot be written .* finished batches are intact"):
        read(tmp_path / "file" / "run")


def test_no_room_on_the_disk_leaves_the_finished_batches(tmp_path, whole):
    """The system refuses to let a file grow past a limit: the residuals are too large."""
    folder = tmp_path / "run"
    code = (
        "import resource, sys; sys.path.insert(0, 'tests'); from support import killed\n"
        "from calib.reading._checkpoint import Checkpoint\n"
        "write, left = Checkpoint.write, [3]  # this many batches find room\n"
        "def limited(self, *arguments):\n"
        "    left[0] -= 1\n"
        "    if left[0] < 0: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "    write(self, *arguments)\n"
        "Checkpoint.write = limited\n"
        f"killed.read({str(folder)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot be written (File too large); finished batches are intact" in done.stderr
    assert len(batches_of(folder)) == 3
    assert not list(folder.glob("*.partial"))  # no half batch lies about
    same(read(folder), whole)


def test_a_batch_that_was_not_written_is_not_there(tmp_path):
    checkpoint = Checkpoint(tmp_path, {})
    checkpoint.write(1, {"logits": np.arange(3.0)})
    assert checkpoint.read(0) is None
    np.testing.assert_array_equal(checkpoint.read(1)["logits"], np.arange(3.0))
