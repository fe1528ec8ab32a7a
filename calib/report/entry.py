"""Read a model on MMLU and keep the reading as an entry of an atlas: what ``calib atlas`` does."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from calib.analysis.phases import evolve
from calib.models.place import device_of, dtype_of
from calib.reading._processes import in_all
from calib.reading.atlas import prompt_name, save_entry
from calib.reading.layers import read_layers
from calib.report._faults import RUN, InputFault, check_source, input_faults, writing
from calib.report._steps import load_asked, open_asked
from calib.report.text import finding
from calib.report.write import min_count


def write_entry(
    source: str,
    out="atlas",
    *,
    name: str | None = None,
    shots: int = 0,
    chat: bool = False,
    limit: int | None = None,
    seed: int = 0,
    gguf_file: str | None = None,
    remote: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    tensor_parallel: bool = False,
    batch_tokens: int = 8192,
    command: str = "",
) -> tuple[Path, str]:
    """Read a model on MMLU's test split, and write ``<out>/<model>/<prompt>``.

    Interrupted and asked for again, it goes on with the question where it was. Of several processes
    that a launcher started, all read, and the first writes.

    Parameters
    ----------
    source : str
        A model as :func:`calib.open_model` takes it.
    out : str or Path
        The atlas; it may hold other entries.
    name : str, optional
        What the model is called in the atlas; its own name, in small letters, if not given.
    shots : int
        Exemplars before each question, 0 to 5.
    chat : bool
        Ask in the chat template of the model's tokenizer, as :func:`calib.read_layers` says.
    limit, seed
        A subset, stratified by subject, as :func:`calib.load_questions` draws it; all questions if
        not given.
    gguf_file, remote, device, dtype, tensor_parallel
        As :func:`calib.open_model` takes them.
    batch_tokens : int
        As :func:`calib.read_layers` takes it.
    command : str
        The command line, for the provenance to tell.

    Returns
    -------
    folder : Path
    finding : str
        One sentence; of several processes, none but the first has one.

    Raises
    ------
    InputFault
        If the folder, the questions or the model cannot be used. Also if there is not enough memory
        or no room to write.

    Examples
    --------
    >>> import tempfile
    >>> folder, _ = write_entry("almanac", tempfile.mkdtemp(), limit=20, seed=4)
    >>> folder.parts[-2:]
    ('almanac', 'zero-shot')
    """
    folder = Path(out) / (name or entry_name(gguf_file or source)) / prompt_name(shots, chat)
    with in_all(InputFault, stay=tensor_parallel) as processes:
        if processes.rank == 0 and (folder / "reading.json").exists():
            raise InputFault(
                f"{str(folder)!r} holds a reading already; name another --out or --name, or delete "
                "it first"
            )
        check_source(source, gguf_file)
        if not (remote or tensor_parallel):
            with input_faults():
                dtype_of(dtype, device_of(device))
        sample = {"limit": limit, "seed": seed, "stratify": True} if limit else {}
        questions = load_asked("mmlu", **sample)
        where = {"gguf_file": gguf_file, "remote": remote, "device": device, "dtype": dtype}
        model = open_asked(source, tensor_parallel=tensor_parallel, **where)
    how = {"shots": shots, "chat": chat, "batch_tokens": batch_tokens, "resume": folder / RUN}
    with input_faults():  # a prompt too long for the model, letters its tokenizer splits
        reading = read_layers(model, questions, **how)
    if processes.rank > 0:
        return folder, ""
    made = {
        "split": "test", "sample": sample, "device": str(model.device), "command": command,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }  # fmt: skip
    with writing(folder):
        save_entry(replace(reading, provenance=reading.provenance | made), folder)
    shutil.rmtree(folder / RUN, ignore_errors=True)
    evolution = evolve(reading, tolerance=0.02, min_count=min_count(len(reading)), seed=seed)
    return folder, finding(evolution, folder.parts[-2])


def entry_name(source: str) -> str:
    """What a model is called in an atlas: the last part of its name, in small letters.

    >>> entry_name("Qwen/Qwen2.5-0.5B"), entry_name("models/My model.gguf")
    ('qwen2.5-0.5b', 'my-model')
    """
    last = Path(source).resolve().name if Path(source).exists() else source.rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "-", last.removesuffix(".gguf")).lower()
