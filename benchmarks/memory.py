"""Peak memory of a reading: what ``batch_tokens`` bounds it to, and that more questions add none.

Each line is a process of its own, and says how much its peak lies above the opened model.

    python benchmarks/memory.py FOLDER_OF_MMLU
"""

import argparse
import resource
import subprocess
import sys

from _common import learn_tokenizer, random_llama
from transformers import LlamaConfig, LlamaForCausalLM

from calib import load_questions, open_model, read_layers

RUNS = [  # size of the model, questions, shots, batch_tokens
    ("large", 32, 0, 1024),
    ("large", 32, 0, 2048),
    ("large", 32, 0, 4096),
    ("large", 16, 5, 4096),
    ("small", 1_000, 0, 8192),
    ("small", 14_042, 0, 8192),
]


def peak():
    """Of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder, size, n, shots, batch_tokens):
    everything = load_questions(folder)
    tokenizer = learn_tokenizer(everything)
    small = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=32,
        num_attention_heads=4, max_position_embeddings=8192, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    module = random_llama("cpu") if size == "large" else LlamaForCausalLM(small)
    model = open_model((module, tokenizer))
    some = load_questions(folder, subjects="nutrition", limit=n) if n < 100 else everything
    some = some.select(range(n))
    before = peak()
    reading = read_layers(model, some, shots=shots, batch_tokens=batch_tokens)
    own = reading.logits.nbytes / 2**20
    print(f"| {size} | {n:,} | {shots} | {batch_tokens:,} | {peak() - before:.0f} | {own:.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="MMLU, in the layout of cais/mmlu")
    parser.add_argument("--run", type=int, help="only this line, in this process")
    args = parser.parse_args()
    if args.run is not None:
        measure(args.folder, *RUNS[args.run])
        return
    print("| model | questions | shots | batch_tokens | peak above the model, MB | Reading, MB |")
    print("|---|---|---|---|---|---|", flush=True)
    for i in range(len(RUNS)):
        subprocess.run([sys.executable, __file__, args.folder, "--run", str(i)], check=True)


if __name__ == "__main__":
    main()
