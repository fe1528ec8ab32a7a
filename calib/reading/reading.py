"""Readings: the option logits of every layer, where they came from, saved and loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from calib.metrics.inputs import softmax
from calib.questions.load import category_of
from calib.reading._fields import check_fields
from calib.reading._files import load_arrays, save_arrays


@dataclass(frozen=True)
class Reading:
    """What a model answers to each question, read at every layer.

    Attributes
    ----------
    logits : float32 array ``[questions, layers + 1, options]``
        Lens logits of the option letters; layer 0 is the embedding, the last is the model's own.
        Where questions differ in their number of options, there are columns for the largest, and
        an option that a question does not have has the logit -inf.
    labels : int64 array ``[questions]``
        Index of the right option; -1 for questions without content, which have none.
    subjects : str array ``[questions]``
    posterior : float64 array ``[questions, options]`` or None
        Probability that each option is the recorded answer, where the truth is known.
    residuals : dict of int to float32 array ``[questions, d_model]``
        Residual streams at the answer position of the layers asked for.
    provenance : dict
        Model, revision, data, prompt form, shots, option tokens and versions.
    n_options : int64 array ``[questions]``
        Options of each question, from 2 on; all columns of the logits if not given.
    question_ids : uint64 array ``[questions]`` or None
        Which questions these are, as :func:`calib.questions.question_ids` numbers them.

    Raises
    ------
    ValueError
        If shapes do not fit together, a logit is not finite where a question has an option, or is
        where it has none, a label is out of range, or a residual stream is not finite.

    Examples
    --------
    A question with two options beside one with three:

    >>> logits = np.array([[[1.0, 0.0, -np.inf]], [[1.0, 0.0, 2.0]]])
    >>> reading = Reading(logits, [0, 2], ["law", "law"], n_options=[2, 3])
    >>> reading.probabilities[-1].round(2).tolist()
    [[0.73, 0.27, 0.0], [0.24, 0.09, 0.67]]
    >>> round(reading.chance, 4)
    0.4167
    """

    logits: np.ndarray
    labels: np.ndarray
    subjects: np.ndarray
    posterior: np.ndarray | None = None
    residuals: dict[int, np.ndarray] = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)
    n_options: np.ndarray | None = None
    question_ids: np.ndarray | None = None

    def __post_init__(self):
        for name, value in check_fields(self).items():
            object.__setattr__(self, name, value)

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
    def chance(self) -> float:
        """Accuracy of guessing, the mean over questions of 1 / options."""
        return float((1 / self.n_options).mean())

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
            n_options=self.n_options[which],
            question_ids=None if self.question_ids is None else self.question_ids[which],
        )

    def save(self, folder) -> None:
        """Write ``reading.safetensors`` and ``reading.json`` into a folder."""
        arrays = {"logits": self.logits, "labels": self.labels, "n_options": self.n_options}
        for name in ("posterior", "question_ids"):
            if (array := getattr(self, name)) is not None:
                arrays[name] = array
        arrays |= {f"residuals.{layer}": r for layer, r in self.residuals.items()}
        about = {"subjects": self.subjects.tolist(), "provenance": self.provenance}
        save_arrays(folder, arrays, about)

    @classmethod
    def load(cls, folder) -> Reading:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            If a file is missing, truncated, altered, of another format, or does not hold a
            reading; it says which.
        """
        arrays, about = load_arrays(folder)
        kept = [name for name in arrays if name.startswith("residuals.")]
        try:
            return cls(
                logits=arrays["logits"],
                labels=arrays["labels"],
                subjects=np.array(about["subjects"]),
                posterior=arrays.get("posterior"),
                residuals={int(name.removeprefix("residuals.")): arrays[name] for name in kept},
                provenance=about["provenance"],
                n_options=arrays["n_options"],
                question_ids=arrays.get("question_ids"),
            )
        except KeyError as error:
            raise ValueError(f"{folder} holds no reading: {error} is missing in it") from None
        except ValueError as error:
            raise ValueError(f"{folder} holds no reading: {error}") from None
