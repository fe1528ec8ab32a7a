"""What of a report's input is at fault: checks that need no model, and errors in one line."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch

from calib.models.open import LABORATORY, check_gguf

MARK = '<meta name="generator" content="calib report">'  # by this a former report is known
RUN = "run"  # the batches read so far
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
LONGEST = 400  # characters that are told of another library's error


class InputFault(Exception):
    """Something that whoever asked for the report can put right; the message says how."""


def check_out(out: Path) -> None:
    """Refuse a folder that cannot be written, or that holds anything but a former report."""
    with writing(out):
        if os.path.lexists(out) and not out.is_dir():  # a link to nowhere is in the way, too
            raise InputFault(f"the output folder {str(out)!r} is a file; name another with --out")
        held = sorted(entry.name for entry in out.iterdir()) if out.exists() else []
        if held and not _is_report(out):
            raise InputFault(
                f"the output folder {str(out)!r} holds {held[0]!r} and is no former report, so it "
                "is left alone; name another with --out"
            )
        existing = next(folder for folder in (out, *out.parents) if folder.exists())
        with tempfile.TemporaryDirectory(dir=existing) as folder:
            # Its own name may be too long, or none that this system has.
            Path(folder, out.relative_to(existing)).mkdir(parents=True, exist_ok=True)


def _is_report(folder: Path) -> bool:
    if (folder / RUN / "run.json").is_file():  # one that was interrupted
        return True
    page = folder / "index.html"
    return page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")


def check_source(source: str, gguf_file: str | None = None) -> None:
    """Refuse what is no laboratory model, model's folder or GGUF file, nor the form of a hub id."""
    with input_faults():
        if check_gguf(LABORATORY.get(source, source), gguf_file):
            return
    if source in LABORATORY:
        return
    if is_here(source) and os.path.isdir(source):
        if not (Path(source) / "config.json").exists():
            raise InputFault(
                f"the folder {source!r} holds no model: it has no config.json; name a folder "
                "written by save_pretrained"
            )
    elif os.path.exists(source):
        raise InputFault(
            f"model {source!r} is a file; name a .gguf file, or a folder written by "
            "save_pretrained, with config.json and the tokenizer beside the weights"
        )
    elif not HUB_ID.fullmatch(source):
        raise InputFault(
            f"model {source!r} is no folder here and no hub id (name or owner/name); check the path"
        )


def is_here(source: str) -> bool:
    """Whether a model is named by its folder or file."""
    return source not in LABORATORY and os.path.exists(source)


def name_of(source: str, gguf_file: str | None = None) -> str:
    """What a model is called: by its file or folder without what these lie in, or as on the hub."""
    if gguf_file:
        return Path(gguf_file).name
    return Path(source).resolve().name if is_here(source) else source


@contextmanager
def input_faults():
    """Refusals of what was asked, and of this machine's memory, are the input's faults."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise InputFault(str(error)) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise InputFault(
            f"the memory does not suffice ({one_line(error)}); what is finished is kept: call "
            "again where there is more; or with another --out, and fewer --shots or --batch-tokens"
        ) from error


@contextmanager
def writing(out: Path):
    """What goes wrong with files in here is the output folder's fault."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputFault(
            f"the output folder {str(out)!r} cannot be written "
            f"({getattr(error, 'strerror', None) or error}); name another with --out"
        ) from error


def one_line(error: Exception) -> str:
    """What an error says, in one line: with its kind, unless its words stand for themselves.

    >>> one_line(KeyError("weights")), one_line(OSError("no such\\n file")), one_line(MemoryError())
    ("KeyError: 'weights'", 'no such file', 'MemoryError')
    """
    text = " ".join(str(error).split())
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} ..."
    if isinstance(error, OSError | ValueError | ImportError) and text:
        return text
    return f"{type(error).__name__}: {text}".removesuffix(": ")
