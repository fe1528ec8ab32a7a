"""Runs that survive: killed at every kind of moment, damaged on the disk, out of room."""

import json
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
from support.architectures import TOKENIZER, random_module
from support.killed import SETTINGS, read, read_and_die

from calib import load_questions, open_model, read_layers
from calib.reading._checkpoint import Checkpoint

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


def test_an_altered_run_json_is_refused(run):
    about = run / "run.json"
    about.write_text(about.read_text()[:-5])
    with pytest.raises(ValueError, match=r"run.json is altered"):
        read(run)


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
