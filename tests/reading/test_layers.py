"""Reading every layer: refusals before any work, then the models' own forward passes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from support.architectures import CONFIGS, N_LAYERS, TOKENIZER, random_module

from calib import Reading, build_prompts, lens, load_questions, open_model, read_layers
from calib.questions import option_tokens
from calib.reading._forward import try_pushes


@pytest.fixture(scope="module")
def questions():
    return load_questions("almanac", limit=12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep_residuals": [4]}, r"keep_residuals is \[4\]; layers run from 0 to 3"),
        ({"keep_residuals": [-1]}, r"layers run from 0 to 3"),
        ({"shots": 6}, "shots is 6"),
        ({"batch_tokens": 20}, r"tokens, batch_tokens is 20; .* or raise batch_tokens"),
    ],
)
def test_a_wrong_request_is_refused_before_the_model_runs(unused, questions, arguments, message):
    with pytest.raises(ValueError, match=message):
        read_layers(unused, questions, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep_residuals": 3}, r"keep_residuals is 3; it must be a list of layers"),
        ({"keep_residuals": "all"}, r"keep_residuals is 'all'; it must be a list"),
        ({"keep_residuals": [True]}, r"keep_residuals is \[True\]; it must be a list"),
        ({"keep_residuals": [1.5]}, r"it must be a list of layers"),
        ({"batch_tokens": "8192"}, "batch_tokens is '8192'; it must be an integer"),
        ({"push": "x"}, "push is 'x'; calib.steer makes one"),
        ({"lens": "tuned"}, "lens is 'tuned'; fit_tuned_lens makes one"),
    ],
)
def test_an_argument_of_another_type_is_refused_before_the_model_runs(
    unused, questions, arguments, message
):
    with pytest.raises(TypeError, match=message):
        read_layers(unused, questions, **arguments)


def test_numpy_integers_are_integers(questions, tmp_path):
    model = open_model((random_module("llama"), TOKENIZER))
    settings = {"keep_residuals": np.arange(2), "batch_tokens": np.int64(800), "resume": tmp_path}
    first = read_layers(model, questions, **settings)
    again = read_layers(model, questions, **settings | {"keep_residuals": [1, 0]})
    np.testing.assert_array_equal(first.residuals[1], again.residuals[1])


def test_a_prompt_longer_than_the_context_is_refused_before_the_model_runs(unused, questions):
    rows = questions.to_list()
    rows[7]["question"] += " stone" * 600
    with pytest.raises(ValueError, match=r"prompt of question 7 has 6\d\d tokens, the model's"):
        read_layers(unused, Dataset.from_list(rows))


def test_too_few_exemplars_are_refused_before_the_model_runs(unused, questions):
    exemplars = load_questions("almanac", "dev").select(range(4))
    with pytest.raises(ValueError, match="has 0 exemplars, 3 shots were asked for"):
        read_layers(unused, questions, shots=3, exemplars=exemplars)


def test_no_questions_are_refused(unused, questions):
    with pytest.raises(ValueError, match="no questions to read"):
        read_layers(unused, questions.select([]))


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_reading_is_what_unpadded_forward_passes_say(name, shots, questions):
    """Layer by layer through forward hooks, one prompt at a time, without any padding."""
    module = random_module(name)
    model = open_model((module, TOKENIZER))
    reading = read_layers(
        model, questions, shots=shots, batch_tokens=1000, keep_residuals=range(N_LAYERS + 1)
    )
    letters = option_tokens(TOKENIZER, 4)
    stream = []

    def keep(_, args, output):
        stream.append((output[0] if isinstance(output, tuple) else output)[0, -1])

    for layer in module.get_submodule(model.layers):
        layer.register_forward_hook(keep)
    module.get_submodule(model.layers)[0].register_forward_pre_hook(
        lambda _, args, kwargs: stream.append((args or (kwargs["hidden_states"],))[0][0, -1]),
        with_kwargs=True,
    )
    for i, prompt in enumerate(build_prompts(questions, shots)):
        stream.clear()
        with torch.no_grad():
            own = module(**TOKENIZER(prompt, return_tensors="pt"), use_cache=False).logits[0, -1]
        assert len(stream) == N_LAYERS + 1
        kept = np.stack([reading.residuals[ell][i] for ell in range(N_LAYERS + 1)])
        np.testing.assert_allclose(kept, torch.stack(stream), atol=1e-5)
        np.testing.assert_allclose(reading.logits[i, -1], own[letters], atol=1e-5)
        expected = lens(model, torch.stack(stream), letters)
        np.testing.assert_allclose(reading.logits[i], expected, atol=1e-5)
    assert reading.logits[:, 1:].std(axis=0).min() > 1e-3  # the questions do differ


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "opt"])
def test_batch_composition_changes_nothing(name):
    questions = load_questions("almanac", limit=30)
    model = open_model((random_module(name), TOKENIZER))
    alone = read_layers(model, questions, batch_tokens=60).logits
    together = read_layers(model, questions, batch_tokens=10_000).logits
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_a_reading_knows_its_questions_and_its_provenance(questions):
    model = open_model((random_module("llama"), TOKENIZER))
    reading = read_layers(model, questions, shots=1)
    assert reading.labels.tolist() == list(questions["answer"])
    assert reading.subjects.tolist() == list(questions["subject"])
    np.testing.assert_array_equal(reading.posterior, questions["posterior"])
    assert reading.provenance["architecture"] == "LlamaForCausalLM"
    assert (reading.provenance["questions"], reading.provenance["shots"]) == ("almanac", 1)
    versions = (reading.provenance["versions"]["torch"], torch.__version__)
    bare, imported = (version.partition("+")[0] for version in versions)  # +cpu, or the CUDA's
    assert bare == imported
    assert (len(reading), reading.n_layers) == (12, 3)


@pytest.fixture(scope="module")
def reading(questions):
    model = open_model((random_module("llama"), TOKENIZER))
    return read_layers(model, questions, keep_residuals=[2])


def test_probabilities_are_the_softmax_with_the_layers_in_front(reading):
    expected = torch.tensor(reading.logits).double().softmax(-1).transpose(0, 1)
    np.testing.assert_allclose(reading.probabilities, expected, atol=1e-12)


def test_a_selection_keeps_everything_together(reading):
    chosen = reading.select(reading.subjects == "fair_music")
    rows = np.flatnonzero(reading.subjects == "fair_music")
    assert len(chosen) == len(rows) > 0
    np.testing.assert_array_equal(chosen.logits, reading.logits[rows])
    np.testing.assert_array_equal(chosen.residuals[2], reading.residuals[2][rows])
    np.testing.assert_array_equal(chosen.posterior, reading.posterior[rows])


def test_a_saved_reading_comes_back_whole(reading, tmp_path):
    reading.save(tmp_path)
    again = Reading.load(tmp_path)
    for name in ("logits", "labels", "subjects", "posterior"):
        np.testing.assert_array_equal(getattr(again, name), getattr(reading, name))
    np.testing.assert_array_equal(again.residuals[2], reading.residuals[2])
    assert again.provenance == reading.provenance


def test_a_truncated_or_altered_reading_is_refused(reading, tmp_path):
    reading.save(tmp_path)
    data = tmp_path / "reading.safetensors"
    whole = data.read_bytes()
    data.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"reading.safetensors is truncated or altered"):
        Reading.load(tmp_path)
    data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"reading.safetensors is truncated or altered"):
        Reading.load(tmp_path)


def test_a_reading_cut_short_in_its_header_is_refused(reading, tmp_path):
    reading.save(tmp_path)
    about = tmp_path / "reading.json"
    about.write_text(about.read_text()[:-20])
    with pytest.raises(ValueError, match=r"reading.json is truncated or altered"):
        Reading.load(tmp_path)
    about.unlink()
    with pytest.raises(ValueError, match="holds no complete reading"):
        Reading.load(tmp_path)


def test_a_reading_of_another_format_is_refused(reading, tmp_path):
    reading.save(tmp_path)
    about = tmp_path / "reading.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="has format 99, this version reads formats 1 to 3"):
        Reading.load(tmp_path)


def test_a_head_that_is_called_a_few_vectors_at_a_time_says_the_same(monkeypatch):
    model, questions = open_model("almanac"), load_questions("almanac", limit=7)
    whole = read_layers(model, questions)
    monkeypatch.setattr("calib.models.model.MOST_NUMBERS", 4 * model.vocabulary)
    called = replace(model, plain_head=False)
    assert called.at_once == 4  # of 9 layers and 7 questions: the last part is not full
    np.testing.assert_allclose(read_layers(called, questions).logits, whole.logits, atol=1e-5)


def test_a_push_that_gets_lost_is_refused():
    """As in a sandbox that hands out copies: the first block does not see what is done to one."""
    module, kept = random_module("llama"), []
    block = module.model.layers[0]
    forward = block.forward
    module.model.embed_tokens.register_forward_hook(lambda *seen: kept.append(seen[-1].clone()))
    block.forward = lambda hidden, *rest, **more: forward(kept[-1], *rest, **more)
    model = open_model((module, TOKENIZER))
    with pytest.raises(ValueError, match=r"a push at layer 0 of .* does not reach its last"):
        try_pushes(model)
    assert len(try_pushes(open_model((random_module("llama"), TOKENIZER)))) == 4
