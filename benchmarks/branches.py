"""Steered answers, all in one pass: what a sweep costs, in plain forward passes of its prompts.

The same random model and tokenizer as in reading.py, on MMLU questions of 150 to 170 tokens. Some
branches are first compared with runs of their own, steered by a forward hook. Then the sweeps and
plain passes take turns.

    python benchmarks/branches.py FOLDER_OF_MMLU [--prompts 12] [--rounds 5] [--device cuda]
"""

import numpy as np
import torch
from _common import learn_tokenizer, parse_arguments, print_table, random_llama, time_in_turns

from calib import build_prompts, load_questions, open_model
from calib.questions import option_tokens, tokenize
from calib.reading._forward import pad_right
from calib.reading._tree_attention import read_tree

STRENGTHS = np.linspace(-2, 2, 21)


def branches_at(layers, d_model):
    """Layers and pushes of every strength at each layer, along one random direction."""
    direction = np.random.default_rng(0).normal(size=d_model) / np.sqrt(d_model)
    at = np.repeat(layers, len(STRENGTHS)).tolist()
    pushes = np.tile(np.outer(STRENGTHS, direction), (len(layers), 1))
    return at, torch.tensor(pushes, dtype=torch.float32)


def steered_run(module, inputs, last, tokens, layer, push):
    """Option logits of one run of its own, pushed after a layer by a hook."""

    def hook(_, __, output):
        output[torch.arange(len(last)), last] += push.to(output)

    handle = module.model.layers[layer - 1].register_forward_hook(hook)
    states = module.model(**inputs, use_cache=False).last_hidden_state
    handle.remove()
    return module.lm_head(states[torch.arange(len(last)), last])[:, tokens]


@torch.no_grad()
def main():
    args = parse_arguments(__doc__, prompts=12, rounds=5)
    questions = load_questions(args.folder)
    tokenizer = learn_tokenizer(questions)
    module = random_llama(args.device)
    model = open_model((module, tokenizer))
    prompts = tokenize(tokenizer, build_prompts(questions.select(range(2000))))
    prompts = [prompt for prompt in prompts if 150 <= len(prompt) <= 170][: args.prompts]
    tokens = option_tokens(tokenizer, 4)
    inputs, last = pad_right(prompts, args.device)
    sweeps = {
        "21 strengths at the middle layer": [12],
        "21 strengths at the embedding": [0],
        "24 layers × 21 strengths": range(24),
    }
    sweeps = {name: branches_at(layers, model.d_model) for name, layers in sweeps.items()}
    roads = {"plain forward": lambda: module(**inputs, use_cache=False, logits_to_keep=1)}
    for name, sweep in sweeps.items():
        roads[name] = lambda sweep=sweep: read_tree(model, prompts, tokens, *sweep)

    layers, pushes = sweeps["24 layers × 21 strengths"]
    found = roads["24 layers × 21 strengths"]()["logits"]
    for i in (21, 200, 500):
        own = steered_run(module, inputs, last, tokens, layers[i], pushes[i]).cpu()
        difference = (found[:, i] - own).abs().max().item()
        assert difference < 1e-5, f"branch {i} differs from a run of its own by {difference:.1e}"
    print(f"{len(prompts)} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens")

    print_table(time_in_turns(roads, args.rounds, args.device), "plain forward")


if __name__ == "__main__":
    main()
