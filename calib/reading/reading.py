"""Readings: the option logits of every layer, where they came from, saved and loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from calib.metrics.inputs import softmax
from calib.questions.load import category_of

FORMAT = 2  # of saved readings
# What to do with a file of an older format.
OLDER = {1: 'write "format": 2 and "provenance" in place of "origin" into it'}


@dataclass(frozen=True)
class Reading:
    """What a model answers to each question, read at every layer.

    Attributes
    ----------
    logits : float32 array ``[questions, layers + 1, options]``
        Lens logits of the option letters; layer 0 is the embedding, the last is the model's own.
    labels : int64 array ``[questions]``
        Index of the right option.
    subjects : str array ``[questions]``
    posterior : float64 array ``[questions, options]`` or None
        Probability that each option is the recorded answer, where the truth is known.
    residuals : dict of int to float32 array ``[questions, d_model]``
        Residual streams at the answer position of the layers asked for.
    provenance : dict
        Model, revision, data, prompt form, shots, option tokens and versions.
    """

    logits: np.ndarray
    labels: np.ndarray
    subjects: np.ndarray
    posterior: np.ndarray | None = None
    residuals: dict[int, np.ndarray] = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_layers(self) -> int:
        """Number of blocks; the reading has one layer more, the embedding."""
        return self.logits.shape[1] - 1

    @property
    def probabilities(self) -> np.ndarray:
        """Option probabilities, float64 ``[layers + 1, questions, options]``, for the metrics."""
        return softmax(self.logits.transpose(1, 0, 2))

    @property
    def categories(self) -> np.ndarray:
        """MMLU's category of each question, str ``[questions]``; ValueError if one has none."""
        return np.array([category_of(str(subject)) for subject in self.subjects])

    @property
    def known_posterior(self) -> np.ndarray:
        """The posterior, or ValueError where it is not known."""
        if self.posterior is None:
            raise ValueError(
                "these questions have no posterior, so their truth is not known; only the "
                "Almanac's questions have one"
            )
        return self.posterior

    def stream(self, layer: int) -> np.ndarray:
        """A layer's residual streams, float64 ``[questions, d_model]``; ValueError if not kept."""
        if not 0 <= layer <= self.n_layers:
            raise ValueError(f"layer is {layer}; this model's layers run from 0 to {self.n_layers}")
        if layer not in self.residuals:
            raise ValueError(
                f"the reading kept the residuals of layers {sorted(self.residuals)}, not of "
                f"{layer}; read again with keep_residuals=[{layer}]"
            )
        return self.residuals[layer].astype(np.float64)

    def scale(self, layer: int) -> float:
        """Median length of a layer's residual streams, the unit of strength of a push."""
        return float(np.median(np.linalg.norm(self.stream(layer), axis=1)))

    def select(self, which) -> Reading:
        """The questions chosen by a mask or by indices, as a Reading of their own."""
        return replace(
            self,
            logits=self.logits[which],
            labels=self.labels[which],
            subjects=self.subjects[which],
            posterior=None if self.posterior is None else self.posterior[which],
            residuals={layer: r[which] for layer, r in self.residuals.items()},
        )

    def save(self, folder) -> None:
        """Write ``reading.safetensors`` and ``reading.json`` into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"logits": self.logits, "labels": self.labels}
        if self.posterior is not None:
            arrays["posterior"] = self.posterior
        arrays |= {f"residuals.{layer}": r for layer, r in self.residuals.items()}
        data, about = folder / "reading.safetensors", folder / "reading.json"
        about.unlink(missing_ok=True)  # written last: a folder without it is not a reading
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, data)
        header = {
            "format": FORMAT,
            "sha256": sha256_of(data),
            "subjects": self.subjects.tolist(),
            "provenance": self.provenance,
        }
        about.write_text(json.dumps(header, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder) -> Reading:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            If a file is missing, truncated, altered, or of another format; it says which.
        """
        data, about = Path(folder) / "reading.safetensors", Path(folder) / "reading.json"
        for file in (data, about):
            if not file.exists():
                raise ValueError(f"{file} is missing: {folder} holds no complete reading")
        try:
            header = json.loads(about.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{about} is truncated or altered ({error}); read again") from None
        if header.get("format") != FORMAT:
            way_out = OLDER.get(header.get("format"), "open it with the version that wrote it")
            raise ValueError(
                f"{about} has format {header.get('format')}, this version reads format {FORMAT}; "
                f"{way_out}, or read the model again"
            )
        if sha256_of(data) != header["sha256"]:
            raise ValueError(f"{data} is truncated or altered (its checksum differs); read again")
        arrays = load_file(data)
        kept = [name for name in arrays if name.startswith("residuals.")]
        return cls(
            logits=arrays["logits"],
            labels=arrays["labels"],
            subjects=np.array(header["subjects"]),
            posterior=arrays.get("posterior"),
            residuals={int(name.removeprefix("residuals.")): arrays[name] for name in kept},
            provenance=header["provenance"],
        )


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
