"""One run of questions through a model; every reading, of layers or of neurons, is one of these::

    prepare   questions ──> prompts, and the option letters' tokens
    plan      prompts ──> numbered batches, each with the prefix its prompts share
    through   batch by batch: the prefix once, then the pass that the caller hands in;
              each batch's arrays are kept on disk under its number, if asked for
              ──> arrays [questions, ...]

Batches, their order and what is drawn in them are settled before the first one runs. So any of
them can be run anywhere, in any order, and found again under its number: by the next start, where
one was interrupted, or by any of several processes (``_processes``, ``_shares``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from calib.models.model import Model
from calib.questions import check_questions, options_per_question
from calib.questions.prompts import prepare
from calib.reading._batches import Batch, plan_batches
from calib.reading._fields import absent_options
from calib.reading._pass import Pass, check_batch, one_by_one
from calib.reading._prefix import can_share
from calib.reading._processes import Processes
from calib.reading._provenance import digest_of, provenance_of
from calib.reading._shares import kept_batches, run_share


@dataclass(frozen=True)
class Run:
    """Questions as prompts, ready to be planned and run.

    Attributes
    ----------
    questions : datasets.Dataset
        Checked, whatever they came as.
    shots : int
        Exemplars before each question.
    chat : bool
        Whether they are asked in the chat template of the model's tokenizer.
    tokens : list of int
        The option letters' tokens, for the question with the most options.
    prompts : list of int array ``[tokens]``
    """

    model: Model
    questions: Dataset
    shots: int
    chat: bool
    tokens: list[int]
    prompts: list[np.ndarray]

    @classmethod
    def prepare(
        cls, model: Model, questions: Dataset, shots=0, exemplars=None, *, chat: bool = False
    ) -> Run:
        """Prompts of the questions; ValueError as :func:`calib.questions.prompts.prepare`.

        Questions without content (:func:`calib.questions.content_free`) are welcome here.
        """
        check_model(model)
        questions = check_questions(questions, unanswered=True)
        tokens, prompts = prepare(model.tokenizer, questions, shots, exemplars, chat=chat)
        model.check_ids([*prompts, tokens])
        return cls(model, questions, shots, chat, tokens, prompts)

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
        how = self.questions, self.shots, self.tokens, self.chat
        told = provenance_of(self.model, *how)
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
            What the results depend on, as JSON can hold it: a folder of others is refused, and so
            are processes of others. Of itself, the run knows model, questions and prompts.
        """
        return run_batches(
            self.model, self.prompts, batches, forward, resume=resume, settings=settings
        )


def run_batches(
    model: Model,
    prompts: list[np.ndarray],
    batches: list[Batch],
    forward: Pass,
    *,
    resume=None,
    settings: dict | None = None,
    doing: str = "reading",
) -> dict[str, np.ndarray]:
    """Arrays ``[prompts, ...]`` by name: of each batch as the folder has it, or of its pass.

    Processes that a launcher started together share the batches out, and each of them ends with
    all arrays.

    Raises
    ------
    ValueError
        If a batch comes back with other names or shapes than the first, or with numbers that are
        not finite; if the folder is another run's, or the processes ask for different things.
    ConnectionError
        If another process has ended.
    torch.OutOfMemoryError
        If a batch does not fit into memory.
    """
    plan = digest_of([np.array([batch.shared, *batch.rows]) for batch in batches])
    settings = (settings or {}) | {"batches": plan}
    asked = {"task": doing, "prompts": digest_of(prompts)} | settings
    results: dict[str, np.ndarray] = {}
    run_one = one_by_one(model, prompts, batches, forward, resume)
    with (
        model.running(),
        Processes() as processes,
        kept_batches(processes, model, resume, settings, asked) as checkpoint,
        tqdm(total=len(prompts), desc=doing, unit="question", delay=5, **_shown(processes))
        as progress,
    ):  # fmt: skip
        if processes.size > 1:
            run_share(processes, model.spread, batches, prompts, run_one, checkpoint, progress)
        for number, batch in enumerate(batches):
            rows = list(batch.rows)
            found = checkpoint.read(number) if checkpoint else None
            if found is not None:
                check_batch(found, rows, results)
            else:
                found = run_one(number, results)
                if checkpoint:
                    checkpoint.write(number, found)
            for name, some in found.items():
                if name not in results:
                    results[name] = np.empty((len(prompts), *some.shape[1:]), some.dtype)
                results[name][rows] = some
            progress.update(len(rows) if processes.size == 1 else 0)
        processes.part()
    return results


def _shown(processes: Processes) -> dict:
    """Progress is the first process's to show; False would show it where TQDM_DISABLE is set."""
    return {"disable": True} if processes.rank > 0 else {}


def check_model(model) -> None:
    """Refuse what is no opened model, such as its name."""
    if not isinstance(model, Model):
        raise TypeError(
            f"the model is a {type(model).__name__}; open it first: open_model('almanac'), or "
            "open_model((module, tokenizer))"
        )
