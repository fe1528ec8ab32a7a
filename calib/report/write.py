"""Read a model of one's own and write a page about its calibration, layer by layer.

What :mod:`calib.__main__` does once the command line is understood. Everything that can be checked
without the model is checked before it is opened.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from datasets import Dataset
from pyarrow import ArrowException
from safetensors import SafetensorError

from calib.analysis.phases import evolve
from calib.models.model import Model
from calib.models.open import LABORATORY, open_model
from calib.questions.load import load_questions
from calib.questions.prompts import build_prompts
from calib.reading.layers import read_layers
from calib.reading.reading import Reading
from calib.report.html import render
from calib.report.text import finding

MARK = '<meta name="generator" content="calib report">'  # by this a former report is known
RUN = "run"  # the batches read so far
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class InputFault(Exception):
    """Something that whoever asked for the report can put right; the message says how."""


def write_report(
    source: str,
    out=None,
    *,
    questions: str | None = None,
    shots: int = 0,
    category: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    remote: bool = False,
    command: str = "",
) -> tuple[Path, str]:
    """Read a model, measure it at every layer, and write ``index.html`` and ``reading/``.

    Interrupted and asked for again, it goes on with the question where it was.

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
    seed : int
        Of the subset of questions, of the bootstrap and of all other draws.
    remote : bool
        As :func:`calib.open_model` takes it.
    command : str
        The command line, for the page to tell.

    Returns
    -------
    page : Path
    finding : str
        One sentence.

    Raises
    ------
    InputFault
        If the folder, the questions or the model cannot be used; in that order, so that nothing
        is opened in vain.

    Examples
    --------
    >>> page, said = write_report("almanac", tempfile.mkdtemp(), limit=100)
    >>> print(page.name, said[:52], sep=": ")
    index.html: The accuracy of almanac leaves the baseline at layer
    """
    name = Path(source).resolve().name if _is_folder(source) else source
    out = Path(out or "report-" + re.sub(r"[^\w.-]+", "-", name))
    check_out(out)
    check_source(source)
    questions = questions or ("almanac" if source in LABORATORY else "mmlu")
    rows = _load(questions, category, limit, seed)
    with _faults():
        build_prompts(rows, shots)  # a subject may lack exemplars
    model = _open(source, remote)
    with _faults():  # a prompt too long for the model, letters its tokenizer splits
        reading = read_layers(model, rows, shots=shots, resume=out / RUN)

    page = out / "index.html"
    page.unlink(missing_ok=True)  # a former one never stands beside a new reading
    reading.save(out / "reading")
    settings = {"n_bins": 10, "min_count": min_count(len(reading)), "tolerance": 0.02}
    settings |= {"n_resamples": 1000, "seed": seed}
    evolution = evolve(reading, **settings)
    told = made_with(reading, command)
    text = render(reading, evolution, name, settings=settings, made_with=told)
    page.write_text(text, encoding="utf-8")
    shutil.rmtree(out / RUN)  # kept until here, so that an interrupted report goes on where it was
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


# Checks


def check_out(out: Path) -> None:
    """Refuse a folder that cannot be written, or that holds anything but a former report."""
    try:
        if out.exists() and not out.is_dir():
            raise InputFault(f"the output folder {str(out)!r} is a file; name another with --out")
        held = sorted(entry.name for entry in out.iterdir()) if out.exists() else []
        if held and not _is_report(out):
            raise InputFault(
                f"the output folder {str(out)!r} holds {held[0]!r} and is no former report, so it "
                "is left alone; name another with --out"
            )
        existing = next(folder for folder in (out, *out.parents) if folder.exists())
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        raise InputFault(
            f"the output folder {str(out)!r} cannot be written ({error.strerror}); "
            "name another with --out"
        ) from error


def _is_report(folder: Path) -> bool:
    if (folder / RUN / "run.json").is_file():  # one that was interrupted
        return True
    page = folder / "index.html"
    return page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")


def check_source(source: str) -> None:
    """Refuse what is neither a laboratory model nor a model's folder nor the form of a hub id."""
    if source in LABORATORY:
        return
    if _is_folder(source):
        if not (Path(source) / "config.json").exists():
            raise InputFault(
                f"the folder {source!r} holds no model: it has no config.json; name a folder "
                "written by save_pretrained"
            )
    elif not HUB_ID.fullmatch(source):
        raise InputFault(
            f"model {source!r} is no folder here and no hub id (name or owner/name); check the path"
        )


def _is_folder(source: str) -> bool:
    return source not in LABORATORY and Path(source).is_dir()


# Steps whose errors are the input's


def _load(source: str, category, limit, seed) -> Dataset:
    try:
        return load_questions(source, category=category, limit=limit, seed=seed)
    except ValueError as error:
        raise InputFault(str(error)) from error
    except (OSError, ArrowException) as error:
        way_out = "check the network, or" if source == "mmlu" else "check its files, or"
        raise InputFault(
            f"the questions {source!r} cannot be loaded ({error}); {way_out} name others with "
            "--questions"
        ) from error


def _open(source: str, remote: bool) -> Model:
    try:
        return open_model(source, remote=remote)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        message = f"model {source!r} cannot be opened ({error})"
        if source not in LABORATORY and not _is_folder(source):
            message += (
                "; it is no folder here: if it is on the hub, check its spelling, the network "
                "and, for a model behind a gate, that you are logged in"
            )
        raise InputFault(message) from error


@contextmanager
def _faults():
    try:
        yield
    except (ValueError, OSError) as error:
        raise InputFault(str(error)) from error
