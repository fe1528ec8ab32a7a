"""What each of several processes does that a launcher started: ``python -m support.together``."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from support.architectures import TOKENIZER, random_module

from calib import lens, load_questions, open_model, read_layers, sample_answers
from calib.mechanisms import read_activations, read_attribution
from calib.reading import _processes, _run, _shares
from calib.steering import gradient_direction, random_direction, read_branches

RANK = int(os.environ.get("RANK", "0"))


def opened():
    torch.set_num_threads(1)  # the same sums in the same order, however many processes there are
    return open_model((random_module("llama"), TOKENIZER))


def layers(model, folder, limit=59, **changes):
    """With shots and residuals, in batches that two and three processes cannot share evenly."""
    settings = {"shots": 2, "batch_tokens": 600, "keep_residuals": [1]} | changes
    questions = load_questions("almanac", limit=limit)
    return read_layers(model, questions, resume=folder, **settings)


def shown_bars() -> list[int]:
    """Of each bar that is shown from here on, how far it comes."""

    class Bar(_run.tqdm):
        def close(self):
            if not self.disable:
                shown.append(self.n)
            super().close()

    shown, _run.tqdm = [], Bar
    return shown


def everything(folder) -> None:
    """Runs of every kind, one after the other in one script; the first keeps its batches."""
    model, questions = opened(), load_questions("almanac", limit=31)
    bars = shown_bars()
    reading = layers(model, Path(folder, "layers"))
    directions = [(random_direction(reading, 1, seed=seed), 2.0) for seed in (0, 1)]
    branches = read_branches(model, questions, directions, shots=1, batch_tokens=800)
    attribution = read_attribution(model, questions, batch_tokens=400)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")  # a script may have its own
    samples = sample_answers(model, questions, 7, max_tokens=3, batch_tokens=2000, seed=4)
    if "RANK" in os.environ:
        assert dist.get_backend() == "gloo"
        dist.destroy_process_group()
    np.savez(
        Path(folder, f"everything-{RANK}.npz"),
        **{"logits": reading.logits, "residuals": reading.residuals[1], "branches": branches},
        **{"reads": attribution.reads, "answers": samples.answers, "bars": bars},
    )


def killed(folder) -> None:
    """Process 1 is killed when it has finished one of its batches."""
    model = opened()
    if RANK == 1:
        # Whether prefixes can be shared takes three passes, a prefix and a batch take one each.
        end_in(model, passes=6, sent=signal.SIGKILL)
    layers(model, Path(folder, "layers"))


def end_in(model, passes, sent):
    def end(*_):
        nonlocal passes
        passes -= 1
        if passes == 0:
            os.kill(os.getpid(), sent)

    model.module.register_forward_pre_hook(end)


def refused(folder) -> None:
    """After all that goes well, calls that fail, each for a reason of its own."""
    everything(folder)
    model, said = opened(), {}
    _shares.SEEN, _processes.SILENT = 1, 2
    there = Path(folder, "there")
    there.mkdir(exist_ok=True)
    (there / "thesis.tex").touch()

    def fail(*_):
        raise KeyError("of its own")

    def step(name, **call):
        try:
            layers(model, **call)
        except Exception as error:
            said[name] = [type(error).__name__, str(error)]

    step("questions", folder=None, limit=40 + RANK)
    step("settings", folder=Path(folder, "other"), keep_residuals=[RANK])
    step("at work", folder=Path(folder, "held"))
    step("foreign", folder=there)
    step("not seen", folder=Path(folder, f"of process {RANK}"))
    hook = model.module.register_forward_pre_hook(fail) if RANK == 1 else None
    step("failed", folder=Path(folder, "failed"))
    if hook:
        hook.remove()
    step("none", folder=Path(folder, "failed"))
    silent = Path(folder, "silent")
    if RANK == 1:
        silent.write_text(str(os.getpid()))
        end_in(model, passes=4, sent=signal.SIGSTOP)
    step("silent", folder=Path(folder, "stopped"))
    if RANK == 0:
        os.kill(int(silent.read_text()), signal.SIGCONT)
        _processes.WAIT = 2
        step("alone", folder=None)
    Path(folder, f"refused-{RANK}.json").write_text(json.dumps(said))


def spread(folder) -> None:
    """One model over all processes, beside a whole one of each."""
    torch.set_num_threads(1)
    path = Path(folder, "model")
    model, said = open_model(path, tensor_parallel=True), {}
    questions = load_questions("almanac", limit=31)
    reading = layers(model, Path(folder, "spread"))
    directions = [(random_direction(reading, 1, seed=seed), 2.0) for seed in (0, 1)]
    settings = {"shots": 1, "batch_tokens": 800}
    found = {
        "logits": reading.logits,
        "residuals": reading.residuals[1],
        "branches": read_branches(model, questions, directions, **settings),
        "lens": lens(model, torch.from_numpy(reading.residuals[1])).numpy(),
        "answers": sample_answers(model, questions, 7, max_tokens=3, seed=4).answers,
        "reads": read_attribution(model, questions, batch_tokens=400).reads,
        "weights": reading.provenance["weights"],
    }
    for name, call in (
        ("neurons", lambda: read_activations(model, questions, 2)),
        ("direction", lambda: gradient_direction(model, questions, 2)),
        ("sizes", lambda: open_model(Path(folder, "odd"), tensor_parallel=True)),
        ("device", lambda: open_model(path, tensor_parallel=True, device="auto")),
        ("pair", lambda: open_model((random_module("llama"), TOKENIZER), tensor_parallel=True)),
    ):
        try:
            call()
        except Exception as error:
            said[name] = [type(error).__name__, str(error)]
    np.savez(Path(folder, f"spread-{RANK}.npz"), **found)
    Path(folder, f"spread-{RANK}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
