"""What a reading was made from, so that it can be told and never mixed up."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from calib import __version__
from calib.models.model import Model
from calib.questions.chat import CHAT_FORM, template_digest
from calib.questions.prompts import PROMPT_FORM


def provenance_of(
    model: Model, questions: Dataset, shots: int, tokens: list[int], chat: bool = False
) -> dict:
    """Model, weights, questions, prompt and versions, as a Reading carries them."""
    # Models tuned on conversations are asked as all others are if not told otherwise; it is said.
    template = "not used" if model.tokenizer.chat_template else "none"
    if chat:
        template = f"used, {template_digest(model.tokenizer)}"
    return {
        "model": model.name,
        "revision": model.revision,
        **({"file": asdict(model.file)} if model.file else {}),
        "remote": model.remote,
        "weights": "" if model.remote else fingerprint(model.module),  # they are not here to see
        "architecture": model.architecture,
        "dtype": str(model.dtype).removeprefix("torch."),
        "questions": questions.info.dataset_name,
        "prompt": CHAT_FORM if chat else PROMPT_FORM,
        "shots": shots,
        "chat_template": template,
        "option_tokens": tokens,
        "versions": {"calib": __version__}
        | {name: version(name) for name in ("torch", "transformers", "nnsight")},
    }


def fingerprint(module) -> str:
    """Sixteen hexadecimal digits that change with the weights: from a few of every tensor's."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        for tensor in plain_tensors(parameter.detach()):
            some = tensor.flatten()[:64].float().cpu()
            digest.update(name.encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def plain_tensors(tensor) -> list[torch.Tensor]:
    """What a quantized weight is made of, if it is a wrapper; else the tensor itself.

    One that is spread over processes is put together: all of them have to ask for it.
    """
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in plain_tensors(getattr(tensor, name))]


def digest_of(arrays) -> str:
    """Sixteen hexadecimal digits that change with the arrays' content or lengths."""
    digest = hashlib.sha256(repr([len(array) for array in arrays]).encode())
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
