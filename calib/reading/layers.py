"""Reading a model: every layer's option logits at the answer position of every question."""

from __future__ import annotations

from operator import index

import numpy as np
from datasets import Dataset

from calib._checks import check_count
from calib.models.model import Model
from calib.questions.identity import question_ids
from calib.reading._fields import posterior_of
from calib.reading._forward import read_streams, try_pushes
from calib.reading._run import Run, check_model
from calib.reading.reading import Reading


def read_layers(
    model: Model,
    questions: Dataset,
    *,
    shots: int = 0,
    exemplars: Dataset | None = None,
    chat: bool = False,
    batch_tokens: int = 8192,
    keep_residuals=(),
    resume=None,
    push=None,
    lens=None,
) -> Reading:
    """Read every layer's option logits at the answer position.

    One traced pass per batch: the final norm and only the option rows of the unembedding are
    applied to the residual stream of every layer, at the last position alone. Prompts that begin
    with the same exemplars share them: they are run once per subject. Processes that ``torchrun``
    started together share out the batches, and each of them gets the whole reading.

    Parameters
    ----------
    model : Model
        As :func:`calib.open_model` gives it.
    questions : datasets.Dataset, pandas.DataFrame or list of dict
        As :func:`calib.load_questions` gives them, or in the same columns. Questions may differ in
        their number of options.
    shots : int
        Exemplars before each question, 0 to 5.
    exemplars : datasets.Dataset, optional
        Where they come from; the ``dev`` split of the questions' own source if not given.
    chat : bool
        Ask in the chat template of the model's tokenizer, as models tuned on conversations were;
        see :func:`calib.build_prompts`. The letters are then read where the assistant would begin.
        Some would rather begin with a sentence; an exemplar shows them that a letter is wanted.
    batch_tokens : int
        Most tokens in one batch, padding and shared exemplars included; bounds the memory.
    keep_residuals : list of int
        Layers, 0 to L, whose residual streams to keep.
    resume : str or Path, optional
        A folder that keeps the finished batches. Called again with the same folder, a run that was
        interrupted goes on where it was, and ends with what it would have ended with.
    push : Push, optional
        Read the model while its residual stream is pushed; :func:`calib.steer` makes one.
    lens : TunedLens, optional
        Read the layers through it; :func:`calib.mechanisms.fit_tuned_lens` makes one.
        The logit lens if not given. To a remote model it is sent with every batch.

    Raises
    ------
    ValueError
        Before anything runs: for a layer that does not exist, a prompt longer than the model's
        context or than ``batch_tokens``, letters that are not single tokens, a token that the model
        does not embed, a lens of another model's shape, a ``resume`` folder of other settings, and
        all that :func:`calib.questions.check_questions` and :func:`calib.build_prompts` refuse.
    ValueError
        Later, if the model overflows: logits or residual streams are not finite.
    OSError
        If the ``resume`` folder cannot be written, or a remote model cannot be run (see
        :func:`calib.open_model`); finished batches stay.

    Examples
    --------
    >>> from calib import load_questions, open_model
    >>> reading = read_layers(open_model("almanac"), load_questions("almanac", limit=5))
    >>> reading.logits.shape
    (5, 9, 4)
    """
    check_model(model)
    keep = _check_layers(keep_residuals, model.n_layers)
    batch_tokens = check_count("batch_tokens", batch_tokens)
    for name, value, made_by, kind in (
        ("push", push, "calib.steer", "describe"), ("lens", lens, "fit_tuned_lens", "check"),
    ):  # fmt: skip
        if value is not None and not hasattr(value, kind):
            raise TypeError(f"{name} is {value!r:.60}; {made_by} makes one")
    if lens:
        lens.check(model)
    run = Run.prepare(model, questions, shots, exemplars, chat=chat)
    # Where every position is pushed, the prefix changes too.
    batches = run.plan(batch_tokens, share=not (push and push.everywhere))
    provenance = run.provenance()
    if push:
        try_pushes(model)
        provenance["push"] = push.describe()
    if lens:
        provenance["lens"] = lens.describe()

    def forward(part):
        return read_streams(model, part.prompts, run.tokens, keep, part.prefix, push, lens)

    settings = provenance | {"keep_residuals": keep, "batch_tokens": batch_tokens}
    found = run.through(batches, forward, resume=resume, settings=settings)
    return Reading(
        logits=run.without_absent(found["logits"].swapaxes(0, 1)).swapaxes(0, 1),
        labels=run.labels,
        subjects=np.array(run.questions["subject"]),
        posterior=posterior_of(run.questions),
        residuals={ell: found[f"residuals.{ell}"] for ell in keep},
        provenance=provenance,
        n_options=run.n_options,
        question_ids=question_ids(run.questions),
    )


def _check_layers(layers, n_layers: int) -> list[int]:
    """Layers in rising order, each once; TypeError or ValueError if they are none of the model."""
    try:
        found = sorted({index(layer) for layer in layers})
    except TypeError:
        found = None
    if found is None or isinstance(layers, str) or any(isinstance(k, bool) for k in layers):
        raise TypeError(f"keep_residuals is {layers!r:.60}; it must be a list of layers, as [6, 8]")
    if found and not 0 <= found[0] <= found[-1] <= n_layers:
        raise ValueError(f"keep_residuals is {found}; layers run from 0 to {n_layers}")
    return found
