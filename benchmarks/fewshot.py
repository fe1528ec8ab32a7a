"""Five-shot MMLU with and without shared exemplars: questions per second.

The same random model and tokenizer as in reading.py, on whole subjects of MMLU. Both ways must give
the same numbers before they are timed in turns.

    python benchmarks/fewshot.py FOLDER_OF_MMLU [--subjects abstract_algebra ...] [--rounds 3]
"""

import argparse
import statistics
from functools import partial

from _common import learn_tokenizer, random_llama, ratio, time_in_turns

from calib import build_prompts, load_questions, open_model
from calib.questions import option_tokens
from calib.reading import plan_batches
from calib.reading._forward import read_streams
from calib.reading._run import run_batches


def read_all(model, prompts, batches, tokens):
    def forward(part):
        return read_streams(model, part.prompts, tokens, prefix=part.prefix)

    return run_batches(model, prompts, batches, forward)["logits"]


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
    print("shared prefixes of", sorted(set(saved.values())), "tokens")
    roads = {way: partial(read_all, model, prompts, plan, tokens) for way, plan in plans.items()}
    difference = abs(roads["shared"]() - roads["whole"]()).max()
    print(f"largest difference of a logit: {difference:.1e}")
    assert difference < 1e-4

    times = time_in_turns(roads, args.rounds, args.device)
    for way, seconds in times.items():
        print(f"{way}: {len(some) / statistics.median(seconds):.2f} questions per second")
    print(f"ratio {ratio(times['whole'], times['shared']):.2f}")


if __name__ == "__main__":
    main()
