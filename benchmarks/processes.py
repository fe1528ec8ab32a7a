"""A run shared out over processes: one process on one thread, against two on one thread each.

Both are started by torchrun, open the same folder's model, and read every layer of the same
questions into a folder; the two take turns. Called a second time, on the finished folder, a reading
is what is not reading: to meet, to agree, to put together. That both end with the same numbers, bit
for bit, is checked first. What is shared out how evenly is counted for all of MMLU in five shots
and eight processes: in pieces of the plan, as calib does it, and batch by batch in turn.

    python benchmarks/processes.py FOLDER_OF_MMLU [--questions 192] [--rounds 2] [--counted 14042]
"""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, time

import numpy as np
from _common import learn_tokenizer, parse_arguments, random_llama

from calib import load_questions, open_model, read_layers
from calib.reading._batches import BEHIND_PREFIX, PASS
from calib.reading._run import Run
from calib.reading._shares import share_out

PARTS = ("start", "open", "read", "again")


def one_process(folder, started):
    """What each of the processes does; the first writes the seconds of every part."""
    marks = [float(started), time()]
    model = open_model(Path(folder, "model"))
    questions = load_questions(Path(folder, "questions.jsonl"))
    marks.append(time())
    for _ in range(2):
        reading = read_layers(model, questions, batch_tokens=2048, resume=Path(folder, "run"))
        marks.append(time())
    if os.environ["RANK"] == "0":
        np.savez(Path(folder, "found.npz"), logits=reading.logits, seconds=np.diff(marks))


def launch(folder, size):
    """Logits, the seconds of each part, and those until all processes have ended."""
    for file in Path(folder, "run").glob("*"):
        file.unlink()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(size), __file__, "of", str(folder), str(time())]
    start = perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    whole = perf_counter() - start
    found = np.load(Path(folder, "found.npz"))
    return found["logits"], dict(zip(PARTS, found["seconds"], strict=True)), whole


def compare(folder, rounds):
    sizes, seconds = (1, 2), {1: [], 2: []}
    for turn in range(rounds):
        found = {size: launch(folder, size) for size in sizes[:: -1 if turn % 2 else 1]}
        assert np.array_equal(found[1][0], found[2][0])
        for size in sizes:
            _, parts, whole = found[size]
            seconds[size].append(parts | {"whole": whole})
    middle = {
        size: {name: median(some[name] for some in seconds[size]) for name in seconds[size][0]}
        for size in sizes
    }
    print(f"\n| seconds, median of {rounds} | one process | two | one / (2 x two) |")
    print("|---|---|---|---|")
    for name, what in (
        ("start", "start: torchrun, imports"), ("open", "open model and questions"),
        ("read", "read"), ("again", "of it not reading: the finished folder read again"),
        ("whole", "until all have ended"),
    ):  # fmt: skip
        one, two = (middle[size][name] for size in sizes)
        print(f"| {what} | {one:.2f} | {two:.2f} | {one / two / 2:.2f} |")


def count(model, questions, size=8):
    """Prefixes run, and the longest piece over an even share, in tokens and what a pass takes."""
    run = Run.prepare(model, questions, 5)
    batches = run.plan(8192)
    print(f"\n{len(questions)} questions in five shots, {len(batches)} batches, {size} processes")
    print("| shared out | prefixes run | tokens | longest / even share |\n|---|---|---|---|")
    ways = {
        "one process": [range(len(batches))],
        "pieces of the plan": share_out(batches, run.prompts, size),
        "batch by batch in turn": [range(rank, len(batches), size) for rank in range(size)],
    }
    for name, pieces in ways.items():
        tokens, prefixes, times = zip(
            *(cost(piece, batches, run.prompts) for piece in pieces), strict=True
        )
        even = cost(range(len(batches)), batches, run.prompts)[2] / len(pieces)
        print(f"| {name} | {sum(prefixes)} | {sum(tokens)} | {max(times) / even:.3f} |")


def cost(piece, batches, prompts):
    """Tokens that a process computes, how many prefixes it runs, and its time in tokens."""
    tokens, n_prefixes, last = 0, 0, ()
    for batch in (batches[i] for i in piece):
        tokens += batch.room - batch.shared * len(batch.rows)
        head = prompts[batch.rows[0]][: batch.shared]
        if batch.shared and not np.array_equal(head, last):
            tokens, n_prefixes, last = tokens + batch.shared, n_prefixes + 1, head
    n_shared = sum(batches[i].shared > 0 for i in piece)
    time = tokens + n_shared * BEHIND_PREFIX + (len(piece) - n_shared) * PASS
    return tokens, n_prefixes, time


def main():
    args = parse_arguments(__doc__, device=False, questions=192, rounds=2, counted=14042)
    questions = load_questions(args.folder)
    tokenizer, module = learn_tokenizer(questions.select(range(2000))), random_llama("cpu")
    count(open_model((module, tokenizer)), questions.select(range(args.counted)))
    with TemporaryDirectory() as folder:
        module.save_pretrained(Path(folder, "model"))
        tokenizer.save_pretrained(Path(folder, "model"))
        some = questions.shuffle(seed=0).select(range(args.questions))
        some.to_json(Path(folder, "questions.jsonl"))
        compare(folder, args.rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["of"]:
        one_process(*sys.argv[2:])
    else:
        main()
