"""The proof on opening: odd models are read as their own forward pass says, or refused by part."""

import threading

import numpy as np
import pytest
import torch
from support.architectures import CONFIGS, TOKENIZER, _common, _llama, random_module
from support.odd_models import MODELS, SWITCH, at_random, long_rope
from tokenizers import Tokenizer, processors
from torch.testing._internal.two_tensor import TwoTensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    OPTConfig,
    PreTrainedTokenizerFast,
)

from calib import (
    build_prompts,
    load_questions,
    open_model,
    read_branches,
    read_layers,
    sample_answers,
)
from calib.mechanisms import read_activations
from calib.models.proof import probes_of
from calib.questions import format_open_question, option_tokens
from calib.reading._provenance import fingerprint
from calib.reading._tree_attention import can_branch
from calib.steering import gradient_direction, random_direction

LETTERS = option_tokens(TOKENIZER, 4)


@pytest.fixture(scope="module")
def questions():
    """Some with more than ``SWITCH`` tokens, some with fewer, and all in between."""
    some = load_questions("almanac", limit=12).to_list()
    for i, row in enumerate(some):
        row["question"] = "In the old book of the valley it is asked. " * (i % 4) + row["question"]
    lengths = [len(TOKENIZER(text)["input_ids"]) for text in build_prompts(some)]
    assert min(lengths) < SWITCH < max(lengths)
    return some


def own_logits(module, prompts):
    """The module's own option logits, one prompt at a time, in evaluation mode."""
    modes = [part.training for part in module.modules()]
    module.eval()
    with torch.no_grad():
        ids = [torch.tensor([TOKENIZER(prompt)["input_ids"]]) for prompt in prompts]
        outputs = [module(input_ids=some, use_cache=False) for some in ids]
    for part, mode in zip(module.modules(), modes, strict=True):
        part.training = mode
    logits = [o[0] if isinstance(o, tuple) else o.logits for o in outputs]
    return torch.stack([some[0, -1, LETTERS] for some in logits]).float().numpy()


# Refusals


class Doubled(LlamaForCausalLM):
    """Does to its logits what no lens here knows."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output


class Prompted(LlamaForCausalLM):
    """Puts three tokens of its own before each prompt, as prompt tuning does."""

    def forward(self, input_ids=None, attention_mask=None, **settings):
        before = torch.ones(len(input_ids), 3, dtype=torch.long)
        ids = torch.cat([before, input_ids], dim=1)
        return super().forward(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)


class Changed(LlamaForCausalLM):
    """Has a step of its own between the final norm and the unembedding, in no module."""

    def forward(self, input_ids=None, attention_mask=None, logits_to_keep=0, **settings):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        output = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        output.logits = self.lm_head(hidden.roll(1, dims=-1))
        return output


def mixed_in():
    """Adds the embeddings before the norm; a pad token, whose embedding is 0, would hide it."""
    module, embedded = random_module("llama"), []
    module.model.embed_tokens.register_forward_hook(lambda _, __, out: embedded.append(out))
    module.model.norm.register_forward_pre_hook(lambda _, args: (args[0] + embedded[-1],))
    return module


def overflowing():
    module = random_module("llama")
    module.model.layers[0].mlp.down_proj.weight.data.mul_(1e6)
    return module.half()


def quantized():
    return torch.ao.quantization.quantize_dynamic(
        random_module("llama"), {torch.nn.Linear}, dtype=torch.qint8
    )


def projected():
    return at_random(OPTConfig(**_common, ffn_dim=96, word_embed_proj_dim=32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Doubled(CONFIGS["llama"]), r"Doubled .* after lm_head \(a scale or cap not known"),
        (lambda: Prompted(CONFIGS["llama"]), r"Prompted .* positions for \d+ tokens, .* virtual"),
        (lambda: at_random(CONFIGS["llama"], Changed), r"Changed .*lens at the last layer is not"),
        (mixed_in, "LlamaForCausalLM .*lens at the last layer is not the model's own logits"),
        (projected, "changes the width between model.decoder.final_layer_norm and lm_head"),
        (overflowing, r"not finite; open it with dtype=torch.float32 or torch.bfloat16"),
        (quantized, r"lm_head \(Linear\) gives a position other logits .* open the model unquant"),
        (lambda: LlamaModel(CONFIGS["llama"]), "LlamaModel has no unembedding"),
        (
            lambda: at_random(LlamaConfig(**{**_llama, "vocab_size": 300})),
            r"prompt 0 has the token '.+' of id \d+, and LlamaForCausalLM embeds 300 tokens",
        ),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*quantization is deprecated")
def test_what_cannot_be_read_is_refused_with_the_part_and_the_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        open_model((make(), TOKENIZER))


def test_a_wrapper_of_adapters_is_refused_with_the_way_in():
    class PeftModelForCausalLM(torch.nn.Module):
        """What is asked of a wrapper: that it says so, and holds the model."""

        peft_config = None

        def get_base_model(self):
            return random_module("llama")

    with pytest.raises(ValueError, match=r"PeftModel.* wraps the model; .*merge_and_unload\(\)"):
        open_model((PeftModelForCausalLM(), TOKENIZER))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (7, TypeError, "the source is a int; name a model, or pass"),
        ((TOKENIZER, None), TypeError, r"\(TokenizersBackend, NoneType\); a loaded pair is"),
        ("./not/there", ValueError, r"no folder './not/there' here; check the path"),
        ("/not/there", ValueError, "no folder"),
        ("owner/name/more", ValueError, "no folder"),
    ],
)
def test_a_source_that_is_none_is_refused_by_kind(source, error, message):
    with pytest.raises(error, match=message):
        open_model(source)


@pytest.mark.parametrize("name", ["model.bin", "model.safetensors"])
def test_a_file_is_refused_with_the_way_in(name, tmp_path):
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(ValueError, match=rf"{name} is a file; .* pass \(module, tokenizer\)"):
        open_model(tmp_path / name)


@pytest.mark.parametrize("end", ["<end>", "<pad>"])
def test_a_tokenizer_that_ends_its_prompts_is_refused(end):
    """With whatever token: not its own end-of-text token alone."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(TOKENIZER.backend_tokenizer.to_str()),
        eos_token="<end>",
        pad_token="<end>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<pad>"]})
    at = tokenizer.convert_tokens_to_ids(end)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, at)]
    )
    assert tokenizer("Answer:")["input_ids"][-1] == at
    with pytest.raises(ValueError, match=f"ends every prompt with '{end}'"):
        open_model((random_module("llama"), tokenizer))


# Readings


def test_the_probes_are_two_ordinary_prompts_of_different_length():
    long, short = probes_of(TOKENIZER, 512)
    assert len(long) > len(short) > 20
    assert len(set(long)) > 20
    assert TOKENIZER.decode(long).endswith("D. Jupiter\nAnswer:")
    assert [len(probe) for probe in probes_of(TOKENIZER, 10)] == [10, 9]


@pytest.mark.parametrize("name", MODELS)
def test_an_odd_model_is_read_as_its_own_forward_pass(name, questions):
    module = MODELS[name]()
    own = own_logits(module, build_prompts(questions))
    assert own.std() > 0.01
    model = open_model((module, TOKENIZER))
    reading = read_layers(model, questions)
    np.testing.assert_allclose(reading.logits[:, -1], own, rtol=1e-4, atol=1e-4 * abs(own).max())


@pytest.mark.parametrize("name", MODELS)
def test_an_odd_model_with_exemplars_is_read_as_its_own_forward_pass(name, questions):
    module = MODELS[name]()
    exemplars = load_questions("almanac", "dev")
    prompts = build_prompts(questions, 1, exemplars)
    own = own_logits(module, prompts)
    model = open_model((module, TOKENIZER))
    reading = read_layers(model, questions, shots=1, exemplars=exemplars)
    np.testing.assert_allclose(reading.logits[:, -1], own, rtol=1e-4, atol=1e-4 * abs(own).max())


@pytest.mark.parametrize("name", MODELS)
def test_branches_of_an_odd_model_are_its_pushed_passes(name, questions):
    module = MODELS[name]()
    model = open_model((module, TOKENIZER))
    direction = random_direction(read_layers(model, questions, keep_residuals=[2]), 2, seed=0)
    still, pushed = read_branches(model, questions, [(direction, 0.0), (direction, 1.0)])
    own = own_logits(module, build_prompts(questions))
    np.testing.assert_allclose(still, own, rtol=1e-4, atol=1e-4 * abs(own).max())
    vector = torch.tensor(direction.push(1.0), dtype=torch.float32)

    def push(_, __, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[:, -1] += vector

    handle = module.get_submodule(model.layers)[1].register_forward_hook(push)
    own = own_logits(module, build_prompts(questions))
    handle.remove()
    np.testing.assert_allclose(pushed, own, rtol=1e-4, atol=1e-4 * abs(own).max())


def test_no_batch_straddles_a_switch_of_the_rotary_factors(questions):
    """The figures would differ: that is what the two tests above would show."""
    module = long_rope()
    model = open_model((module, TOKENIZER))
    assert model.rope_switch == SWITCH
    ids = torch.tensor([TOKENIZER(build_prompts(questions)[0])["input_ids"]])[:, :40]
    padded = torch.nn.functional.pad(ids, (0, SWITCH))
    with torch.no_grad():
        alone, beside = module(ids).logits[0, 39], module(padded).logits[0, 39]
    assert (alone - beside).abs().max() > 1e-3 * alone.abs().max()


def test_nothing_is_drawn_or_trained_across_a_switch(questions):
    """Keys and values kept below it would have to be others beyond it."""
    model = open_model((long_rope(), TOKENIZER))
    row = dict(questions[0])
    words = SWITCH - 2 - len(TOKENIZER(format_open_question(row))["input_ids"])
    row["question"] += " stone" * words
    with pytest.raises(ValueError, match=rf"would pass {SWITCH}, where .* rotary factors"):
        sample_answers(model, [row], 3, max_tokens=5)
    assert sample_answers(model, [row], 3, max_tokens=2).answers.shape == (1, 3)
    row = dict(questions[0])
    row["question"] += " stone" * (
        SWITCH + 1 - len(TOKENIZER(build_prompts([row])[0])["input_ids"])
    )
    with pytest.raises(ValueError, match=rf"a prompt has {SWITCH + 1} tokens"):
        gradient_direction(model, [row], 1)


def test_a_model_whose_prompts_change_each_other_is_not_sampled(questions):
    model = open_model((MODELS["not causal"](), TOKENIZER))
    assert not model.pads
    with pytest.raises(ValueError, match="sample from a causal model"):
        sample_answers(model, questions, 3)


def test_neurons_of_a_module_in_training_are_those_in_evaluation(questions):
    module = random_module("gpt2")
    quiet = read_activations(open_model((module, TOKENIZER)), questions, 2)
    noisy = read_activations(open_model((module.train(), TOKENIZER)), questions, 2)
    np.testing.assert_array_equal(quiet, noisy)


def test_a_reading_leaves_every_part_in_the_mode_it_was_in(questions):
    module = random_module("gpt2").train()
    module.transformer.h[1].eval()
    modes = [part.training for part in module.modules()]
    model = open_model((module, TOKENIZER))
    assert [part.training for part in module.modules()] == modes
    first, second = read_layers(model, questions), read_layers(model, questions)
    np.testing.assert_array_equal(first.logits, second.logits)
    assert [part.training for part in module.modules()] == modes


def test_a_callers_autocast_does_not_change_what_is_read(questions):
    model = open_model((random_module("llama"), TOKENIZER))
    plain = read_layers(model, questions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = read_layers(model, questions)
    np.testing.assert_array_equal(plain.logits, within.logits)


def test_several_threads_read_one_after_the_other(questions):
    models = [open_model((random_module(name), TOKENIZER)) for name in ("llama", "gpt2")]
    right = [read_layers(model, questions).logits for model in models]
    found, faults = {}, []

    def read(i):
        try:
            found[i] = read_layers(models[i % 2], questions).logits
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(found) == 4
    for i, logits in found.items():
        np.testing.assert_array_equal(logits, right[i % 2])


def test_branches_are_left_to_attention_that_takes_masks():
    """FlexAttention ends the process on a CPU when it is given a mask of single tokens."""
    module = random_module("llama")
    model = open_model((module, TOKENIZER))
    module.config._attn_implementation = "flex_attention"
    assert not can_branch(model, list(model.probe))


def test_the_fingerprint_of_a_wrapped_weight_changes_with_what_it_wraps():
    """As quantized weights are: tensors that are made of others."""
    module = torch.nn.Linear(2, 2, bias=False)
    prints = []
    for value in (0.0, 0.0, 1.0):
        inner = torch.full((2, 2), value)
        module.weight = torch.nn.Parameter(TwoTensor(torch.ones(2, 2), inner))
        prints.append(fingerprint(module))
    assert prints[0] == prints[1] != prints[2]


def test_a_model_that_is_none_is_refused_by_kind(questions):
    with pytest.raises(TypeError, match="the model is a str; open it first"):
        read_layers("almanac", questions)
