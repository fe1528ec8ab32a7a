"""Read a model of one's own and write a page about its calibration, layer by layer.

What :mod:`calib.__main__` does once the command line is understood. Everything that can be checked
without the model is checked before it is opened.
"""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

from calib.analysis.phases import evolve
from calib.models.open import LABORATORY
from calib.models.place import device_of, dtype_of
from calib.questions.prompts import build_prompts
from calib.reading._processes import in_all
from calib.reading.layers import read_layers
from calib.reading.reading import Reading
from calib.report._faults import (
    RUN,
    InputFault,
    check_out,
    check_source,
    input_faults,
    name_of,
    writing,
)
from calib.report._steps import load_asked, open_asked
from calib.report.html import render
from calib.report.text import finding


def write_report(
    source: str,
    out=None,
    *,
    questions: str | None = None,
    shots: int = 0,
    chat: bool = False,
    category: str | None = None,
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
    """Read a model, measure it at every layer, and write ``index.html`` and ``reading/``.

    Interrupted and asked for again, it goes on with the question where it was. Of several processes
    that a launcher started, all read, and the first writes.

    Parameters
    ----------
    source : str
        A model as :func:`calib.open_model` takes it.
    out : str or Path, optional
        The folder to write: new, empty, or that of a former report; ``report-<model>`` if not
        given.
    questions, category, limit
        As :func:`calib.load_questions` takes them; the questions are the Almanac's for
        the laboratory's models and MMLU for all others if not given.
    shots : int
        Exemplars before each question, 0 to 5.
    chat : bool
        Ask in the chat template of the model's tokenizer, as :func:`calib.read_layers` says.
    seed : int
        Of the subset of questions, of the bootstrap and of all other draws.
    gguf_file, remote, device, dtype, tensor_parallel
        As :func:`calib.open_model` takes them.
    batch_tokens : int
        As :func:`calib.read_layers` takes it.
    command : str
        The command line, for the page to tell.

    Returns
    -------
    page : Path
    finding : str
        One sentence; of several processes, none but the first has one.

    Raises
    ------
    InputFault
        If the folder, the questions or the model cannot be used; in that order, so that nothing
        is opened in vain. Also if there is not enough memory or no room to write.

    Examples
    --------
    >>> import tempfile
    >>> page, said = write_report("almanac", tempfile.mkdtemp(), limit=100)
    >>> print(page.name, said[:52], sep=": ")
    index.html: The accuracy of almanac leaves the baseline at layer
    """
    name = name_of(source, gguf_file)
    out = Path(out or "report-" + re.sub(r"[^\w.-]+", "-", name))
    page = out / "index.html"
    with in_all(InputFault, stay=tensor_parallel) as processes:
        if processes.rank == 0:  # what the others write there would be in its way
            check_out(out)
        check_source(source, gguf_file)
        if not (remote or tensor_parallel):
            with input_faults():
                dtype_of(dtype, device_of(device))
        questions = questions or ("almanac" if source in LABORATORY else "mmlu")
        rows = load_asked(questions, category=category, limit=limit, seed=seed)
        with input_faults():
            build_prompts(rows, shots)  # a subject may lack exemplars
        where = {"gguf_file": gguf_file, "remote": remote, "device": device, "dtype": dtype}
        model = open_asked(source, tensor_parallel=tensor_parallel, **where)
    how = {"shots": shots, "chat": chat, "batch_tokens": batch_tokens, "resume": out / RUN}
    with input_faults():  # a prompt too long for the model, letters its tokenizer splits
        reading = read_layers(model, rows, **how)
    if processes.rank > 0:
        return page, ""

    with writing(out):
        page.unlink(missing_ok=True)  # a former one never stands beside a new reading
        reading.save(out / "reading")
    settings = {"n_bins": 10, "min_count": min_count(len(reading)), "tolerance": 0.02}
    settings |= {"n_resamples": 1000, "seed": seed}
    evolution = evolve(reading, **settings)
    told = made_with(reading, command)
    text = render(reading, evolution, name, settings=settings, made_with=told)
    with writing(out):  # a file's name may hold bytes that are no text
        page.write_text(text, encoding="utf-8", errors="backslashreplace")
    # Kept until here, so that an interrupted report goes on where it was.
    shutil.rmtree(out / RUN, ignore_errors=True)
    return page, finding(evolution, name)


def min_count(n_questions: int) -> int:
    """Questions a bin needs to count towards MCE: 20, and fewer below 1,000 questions.

    A fiftieth of them: one of ten bins always holds more, so that MCE is defined at every layer.

    >>> [min_count(n) for n in (30, 200, 5000)]
    [1, 4, 20]
    """
    return min(20, max(1, n_questions // 50))


def made_with(reading: Reading, command: str) -> dict[str, str]:
    """What the reading was made with, as the page tells it."""
    told = {"command": command, "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}
    for name, value in reading.provenance.items():
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, dict):
            value = ", ".join(f"{part} {version}" for part, version in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        told[name.replace("_", " ")] = str(value)
    return {name: value for name, value in told.items() if value}
