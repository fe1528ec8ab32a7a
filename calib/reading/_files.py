"""A reading on disk: arrays in one file, all else in another, both under a checksum."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

FORMAT = 3  # of saved readings
UNCOVERED = (1, 2)  # whose checksum covers the arrays alone, and whose questions all have as many
ARRAYS, ABOUT = "reading.safetensors", "reading.json"


def save_arrays(folder, arrays: dict[str, np.ndarray], about: dict) -> None:
    """Write ``reading.safetensors`` and ``reading.json``; a reading that was there is replaced.

    Raises
    ------
    TypeError, ValueError
        Before anything is written, if JSON cannot hold what is ``about`` the arrays.
    """
    folder = Path(folder)
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    header = {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest(), **about}
    text = json.dumps(header | {"digest": digest_of_json(header)}, indent=1, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    new = [(folder / ARRAYS, content), (folder / ABOUT, text.encode())]
    for file, some in new:
        file.with_name(f"{file.name}.{os.getpid()}.partial").write_bytes(some)
    (folder / ABOUT).unlink(missing_ok=True)  # a folder without it is not a reading
    for file, _ in new:
        file.with_name(f"{file.name}.{os.getpid()}.partial").replace(file)


def load_arrays(folder) -> tuple[dict[str, np.ndarray], dict]:
    """What :func:`save_arrays` wrote, or ValueError that names the file and what is wrong."""
    data, file = Path(folder) / ARRAYS, Path(folder) / ABOUT
    for needed in (data, file):
        if not needed.is_file():
            raise ValueError(f"{needed} is missing: {folder} holds no complete reading")
    about, content = _header(file), data.read_bytes()
    if about.pop("sha256") != hashlib.sha256(content).hexdigest():
        raise ValueError(f"{data} is truncated or altered (its checksum differs); read again")
    try:
        arrays = load(content)
    except SafetensorError as error:
        raise ValueError(f"{data} is no safetensors file ({error}); read again") from None
    if (version := about.pop("format")) in UNCOVERED:
        warnings.warn(
            f"{file} has format {version}, whose checksum covers neither subjects nor provenance; "
            "save the reading again to have them covered",
            stacklevel=3,
        )
        about = {"provenance": about.get("origin"), **about}
        if "logits" in arrays:
            arrays["n_options"] = np.full(len(arrays["logits"]), arrays["logits"].shape[-1])
    return arrays, about


def digest_of_json(header: dict) -> str:
    """SHA-256, in hexadecimal, of all that a header says, the arrays' checksum with it."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _header(file: Path) -> dict:
    try:
        header = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is truncated or altered ({error}); read again") from None
    if not isinstance(header, dict):
        raise ValueError(f"{file} holds {header!r:.40}; it must be an object: read again")
    version = header.get("format")
    if isinstance(version, bool) or version not in (*UNCOVERED, FORMAT):
        raise ValueError(
            f"{file} has format {version!r}, this version reads formats 1 to {FORMAT}; open it "
            "with the version that wrote it, or read the model again"
        )
    kinds = {"sha256": str, "subjects": list, "origin" if version == 1 else "provenance": dict}
    for name, kind in kinds.items():
        if not isinstance(header.get(name), kind):
            raise ValueError(
                f"{file} is altered: {name!r} is {header.get(name)!r:.40} and must be a "
                f"{kind.__name__}; read again"
            )
    if version == FORMAT and header.pop("digest", None) != digest_of_json(header):
        raise ValueError(f"{file} is truncated or altered (its digest differs); read again")
    return header
