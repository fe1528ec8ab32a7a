"""Reading on a GPU: what it costs beside plain forward passes, and how long whole tasks take.

A random Llama of 6.9 billion parameters in bfloat16, the tokenizer learnt from the questions, so
nothing is downloaded. To try it without a GPU: --layers 2 --width 256
--device cpu --dtype float32.

    python benchmarks/gpu.py FOLDER_OF_MMLU [--questions 1000] [--layers 32] [--width 4096]
        [--rounds 3] [--only ratio mmlu branches neurons] [--device cuda] [--dtype bfloat16]

What is measured:

ratio      reading every layer over a plain forward pass of the same batches, the share of computed
           tokens that is padding, and the time that a pass takes besides its tokens, in tokens
mmlu       all of MMLU, every layer, zero-shot and in five shots
branches   a map of 21 strengths at every layer
neurons    every neuron of the last layer ablated
"""

import argparse
from time import perf_counter

import numpy as np
import torch
from _common import VOCABULARY, learn_tokenizer, print_table, time_in_turns
from transformers import LlamaConfig, LlamaForCausalLM

import calib
from calib.reading._batches import Batch
from calib.reading._forward import pad_right, read_streams
from calib.reading._run import Run

PARTS = ("ratio", "mmlu", "branches", "neurons")


def random_model(args, tokenizer):
    """As LLaMA 2 of 7 B, unless the arguments say otherwise."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=args.width, intermediate_size=round(args.width * 2.6875),
        num_hidden_layers=args.layers, num_attention_heads=args.width // 128,
        max_position_embeddings=8192, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    with torch.device(args.device):
        module = LlamaForCausalLM(config).to(getattr(torch, args.dtype)).eval()
    return calib.open_model((module, tokenizer))


def synchronize(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def timed(what, device, task):
    """Run a task once; print its seconds and the most memory it held."""
    synchronize(device)
    start = perf_counter()
    task()
    synchronize(device)
    seconds = perf_counter() - start
    held = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else np.nan
    print(f"| {what} | {seconds:.1f} | {held:.1f} |", flush=True)
    return seconds


def plain_forward(model, run, batches):
    """The same batches without reading a layer, the copy of the last logits included."""
    with torch.no_grad(), model.running():
        for batch in batches:
            inputs, _ = pad_right([run.prompts[i] for i in batch.rows], model.device)
            model.module(**inputs, **model.last_only, use_cache=False).logits.cpu()


def plans_of(run):
    """Batches as the library plans them, and of a fixed number of prompts, longest first."""
    plans = {f"planned, batch_tokens {limit}": run.plan(limit) for limit in (8192, 32_768, 65_536)}
    order = sorted(range(len(run.prompts)), key=lambda i: -len(run.prompts[i]))
    for size in (8, 32, 128):
        cuts = range(0, len(order), size)
        plans[f"{size} prompts in a batch"] = [Batch(tuple(order[i : i + size]), 0) for i in cuts]
    return plans


def measure_ratio(model, questions, args):
    run, rows = Run.prepare(model, questions), []

    def read(part):
        return read_streams(model, part.prompts, run.tokens)

    for name, batches in plans_of(run).items():
        computed = sum(len(run.prompts[batch.rows[0]]) * len(batch.rows) for batch in batches)
        padding = 1 - sum(map(len, run.prompts)) / computed
        print(f"\n{name}: {len(batches)} batches, {padding:.1%} padding")
        roads = {
            "plain forward": lambda batches=batches: plain_forward(model, run, batches),
            "every layer": lambda batches=batches: run.through(batches, read),
        }
        times = time_in_turns(roads, args.rounds, torch.device(args.device).type)
        print_table(times, "plain forward")
        rows.append([computed, len(batches), *(np.median(some) for some in times.values())])
    # Seconds are so much for each computed token and so much for each pass: by least squares.
    known, seconds = np.split(np.array(rows), 2, axis=1)
    per_token, per_pass = np.linalg.lstsq(known, seconds)[0]
    for name, token, one_pass in zip(roads, per_token, per_pass, strict=True):
        print(f"{name}: {1e6 * token:.1f} µs for a token; a pass takes {one_pass / token:.0f} more")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="MMLU, in the layout of cais/mmlu")
    for name, default in dict(questions=1000, layers=32, width=4096, rounds=3).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", choices=PARTS, nargs="*", default=PARTS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    everything = calib.load_questions(args.folder)
    model = random_model(args, learn_tokenizer(everything))
    # From all over MMLU: the first ones would be of a few subjects.
    order = np.random.default_rng(0).permutation(len(everything))
    some = everything.select(order[: args.questions].tolist())
    parameters = sum(weight.numel() for weight in model.module.parameters()) / 1e9
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else args.device
    print(f"{name}, {parameters:.2f} B parameters, {args.dtype}, torch {torch.__version__}")
    calib.read_layers(model, some.select(range(min(50, len(some)))))  # what is made once
    if "ratio" in args.only:
        measure_ratio(model, some, args)
    print("\n| task | seconds | GiB at most |\n|---|---|---|")
    if "mmlu" in args.only:
        whole = timed("all of MMLU, zero-shot, every layer", args.device, lambda: (
            calib.read_layers(model, everything, batch_tokens=32_768)))  # fmt: skip
        shots = timed("all of MMLU, five shots, every layer", args.device, lambda: (
            calib.read_layers(model, everything, shots=5, batch_tokens=32_768)))  # fmt: skip
        print(f"\nfive shots take {shots / whole:.2f} times zero-shot\n")
    if "branches" in args.only:
        residuals = calib.read_layers(model, some, keep_residuals=range(model.n_layers + 1))
        branches = [
            (calib.steering.random_direction(residuals, layer, seed=0), strength)
            for layer in range(model.n_layers + 1)
            for strength in np.linspace(-2, 2, 21)
        ]
        timed(f"{len(branches)} branches, {len(some)} questions", args.device, lambda: (
            calib.read_branches(model, some, branches, batch_tokens=32_768)))  # fmt: skip
    if "neurons" in args.only:
        n = model.module.config.intermediate_size
        timed(f"{n} neurons, {len(some)} questions", args.device, lambda: (
            calib.mechanisms.ablate_neurons(
                model, some, model.n_layers, np.zeros(n), batch_tokens=32_768)))  # fmt: skip


if __name__ == "__main__":
    main()
