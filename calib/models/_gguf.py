"""Models in one GGUF file, as llama.cpp and its kin use them: found, judged, described.

Whatever would go wrong after minutes of loading is refused by the header, before the first weight.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import __version__ as VERSION
from transformers.utils import cached_file

from calib.models._gguf_header import Header, read_header

PACKAGES = ("gguf", "accelerate")  # what transformers opens such files with
OLDEST = (5, 17)  # of transformers: the first that makes the tokens that llama.cpp makes
PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
ENCODERS = ("bert", "t5encoder", "embedding")  # as parts of an architecture's name
NO_LANGUAGE = {
    "clip": "the part of a model that sees or hears, without the language model",
    "adapter": "an adapter, to be merged into its model",
    "imatrix": "an importance matrix, by which models are quantized",
}
# Names as transformers' loader keeps them which name no decoder of its own.
NOT_OPENED = {"general", "tokenizer", "t5", "umt5", "mistral"}


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file that a model was opened from.

    Attributes
    ----------
    name : str
        Without its folder.
    sha256 : str
        Of the whole file, in hexadecimal.
    quantization : str
        As the file calls itself, ``"Q4_K_M"``; else the types that hold most weights.
    """

    name: str
    sha256: str
    quantization: str


def find_gguf(source, gguf_file=None) -> Path | None:
    """The GGUF file that is meant, downloaded if it is on the hub; None if none is.

    ValueError says what is not there.
    """
    path = Path(source)
    if gguf_file is None:
        if path.is_file():
            with open(path, "rb") as file:
                return path if path.suffix.lower() == ".gguf" or file.read(4) == b"GGUF" else None
        if path.suffix.lower() == ".gguf" and not path.exists():
            raise ValueError(
                f"there is no file {str(source)!r} here; check the path, or of a repository on the "
                "hub, say which of its files with gguf_file="
            )
        if path.is_dir() and not (path / "config.json").exists() and (held := _held(path)):
            raise ValueError(
                f"the folder {str(source)!r} has no config.json and holds {', '.join(held)}; "
                f"name the file: gguf_file={held[0]!r}, or its path"
            )
        return None
    if not isinstance(gguf_file, str | Path):
        raise TypeError(f"gguf_file is a {type(gguf_file).__name__}; it must be the file's name")
    if path.is_file():
        raise ValueError(f"{str(source)!r} is a file itself, so leave out gguf_file")
    if path.is_dir():
        if not (path / gguf_file).is_file():
            held = ", ".join(_held(path)) or "no such files"
            raise ValueError(
                f"the folder {str(source)!r} has no file {str(gguf_file)!r}; it holds {held}"
            )
        return path / gguf_file
    try:
        return Path(cached_file(str(source), str(gguf_file)))
    except OSError as error:
        raise OSError(f"the file {str(gguf_file)!r} of {source} cannot be had: {error}") from error


def _held(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.gguf"))[:5]


def judge(path: Path) -> Header:
    """The header of a file that can be opened; ValueError or ImportError says why another cannot.

    Some hundredths of a second: no weight is read.
    """
    header = read_header(path)
    if lacking := [name for name in PACKAGES if find_spec(name) is None]:
        raise ImportError(
            f"a GGUF file is opened by transformers with the package {' and '.join(lacking)}, "
            "which is not installed: pip install 'calibration-across-layers[gguf]', or pip "
            f"install {' '.join(lacking)}"
        )
    if tuple(map(int, re.findall(r"\d+", VERSION)[:2])) < OLDEST:
        raise ImportError(
            f"GGUF files are opened with transformers {OLDEST[0]}.{OLDEST[1]} or newer, and "
            f"{VERSION} is installed, which makes other tokens of some vocabularies (of Gemma's, "
            "for one): pip install -U transformers"
        )
    part = PART.search(path.name)
    if part or (header.facts.get("split.count") or 1) > 1:
        n = int(part[1]) if part else header.facts["split.count"]
        raise ValueError(
            f"{path} is one of {n} parts of a model, and transformers opens whole files; put them "
            "together with llama.cpp: llama-gguf-split --merge FIRST-PART WHOLE.gguf"
        )
    _check_kind(path, header)
    _check_tensors(path, header)
    return header


def _check_kind(path: Path, header: Header) -> None:
    """Refuse what is no decoder, or none that transformers' loader knows."""
    architecture = header.facts["general.architecture"]
    kind = header.facts.get("general.type") or "model"
    for name in (architecture, "clip" if kind == "mmproj" else kind):
        if name in NO_LANGUAGE:
            raise ValueError(f"{path} is {NO_LANGUAGE[name]}; open the language model's own file")
    if not header.tensors:
        raise ValueError(f"{path} holds a vocabulary and no weights; open the model's own file")
    pooled = header.of_architecture("pooling_type")
    acausal = header.of_architecture("attention.causal") is False
    if any(name in architecture for name in ENCODERS) or pooled or acausal:
        raise ValueError(
            f"{path} ({architecture}) is a model that embeds texts, and gives no next token; open "
            "a decoder-only language model"
        )
    known = _architectures()
    if known and _plain(architecture) not in map(_plain, known):
        raise ValueError(
            f"{path} is of the architecture {architecture!r}, and transformers {VERSION} opens "
            f"GGUF files of {', '.join(known)}; open the model's "
            "own folder or hub id"
        )


def _architectures() -> list[str]:
    """The decoders that transformers' loader knows; empty where it keeps no such list."""
    try:
        from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES as known
    except ImportError:
        return []
    try:
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS as newer
    except ImportError:
        newer = {}
    return sorted({*known, *newer} - NOT_OPENED)


def _plain(architecture: str) -> str:
    return re.sub(r"[-_]", "", architecture)  # qwen2moe is qwen2_moe there


def _check_tensors(path: Path, header: Header) -> None:
    """Refuse types that cannot be unpacked, and a file that ends before its tensors do."""
    import gguf

    for kind in {tensor.kind for tensor in header.tensors}:
        try:
            known = gguf.GGMLQuantizationType(kind)
            gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[known][1]), np.uint8), known)
        except (ValueError, KeyError, NotImplementedError) as error:
            first = next(tensor.name for tensor in header.tensors if tensor.kind == kind)
            name = f"number {kind}" if isinstance(error, ValueError) else known.name
            raise ValueError(
                f"{path} holds tensors of the type {name}, first {first}, which this version of "
                "the package gguf does not unpack; update it (pip install -U gguf), or take the "
                "model in another quantization, such as Q8_0 or Q4_K_M"
            ) from error
    end = header.begin + max(tensor.offset + _bytes(tensor) for tensor in header.tensors)
    if end > header.size:
        raise ValueError(
            f"{path} is cut off: its tensors end at byte {end:,}, and the file at byte "
            f"{header.size:,}; download it again"
        )


def _bytes(tensor) -> int:
    import gguf

    of_weights, of_bytes = gguf.GGML_QUANT_SIZES[tensor.kind]
    return tensor.count // of_weights * of_bytes


def own_type(header: Header) -> torch.dtype:
    """What dtype="auto" means: the type of a file that is not quantized, and else bfloat16.

    Its four or eight bits have no type of torch; bfloat16 reaches as far as float32 does.
    """
    kinds = {_type_name(tensor.kind) for tensor in header.tensors}
    if kinds == {"F32"}:
        return torch.float32
    return torch.float16 if kinds <= {"F32", "F16"} else torch.bfloat16


def _type_name(kind: int) -> str:
    import gguf

    return gguf.GGMLQuantizationType(kind).name


def describe(path: Path, header: Header) -> GgufFile:
    """What a reading's provenance tells of a file; the digest takes a second for each gigabyte."""
    import gguf

    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        name = gguf.LlamaFileType(header.facts.get("general.file_type")).name
    except ValueError:
        name = "GUESSED"
    if name == "GUESSED":
        weights = Counter()
        for tensor in header.tensors:
            weights[_type_name(tensor.kind)] += tensor.count
        most = [kind for kind, n in weights.most_common(2) if n > weights.total() / 20]
        name = " and ".join(most)
    return GgufFile(path.name, digest, name.removeprefix("MOSTLY_").removeprefix("ALL_"))
