"""One run of questions through a model; every reading, of layers or of neurons, is one of these::

    prepare   questions ──> prompts, and the option letters' tokens
    plan      prompts ──> numbered batches, each with the prefix its prompts share
    through   batch by batch: the prefix once, then the pass that the caller hands in;
              each batch's arrays are kept on disk under its number, if asked for
              ──> arrays [questions, ...]

Batches, their order and what is drawn in them are settled before the first one runs. So any of
them can be run anywhere, in any order, and found again under its number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from calib.models.model import Model
from calib.models.place import memory_for
from calib.questions import check_questions, options_per_question
from calib.questions.prompts import prepare
from calib.reading._batches import Batch, plan_batches
from calib.reading._checkpoint import Checkpoint
from calib.reading._fields import absent_options
from calib.reading._prefix import can_share, run_prefix
from calib.reading._provenance import digest_of, provenance_of


class Part(NamedTuple):
    """What a pass is given: the prompts of one batch.

    Attributes
    ----------
    rows : list of int
        Their places among all prompts.
    prompts : list of int array ``[tokens]``
        Token ids; with a prefix, what follows it.
    prefix : transformers Cache or None
        Keys and values of what all of them begin with.
    """

    rows: list[int]
    prompts: list[np.ndarray]
    prefix: Any


# From a batch to tensors, or arrays of numbers, ``[batch, ...]`` by name.
Pass = Callable[[Part], dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """Questions as prompts, ready to be planned and run.

    Attributes
    ----------
    questions : datasets.Dataset
        Checked, whatever they came as.
    shots : int
        Exemplars before each question.
    tokens : list of int
        The option letters' tokens, for the question with the most options.
    prompts : list of int array ``[tokens]``
    """

    model: Model
    questions: Dataset
    shots: int
    tokens: list[int]
    prompts: list[np.ndarray]

    @classmethod
    def prepare(cls, model: Model, questions: Dataset, shots=0, exemplars=None) -> Run:
        """Prompts of the questions; ValueError as :func:`calib.questions.prompts.prepare`.

        Questions without content (:func:`calib.questions.content_free`) are welcome here.
        """
        check_model(model)
        questions = check_questions(questions, unanswered=True)
        tokens, prompts = prepare(model.tokenizer, questions, shots, exemplars)
        model.check_ids([*prompts, tokens])
        return cls(model, questions, shots, tokens, prompts)

    @property
    def labels(self) -> np.ndarray:
        """Index of each question's right option, int64 ``[questions]``."""
        return np.array(self.questions["answer"])

    @property
    def n_options(self) -> np.ndarray:
        """Options of each question, int64 ``[questions]``."""
        return options_per_question(self.questions)

    def without_absent(self, logits: np.ndarray) -> np.ndarray:
        """Logits ``[..., questions, options]``, -inf for options that a question does not have."""
        return np.where(absent_options(self.n_options, len(self.tokens)), -np.inf, logits)

    @property
    def longest(self) -> np.ndarray:
        """The longest prompt."""
        return max(self.prompts, key=len)

    def provenance(self) -> dict:
        """What results of this run were made from."""
        told = provenance_of(self.model, self.questions, self.shots, self.tokens)
        return told | {"prompts": digest_of(self.prompts)}

    def plan(self, batch_tokens: int, *, share: bool = True, beside: int = 0) -> list[Batch]:
        """Batches of at most ``batch_tokens``; see :func:`calib.reading._batches.plan_batches`.

        Prompts with exemplars share them where ``share`` allows it and the model can. Prompts that
        would change how each other are read never share a batch.
        """
        subjects, limits = self.questions["subject"], (batch_tokens, self.model.context)
        lengths = np.array([len(prompt) for prompt in self.prompts])
        beyond = lengths > (self.model.rope_switch or np.inf)
        kinds = beyond if self.model.pads else lengths
        if not self.model.shares:
            kinds = np.arange(len(lengths))
        share = share and self.shots > 0 and can_share(self.model)
        return plan_batches(self.prompts, subjects, *limits, share & ~beyond, beside, kinds)

    def through(self, batches: list[Batch], forward: Pass, *, resume=None, settings=None) -> dict:
        """Arrays ``[questions, ...]`` by name, of what the pass gives for each batch.

        Parameters
        ----------
        resume : str or Path, optional
            A folder that keeps the finished batches.
        settings : dict, optional
            What the results depend on, as JSON can hold it: a folder of others is refused.
        """
        checkpoint = None
        if resume is not None:
            plan = [np.array([batch.shared, *batch.rows]) for batch in batches]
            checkpoint = Checkpoint(resume, (settings or {}) | {"batches": digest_of(plan)})
        return run_batches(self.model, self.prompts, batches, forward, checkpoint)


def run_batches(
    model: Model,
    prompts: list[np.ndarray],
    batches: list[Batch],
    forward: Pass,
    checkpoint: Checkpoint | None = None,
    *,
    doing: str = "reading",
) -> dict[str, np.ndarray]:
    """Arrays ``[prompts, ...]`` by name: of each batch as the checkpoint has it, or of its pass.

    Raises
    ------
    ValueError
        If a batch comes back with other names or shapes than the first, or with numbers that are
        not finite.
    torch.OutOfMemoryError
        If a batch does not fit into memory.
    """
    results: dict[str, np.ndarray] = {}
    prefix, ids = None, ()
    progress = tqdm(total=len(prompts), desc=doing, unit="question", delay=5)
    with model.running(), progress:
        for number, batch in enumerate(batches):
            rows, shared = list(batch.rows), batch.shared
            found = checkpoint.read(number) if checkpoint else None
            if new := found is None:
                with memory_for(*_told(model, batch, checkpoint)):
                    if shared and not np.array_equal(ids, prompts[rows[0]][:shared]):
                        prefix, ids = None, prompts[rows[0]][:shared]  # free the last one first
                        prefix = run_prefix(model, [ids])
                    rest = [prompts[i][shared:] for i in rows]
                    found = forward(Part(rows, rest, prefix if shared else None))
                    found = {name: as_array(some) for name, some in found.items()}
            check_batch(found, rows, results)
            if checkpoint and new:
                checkpoint.write(number, found)
            for name, some in found.items():
                if name not in results:
                    results[name] = np.empty((len(prompts), *some.shape[1:]), some.dtype)
                results[name][rows] = some
            progress.update(len(rows))
    return results


def _told(model, batch, checkpoint) -> tuple[str, str]:
    """What to say of a batch that does not fit into memory."""
    n, smallest = len(batch.rows), batch.room // len(batch.rows)
    way_out = f"use batch_tokens={max(batch.room // 2, smallest)} or fewer"
    if n == 1:
        way_out = (
            "ask for fewer shots, samples, branches or neurons, or leave out the longest prompt"
        )
    if model.device.type != "cpu":
        way_out += ', or open the model with dtype=torch.bfloat16 or device="auto"'
    if checkpoint:
        way_out += f". The finished batches stay in {checkpoint.folder}, for the same settings"
    return f"a batch of {n} prompts, {batch.room} tokens, on {model.device}", way_out


def as_array(some) -> np.ndarray:
    """A tensor as an array, of float32 whatever the model computes in; an array as it is."""
    return some.float().cpu().numpy() if isinstance(some, torch.Tensor) else some


def check_batch(found: dict, rows, results: dict) -> None:
    """Refuse arrays that are not those of these questions, or not finite; ``results`` so far."""
    shapes = {name: array.shape for name, array in found.items()}
    wanted = {name: (len(rows), *array.shape[1:]) for name, array in (results or found).items()}
    if not found or shapes != wanted:
        raise ValueError(f"a batch came back with the arrays {shapes}; they must be {wanted}")
    for name, array in found.items():
        if not (finite := np.isfinite(array).reshape(len(rows), -1).all(axis=1)).all():
            at = int(finite.argmin())
            raise ValueError(
                f"{name} of question {rows[at]} are not finite: the model overflows; open it with "
                "dtype=torch.float32 or torch.bfloat16, or use smaller pushes"
            )


def check_model(model) -> None:
    """Refuse what is no opened model, such as its name."""
    if not isinstance(model, Model):
        raise TypeError(
            f"the model is a {type(model).__name__}; open it first: open_model('almanac'), or "
            "open_model((module, tokenizer))"
        )
