"""Several processes at one run, each with a copy of the model: ``torchrun -m calib report ...``.

A launcher starts the same program several times, and every copy calls the same function::

    meet    all say what they are asked for; it must be the same, of one plan, into one folder
    share   each runs a piece of the plan, and keeps its finished batches in the folder
    wait    until all pieces are finished
    read    each puts the whole result together from the folder

Nothing travels between them but digests and a beat: a small sum, several times a second, of what
each has finished. It is progress and barrier in one, and stops when one of them has ended.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from calib.models.place import launched

WAIT = 600  # seconds in which all processes must have made the same call
SILENT = 60  # seconds after which one that does not answer has ended
BEAT = 0.2  # seconds between two beats
SHARES, ALL, FAILED = 1, 2, 3  # places in a beat, behind the number of questions

_store = None  # of this process's launcher, by which all meetings find each other
_meetings = 0


class Processes:
    """All processes of a run, as one of them sees the others; for a process alone, nothing.

    To be entered by all of them. One that leaves by an error ends the others, too.

    Attributes
    ----------
    rank, size : int
        The place of this one, on whatever machine, and how many there are.
    kept : str
        What is said of the finished batches when a process is lost.

    Raises
    ------
    ConnectionError
        If not all of them enter, or one ends before the others.
    ValueError
        If the launcher does not say where they are to meet.
    """

    def __init__(self, *, stay=False):
        self.rank, self.size, _ = launched() or (0, 1, 0)
        self._stay = stay
        self.kept = ""
        self._own, self._all = [0] * 4, [0] * 4
        self._beats, self._ended = None, None
        self._stir, self._news = threading.Event(), threading.Event()

    def __enter__(self) -> Processes:
        if self.size > 1:
            try:
                _patiently(self._meet)
            except RuntimeError as error:
                reason = str(error).strip().partition("\n")[0][:200]
                raise ConnectionError(
                    f"not all of the {self.size} processes have come here within {WAIT} s "
                    f"({reason}): call this in every process, not in one alone; each "
                    "gets the whole result. For a process on its own, unset WORLD_SIZE"
                ) from error
        return self

    def _meet(self) -> None:
        global _meetings, _store
        _meetings += 1
        wait, silent = (timedelta(seconds=seconds) for seconds in (WAIT, SILENT))
        self._stay = self._stay or dist.is_initialized()  # who made it also ends it
        if not dist.is_initialized():
            rank, size = self.rank, self.size
            if _store is None:
                _check_address()
                _store, *_ = next(dist.rendezvous("env://", rank, size, timeout=wait))
            dist.init_process_group(
                None if self._stay else "gloo",  # None has one for GPUs, too
                store=dist.PrefixStore(f"calib/{_meetings}", _store),
                rank=rank, world_size=size, timeout=wait,
            )  # fmt: skip
        self._talk, self._pulse = (
            dist.new_group(backend="gloo", timeout=limit) for limit in (wait, silent)
        )

    def gather(self, value) -> list:
        """What each of them says, in the order of their ranks."""
        if self.size == 1:
            return [value]
        told = [None] * self.size
        try:
            _patiently(lambda: dist.all_gather_object(told, value, group=self._talk))
        except RuntimeError as error:
            raise self._lost() from error
        return told

    def agree(self, do, *, first=False):
        """What ``do`` gives here. What it raises in one process is raised in all.

        With ``first``, it is done in process 0 alone, and gives None in the others.
        """
        if self.size == 1:
            return do()
        value = fault = None
        if self.rank == 0 or not first:
            try:
                value = do()
            except (ValueError, OSError) as error:
                fault = error
        kind = OSError if isinstance(fault, OSError) else ValueError
        raise_first(self.gather((kind, str(fault)) if fault else None), fault)
        return value

    def begin(self) -> None:
        """Begin to beat; from here on the others' end is seen."""
        if self.size > 1:
            self._beats = threading.Thread(target=self._beat, name="calib beats", daemon=True)
            self._beats.start()

    def _beat(self) -> None:
        try:
            while not (self._all[FAILED] or self._all[ALL] == self.size):
                self._stir.wait(BEAT)
                self._stir.clear()
                beat = torch.tensor(self._own, device="cpu")
                dist.all_reduce(beat, group=self._pulse)
                self._all = beat.tolist()
                self._news.set()
        except RuntimeError as error:
            self._ended = error
            self._news.set()

    def count(self, questions: int = 0) -> int:
        """Add finished questions; those that all have finished. Raises where one has ended."""
        self._own[0] += questions
        if self._ended or self._all[FAILED]:
            raise self._lost() from self._ended
        return self._all[0]

    def part(self) -> None:
        """Wait until all have all they need; from here on, none needs the others."""
        for _ in self.wait(ALL):
            pass

    def wait(self, stage: int):
        """Wait until all are through with their shares, or with all; yields what is finished."""
        self._own[stage] = 1
        self._stir.set()
        while self.size > 1 and self._all[stage] < self.size:
            yield self.count()
            self._news.wait(1)
            self._news.clear()

    def _lost(self) -> ConnectionError:
        return ConnectionError(
            f"another of the {self.size} processes has ended or cannot be reached{self.kept}; "
            "start again, with any number of processes"
        )

    def __exit__(self, kind, error, trace) -> None:
        if self.size == 1:
            return
        if self._beats:
            self._own[FAILED] = int(error is not None)
            self._stir.set()
            self._beats.join(5)
            if self._beats.is_alive():
                return  # it waits for one that is silent; the end of this process ends it
            if self._ended and isinstance(error, RuntimeError):  # of a pass that all run together
                raise self._lost() from error
        dist.destroy_process_group(self._pulse)
        dist.destroy_process_group(self._talk)
        if not self._stay:
            dist.destroy_process_group()


@contextmanager
def in_all(kind, *, stay=False):
    """A block for all processes of a launch: an error of this kind in one is raised in all.

    With ``stay``, torch.distributed remains initialised after it, for a model that needs it.
    """
    fault = None
    with ExitStack() as stack:
        with _as_kind(kind):
            processes = stack.enter_context(Processes(stay=stay))
        try:
            yield processes
        except kind as error:
            fault = error
        with _as_kind(kind):
            told = processes.gather((kind, str(fault)) if fault else None)
        raise_first(told, fault)


@contextmanager
def _as_kind(kind):
    try:
        yield
    except (ValueError, ConnectionError) as error:
        raise kind(str(error)) from error


def raise_first(told, fault) -> None:
    """Raise the first of the faults that were told, ``(kind, message)`` or None, if there is one.

    It is marked ``in_all``, so that not every process has to print it; ``fault`` is this one's own.
    """
    for kind, message in filter(None, told):
        error = kind(message)
        error.in_all = len(told) > 1
        raise error from fault


def _check_address() -> None:
    """Refuse a launcher that does not say where processes meet, as srun does not."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} must say where these processes find each other: before srun, "
            "export MASTER_ADDR=$(hostname) MASTER_PORT=29500. Where each is to work on its own, "
            "unset SLURM_STEP_NUM_TASKS, or WORLD_SIZE, in it"
        )


def _patiently(do) -> None:
    """Do what waits for others in a thread of its own: torch lets no signal in while it waits."""
    errors, done = [], threading.Event()

    def run():
        try:
            do()
        except BaseException as error:
            errors.append(error)
        done.set()

    threading.Thread(target=run, name="calib meets", daemon=True).start()
    while not done.wait(1):
        pass
    if errors:
        raise errors[0]
