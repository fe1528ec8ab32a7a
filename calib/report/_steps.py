"""Steps of a command whose errors are the input's, of whatever kind the libraries below raise."""

from __future__ import annotations

from datasets import Dataset

from calib.models.model import Model
from calib.models.ndif import NotServed, RemoteError
from calib.models.open import LABORATORY, open_model
from calib.questions.load import load_questions
from calib.report._faults import InputFault, is_here, one_line


def load_asked(source: str, **which) -> Dataset:
    """Questions as :func:`calib.load_questions` gives them, or InputFault."""
    try:
        return load_questions(source, **which)
    except Exception as error:
        if type(error) is ValueError:  # load_questions' own, which say it all
            raise InputFault(str(error)) from error
        raise InputFault(
            f"the questions {source!r} cannot be loaded ({one_line(error)}); check the network or "
            "their files, or name others with --questions"
        ) from error


def open_asked(source: str, **where) -> Model:
    """A model as :func:`calib.open_model` opens it, or InputFault."""
    try:
        return open_model(source, **where)
    except Exception as error:
        ours = isinstance(error, (PermissionError, ConnectionError, TimeoutError, RemoteError))
        of_server = where["remote"] and ours
        told = str(error) if of_server else one_line(error)
        message = f"model {source!r} cannot be opened ({told})"
        unknown = isinstance(error, NotServed if of_server else OSError)
        if unknown and source not in LABORATORY and not is_here(source):
            message += (
                "; it is no folder here: if it is on the hub, check its spelling, the network "
                "and, for a model behind a gate, that you are logged in"
            )
        raise InputFault(message) from error
