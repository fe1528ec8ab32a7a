"""Steered answers, all in one pass: what a sweep costs, in plain forward passes of its prompts.

The same random model and tokenizer as in reading.py, on MMLU questions of 150 to 170 tokens. Some
branches are first compared with runs of their own, steered by a forward hook. Then the sweeps and
plain passes take turns.

    python benchmarks/branches.py FOLDER_OF_MMLU [--prompts 12] [--rounds 5] [--device cuda]
"""

import argparse
import statistics
from time import perf_counter

import numpy as np
import torch
from reading import learn_tokenizer, random_llama

from calib import load_questions, open_model
from calib.questions.prompts import build_prompts, option_tokens, tokenize
from calib.reading._forward import pad_right
from calib.reading._tree_attention import read_siblings

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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="MMLU, in the layout of cais/mmlu")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

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
        roads[name] = lambda sweep=sweep: read_siblings(model, prompts, tokens, *sweep)

    layers, pushes = sweeps["24 layers × 21 strengths"]
    found = roads["24 layers × 21 strengths"]()["logits"]
    for i in (21, 200, 500):
        own = steered_run(module, inputs, last, tokens, layers[i], pushes[i]).cpu()
        difference = (found[:, i] - own).abs().max().item()
        assert difference < 1e-5, f"branch {i} differs from a run of its own by {difference:.1e}"
    print(f"{len(prompts)} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens")

    times = {name: [] for name in roads}
    for turn in range(args.rounds):
        for name in list(roads)[:: 1 if turn % 2 else -1]:
            start = perf_counter()
            roads[name]()
            if args.device == "cuda":
                torch.cuda.synchronize()
            times[name].append(perf_counter() - start)
    print(f"\n| road | seconds, median of {args.rounds} (range) | x plain forward |\n|---|---|---|")
    for name, seconds in times.items():
        pairs = zip(seconds, times["plain forward"], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        span = f"({min(seconds):.2f} to {max(seconds):.2f})"
        print(f"| {name} | {statistics.median(seconds):.2f} {span} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
