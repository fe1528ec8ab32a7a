"""What each of several processes does of one run: a piece of its plan, into a folder of all.

::

    plan        batch  0  1  2  3  4  5  6  7        prompts of a subject, its exemplars once
                       ────────┬────────┬─────
    processes          0       │ 1      │ 2          pieces of the same length, in tokens

Which process runs a batch changes nothing in it, and a batch that is missing in the end, since its
file was damaged or is not seen yet, is run again by whom it is missing to. Where one model is
spread over the processes, all of them run every batch, and the first keeps it.
"""

from __future__ import annotations

import secrets
import shutil
import time
from bisect import bisect_left
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from operator import add
from pathlib import Path
from tempfile import mkdtemp

from calib.reading._batches import BEHIND_PREFIX, PASS, Batch
from calib.reading._checkpoint import PASSING, Checkpoint
from calib.reading._processes import SHARES, Processes
from calib.reading._provenance import fingerprint

SEEN = 10  # seconds after which what one machine has written must be seen by another


@contextmanager
def kept_batches(processes: Processes, model, resume, settings: dict, asked: dict):
    """The checkpoint of a run, at work for its time; None for one process that keeps nothing.

    Without a folder to ``resume`` from, several processes have one that goes when they part.
    """
    if processes.size == 1 and resume is None:
        yield None
        return
    with ExitStack() as stack:
        folder = resume
        if processes.size > 1:
            if "weights" not in asked:
                weights = "" if model.remote else fingerprint(model.module)
                asked = {"model": model.name, "weights": weights} | asked
            told = processes.gather(asked)
            processes.agree(partial(check_alike, told))
            if resume is None:
                made = processes.agree(partial(mkdtemp, prefix="calib-"), first=True)
                folder = processes.gather(made)[0]
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
            else:
                processes.kept = f"; finished batches stay in {resume}"

        def begin():
            checkpoint = Checkpoint(folder, settings)
            stack.enter_context(checkpoint.at_work())
            return checkpoint

        checkpoint = processes.agree(begin, first=True)
        if processes.size > 1:
            _check_seen(processes, folder)
            checkpoint = processes.agree(lambda: checkpoint or Checkpoint(folder, settings))
        yield checkpoint


def check_alike(told: list[dict]) -> None:
    """Refuse processes that do not all ask for the same."""
    for rank, asked in enumerate(told):
        for name in {**told[0], **asked}:
            values = [f"{some.get(name)!r:.80}" for some in (told[0], asked)]
            if told[0].get(name) != asked.get(name):
                raise ValueError(
                    f"the processes ask for different things: {name} is {values[0]} in process 0 "
                    f"and {values[1]} in process {rank}; all must make the same calls, in the same "
                    "order"
                )


def _check_seen(processes: Processes, folder) -> None:
    """Refuse a folder in which a process does not see what process 0 writes there."""
    name = processes.gather(f"seen.{secrets.token_hex(8)}{PASSING}")[0]
    mark = Path(folder, name)
    processes.agree(mark.touch, first=True)

    def look():
        late = time.monotonic() + SEEN
        while not mark.exists():
            if time.monotonic() > late:
                raise ValueError(
                    f"process {processes.rank} does not see in {folder} what process 0 writes "
                    "there; name a folder that all processes see, on all machines, as resume, or "
                    "as TMPDIR where there is none to resume from"
                )
            time.sleep(0.1)

    try:
        processes.agree(look)
    finally:
        if processes.rank == 0:
            mark.unlink(missing_ok=True)


def run_share(processes, spread, batches, prompts, run_one, checkpoint, progress) -> None:
    """Run this process's share of the batches, and wait until all of them are finished.

    ``progress`` counts the questions that all processes have finished; ``spread`` is whether they
    have one model together.
    """
    there = processes.gather(checkpoint.finished())[0]  # as process 0 sees it: one plan for all
    left = [number for number in range(len(batches)) if number not in there]
    before = len(prompts) - sum(len(batches[number].rows) for number in left)
    keeps, like = processes.rank == 0 or not spread, {}
    if not spread:
        pieces = share_out([batches[number] for number in left], prompts, processes.size)
        left = [left[place] for place in pieces[processes.rank]]
    processes.begin()
    for number in left:
        progress.update(before + processes.count() - progress.n)
        found = run_one(number, like)
        like = like or found
        if keeps:
            checkpoint.write(number, found)
            processes.count(len(batches[number].rows))
    for finished in processes.wait(SHARES):
        progress.update(before + finished - progress.n)
    progress.update(len(prompts) - progress.n)


def share_out(batches: list[Batch], prompts, size: int) -> list[range]:
    """A piece of the plan for each of so many processes, the longest as short as can be.

    A piece is of batches that follow each other, so that a prefix is run by one process, by two at
    a border, and not by all. Its length is the time that it takes, counted in tokens.

    >>> share_out([Batch((i,), 0, 9) for i in range(3)], [[]] * 3, 2)
    [range(0, 2), range(2, 3)]
    """
    if not batches:
        return [range(0)] * size
    shared = [batch.shared for batch in batches]
    heads = [bytes(prompts[batch.rows[0]][: batch.shared]) for batch in batches]
    passes = [BEHIND_PREFIX if batch.shared else PASS for batch in batches]
    own = [
        one_pass + batch.room - batch.shared * len(batch.rows)
        for one_pass, batch in zip(passes, batches, strict=True)
    ]

    def ends(limit):
        found, length = [], 0
        for i, head in enumerate(heads):
            more = own[i] + (shared[i] if not length or head != heads[i - 1] else 0)
            if length and length + more > limit:
                found.append(i)
                more, length = own[i] + shared[i], 0
            length += more
        return found

    limits = range(max(map(add, own, shared)), sum(own) + sum(shared) + 1)
    enough = bisect_left(limits, True, key=lambda limit: len(ends(limit)) < size)
    bounds = [0, *ends(limits[enough])]
    bounds += [len(batches)] * (size + 1 - len(bounds))
    return [range(*piece) for piece in pairwise(bounds)]
