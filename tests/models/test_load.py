"""One model spread over processes: equal to a whole one but for rounding, or refused in a line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support import together
from support.architectures import TOKENIZER, random_module
from support.together import layers

from calib import lens, load_questions, open_model, sample_answers
from calib.mechanisms import read_attribution
from calib.steering import random_direction, read_branches


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """The folder in which two processes have left what they read of one model."""
    pytest.importorskip("accelerate")  # transformers asks for it
    folder = tmp_path_factory.mktemp("spread")
    for name, changes in (("model", {}), ("odd", {"num_key_value_heads": 1})):
        random_module("llama", **changes).save_pretrained(folder / name)
        TOKENIZER.save_pretrained(folder / name)
    tests = str(Path(together.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "support.together", "spread", str(folder)],
        env=os.environ | {"PYTHONPATH": tests, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_a_spread_model_reads_as_a_whole_one_does(spread):
    model, questions = open_model(spread / "model"), load_questions("almanac", limit=31)
    reading = layers(model, None)
    directions = [(random_direction(reading, 1, seed=seed), 2.0) for seed in (0, 1)]
    expected = {
        "logits": reading.logits,
        "residuals": reading.residuals[1],
        "branches": read_branches(model, questions, directions, shots=1, batch_tokens=800),
        "lens": lens(model, torch.from_numpy(reading.residuals[1])).numpy(),
        "reads": read_attribution(model, questions, batch_tokens=400).reads,
    }
    for rank in range(2):
        found = np.load(spread / f"spread-{rank}.npz")
        assert set(found) == set(expected) | {"answers", "weights"}
        for name, array in expected.items():
            np.testing.assert_allclose(
                found[name], array, rtol=1e-4, atol=1e-5 * np.abs(array).max()
            )
        assert found["weights"] == reading.provenance["weights"] != ""
        answers = sample_answers(model, questions, 7, max_tokens=3, seed=4).answers
        np.testing.assert_array_equal(found["answers"], answers)


def test_the_first_process_alone_has_written(spread):
    files = [file.name for file in (spread / "spread").glob("*.safetensors")]
    assert len(files) == len({name[:6] for name in files}) == 15


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("neurons", "are spread over processes, and this takes them whole"),
        ("direction", "are spread over processes, and this takes them whole; open the model with"),
        ("sizes", "key-value heads of .*odd, 1, cannot be shared out evenly over 2 processes"),
        ("device", "device is 'auto'; with tensor_parallel=True each process has a GPU of its own"),
        ("pair", "tensor_parallel is True; a loaded module stays as it is"),
    ],
)
def test_what_a_spread_model_cannot_do_is_refused(call, words, spread):
    first, second = (json.loads((spread / f"spread-{i}.json").read_text()) for i in range(2))
    assert first[call] == second[call]
    with pytest.raises(ValueError, match=words):
        raise {"ValueError": ValueError}[first[call][0]](first[call][1])


def test_a_process_alone_spreads_nothing():
    with pytest.raises(ValueError, match="this one is alone: torchrun --nproc_per_node 2"):
        open_model("almanac", tensor_parallel=True)
    with pytest.raises(ValueError, match="with remote=True the server spreads the model"):
        open_model("gpt2", remote=True, tensor_parallel=True)


def test_versions_that_cannot_spread_a_model_together_are_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    import transformers.distributed.tensor_parallel as theirs

    monkeypatch.delattr(theirs, "_get_parameter_plan")
    with pytest.raises(ValueError, match=r"cannot spread a model together \(cannot import name"):
        open_model("almanac", tensor_parallel=True)
