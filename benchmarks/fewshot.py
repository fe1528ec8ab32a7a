"""Five-shot MMLU with and without shared exemplars: questions per second.

The same random model and tokenizer as in reading.py, on whole subjects of MMLU. Both ways must give
the same numbers before they are timed in turns.

    python benchmarks/fewshot.py FOLDER_OF_MMLU [--subjects abstract_algebra ...] [--rounds 3]
"""

import argparse
import statistics
from functools import partial
from time import perf_counter

import torch
from reading import learn_tokenizer, random_llama

from calib import load_questions, open_model
from calib.questions.prompts import build_prompts, option_tokens
from calib.reading._batches import plan_batches
from calib.reading._forward import read_batch, read_batches


def read_all(model, prompts, batches, tokens):
    logits = torch.empty(len(prompts), model.n_layers + 1, len(tokens))
    read = partial(read_batch, model, tokens=tokens)
    for rows, found in read_batches(model, prompts, batches, read, None):
        logits[rows] = torch.from_numpy(found["logits"])
    return logits


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="MMLU, in the layout of cais/mmlu")
    parser.add_argument("--subjects", nargs="+", default=["abstract_algebra", "business_ethics"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    tokenizer = learn_tokenizer(load_questions(args.folder))
    model = open_model((random_llama(args.device), tokenizer))
    some = load_questions(args.folder, subjects=args.subjects)
    exemplars = load_questions(args.folder, "dev")
    prompts = tokenizer(build_prompts(some, 5, exemplars))["input_ids"]
    tokens = option_tokens(tokenizer, 4)
    plans = {
        way: plan_batches(prompts, some["subject"], 8192, model.context, share)
        for way, share in {"shared": True, "whole": False}.items()
    }
    lengths = [len(prompt) for prompt in prompts]
    saved = {b.rows[0]: b.shared for b in plans["shared"]}
    span = f"{min(lengths)} to {max(lengths)} tokens"
    print(f"{', '.join(args.subjects)}: {len(some)} questions of {span}")
    print("shared beginnings of", sorted(set(saved.values())), "tokens")
    difference = (
        (
            read_all(model, prompts, plans["shared"], tokens)
            - read_all(model, prompts, plans["whole"], tokens)
        )
        .abs()
        .max()
    )
    print(f"largest difference of a logit: {difference:.1e}")
    assert difference < 1e-4

    times = {way: [] for way in plans}
    for turn in range(args.rounds):
        for way in list(plans)[:: 1 if turn % 2 else -1]:
            start = perf_counter()
            read_all(model, prompts, plans[way], tokens)
            times[way].append(perf_counter() - start)
    for way, seconds in times.items():
        print(f"{way}: {len(some) / statistics.median(seconds):.2f} questions per second")
    pairs = zip(times["whole"], times["shared"], strict=True)
    print(f"ratio {statistics.median(a / b for a, b in pairs):.2f}")


if __name__ == "__main__":
    main()
