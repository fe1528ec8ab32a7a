"""Sampled answers to open questions: calib beside transformers' own generate, on the same prompts.

First the laboratory's model, whose answers are one token and often agree; then the random model of
reading.py, of which hardly two samples agree, so that nothing is shared after the first token: the
worst case. Generate runs the prompt once a sample. The two take turns.

    python benchmarks/sampling.py FOLDER_OF_MMLU [--questions 12] [--samples 40] [--rounds 3]
"""

import numpy as np
import torch
from _common import learn_tokenizer, parse_arguments, print_table, random_llama, time_in_turns

from calib import load_questions, open_model, sample_answers
from calib.questions import format_open_question


def generate(model, questions, n_samples, max_tokens):
    """Decoded answers ``[questions, samples]``, by transformers."""
    prompts = [format_open_question(row) for row in questions]
    inputs = model.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    width = inputs["input_ids"].shape[1]
    tokens = model.module.generate(
        **inputs.to(model.device), do_sample=True, top_k=0, num_return_sequences=n_samples,
        max_new_tokens=max_tokens, pad_token_id=model.tokenizer.eos_token_id or 0,
    )  # fmt: skip
    texts = model.tokenizer.batch_decode(tokens[:, width:])
    return np.reshape(texts, (len(questions), n_samples))


def compare(name, model, questions, n_samples, max_tokens, rounds):
    budget = {"batch_tokens": 2**20}  # one batch for all, as generate has it
    roads = {
        "calib": lambda: (
            sample_answers(model, questions, n_samples, max_tokens=max_tokens, **budget).answers
        ),
        "transformers generate": lambda: generate(model, questions, n_samples, max_tokens),
    }
    for draw in roads.values():
        assert draw().shape == (len(questions), n_samples)
    print(f"{name}: {len(questions)} questions, {n_samples} samples of up to {max_tokens} tokens")
    print_table(time_in_turns(roads, rounds), "calib")


@torch.no_grad()
def main():
    args = parse_arguments(__doc__, device=False, questions=12, samples=40, rounds=3)

    facts = load_questions("almanac", limit=20 * args.questions)
    compare("almanac", open_model("almanac"), facts, args.samples, 1, args.rounds)
    questions = load_questions(args.folder).select(range(2000))
    tokenizer = learn_tokenizer(questions)
    model = open_model((random_llama("cpu"), tokenizer))
    lengths = [len(tokenizer(format_open_question(row))["input_ids"]) for row in questions]
    rows = [i for i, n in enumerate(lengths) if 100 <= n <= 110][: args.questions]
    compare("random", model, questions.select(rows), args.samples, 8, args.rounds)


if __name__ == "__main__":
    main()
