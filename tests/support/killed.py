"""A reading that kills its own process at a chosen moment, as a power cut would."""

import os
import signal
from pathlib import Path

import torch
from support.architectures import TOKENIZER, random_module

from calib import Reading, load_questions, open_model, read_layers
from calib.reading import _checkpoint

SETTINGS = {"shots": 2, "batch_tokens": 600, "keep_residuals": [1]}


def read(resume=None) -> Reading:
    torch.set_num_threads(1)  # the same sums in the same order in every process
    questions = load_questions("almanac", subjects=["fair_music", "inn_cookery"], limit=60)
    return read_layers(
        open_model((random_module("llama"), TOKENIZER)), questions, resume=resume, **SETTINGS
    )


def die(sent=signal.SIGKILL):
    os.kill(os.getpid(), sent)


def read_and_die(folder, moment, count, sent=signal.SIGKILL):
    """Read into ``folder``; SIGKILL when ``moment`` comes for the ``count``-th time.

    With SIGSTOP it stays there, and is no longer heard of.
    """
    left = [count]

    def now(kind):
        if kind == moment:
            left[0] -= 1
            if left[0] == 0:
                die(sent)

    class HalfWritten:
        """A file whose content is on the disk by half at the moment ``writing``."""

        def __init__(self, *arguments):
            self.file = open(*arguments)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            now("writing")
            self.file.write(content[len(content) // 2 :])

        def __getattr__(self, name):
            return getattr(self.file, name)

    fsync, read_batch = os.fsync, _checkpoint.Checkpoint.read

    def watched_fsync(handle):
        now("before it is forced to the disk")
        fsync(handle)

    def watched(give_name):
        def give(file, target):
            now("before it has its name")
            give_name(file, target)
            now("after it has its name")

        return give

    def watched_read(self, number):
        now("before a batch")
        return read_batch(self, number)

    _checkpoint.open = HalfWritten
    os.fsync, _checkpoint.Checkpoint.read = watched_fsync, watched_read
    os.link, Path.replace = watched(os.link), watched(Path.replace)
    read(folder)
