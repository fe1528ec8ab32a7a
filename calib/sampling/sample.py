"""Answers in words, drawn from the model many times per question.

Every sample has uniform numbers of its own, one per token, drawn before the model runs: token by
token, it takes the first word at which the cumulative probability passes its number. What is drawn
then depends on the seed, not on which questions share a pass. Samples of a question that agree so
far share a row of the batch: the prompt is run once, and each later pass has as many rows as there
are different prefixes of unfinished answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from calib._checks import check_count, check_real
from calib.models.model import Model
from calib.models.place import in_float64
from calib.questions import check_questions
from calib.questions.chat import end_of_turn, put_alone
from calib.questions.prompts import format_open_question, tokenize
from calib.reading._forward import pad_right
from calib.reading._provenance import digest_of
from calib.reading._run import run_batches
from calib.sampling._plan import check_switch, plan_samples


@dataclass(frozen=True)
class Samples:
    """Sampled answers to open questions; see :func:`sample_answers`.

    Attributes
    ----------
    answers : str array ``[questions, samples]``
        Without blanks around, capitals or a final full stop; empty where the model said nothing.
    labels_text : str array ``[questions]``
        The right answers, written in the same way.
    """

    answers: np.ndarray
    labels_text: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether each sample is the right answer word for word, bool ``[questions, samples]``."""
        return self.answers == self.labels_text[:, None]


def sample_answers(
    model: Model,
    questions: Dataset,
    n_samples: int,
    *,
    temperature: float = 1.0,
    max_tokens: int = 16,
    chat: bool = False,
    batch_tokens: int = 16384,
    seed: int = 0,
) -> Samples:
    """Ask each question openly, without its options, and draw answers from the model.

    An answer ends before a line end or a token that ends texts, or after ``max_tokens``. One token
    an answer costs one forward pass per batch of questions, however many samples are drawn.

    Parameters
    ----------
    questions : datasets.Dataset
        As :func:`calib.load_questions` gives it; asked in the form of
        :func:`calib.questions.format_open_question`.
    n_samples : int
        Answers per question.
    temperature : float
        Divides the logits before the softmax; close to 0 the most probable word is taken always.
        No other filter is applied: an answer has the probability that the model gives it.
    max_tokens : int
        Most tokens of an answer. One that is cut off there is judged by what was drawn: with 1 by
        its first word, however it would go on, and no right answer of more tokens can be given.
    chat : bool
        Ask in the chat template of the model's tokenizer, each question a user's turn. An answer
        ends, too, before the token by which the template ends the assistant's turn.
    batch_tokens : int
        Most tokens in one batch, counting prompt and answer for every sample, as if no two agreed;
        bounds the memory. Changes nothing that is drawn, up to rounding: a batch of another shape
        rounds logits differently, and a uniform number may lie that close to a word's limit.
    seed : int
        A question's uniform numbers depend on it, on the question's place, on ``n_samples`` and on
        ``max_tokens``.

    Raises
    ------
    TypeError, ValueError
        Before anything runs: if ``n_samples``, ``max_tokens`` or ``batch_tokens`` is not an integer
        of at least 1, the temperature not a positive finite number, the model remote, there are no
        questions, or one with its answer is longer than the model's context or, with all its
        samples, than ``batch_tokens``; with ``chat``, as :func:`calib.build_prompts`. Later, if
        logits overflow.

    Notes
    -----
    Questions of one length make a batch, so that nothing is padded: positions and attention windows
    are the model's own in every architecture.

    Examples
    --------
    >>> from calib import load_questions, open_model
    >>> questions = load_questions("almanac", limit=3)
    >>> samples = sample_answers(open_model("almanac"), questions, 40, max_tokens=1)
    >>> samples.answers.shape, samples.correct.mean(axis=1).round(1).tolist()
    ((3, 40), [0.2, 1.0, 0.4])
    """
    n_samples = check_count("n_samples", n_samples)
    max_tokens = check_count("max_tokens", max_tokens)
    batch_tokens = check_count("batch_tokens", batch_tokens)
    check_real("temperature", temperature)
    if not 0 < temperature < np.inf:
        raise ValueError(
            f"temperature is {temperature}; it must be positive and finite: for the most probable "
            "word alone take a small one, such as 1e-6"
        )
    if model.remote:
        model.require_weights("a server keeps no keys and values from one token to the next")
    if not model.pads:
        raise ValueError(
            f"in {model.name} a prompt changes what is read of others or of itself, so that no "
            "token can be drawn after another; sample from a causal model that is not quantized"
        )
    questions = check_questions(questions)
    if not len(questions):
        raise ValueError("there are no questions to ask")
    prompts, ends = [format_open_question(row) for row in questions], set()
    if chat:
        prompts, ends = put_alone(model.tokenizer, prompts), {end_of_turn(model.tokenizer)}
    prompts = tokenize(model.tokenizer, prompts, chat=chat)
    model.check_ids(prompts)
    check_switch(prompts, max_tokens, model)
    batches = plan_samples(prompts, n_samples, max_tokens, batch_tokens, model.context)
    uniforms = np.random.default_rng(seed).random((len(prompts), n_samples, max_tokens))

    def forward(part):
        some = part.prompts, uniforms[part.rows]
        return {"drawn": draw_answers(model, *some, temperature, ends)}

    asked = {"temperature": temperature, "uniforms": digest_of([uniforms])}
    drawn = run_batches(model, prompts, batches, forward, settings=asked, doing="sampling")["drawn"]
    labels = [normalise(row["choices"][row["answer"]]) for row in questions]
    return Samples(_texts(model.tokenizer, drawn).astype(str), labels_text=np.array(labels))


def normalise(text: str) -> str:
    """An answer as it is compared: no blanks around it, no capitals, no full stop at its end.

    >>> normalise(" The Dragon. ")
    'the dragon'
    """
    return text.strip().casefold().removesuffix(".").rstrip()


def draw_answers(model: Model, prompts, uniforms, temperature: float, ends=()) -> np.ndarray:
    """Tokens of sampled answers to prompts of one length.

    Parameters
    ----------
    prompts : list of int array ``[tokens]``
    uniforms : float64 array ``[batch, samples, max_tokens]``
        0 to 1, 1 excluded.
    ends : collection of int
        Tokens that end an answer besides a line end and those that end the model's texts.

    Returns
    -------
    int64 array ``[batch, samples, max_tokens]``
        -1 from where an answer has ended; what ends it does not belong to it.
    """
    n_prompts, n_samples, max_tokens = uniforms.shape
    uniforms = uniforms.reshape(-1, max_tokens)
    drawn = np.full(uniforms.shape, -1)
    unfinished = np.arange(len(uniforms))
    row = np.repeat(np.arange(n_prompts), n_samples)  # of the batch, for each unfinished sample
    cache, following = None, prompts
    for step in range(max_tokens):
        inputs, _ = pad_right(following, model.device, cache)
        with torch.no_grad():
            output = model.module(**inputs, **model.last_only, use_cache=max_tokens > 1)
        if not hasattr(output, "logits"):
            raise ValueError(f"the forward of {model.name} returns no named output to sample from")
        token = _draw(output.logits[:, -1], row, uniforms[unfinished, step], temperature)
        going = ~_is_end(model, token, ends)
        unfinished, row, token = unfinished[going], row[going], token[going]
        drawn[unfinished, step] = token
        if step + 1 == max_tokens or not len(unfinished):
            break
        prefixes, row = np.unique([row, token], axis=1, return_inverse=True)
        cache, following = output.past_key_values, prefixes[1][:, None]
        cache.reorder_cache(torch.as_tensor(prefixes[0]))  # its rows: repeated, or left out
    return drawn.reshape(n_prompts, n_samples, max_tokens)


def _draw(logits, row, uniforms, temperature: float) -> np.ndarray:
    """A token for each sample, from its row of logits ``[rows, vocabulary]``."""
    logits = in_float64(logits)
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    below = logits.softmax(dim=-1).cumsum(dim=-1)
    if not below[:, -1].isfinite().all():
        raise ValueError("the model's logits are not finite; run it in a wider type")
    # Each row one higher than the one before, so that a single search serves them all.
    below = below / below[:, -1:] + torch.arange(len(below), device=below.device)[:, None]
    place = np.minimum(row + uniforms, np.nextafter(row + 1.0, 0))  # the sum may round up
    place = torch.as_tensor(place, device=below.device)
    found = torch.searchsorted(below.flatten(), place, right=True)
    return found.cpu().numpy() - row * logits.shape[-1]


def _is_end(model: Model, tokens, others) -> np.ndarray:
    """Whether each token ends an answer: a line, a text, or one of others."""
    kinds, kind = np.unique(tokens, return_inverse=True)
    tokenizer, generation = model.tokenizer, getattr(model.module, "generation_config", None)
    own = getattr(generation, "eos_token_id", None)
    ends = {*others, tokenizer.eos_token_id, *np.atleast_1d(own).tolist()}  # one, several or None
    is_end = [token in ends or "\n" in tokenizer.decode([token]) for token in kinds.tolist()]
    return np.array(is_end, dtype=bool)[kind]


def _texts(tokenizer, drawn) -> np.ndarray:
    """Normalised text of each answer, object array of the shape of ``drawn`` less its last axis."""
    kinds, kind = np.unique(drawn.reshape(-1, drawn.shape[-1]), axis=0, return_inverse=True)
    texts = [normalise(tokenizer.decode(tokens[tokens >= 0])) for tokens in kinds]
    return np.array(texts, dtype=object)[kind].reshape(drawn.shape[:-1])
