"""A run's finished batches on disk: each one complete or absent, and known to be unaltered."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
import warnings
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from safetensors.numpy import load, save

LOCK = "run.lock"  # held by the run that is at work here
PASSING = ".partial"  # of what is being written
LEFT_BEHIND = 3600  # seconds after which nobody is writing it any more: its run was killed


class Checkpoint:
    """The finished batches of one run, in a folder of their own.

    A batch is written under a passing name, forced to the disk, and only then given its own name,
    which carries the checksum of its content: whatever interrupts a run, no file with such a name
    is half a batch. The processes of one run write into one folder at the same time. Each finds
    what any of them has finished; where two finish the same batch, both have written the same.
    Two runs do not work in one folder: :meth:`at_work` keeps the second out.

    Parameters
    ----------
    folder : str or Path
        Made if it does not exist; ``run.json`` in it holds the settings.
    settings : dict
        What the batches depend on, as JSON can hold it.

    Raises
    ------
    ValueError
        If the folder holds a run of other settings, or other files; the message names what
        differs.
    OSError
        If the folder cannot be made or written.

    Examples
    --------
    >>> import tempfile
    >>> checkpoint = Checkpoint(tempfile.mkdtemp(), {"shots": 0})
    >>> checkpoint.write(3, {"logits": np.array([1.0, 2.0])})
    >>> checkpoint.read(3)["logits"].tolist(), checkpoint.read(4)
    ([1.0, 2.0], None)
    """

    def __init__(self, folder, settings: dict):
        self.folder = Path(folder)
        about = self.folder / "run.json"
        settings = json.loads(json.dumps(settings))  # as it will come back
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # In this order: another process may write both files in the meantime, this one first.
            names = (file for file in self.folder.iterdir() if file.name != LOCK)
            held = any(file.suffix != PASSING for file in names)
            if held and not about.exists():
                raise ValueError(
                    f"{self.folder} holds files but no run.json, so it is no run to resume; "
                    "name an empty or a new folder"
                )
            if not held:
                self._put(about, json.dumps(settings, indent=1).encode(), unless_there=True)
            _clear(self.folder)
            found = _settings_in(about)
        for name in {**found, **settings}:
            if found.get(name) != settings.get(name):
                raise ValueError(
                    f"{about}: the run was begun with {name} = {found.get(name)!r}, this run has "
                    f"{settings.get(name)!r}; name another folder or use the same settings"
                )

    @contextmanager
    def at_work(self):
        """Keep other runs out of the folder; one process of a run does it for all of them.

        The system lets go of the lock of a process that was killed. Where it has no locks, or the
        folder cannot be written, nobody is kept out.

        Raises
        ------
        ValueError
            If another run is at work here.
        """
        lock = FileLock(self.folder / LOCK, blocking=False, fallback_to_soft=False)
        with ExitStack() as stack:
            try:
                stack.enter_context(lock)
            except Timeout:
                raise ValueError(
                    f"another run is at work in {self.folder}; wait until it has ended, or name "
                    "another folder. To share one run out over several processes, start them "
                    "together: torchrun --nproc_per_node 2 ..."
                ) from None
            except (OSError, NotImplementedError):
                pass
            yield

    def finished(self) -> set[int]:
        """Numbers of the batches that are there, whether or not they are unaltered."""
        files = self.folder.glob(f"{'[0-9]' * 6}*-*.safetensors")
        return {int(file.name.partition("-")[0]) for file in files}

    def read(self, number: int) -> dict[str, np.ndarray] | None:
        """A finished batch, or None. One that is truncated or altered is named and dropped."""
        for file in self.folder.glob(f"{number:06d}-*.safetensors"):
            with suppress(FileNotFoundError):  # another process dropped it first
                content = file.read_bytes()
                if file.stem.partition("-")[2] == checksum(content):
                    return _arrays_in(file, content)
                warnings.warn(
                    f"{file} is truncated or altered; its questions are read again", stacklevel=2
                )
                file.unlink()
        return None

    def write(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Keep a finished batch; OSError says that the finished ones are intact."""
        content = save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
        with explained(self.folder):
            self._put(self.folder / f"{number:06d}-{checksum(content)}.safetensors", content)

    def _put(self, file: Path, content: bytes, *, unless_there=False) -> None:
        passing = file.with_name(f"{file.name}.{secrets.token_hex(8)}{PASSING}")
        try:
            with open(passing, "xb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            if unless_there:
                _link(passing, file)
            else:
                passing.replace(file)
        finally:
            passing.unlink(missing_ok=True)
        if hasattr(os, "O_DIRECTORY"):  # elsewhere a folder cannot be opened
            folder = os.open(self.folder, os.O_DIRECTORY)
            os.fsync(folder)  # the new name, too, survives a power cut
            os.close(folder)


def checksum(content: bytes) -> str:
    """Half of a SHA-256, in hexadecimal: enough against accidents and edits."""
    return hashlib.sha256(content).hexdigest()[:32]


def _link(passing: Path, file: Path) -> None:
    """Give a file its name unless another process gave it to one of its own, which stays."""
    try:
        os.link(passing, file)
    except FileExistsError:
        pass
    except OSError:  # no second names on this file system
        passing.replace(file)


def _clear(folder: Path) -> None:
    """Remove what killed runs were writing; what a run at work is writing stays."""
    for file in folder.glob(f"*.{'[0-9a-f]' * 16}{PASSING}"):
        with suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > LEFT_BEHIND:
                file.unlink()


def _settings_in(about: Path) -> dict:
    try:
        found = json.loads(about.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{about} is altered; name another folder or delete this one")
    return found


def _arrays_in(file: Path, content: bytes) -> dict[str, np.ndarray]:
    try:
        return load(content)
    except Exception as error:  # of several kinds, as the header is wrong
        raise ValueError(
            f"{file} holds no arrays ({error}), and was written so; delete it and call again"
        ) from None


@contextmanager
def explained(folder: Path):
    """An OSError about this folder says what is safe and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"{folder} cannot be written ({error.strerror}); finished batches are intact: make "
            "room or name a folder that can be written, and call again",
        ) from error
