"""Wherever the model is: what every public function that takes one gives on the CPU."""

import inspect
from functools import cache
from importlib import import_module

import numpy as np
import pytest
import torch
from support.architectures import TOKENIZER
from support.second_device import DEVICE, ELSEWHERE, poorer
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

import calib
from calib import losses, mechanisms, steering
from calib.mechanisms.blocks import read_writes
from calib.mechanisms.neurons import read_neurons
from calib.models.model import Model
from calib.questions import option_tokens
from calib.reading._forward import read_streams
from calib.reading._tree_attention import read_tree
from calib.recalibration import FeatureClipping, final_features

ROOMS = ("models", "reading", "recalibration", "analysis", "steering", "mechanisms", "sampling")
LAYER = 6
on_away = pytest.mark.skipif(ELSEWHERE != "away", reason="the machine has a device of its own")


@cache
def opened(device):
    return calib.open_model("almanac-tuned", device=device)


@cache
def questions(split="validation"):
    return calib.load_questions("almanac", split, limit=60)


@cache
def reading():
    return calib.read_layers(opened("cpu"), questions(), keep_residuals=range(9))


def letters():
    return option_tokens(opened("cpu").tokenizer, 4)


def direction(layer=LAYER):
    return steering.random_direction(reading(), layer, seed=0)


def stream():
    return torch.from_numpy(reading().residuals[8])


def clipped(model):
    features = final_features(model, reading().residuals[8])
    method = FeatureClipping.of(model)
    return method.rows, method.fit(reading().logits[:, -1], reading().labels, features).threshold


def through_a_lens(model):
    lens = mechanisms.fit_tuned_lens(model, questions(), max_rounds=3, held_out=0.4)
    assert lens.matrices.device == model.module.lm_head.weight.device
    read = calib.read_layers(model, questions(), lens=lens)
    return lens.matrices.cpu(), lens.fit, read.logits


def attributed(model):
    found = mechanisms.read_attribution(model, questions(), 5)
    return found.reads, found.lengths, found.logits(2, 4), found.direct


def ablated(model):
    means = np.zeros(384)
    below = mechanisms.ablate_neurons(model, questions(), LAYER, means, [[0, 3], [7]])
    last = mechanisms.ablate_neurons(model, questions(), 8, means, [[0, 3], [7]])
    return below.total, below.direct, below.intact, last.total


def branched(model):
    branches = [(direction(), 0.5), (direction(0), 1.0), (direction(8), -1.0)]
    alone = [steering.read_branches(model, questions(), branches)]
    return [*alone, steering.read_branches(model, questions(), branches[:1], everywhere=True)]


def with_shots(model):
    exemplars = calib.load_questions("almanac", "test", limit=300)
    read = calib.read_layers(model, questions(), shots=3, exemplars=exemplars, keep_residuals=[2])
    return read.logits, read.residuals[2]


def tried(model):
    found = steering.try_directions(
        model, {"random": direction()}, questions(), questions("test"), strengths=(0, 1)
    )
    return [found.logits["random"], found.sweep.logits]


def removed(model):
    space = mechanisms.unembedding_null_space(model, k=4)
    return [mechanisms.remove_subspace(model, reading(), space, letters())]


# What a function gives, as arrays, of a model wherever it is.
CALLS = {
    "lens": lambda model: [calib.lens(model, stream()), calib.lens(model, stream(), letters())],
    "read_layers": with_shots,
    "read_rotations": lambda model: [calib.analysis.read_rotations(model, questions())],
    "FeatureClipping": clipped,
    "final_features": lambda model: [final_features(model, reading().residuals[8])],
    "gradient_direction": lambda model: [
        steering.gradient_direction(model, questions(), LAYER, max_steps=3).vector
    ],
    "read_branches": branched,
    "steer": lambda model: [steering.steer(model, questions(), direction(), 1.0).logits],
    "sweep": lambda model: [
        steering.sweep(model, questions(), [direction()], strengths=(0, 1)).logits
    ],
    "try_directions": tried,
    "fit_tuned_lens": through_a_lens,
    "ablate_neurons": ablated,
    "describe_neurons": lambda model: [mechanisms.describe_neurons(model, 8)],
    "find_blocks": lambda model: [mechanisms.find_blocks(model)[0].factor],
    "read_activations": lambda model: [mechanisms.read_activations(model, questions(), 7)],
    "read_attribution": attributed,
    "readout_of": lambda model: [mechanisms.readout_of(model, letters()).logits(stream())],
    "remove_subspace": removed,
    "restore_correction": lambda model: [
        mechanisms.restore_correction(
            model, reading(), mechanisms.random_subspace(2, 128, 0), 7, 8, letters()
        )
    ],
    "singular_values": lambda model: [mechanisms.singular_values(model)],
    "unembedding_null_space": lambda model: [
        np.abs(mechanisms.unembedding_null_space(model, k=4).basis)
    ],
    "sample_answers": lambda model: [
        calib.sampling.sample_answers(model, questions(), 5, max_tokens=2).correct
    ],
}


IN_FLOAT64 = (
    "FeatureClipping", "describe_neurons", "final_features", "fit_tuned_lens", "sample_answers",
    "singular_values",
)  # fmt: skip


@cache
def on_the_cpu(name):
    return CALLS[name](opened("cpu"))


def takes_a_model(function):
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return False
    return any(p.name == "model" or p.annotation in ("Model", Model) for p in parameters)


def test_no_public_function_that_takes_a_model_is_left_out():
    found = set()
    for room in map(import_module, (f"calib.{name}" for name in ROOMS)):
        for name in room.__all__:
            thing = getattr(room, name)
            own = dict(inspect.getmembers(thing, callable)) if inspect.isclass(thing) else {}
            methods = [f for key, f in own.items() if not key.startswith("_")]
            if any(map(takes_a_model, [thing] * (not own) + methods)):
                found.add(name)
    assert found == {*CALLS, "TunedLens"}  # which fit_tuned_lens makes


@pytest.mark.parametrize("name", CALLS)
def test_a_function_gives_elsewhere_what_it_gives_on_the_cpu(name):
    here = on_the_cpu(name)
    assert len(here)
    for expected, found in zip(here, CALLS[name](opened(ELSEWHERE)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@on_away
@pytest.mark.parametrize("name", IN_FLOAT64)
def test_a_function_needs_no_float64_on_the_device(name):
    expected = on_the_cpu(name)
    with poorer(lacks=(torch.float64,)):
        found = CALLS[name](opened(ELSEWHERE))
    for some, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(some, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CALLS)
def test_what_the_caller_left_on_changes_no_function(name):
    expected = on_the_cpu(name)
    torch.set_float32_matmul_precision("medium")  # bfloat16, where the processor has it
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = CALLS[name](opened("cpu"))
    finally:
        torch.set_float32_matmul_precision("highest")
    for some, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(some, other, rtol=1e-5, atol=1e-5)


@on_away
def test_a_tuned_lens_is_saved_from_a_device_and_loaded_onto_it(tmp_path):
    model, file = opened(ELSEWHERE), tmp_path / "lens.safetensors"
    lens = mechanisms.fit_tuned_lens(model, questions(), max_rounds=1, held_out=0.4)
    lens.save(file)
    with poorer(lacks=(torch.float64,)):
        found = mechanisms.TunedLens.load(file, ELSEWHERE)
    assert found.matrices.device == found.shifts.device == lens.matrices.device
    assert torch.equal(found.matrices.cpu(), lens.matrices.cpu())
    assert torch.equal(found.shifts.cpu(), lens.shifts.cpu())
    np.testing.assert_array_equal(found.fit, lens.fit)


def deep(n_layers):
    """A random model of so many layers, on the second device."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=64, num_attention_heads=4,
        num_hidden_layers=n_layers, pad_token_id=0,
    )  # fmt: skip
    return calib.open_model((LlamaForCausalLM(config).to("away"), TOKENIZER))


PROMPTS = [[1, 2, 3, 4], [5, 6, 7]]
PASSES = {
    "streams": lambda model, blocks: read_streams(model, PROMPTS, [1, 2], [1]),
    "tree": lambda model, blocks: read_tree(
        model, PROMPTS, [1, 2], [0, 1, 2, 2], torch.zeros(4, 32)
    ),
    "writes": lambda model, blocks: read_writes(model, PROMPTS, blocks, 0, model.n_layers),
    "neurons": lambda model, blocks: read_neurons(model, blocks[-1], model.n_layers, PROMPTS),
}


@on_away
@pytest.mark.parametrize("name", PASSES)
def test_no_layer_of_a_pass_waits_for_the_cpu(name):
    counts = []
    for n_layers in (2, 7):
        model = deep(n_layers)
        blocks, before = mechanisms.find_blocks(model), DEVICE.crossings
        PASSES[name](model, blocks)
        counts.append(DEVICE.crossings - before)
    assert 0 < counts[0] == counts[1] < 10


LOSSES = {
    "brier_loss": losses.brier_loss,
    "focal_loss": lambda *pair: losses.focal_loss(*pair, gamma=2),
    "focal_loss_sd": losses.focal_loss_sd,
    "focal_calibration_loss": lambda *pair: losses.focal_calibration_loss(*pair, gamma=1, weight=2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_are_the_same_elsewhere(name):
    gradients = []
    for device in ("cpu", ELSEWHERE):
        logits = torch.linspace(-3, 3, 20).reshape(5, 4).to(device).requires_grad_()
        loss = LOSSES[name](logits, torch.tensor([0, 3, 1, 2, 2]).to(device))
        loss.backward()
        assert loss.device.type == torch.device(device).type
        gradients.append((loss.detach().cpu(), logits.grad.cpu()))
    assert_close(*gradients)


def test_every_loss_of_tensors_is_tried():
    taken = {
        name for name, function in vars(losses).items()
        if inspect.isfunction(function) and not name.startswith("_")
        and "logits" in inspect.signature(function).parameters
    }  # fmt: skip
    assert taken == set(LOSSES)
