"""Opening a model: every architecture's lens against its own forward pass, and clear refusals."""

import pytest
import torch
from support.architectures import CONFIGS, D_MODEL, N_LAYERS, TOKENIZER, random_module
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, MptConfig, OPTConfig

from calib import lens, open_model

PROMPT = "Which stone is the bridge of Ashford built of?\nAnswer:"


def test_an_unknown_architecture_is_named():
    config = MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=len(TOKENIZER))
    module = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match=r"MptForCausalLM keeps its layers under none of"):
        open_model((module, TOKENIZER))


def test_a_model_without_a_final_norm_is_refused():
    config = OPTConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, ffn_dim=32, num_hidden_layers=2,
        num_attention_heads=4, do_layer_norm_before=False, word_embed_proj_dim=32,
    )  # fmt: skip
    with pytest.raises(ValueError, match="OPTForCausalLM keeps its norm under none of"):
        open_model((AutoModelForCausalLM.from_config(config), TOKENIZER))


def test_a_tokenizer_that_ends_its_prompts_is_refused():
    class Ending(type(TOKENIZER)):
        def __call__(self, *args, **kwargs):
            return {"input_ids": [*super().__call__(*args, **kwargs)["input_ids"], 0]}

    ending = Ending(tokenizer_object=TOKENIZER.backend_tokenizer, eos_token=TOKENIZER.eos_token)
    with pytest.raises(ValueError, match="ends every prompt with '<end>'"):
        open_model((random_module("llama"), ending))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_lens_at_the_last_layer_is_the_models_own_logits(name):
    module = random_module(name)
    ids = TOKENIZER(PROMPT, return_tensors="pt")["input_ids"]
    last = []
    model = open_model((module, TOKENIZER))
    hook = module.get_submodule(model.layers)[-1].register_forward_hook(
        lambda _, __, out: last.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        own = module(input_ids=ids, use_cache=False).logits
    hook.remove()
    assert own.std() > 0.1
    assert_close(lens(model, last[0]), own, rtol=1e-4, atol=1e-4)
    assert_close(lens(model, last[0], [7, 3]), own[..., [7, 3]], rtol=1e-4, atol=1e-4)
    assert (model.n_layers, model.d_model) == (N_LAYERS, D_MODEL)


def test_the_callers_tokenizer_is_left_as_it_was():
    TOKENIZER.padding_side = "right"
    try:
        model = open_model((random_module("llama"), TOKENIZER))
        assert TOKENIZER.padding_side == "right"
        assert model.tokenizer.padding_side == "left"
    finally:
        TOKENIZER.padding_side = "left"


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_folder_opens_in_the_type_asked_for(tmp_path, dtype):
    random_module("gpt2").save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    model = open_model(tmp_path, dtype=dtype, device="cpu")
    assert model.module.dtype == (dtype or torch.float32)
    assert model.architecture == "GPT2LMHeadModel"
    assert model.name == str(tmp_path)


def test_auto_opens_the_same_model_wherever_accelerate_places_it(tmp_path):
    pytest.importorskip("accelerate")
    random_module("llama").save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    auto = open_model(tmp_path, device="auto", dtype=torch.float32)
    alone = open_model(tmp_path, device="cpu")
    for placed, plain in zip(auto.module.parameters(), alone.module.parameters(), strict=True):
        assert torch.equal(placed.cpu(), plain)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    random_module("llama").save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, first model.layers.1.mlp.up_proj.wei"):
        open_model(tmp_path)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_weights_that_are_moved_in_for_a_moment_are_refused(where, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    module = random_module("llama")
    if where == "cpu":
        accelerate.cpu_offload(module, execution_device="cpu")
    else:
        accelerate.disk_offload(module, tmp_path, execution_device="cpu")
    with pytest.raises(
        ValueError, match=r"weights, first model.embed_tokens.weight, .* larger GPU"
    ):
        open_model((module, TOKENIZER))
