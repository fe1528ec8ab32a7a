"""What the benchmarks share: a random model, a tokenizer learnt from MMLU, turns, and a table."""

import argparse
import statistics
from time import perf_counter

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from calib import build_prompts

VOCABULARY = 50_304


def learn_tokenizer(questions):
    """A byte-level tokenizer of these questions' own words, so that nothing is downloaded."""
    bpe = ByteLevelBPETokenizer()
    texts = build_prompts(questions)
    bpe.train_from_iterator(texts, VOCABULARY, special_tokens=["<end>"], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<end>", pad_token="<end>"
    )


def random_llama(device):
    """24 layers, 152 million parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=2048, num_hidden_layers=24,
        num_attention_heads=8, max_position_embeddings=8192, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().to(device)


def parse_arguments(doc, device=True, **numbers):
    """The folder of MMLU, the numbers that a benchmark takes, and the device."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("folder", help="MMLU, in the layout of cais/mmlu")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    if device:
        parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def time_in_turns(roads, rounds, device="cpu", once=()):
    """Seconds of each road, round by round, in an order that is reversed every other round.

    ``once`` are the roads that are too slow for more than one round.
    """
    times = {name: [] for name in roads}
    for turn in range(rounds):
        turns = [name for name in roads if turn == 0 or name not in once]
        for name in turns[:: 1 if turn % 2 else -1]:
            start = perf_counter()
            roads[name]()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(perf_counter() - start)
    return times


def ratio(seconds, base):
    """Median over the rounds, so that a slow minute of the machine weighs on both alike."""
    return statistics.median(a / b for a, b in zip(seconds, base, strict=False))


def print_table(times, base):
    """A row for each road: its seconds, and how often the base would fit into them."""
    rounds = len(times[base])
    print(f"\n| road | seconds, median of {rounds} (range) | x {base} |\n|---|---|---|")
    for name, seconds in times.items():
        span = f"({min(seconds):.2f} to {max(seconds):.2f})"
        x = ratio(seconds, times[base])
        print(f"| {name} | {statistics.median(seconds):.2f} {span} | {x:.2f} |")
