"""The tuned lens: what is known by hand, what plain torch says, and what is refused."""

import string
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from support.architectures import D_MODEL, N_LAYERS, TOKENIZER, random_module
from support.planted import AXIS, CORNERS, MARGIN, WORDS, planted_model

from calib import build_prompts, load_questions, open_model, read_layers, steer
from calib.mechanisms import TunedLens, fit_tuned_lens
from calib.mechanisms.tuned_lens import _hold_out
from calib.questions import option_tokens
from calib.reading._forward import Push
from calib.steering import random_direction

ALL = range(N_LAYERS + 1)
LETTERS = option_tokens(TOKENIZER, 4)

# Final norm and unembedding, as each architecture's own code has them.
READOUTS = {
    "llama": lambda m, h: m.lm_head(m.model.norm(h)),
    "gpt2": lambda m, h: m.lm_head(m.transformer.ln_f(h)),  # a bias in the norm, tied weights
    "gpt_neox": lambda m, h: m.lm_head(m.gpt_neox.final_layer_norm(h)),
    "gptj": lambda m, h: m.lm_head(m.transformer.ln_f(h)),  # blocks that return tuples
    "phi": lambda m, h: m.lm_head(m.model.final_layernorm(h)),  # a bias in the unembedding
    "gemma2": lambda m, h: 2 * torch.tanh(m.lm_head(m.model.norm(h)) / 2),
    "granite": lambda m, h: m.lm_head(m.model.norm(h)) / 3,
    "cohere": lambda m, h: m.lm_head(m.model.norm(h)) * 0.3,
}


def lens_of(matrices, shifts):
    return TunedLens(matrices, shifts, pd.DataFrame())


def zeros(n_layers=N_LAYERS, d_model=D_MODEL):
    matrices = torch.zeros(n_layers + 1, d_model, d_model)
    return lens_of(matrices, torch.zeros(n_layers + 1, d_model))


def random_lens(seed=0):
    """Translators that change every layer but the last."""
    generator, lens = torch.Generator().manual_seed(seed), zeros()
    lens.matrices[:-1] = torch.randn(lens.matrices[:-1].shape, generator=generator) / 8
    lens.shifts[:-1] = torch.randn(lens.shifts[:-1].shape, generator=generator)
    return lens


def through(lens, layer, stream, module, name="llama"):
    """Logits of the letters, ``[questions, 4]`` of ``[questions, d_model]``, in plain torch."""
    stream = torch.as_tensor(stream)
    moved = torch.stack([lens.matrices[layer] @ row + lens.shifts[layer] for row in stream])
    with torch.no_grad():
        return READOUTS[name](module, stream + moved)[:, LETTERS]


def divergence(logits):
    """Mean Kullback-Leibler divergence ``[layers + 1]`` from what the last layer says."""
    log_p = torch.tensor(logits).double().log_softmax(-1)
    last = log_p[:, -1:]
    return (last.exp() * (last - log_p)).sum(-1).mean(0).numpy()


def questions_of(texts):
    common = {"subject": "fair_music", "choices": ["oboe", "zither", "lyre", "bugle"], "answer": 0}
    return Dataset.from_list([{"question": text, **common} for text in texts])


def texts(count):
    return [f"Which of {i}?" for i in range(count)]


def llama():
    return open_model((random_module("llama"), TOKENIZER))


@pytest.fixture(scope="module")
def questions():
    return load_questions("almanac", limit=12)


@pytest.fixture(scope="module")
def calibration():
    return load_questions("almanac", "validation", limit=150)


@pytest.fixture
def unused():
    """A model that fails the test if it is run after it was opened."""
    model = llama()

    def stop(*_):
        pytest.fail("the model ran before the input was checked")

    model.module.register_forward_pre_hook(stop)
    return model


# The reading


@pytest.mark.parametrize("name", READOUTS)
def test_a_lens_of_zeros_is_the_logit_lens(name, questions):
    model = open_model((random_module(name), TOKENIZER))
    logit = read_layers(model, questions, keep_residuals=ALL)
    tuned = read_layers(model, questions, keep_residuals=ALL, lens=zeros())
    np.testing.assert_array_equal(tuned.logits, logit.logits)
    for layer in ALL:
        np.testing.assert_array_equal(tuned.residuals[layer], logit.residuals[layer])


@pytest.mark.parametrize("name", READOUTS)
def test_a_layer_is_translated_and_then_read_as_the_last(name, questions):
    module, lens = random_module(name), random_lens()
    model = open_model((module, TOKENIZER))
    reading = read_layers(model, questions, keep_residuals=ALL, lens=lens)
    logit = read_layers(model, questions, keep_residuals=ALL)
    for layer in ALL:
        np.testing.assert_array_equal(reading.residuals[layer], logit.residuals[layer])
        expected = through(lens, layer, logit.residuals[layer], module, name)
        np.testing.assert_allclose(reading.logits[:, layer], expected, atol=2e-5)
    changed = np.abs(reading.logits - logit.logits).max(axis=(0, 2))
    assert (changed[:-1] > 0.05).all() and changed[-1] == 0


@pytest.mark.parametrize("name", READOUTS)
def test_the_last_layer_is_the_models_own(name, questions):
    module = random_module(name)
    reading = read_layers(open_model((module, TOKENIZER)), questions, lens=random_lens())
    for prompt, logits in zip(build_prompts(questions), reading.logits[:, -1], strict=True):
        with torch.no_grad():
            own = module(**TOKENIZER(prompt, return_tensors="pt"), use_cache=False).logits
        np.testing.assert_allclose(logits, own[0, -1, LETTERS], atol=1e-5)


@pytest.mark.parametrize("shots", [0, 1])
def test_with_and_without_exemplars_it_reads_what_unpadded_passes_say(shots, questions):
    model, lens = llama(), random_lens()
    reading = read_layers(model, questions, shots=shots, lens=lens, batch_tokens=1000)
    for i, prompt in enumerate(build_prompts(questions, shots)):
        inputs = TOKENIZER(prompt, return_tensors="pt")
        with torch.no_grad():
            streams = model.module(**inputs, output_hidden_states=True).hidden_states
        for layer in range(N_LAYERS):  # transformers gives the last one after the norm
            expected = through(lens, layer, streams[layer][:, -1], model.module)
            np.testing.assert_allclose(reading.logits[[i], layer], expected, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_batches_and_order_change_nothing(name):
    questions, lens = load_questions("almanac", limit=30), random_lens()
    model = open_model((random_module(name), TOKENIZER))
    together = read_layers(model, questions, lens=lens).logits
    alone = read_layers(model, questions, lens=lens, batch_tokens=60).logits
    backwards = read_layers(model, questions.select(range(29, -1, -1)), lens=lens).logits
    np.testing.assert_allclose(alone, together, atol=2e-5)
    np.testing.assert_allclose(backwards[::-1], together, atol=2e-5)


def test_in_bfloat16_it_is_as_close_as_that_allows(questions):
    module = random_module("llama").to(torch.bfloat16)
    model, lens = open_model((module, TOKENIZER)), random_lens()
    logit = read_layers(model, questions, keep_residuals=ALL)
    np.testing.assert_array_equal(read_layers(model, questions, lens=zeros()).logits, logit.logits)
    reading = read_layers(model, questions, lens=lens)
    assert np.isfinite(reading.logits).all()
    np.testing.assert_array_equal(reading.logits[:, -1], logit.logits[:, -1])
    exact = random_module("llama")
    exact.load_state_dict(module.state_dict())  # the same numbers, reckoned in float32
    for layer in range(N_LAYERS):
        expected = through(lens, layer, logit.residuals[layer], exact)
        off = np.abs(reading.logits[:, layer] - expected.numpy()).max()
        assert off < 0.02 * expected.abs().max()


def test_a_translator_finer_than_bfloat16_is_not_rounded(questions):
    """Less 1023/1024 of itself, which bfloat16 would make 1, a stream is 1/1024 of it."""
    model, lens = open_model((random_module("llama").to(torch.bfloat16), TOKENIZER)), zeros()
    lens.matrices[:-1] = (1 / 1024 - 1) * torch.eye(D_MODEL)
    reading = read_layers(model, questions, lens=lens, keep_residuals=ALL)
    for layer in range(N_LAYERS):
        stream = torch.tensor(reading.residuals[layer]).to(torch.bfloat16) / 1024
        with torch.no_grad():
            expected = READOUTS["llama"](model.module, stream)[:, LETTERS].float()
        assert expected.abs().max() > 0.01
        np.testing.assert_allclose(reading.logits[:, layer], expected, rtol=0.01, atol=1e-3)


def test_a_lens_fitted_in_bfloat16_is_finite_and_not_worse(calibration):
    module = random_module("llama").to(torch.bfloat16)
    model = open_model((module, TOKENIZER))
    lens = fit_tuned_lens(model, calibration, max_rounds=5)
    assert lens.matrices.dtype == lens.shifts.dtype == torch.float32
    assert lens.matrices.isfinite().all() and lens.shifts.isfinite().all()
    assert not lens.matrices[-1].any() and not lens.shifts[-1].any()
    assert (lens.fit.tuned_lens[:N_LAYERS] < 0.5 * lens.fit.logit_lens[:N_LAYERS]).all()
    after = divergence(read_layers(model, calibration, lens=lens).logits)
    before = divergence(read_layers(model, calibration).logits)
    assert (after[:N_LAYERS] < 0.5 * before[:N_LAYERS]).all()


# With a push


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_pushed_model_is_read_through_the_same_lens(everywhere, questions):
    model, lens = llama(), random_lens()
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))
    push = Push(2, vector, everywhere)
    unpushed = read_layers(model, questions, lens=lens, keep_residuals=ALL)
    pushed = read_layers(model, questions, lens=lens, keep_residuals=ALL, push=push)
    np.testing.assert_array_equal(pushed.logits[:, :2], unpushed.logits[:, :2])
    stream = unpushed.residuals[2] + vector.numpy()
    np.testing.assert_allclose(pushed.residuals[2], stream, atol=1e-5)
    expected = through(lens, 2, stream, model.module)
    np.testing.assert_allclose(pushed.logits[:, 2], expected, atol=2e-5)
    own = read_layers(model, questions, push=push)
    np.testing.assert_array_equal(pushed.logits[:, 3], own.logits[:, 3])
    assert np.abs(pushed.logits[:, 3] - unpushed.logits[:, 3]).max() > 0.01


def test_a_steered_model_is_read_through_the_same_lens(questions):
    model, lens = llama(), random_lens()
    direction = random_direction(read_layers(model, questions, keep_residuals=[1]), 1, seed=0)
    steered = steer(model, questions, direction, 1.5, shots=1, lens=lens)
    vector = torch.tensor(1.5 * direction.scale * direction.vector, dtype=torch.float32)
    pushed = read_layers(model, questions, push=Push(1, vector), shots=1, lens=lens)
    np.testing.assert_allclose(steered.logits, pushed.logits, atol=2e-5)
    assert steered.provenance == pushed.provenance
    assert {"push", "lens"} <= set(steered.provenance)


# Where a reading came from


def test_a_reading_says_through_which_lens_it_was_made(questions):
    model, lens = llama(), random_lens()
    plain, tuned = read_layers(model, questions), read_layers(model, questions, lens=lens)
    assert "lens" not in plain.provenance
    kind, digest = tuned.provenance["lens"].rsplit(" ", 1)
    assert kind == "tuned lens"
    assert len(digest) == 16 and set(digest) <= set("0123456789abcdef")
    assert {**plain.provenance, "lens": tuned.provenance["lens"]} == tuned.provenance


def test_two_lenses_are_told_apart_by_any_of_their_numbers():
    lens = random_lens()
    assert random_lens().describe() == lens.describe()
    matrices, shifts = lens.matrices.clone(), lens.shifts.clone()
    matrices[2, 63, 63] += 1
    shifts[2, 63] += 1
    others = [lens_of(matrices, lens.shifts), lens_of(lens.matrices, shifts), random_lens(1)]
    assert len({lens.describe(), *(other.describe() for other in others)}) == 4


LENSES = {"none": None, "one": random_lens(0), "another": random_lens(1)}
SAID = {"none": "None", "one": "'tuned lens [0-9a-f]{16}'", "another": "'tuned lens [0-9a-f]{16}'"}


@pytest.mark.parametrize(("begun", "now"), [("none", "one"), ("one", "none"), ("one", "another")])
def test_a_folder_begun_with_another_lens_is_refused(begun, now, questions, tmp_path):
    model, folder = llama(), tmp_path / "run"
    read_layers(model, questions, resume=folder, lens=LENSES[begun])
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    message = f"was begun with lens = {SAID[begun]}, this run has {SAID[now]}; name another folder"
    with pytest.raises(ValueError, match=message):
        read_layers(model, questions, resume=folder, lens=LENSES[now])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_folder_begun_with_the_same_lens_goes_on(questions, tmp_path):
    model, folder = llama(), tmp_path / "run"
    settings = {"batch_tokens": 200, "lens": random_lens()}
    whole = read_layers(model, questions, resume=folder, **settings)
    first, *rest = sorted(folder.glob("*.safetensors"))
    assert len(rest) >= 2
    first.unlink()
    again = read_layers(model, questions, resume=folder, **settings)
    np.testing.assert_array_equal(again.logits, whole.logits)
    assert again.provenance == whole.provenance
    assert first.exists()


# The laboratory


@pytest.fixture(scope="module")
def almanac():
    return open_model("almanac")


@pytest.fixture(scope="module")
def validation():
    return load_questions("almanac", "validation", limit=400)


@pytest.fixture(scope="module")
def fitted(almanac, validation):
    return fit_tuned_lens(almanac, validation)


@pytest.fixture(scope="module")
def unseen(almanac, fitted):
    """The test split through the logit lens and through the tuned lens."""
    questions = load_questions("almanac", "test", limit=400)
    return [
        read_layers(almanac, questions, keep_residuals=range(9), lens=lens)
        for lens in (None, fitted)
    ]


def test_the_fit_is_nowhere_worse_than_the_logit_lens_and_better_in_the_upper_layers(fitted):
    fit = fitted.fit
    assert fit.index.tolist() == list(range(9)) and fit.index.name == "layer"
    assert fit.columns.tolist() == ["logit_lens", "tuned_lens"]
    assert (fit.tuned_lens <= fit.logit_lens).all()
    assert (fit.tuned_lens[4:8] < 0.5 * fit.logit_lens[4:8]).all()
    np.testing.assert_allclose(fit.loc[8], 0, atol=1e-6)
    assert not fitted.matrices[8].any() and not fitted.shifts[8].any()


def test_the_fit_is_what_the_lens_reads_on_the_questions_held_out(almanac, validation, fitted):
    held = validation.select(np.flatnonzero(_hold_out(validation, 0.2, 0)))
    for name, lens in (("logit_lens", None), ("tuned_lens", fitted)):
        logits = read_layers(almanac, held, lens=lens).logits
        np.testing.assert_allclose(fitted.fit[name], divergence(logits), atol=1e-5)


def test_on_questions_not_seen_no_layer_is_read_worse_than_by_the_logit_lens(unseen):
    logit, tuned = (divergence(reading.logits) for reading in unseen)
    assert (tuned <= logit).all()
    assert (tuned[4:8] < 0.5 * logit[4:8]).all()
    np.testing.assert_array_equal(unseen[1].logits[:, 8], unseen[0].logits[:, 8])


def test_the_fitted_lens_reads_what_plain_torch_reads(almanac, fitted, unseen):
    logit, tuned = unseen
    for layer in range(9):
        np.testing.assert_array_equal(tuned.residuals[layer], logit.residuals[layer])
        expected = through(fitted, layer, logit.residuals[layer], almanac.module)
        np.testing.assert_allclose(tuned.logits[:, layer], expected, atol=2e-5)


# A planted case


def planted_questions(letters):
    """Four questions for each letter, the texts as long as each other: ``Q falcon?``"""
    return questions_of(f"{letter} {word}?" for letter in letters for word in WORDS)


def turned_model():
    """The planted model, whose second layer turns what the first says: A, B, C, D to A, C, D, B.

    It turns the first three coordinates, (x, y, z) to (z, x, y), by an MLP whose gate is held
    open by the coordinate ``AXIS``, which is 1 in a stream of length 2 and so √2 after the norm.
    """
    model = planted_model()
    mlp, root = model.module.model.layers[1].mlp, 2**0.5
    turn = torch.eye(3)[[2, 0, 1]]
    with torch.no_grad():
        mlp.gate_proj.weight[:3, AXIS] = 1
        mlp.up_proj.weight[:3, :3] = torch.eye(3)
        gate = root / (1 + np.exp(-root))  # SiLU of √2
        mlp.down_proj.weight[:3, :3] = (turn - torch.eye(3)) / (gate * root)
    return model


@pytest.fixture(scope="module")
def turned():
    return turned_model()


# A letter's logit is MARGIN above the three others': where the two layers differ, in three
# questions of four, the divergence is MARGIN · (e^MARGIN - 1) / (e^MARGIN + 3).
POWER = np.exp(MARGIN)
PLANTED = 0.75 * MARGIN * (POWER - 1) / (POWER + 3)  # 1.695
EVEN = MARGIN * POWER / (POWER + 3) - np.log((POWER + 3) / 4)  # from saying 1/4 to each: 0.797


def test_the_planted_model_says_what_was_planted(turned):
    reading = read_layers(turned, planted_questions("abc"), keep_residuals=[1, 2])
    assert reading.logits[:, 1].argmax(axis=1).tolist() == [0, 1, 2, 3] * 3
    assert reading.logits[:, 2].argmax(axis=1).tolist() == [0, 2, 3, 1] * 3
    np.testing.assert_allclose(
        reading.residuals[2][:4, :3], CORNERS.numpy()[[0, 2, 3, 1]], atol=1e-5
    )
    np.testing.assert_allclose(divergence(reading.logits), [EVEN, PLANTED, 0], atol=1e-4)


def test_the_translator_worked_by_hand_says_what_the_last_layer_says(turned):
    lens = zeros(2, 8)
    lens.matrices[1, :3, :3] = torch.tensor([[-1.0, 0, 1], [1, -1, 0], [0, 1, -1]])
    reading = read_layers(turned, planted_questions("abc"), lens=lens)
    np.testing.assert_allclose(reading.logits[:, 1], reading.logits[:, 2], atol=1e-5)


def test_a_shift_worked_by_hand_says_what_it_should(turned):
    """On the embedding, which is 1 along ``AXIS`` whatever is asked, it writes the corner of C."""
    lens = zeros(2, 8)
    lens.shifts[0, :3] = torch.tensor([-1.0, 1, -1])
    reading = read_layers(turned, planted_questions("abc"), lens=lens)
    small, large = -(0.5**0.5), 1.5 * 2**0.5
    expected = np.tile([small, small, large, small], (12, 1))
    np.testing.assert_allclose(reading.logits[:, 0], expected, atol=1e-5)


def test_the_planted_translator_is_found(turned):
    lens = fit_tuned_lens(turned, planted_questions(string.ascii_uppercase))
    assert lens.fit.logit_lens[1] > 1
    assert lens.fit.tuned_lens[1] < 1e-4
    reading = read_layers(turned, planted_questions(string.ascii_lowercase), lens=lens)
    after = divergence(reading.logits)
    assert after[1] < 1e-4
    assert reading.logits[:, 1].argmax(axis=1).tolist() == [0, 2, 3, 1] * 26
    # The embedding does not hold the word: no translator can say more than 1/4 to each.
    assert EVEN - 1e-4 < after[0] < EVEN + 0.02


# The training


def test_no_rounds_leave_the_logit_lens(calibration):
    model = llama()
    lens = fit_tuned_lens(model, calibration, max_rounds=0)
    assert lens.matrices.shape == (4, 64, 64) and lens.shifts.shape == (4, 64)
    assert not lens.matrices.any() and not lens.shifts.any()
    assert lens.fit.tuned_lens.tolist() == lens.fit.logit_lens.tolist()
    assert (lens.fit.logit_lens[:3] > 0.01).all()
    logit, tuned = read_layers(model, calibration), read_layers(model, calibration, lens=lens)
    np.testing.assert_array_equal(tuned.logits, logit.logits)


def test_more_rounds_never_fit_worse(calibration):
    model = llama()
    fits = [
        fit_tuned_lens(model, calibration, max_rounds=rounds).fit.tuned_lens[:3]
        for rounds in (0, 1, 5, 60)
    ]
    assert all((more <= less).all() for less, more in pairwise(fits))
    assert (fits[-1] < 0.3 * fits[0]).all()


def test_settings_are_those_of_the_reading(calibration):
    model = llama()
    lens = fit_tuned_lens(model, calibration, max_rounds=2, shots=1, held_out=0.4, seed=3)
    held = _hold_out(calibration, 0.4, 3).numpy()
    for name, through_it in (("logit_lens", None), ("tuned_lens", lens)):
        reading = read_layers(model, calibration, shots=1, lens=through_it)
        expected = divergence(reading.logits[held])
        np.testing.assert_allclose(lens.fit[name], expected, atol=1e-5)


def test_the_same_seed_gives_the_same_lens_and_another_another(calibration):
    model = llama()
    first, again, other = (
        fit_tuned_lens(model, calibration, max_rounds=3, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first.matrices, again.matrices) and torch.equal(first.shifts, again.shifts)
    pd.testing.assert_frame_equal(first.fit, again.fit, check_exact=True)
    assert first.describe() == again.describe()
    assert not torch.equal(first.matrices, other.matrices)
    assert first.fit.logit_lens[0] != other.fit.logit_lens[0]  # of other questions


def test_the_order_and_the_batches_of_the_questions_do_not_change_the_lens(calibration):
    model, backwards = llama(), calibration.select(range(149, -1, -1))
    lens = fit_tuned_lens(model, calibration, max_rounds=40)
    for other in (
        fit_tuned_lens(model, backwards, max_rounds=40),
        fit_tuned_lens(model, calibration, max_rounds=40, batch_tokens=100),
    ):
        np.testing.assert_allclose(other.fit, lens.fit, atol=1e-6)
        torch.testing.assert_close(other.matrices, lens.matrices, rtol=0, atol=1e-5)
        torch.testing.assert_close(other.shifts, lens.shifts, rtol=0, atol=1e-5)
    assert lens.matrices.abs().max() > 0.01


# What is held out


def test_a_share_of_the_texts_is_held_out_with_all_their_questions():
    """Of 50 texts, each asked twice, ten; their twenty questions go together."""
    held = _hold_out(questions_of(texts(50) * 2), 0.2, seed=0)
    assert held.dtype == torch.bool and held.shape == (100,)
    assert held[:50].tolist() == held[50:].tolist()
    assert held[:50].sum() == 10


def test_a_text_of_many_questions_counts_as_one():
    """Of 60 texts, one asked 41 times: half are 30, which it adds 40 to or not."""
    questions = questions_of(texts(60) + texts(1) * 40)
    counts = {int(_hold_out(questions, 0.5, seed).sum()) for seed in range(20)}
    assert counts == {30, 70}


def test_other_seeds_hold_out_other_texts_and_the_order_does_not_matter():
    questions = questions_of(texts(100))
    masks = [_hold_out(questions, 0.2, seed).tolist() for seed in range(60)]
    assert len({tuple(mask) for mask in masks}) == 60
    assert np.any(masks, axis=0).all()  # every text has its turn
    assert {sum(mask) for mask in masks} == {20}
    backwards = questions.select(range(99, -1, -1))
    assert _hold_out(backwards, 0.2, 0).tolist() == masks[0][::-1]


# Refusals


@pytest.mark.parametrize(
    ("n_layers", "d_model", "message"),
    [
        (
            2,
            64,
            "the lens is for 2 layers of width 64, LlamaForCausalLM has 3 of width 64; fit one",
        ),
        (4, 64, "the lens is for 4 layers of width 64, LlamaForCausalLM has 3 of width 64"),
        (3, 32, "the lens is for 3 layers of width 32, LlamaForCausalLM has 3 of width 64"),
        (8, 128, "the lens is for 8 layers of width 128, LlamaForCausalLM has 3 of width 64"),
    ],
)
def test_the_lens_of_another_model_is_refused_before_the_model_runs(
    n_layers, d_model, message, unused, questions, tmp_path
):
    with pytest.raises(ValueError, match=message):
        read_layers(unused, questions, lens=zeros(n_layers, d_model), resume=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused_before_the_model_runs(share, unused, calibration):
    message = f"held_out is {share}; it is a share of the questions, between 0 and 1"
    with pytest.raises(ValueError, match=message):
        fit_tuned_lens(unused, calibration, held_out=share)


@pytest.mark.parametrize(
    ("asked", "share", "message"),
    [
        (texts(24), 0.2, "19 of 24 questions are left to train on; at least 20"),
        (texts(60), 0.2, "12 of 60 questions are left to stop by; at least 20"),
        (texts(60), 0.8, "12 of 60 questions are left to train on"),
        (texts(1) * 60, 0.2, "0 of 60 questions are left to stop by"),
        (texts(1) * 60, 0.8, "0 of 60 questions are left to train on"),
    ],
)
def test_too_few_questions_are_refused_before_the_model_runs(asked, share, message, unused):
    with pytest.raises(ValueError, match=message):
        fit_tuned_lens(unused, questions_of(asked), held_out=share)


def test_twenty_to_train_on_and_twenty_to_stop_by_are_enough():
    model = llama()
    lens = fit_tuned_lens(model, questions_of(texts(40)), held_out=0.5, max_rounds=1)
    assert (lens.fit.tuned_lens <= lens.fit.logit_lens).all()
    with pytest.raises(ValueError, match="19 of 39 questions are left to train on"):
        fit_tuned_lens(model, questions_of(texts(39)), held_out=0.5)


def test_a_lens_is_saved_and_loaded(tmp_path, unused):
    shape = (unused.n_layers + 1, unused.d_model)
    fit = pd.DataFrame(np.arange(8.0).reshape(4, 2), columns=["logit_lens", "tuned_lens"])
    lens = TunedLens(torch.randn(*shape, shape[1]), torch.randn(shape), fit.rename_axis("layer"))
    lens.save(tmp_path / "lens.safetensors")
    again = TunedLens.load(tmp_path / "lens.safetensors")
    assert again.describe() == lens.describe()
    pd.testing.assert_frame_equal(again.fit, lens.fit)
    with pytest.raises(FileNotFoundError):
        TunedLens.load(tmp_path / "none.safetensors")
