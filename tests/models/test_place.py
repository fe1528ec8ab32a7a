"""Where a model is put and in which type, what does not fit there, and what a second device is."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers.pipelines.base
from support.architectures import TOKENIZER, random_module
from support.second_device import AWAY, ELSEWHERE, poorer

from calib import load_questions, open_model, read_layers
from calib.models.place import device_of, launched
from calib.sampling import sample_answers
from calib.steering import gradient_direction

on_away = pytest.mark.skipif(ELSEWHERE != "away", reason="the machine has a device of its own")


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in bfloat16."""
    random_module("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def questions():
    return load_questions("almanac", limit=40)


# Where


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_no_accelerator_that_transformers_finds_moves_a_model(monkeypatch, folder, kind):
    # What a machine with one answers; here, a move there would fail.
    base = transformers.pipelines.base
    monkeypatch.setattr(base, f"is_torch_{kind}_available", lambda *_: True)
    for source in ("almanac", folder, (random_module("gpt2"), TOKENIZER)):
        assert open_model(source).device.type == "cpu"


@pytest.mark.parametrize("source", ["almanac", "folder", "pair"])
def test_a_model_is_where_it_was_told_to_be(source, folder):
    pair = random_module("llama").to(ELSEWHERE), TOKENIZER
    model = {
        "almanac": lambda: open_model("almanac", device=ELSEWHERE),
        "folder": lambda: open_model(folder, device=torch.device(ELSEWHERE)),
        "pair": lambda: open_model(pair),
    }[source]()
    kinds = {weight.device.type for weight in model.module.parameters()}
    assert kinds == {model.device.type} == {ELSEWHERE}


def test_a_device_that_is_not_there_is_refused_with_those_that_are():
    for wrong in ("gpu", "cuda:97", "meta", 3.5):
        with pytest.raises(ValueError, match=r"device is .*; this machine has cpu:0.*Leave it out"):
            open_model("almanac", device=wrong)


@pytest.mark.parametrize("settings", [{"device": "cpu"}, {"dtype": torch.float32}])
def test_a_loaded_module_is_not_told_where_to_be(settings):
    with pytest.raises(ValueError, match=r"a loaded module stays as it is.*module\.to"):
        open_model((random_module("llama"), TOKENIZER), **settings)


@pytest.mark.parametrize("wrong", ["x", None, 0])
def test_a_time_limit_is_a_number_above_zero(wrong):
    with pytest.raises((TypeError, ValueError), match="time_limit is"):
        open_model("almanac", time_limit=wrong)


# Of several processes

LAUNCHERS = {
    "alone": ({}, None),
    "torchrun": ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, (9, 16, 1)),
    "torchrun of one": ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, None),
    "by hand": ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2, None)),
    "srun": (
        {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, (5, 8, 1),
    ),
    "a batch script": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, None),
    "a shell of srun": (
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, None,
    ),
    "torchrun under srun": (
        {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0",
         "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, (9, 16, 1),
    ),
    "no numbers": ({"RANK": "first", "WORLD_SIZE": "2"}, None),
}  # fmt: skip


def launch(monkeypatch, said):
    for name in [name for name in os.environ if "RANK" in name or name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in said.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_says_which_process_this_is(launcher, monkeypatch):
    said, expected = LAUNCHERS[launcher]
    launch(monkeypatch, said)
    assert launched() == expected


def with_gpus(monkeypatch, count):
    """As on a machine with so many GPUs of CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    found = torch.device("cuda") if count else None
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("said", "gpus", "asked", "expected"),
    [
        ({}, 2, None, "cuda"),
        ({}, 2, "cuda", "cuda"),
        ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, 8, None, "cuda:1"),
        ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, 8, "cuda", "cuda:1"),
        ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, 8, "cuda:0", "cuda:0"),
        ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, 8, "cpu", "cpu"),
        ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, 0, None, "cpu"),
        (LAUNCHERS["srun"][0], 2, None, "cuda:1"),
        (LAUNCHERS["srun"][0] | {"SLURM_GPUS_PER_TASK": "1"}, 1, None, "cuda:0"),
    ],
)
def test_each_process_takes_a_gpu_of_its_own(said, gpus, asked, expected, monkeypatch):
    launch(monkeypatch, said)
    with_gpus(monkeypatch, gpus)
    assert device_of(asked) == torch.device(expected)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "2"}, "process 3 on a machine with 2 of"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "nothing says which this one is"),
    ],
)
def test_no_gpu_is_shared_in_silence(said, words, monkeypatch):
    launch(monkeypatch, said)
    with_gpus(monkeypatch, 2)
    with pytest.raises(ValueError, match=f"takes a GPU of its own, and .*{words}.*device="):
        device_of(None)


@pytest.mark.parametrize(
    "said", [{"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}, {"LOCAL_RANK": "1"}]
)
def test_two_processes_on_a_machine_do_not_both_take_all_gpus(said, monkeypatch):
    launch(monkeypatch, {"RANK": "4", "WORLD_SIZE": "8"} | said)
    with pytest.raises(ValueError, match='device is "auto", and several processes were started'):
        open_model("almanac", device="auto")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # one on each machine
    assert device_of("auto") == "auto"


# In which type


def test_the_type_follows_one_rule(folder):
    own = torch.bfloat16
    for device, dtype, expected in (
        ("cpu", None, torch.float32), (ELSEWHERE, None, own), ("cpu", "auto", own),
        ("cpu", "float64", torch.float64), ("cpu", "torch.float16", torch.float16),
        (ELSEWHERE, torch.float32, torch.float32),
    ):  # fmt: skip
        model = open_model(folder, device=device, dtype=dtype)
        assert {weight.dtype for weight in model.module.parameters()} == {expected}
        assert model.dtype == expected


@pytest.mark.parametrize("name", ["almanac", "almanac-tuned"])
def test_the_laboratory_is_read_in_float32_everywhere(name):
    for device in ("cpu", ELSEWHERE):
        assert open_model(name, device=device).dtype == torch.float32


@on_away
def test_a_type_that_the_device_has_not_is_refused():
    with poorer(lacks=(torch.float64,)), pytest.raises(ValueError, match="away does not take"):
        open_model("almanac", device=ELSEWHERE, dtype="float64")


@pytest.mark.parametrize("wrong", ["float17", "int8", "nn", torch.int8, 32, np.zeros(2)])
def test_an_unknown_type_is_refused(wrong):
    with pytest.raises(ValueError, match=r"dtype is .*; it must be one of torch\.float32"):
        open_model("almanac", dtype=wrong)


BACKENDS = torch.backends
SETTINGS = {
    "nothing": [],
    "high": [(torch.set_float32_matmul_precision, "high")],
    "medium": [(torch.set_float32_matmul_precision, "medium")],
    "for all": [(partial(setattr, BACKENDS, "fp32_precision"), "tf32")],
    "older switches": [
        (partial(setattr, BACKENDS.cuda.matmul, "allow_tf32"), True),
        (partial(setattr, BACKENDS.cudnn, "allow_tf32"), False),
    ],
    "one kind of products": [(partial(setattr, BACKENDS.cudnn.conv, "fp32_precision"), "ieee")],
}
SCRIPT = """
import sys, torch, test_place
from calib.models.place import full_precision
for put, value in test_place.SETTINGS[sys.argv[1]]:
    put(value)
before = test_place.precisions()
with full_precision("cpu"):
    inside = test_place.precisions()
assert test_place.precisions() == before, (before, test_place.precisions())
assert set(inside[3:]) == {"ieee"} and inside[:2] == ["highest", False], inside
assert inside[2] is False or before[2] == "mixed"
torch.backends.fp32_precision = "ieee"  # what follows it goes on to follow it
assert (torch.backends.mkldnn.conv.fp32_precision == "ieee"), test_place.precisions()
"""


def precisions():
    """What torch says of its float32 products, in all its ways; "mixed" where it cannot tell."""
    cuda, cudnn, mkldnn = BACKENDS.cuda.matmul, BACKENDS.cudnn, BACKENDS.mkldnn
    asked = [torch.get_float32_matmul_precision, lambda: cuda.allow_tf32, lambda: cudnn.allow_tf32]
    for products in (cuda, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn):
        asked.append(partial(getattr, products, "fp32_precision"))
    found = []
    for ask in asked:
        try:
            found.append(ask())
        except RuntimeError:
            found.append("mixed")
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_products_are_of_full_precision_and_settings_stay(name):
    command = [sys.executable, "-c", SCRIPT, name]  # of a process of its own: they cannot be unset
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# What does not fit


@on_away
def test_weights_that_do_not_fit_say_what_would():
    way_out = r'almanac on away in its own type does not fit .*torch.bfloat16.*device="cpu"'
    with poorer(limit=1e6), pytest.raises(torch.OutOfMemoryError, match=way_out):
        open_model("almanac", device=ELSEWHERE)


@on_away
def test_a_batch_that_does_not_fit_says_what_would_and_the_finished_ones_stay(tmp_path, questions):
    model = open_model("almanac", device=ELSEWHERE)
    settings = {"batch_tokens": 256, "resume": tmp_path / "run"}
    taken = []

    def grow(module, inputs):  # after two batches, someone else takes the memory
        taken.append(len(inputs))
        if len(taken) == 3:
            limit.__enter__()

    limit = poorer(limit=1e4)
    hook = model.module.register_forward_pre_hook(grow)
    message = r"a batch of \d+ prompts, \d+ tokens, on away:0 does not fit.*batch_tokens=\d+"
    try:
        with pytest.raises(torch.OutOfMemoryError, match=message):
            read_layers(model, questions, **settings)
    finally:
        hook.remove()
        limit.__exit__(None, None, None)
    assert len(list((tmp_path / "run").glob("*.safetensors"))) == 2
    found = read_layers(model, questions, **settings).logits
    np.testing.assert_allclose(
        found, read_layers(open_model("almanac"), questions).logits, atol=1e-4
    )


def test_a_cpu_that_has_no_more_memory_says_what_would_fit(questions):
    model = open_model("almanac")
    hook = model.module.register_forward_pre_hook(lambda *_: torch.empty(2**50))
    try:
        with pytest.raises(torch.OutOfMemoryError, match=r"on cpu does not fit.*batch_tokens=\d+"):
            read_layers(model, questions)
    finally:
        hook.remove()
    assert read_layers(model, questions).logits.shape == (40, 9, 4)


@on_away
def test_what_is_said_to_fit_is_allowed(questions):
    model, settings = open_model("almanac", device=ELSEWHERE), {"max_tokens": 3}
    sample_answers(model, questions, 5, **settings)
    with (
        poorer(limit=1e6),
        pytest.raises(torch.OutOfMemoryError, match="batch_tokens=") as caught,
    ):
        sample_answers(model, questions, 5, **settings)
    fewer = int(re.search(r"batch_tokens=(\d+)", str(caught.value))[1])
    assert sample_answers(model, questions, 5, batch_tokens=fewer, **settings).answers.size == 200
    with (
        poorer(limit=1e4),
        pytest.raises(torch.OutOfMemoryError, match="fewer shots, samples, branches"),
    ):
        sample_answers(model, questions.select([0]), 5, **settings)


@on_away
def test_a_direction_that_does_not_fit_says_what_would(questions):
    model = open_model("almanac", device=ELSEWHERE)
    gradient_direction(model, questions, 7, max_steps=1)
    with poorer(limit=1.4e7), pytest.raises(torch.OutOfMemoryError, match="use fewer questions"):
        gradient_direction(model, questions, 7, max_steps=1)


def test_a_limit_beyond_all_prompts_is_no_limit(questions):
    model = open_model("almanac")
    found = read_layers(model, questions, batch_tokens=10**20).logits
    np.testing.assert_array_equal(found, read_layers(model, questions).logits)


# The second device refuses what CUDA refuses


@on_away
@pytest.mark.parametrize(
    ("mix", "error", "message"),
    [
        (lambda here, there: here + there, RuntimeError, "at least two devices"),
        (lambda here, there: there @ here, RuntimeError, "at least two devices"),
        (lambda here, there: torch.cat([here, there]), RuntimeError, "at least two devices"),
        (lambda here, there: torch.where(here > 0, there, there), RuntimeError, "two devices"),
        (lambda here, there: there.gather(0, here.long()), RuntimeError, "two devices"),
        (lambda here, there: here[there.long()], RuntimeError, "two devices"),
        (lambda here, there: torch.nn.functional.embedding(here.long(), there), RuntimeError,
         "two devices"),
        (lambda here, there: there.numpy(), TypeError, "can't convert away:0 device type tensor"),
        (lambda here, there: np.asarray(there), TypeError, "can't convert away:0"),
        (lambda here, there: np.allclose(there, here), TypeError, "can't convert away:0"),
        (lambda here, there: torch.allclose(there, here), RuntimeError, "two devices"),
    ],
)  # fmt: skip
def test_the_second_device_refuses_a_mixture(mix, error, message):
    here = torch.ones(2, 2)
    with pytest.raises(error, match=message):
        mix(here, here.to("away"))


@on_away
def test_the_second_device_computes_what_the_cpu_does():
    here, index = torch.arange(6.0).reshape(2, 3), torch.tensor([1, 0])
    there = here.to("away")
    assert there.device == AWAY == torch.zeros(2, device="away").device
    for found, expected in (
        (there * 2 + torch.tensor(1.0), here * 2 + 1),  # a single number may come from the CPU
        (there[index], here[index]),  # and so may an index
        (there @ there.T, here @ here.T),
        (torch.arange(3, device="away") + 1, torch.arange(3) + 1),
    ):
        assert found.device == AWAY
        assert torch.equal(found.cpu(), expected)
    there[0] = 7.0
    assert there.cpu()[0].tolist() == [7, 7, 7] == there[0].tolist()
