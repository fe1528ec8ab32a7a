"""A two-layer model set by hand: what its answers are, and what makes them less sure, is known."""

import numpy as np
import torch
from datasets import Dataset
from support.architectures import TOKENIZER
from transformers import AutoModelForCausalLM, LlamaConfig

from calib import build_prompts, open_model
from calib.questions import option_tokens

AXIS, WIDTH = 5, 8  # the stream's coordinate that no letter reads, and its width
# The corners of a tetrahedron: as far from each other as four answers can be.
CORNERS = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
WORDS = ("falcon", "stag", "eagle", "hare")
MARGIN = 2 * np.sqrt(2)  # of the answer's logit over the three others


def planted_questions(n_right: int) -> Dataset:
    """Six questions for each word, of which the model answers ``n_right`` right: 3 or 6.

    The others are each of the three other letters equally often.
    """
    answers = [
        [i] * n_right + [j for j in range(4) if j != i] * (2 - n_right // 3) for i in range(4)
    ]
    rows = [
        {
            "question": f"Which {word}?",
            "subject": "fair_music",
            "choices": ["oboe", "zither", "lyre", "bugle"],
            "answer": answer,
        }
        for word, some in zip(WORDS, answers, strict=True)
        for answer in some
    ]
    return Dataset.from_list(rows)


def planted_model():
    """Answers A to falcon, B to stag, C to eagle and D to hare, with a margin of ``MARGIN``.

    The first layer attends evenly and writes the word's corner on the first three coordinates of
    the answer position, where ``AXIS`` holds 1: a stream of length 2. The second layer does
    nothing. The letters read a corner each and nothing else, so that along ``AXIS`` only the
    length that the final norm divides by changes, and with it all logits in proportion.
    """
    ids = TOKENIZER(build_prompts(planted_questions(3)))["input_ids"]
    (n_tokens,) = {len(row) for row in ids}
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=WIDTH, num_hidden_layers=2, intermediate_size=WIDTH,
        num_attention_heads=1, num_key_value_heads=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        embedding, attention = module.model.embed_tokens.weight, module.model.layers[0].self_attn
        for word, corner in zip(WORDS, CORNERS, strict=True):
            (token,) = TOKENIZER(f" {word}")["input_ids"]
            embedding[token, :3] = corner
        embedding[ids[0][-1], AXIS] = 1
        attention.v_proj.weight[:3, :3] = torch.eye(3)
        # Of n_tokens that count alike, one holds the corner, divided by its root mean square.
        attention.o_proj.weight[:3, :3] = n_tokens * (3 / WIDTH) ** 0.5 * torch.eye(3)
        module.lm_head.weight[option_tokens(TOKENIZER, 4), :3] = CORNERS / 2
    return open_model((module, TOKENIZER))
