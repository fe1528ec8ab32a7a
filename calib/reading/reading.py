"""Readings: the option logits of every layer, where they came from, saved and loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset
from safetensors.numpy import load_file, save_file

from calib.arrays import softmax
from calib.models.open import Model
from calib.questions.prompts import prepare
from calib.reading._batches import plan_batches
from calib.reading._checkpoint import Shards
from calib.reading._forward import can_share, read_batch, read_batches
from calib.reading._provenance import digest_of, origin_of

FORMAT = 1  # of saved readings


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
    origin : dict
        Model, revision, data, prompt form, shots, option tokens and versions.
    """

    logits: np.ndarray
    labels: np.ndarray
    subjects: np.ndarray
    posterior: np.ndarray | None = None
    residuals: dict[int, np.ndarray] = field(default_factory=dict)
    origin: dict = field(default_factory=dict)

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
            "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
            "subjects": self.subjects.tolist(),
            "origin": self.origin,
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
            raise ValueError(
                f"{about} has format {header.get('format')}, this version reads format {FORMAT}; "
                "read the model again or use the version of calib that wrote it"
            )
        if hashlib.sha256(data.read_bytes()).hexdigest() != header["sha256"]:
            raise ValueError(f"{data} is truncated or altered (its checksum differs); read again")
        arrays = load_file(data)
        return cls(
            logits=arrays["logits"],
            labels=arrays["labels"],
            subjects=np.array(header["subjects"]),
            posterior=arrays.get("posterior"),
            residuals={
                int(name.removeprefix("residuals.")): a
                for name, a in arrays.items()
                if name.startswith("residuals.")
            },
            origin=header["origin"],
        )


def read_layers(
    model: Model,
    questions: Dataset,
    *,
    shots: int = 0,
    exemplars: Dataset | None = None,
    batch_tokens: int = 8192,
    keep_residuals=(),
    resume=None,
    push=None,
    lens=None,
) -> Reading:
    """Read every layer's option logits at the answer position.

    One traced pass a batch: the final norm and only the option rows of the unembedding are applied
    to the residual stream of every layer, at the last position alone. Prompts that begin with the
    same exemplars share them: they are run once a subject.

    Parameters
    ----------
    model : Model
        As :func:`calib.models.open.open_model` gives it.
    questions : datasets.Dataset
        As :func:`calib.questions.load.load_questions` gives it.
    shots : int
        Exemplars before each question, 0 to 5.
    exemplars : datasets.Dataset, optional
        Where they come from; the ``dev`` split of the questions' own source if not given.
    batch_tokens : int
        Most tokens in one batch, padding and shared exemplars included; bounds the memory.
    keep_residuals : list of int
        Layers, 0 to L, whose residual streams to keep.
    resume : str or Path, optional
        A folder that keeps the finished batches. Called again with the same folder, a run that was
        interrupted goes on where it was, and ends with what it would have ended with.
    push : Push, optional
        Read the model while its residual stream is pushed; :func:`calib.steering.sweeps.steer` makes one.
    lens : TunedLens, optional
        Read the layers through it; :func:`calib.mechanisms.tuned_lens.fit_tuned_lens` makes one.
        The logit lens if not given. To a remote model it is sent with every batch.

    Returns
    -------
    Reading

    Raises
    ------
    ValueError
        Before anything runs: for a layer that does not exist, a prompt longer than the model's
        context or than ``batch_tokens``, letters that are not single tokens, a lens of another
        model's shape, a ``resume`` folder of other settings, and all that
        :func:`calib.questions.prompts.build_prompts` refuses.
    OSError
        If the ``resume`` folder cannot be written, or a remote model cannot be run (see
        :mod:`calib.models.ndif`); finished batches stay.

    Examples
    --------
    >>> from calib.models.open import open_model
    >>> from calib.questions.load import load_questions
    >>> reading = read_layers(open_model("almanac"), load_questions("almanac", limit=5))
    >>> reading.logits.shape
    (5, 9, 4)
    """
    keep = sorted(set(keep_residuals))
    if keep and not 0 <= keep[0] <= keep[-1] <= model.n_layers:
        raise ValueError(
            f"keep_residuals is {list(keep_residuals)}; layers run from 0 to {model.n_layers}"
        )
    if lens:
        lens.check(model)
    tokens, prompts = prepare(model.tokenizer, questions, shots, exemplars)
    subjects = np.array(questions["subject"])
    # Where every position is pushed, the beginning changes too.
    share = shots > 0 and not (push and push.everywhere) and can_share(model)
    batches = plan_batches(prompts, subjects, batch_tokens, model.context, share)
    origin = origin_of(model, questions, shots, tokens)
    if push:
        origin["push"] = push.describe()
    if lens:
        origin["lens"] = lens.describe()
    settings = {"keep_residuals": keep, "batch_tokens": batch_tokens}
    shards = open_shards(resume, origin | settings, prompts, batches)

    logits = np.empty((len(prompts), model.n_layers + 1, len(tokens)), dtype=np.float32)
    residuals = {ell: np.empty((len(prompts), model.d_model), np.float32) for ell in keep}
    read = partial(read_batch, model, tokens=tokens, keep=keep, push=push, lens=lens)
    for rows, found in read_batches(model, prompts, batches, read, shards):
        logits[rows] = found["logits"]
        for ell, residual in zip(keep, found["residuals"], strict=True):
            residuals[ell][rows] = residual
    return Reading(
        logits=logits,
        labels=np.array(questions["answer"]),
        subjects=subjects,
        posterior=np.array(questions["posterior"]) if "posterior" in questions.features else None,
        residuals=residuals,
        origin=origin,
    )


def open_shards(resume, settings: dict, prompts, batches) -> Shards | None:
    """Where a run keeps its finished batches, or None if it need not."""
    if resume is None:
        return None
    plan = [np.array([batch.shared, *batch.rows]) for batch in batches]
    digests = {"prompts": digest_of(prompts), "batches": digest_of(plan)}
    return Shards(resume, settings | digests)
