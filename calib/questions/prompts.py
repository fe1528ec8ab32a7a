"""How a question is put to a model, and the tokens that answer it."""

from __future__ import annotations

import os
from numbers import Integral

import numpy as np
from datasets import Dataset

from calib.questions.chat import CONTEXT, answer_start, check_exemplars, put_in_turns
from calib.questions.check import check_questions
from calib.questions.faults import LETTERS
from calib.questions.load import load_questions
from calib.questions.options import options_per_question

PROMPT_FORM = "MMLU, lettered options, answer letter after 'Answer:'"


def format_question(row) -> str:
    """The zero-shot prompt of one question, up to and including ``Answer:``.

    >>> row = {"question": "What is 1 + 1?", "subject": "sums", "choices": ["1", "2"]}
    >>> print(format_question(row))
    The following are multiple choice questions (with answers) about sums.
    <BLANKLINE>
    What is 1 + 1?
    A. 1
    B. 2
    Answer:
    """
    subject = row["subject"].replace("_", " ")
    header = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    return header + _format_body(row)


def format_open_question(row) -> str:
    """The same question without its options, to be answered in words.

    >>> row = {"question": "What is 1 + 1?", "subject": "sums", "choices": ["1", "2"]}
    >>> print(format_open_question(row).splitlines()[-2:])
    ['What is 1 + 1?', 'Answer:']
    """
    subject = row["subject"].replace("_", " ")
    header = f"The following are questions (with answers) about {subject}.\n\n"
    return f"{header}{row['question'].strip()}\nAnswer:"


def build_prompts(
    questions: Dataset, shots: int = 0, exemplars: Dataset | None = None, *, chat=None
) -> list[str]:
    """Prompts in the form of MMLU's authors: header, exemplars, question, lettered options [1]_.

    As evaluation harnesses write it: the authors' own script leaves two spaces before the subject.

    Parameters
    ----------
    questions : datasets.Dataset, pandas.DataFrame or list of dict
        As :func:`load_questions` gives them, or in the same columns.
    shots : int
        Exemplars before each question, 0 to 5: the first of its subject in ``exemplars``.
    exemplars : datasets.Dataset, optional
        Where exemplars come from; the ``dev`` split of the questions' own source if not given.
    chat : transformers tokenizer, optional
        Write them in its template: each question a user's turn, each exemplar's letter the
        assistant's. The template's default system prompt stays; it is told not to think.

    Returns
    -------
    list of str
        One prompt per question; each ends in ``Answer:``, or the template's generation prompt.

    Raises
    ------
    TypeError, ValueError
        If ``shots`` is not 0 to 5, a subject has fewer exemplars than ``shots``, the tokenizer has
        no chat template, or it refuses such turns or thinks before it answers.

    References
    ----------
    .. [1] Hendrycks et al., "Measuring Massive Multitask Language Understanding", ICLR 2021.

    Examples
    --------
    >>> from calib import load_questions
    >>> prompts = build_prompts(load_questions("almanac", limit=2), shots=1)
    >>> [prompt.count("Answer:") for prompt in prompts]
    [2, 2]
    """
    if not isinstance(shots, Integral) or isinstance(shots, bool) or not 0 <= shots <= 5:
        raise ValueError(f"shots is {shots!r}; it must be a whole number from 0 to 5")
    questions = check_questions(questions, unanswered=True)
    by_subject = _solved(questions, shots, exemplars) if shots else {}
    prompts = []
    for row in questions:
        body = _format_body(row)
        header = format_question(row).removesuffix(body)
        solved = by_subject.get(row["subject"], [])[:shots]
        if chat is None:
            shown = "".join(f"{asked} {letter}\n\n" for asked, letter in solved)
            prompts.append(header + shown + body)
        else:
            first, *others = [*(asked for asked, _ in solved), body]
            letters = [letter for _, letter in solved]
            prompts.append(put_in_turns(chat, [header + first, *others], letters))
    return prompts


def prepare(tokenizer, questions: Dataset, shots=0, exemplars=None, *, chat: bool = False):
    """The option letters' tokens, and the token ids of every question's prompt.

    There are tokens for the question with the most options. Where the tokenizer writes a letter's
    space as a token of its own, the prompts end with it; and with all that a chat template writes
    before an answer.

    Raises
    ------
    ValueError
        If there are no questions, and as :func:`build_prompts` and :func:`option_tokens`.

    Examples
    --------
    >>> from calib import load_questions, open_model
    >>> tokenizer = open_model("almanac").tokenizer
    >>> tokens, prompts = prepare(tokenizer, load_questions("almanac", limit=3))
    >>> len(tokens), len(prompts)
    (4, 3)
    """
    questions = check_questions(questions, unanswered=True)
    if not len(questions):
        raise ValueError("there are no questions to read")
    end, tokens = _answer_form(tokenizer, int(options_per_question(questions).max()), chat)
    prompts = build_prompts(questions, shots, exemplars, chat=tokenizer if chat else None)
    if chat and shots:
        check_exemplars(tokenizer, tokens)
    return tokens, tokenize(tokenizer, [prompt + end for prompt in prompts], chat=chat)


def tokenize(tokenizer, prompts: list[str], *, chat: bool = False) -> list[np.ndarray]:
    """Token ids of each prompt, int32 ``[tokens]``, with what the tokenizer puts before them.

    Before prompts in a chat template it puts nothing: the template has written all there is, the
    token that begins a text too, if the model was tuned with one. Some hundred prompts at a time,
    and four bytes per token: a tokenizer's own account of MMLU in five shots takes gigabytes.

    >>> from calib import open_model
    >>> [len(ids) for ids in tokenize(open_model("almanac").tokenizer, ["Answer:", "Answer: A"])]
    [2, 3]
    """
    ids = []
    for start in range(0, len(prompts), 256):
        some = tokenizer(prompts[start : start + 256], add_special_tokens=not chat)["input_ids"]
        ids += [np.array(row, dtype=np.int32) for row in some]
    return ids


def option_tokens(tokenizer, n_options: int, *, chat: bool = False) -> list[int]:
    """The token that answers with each letter, found in the context ``Answer:``.

    After "Answer:" a letter follows with a space, as in the exemplars. The tokens of the letters
    are those that differ; what comes before them, the space where it is a token of its own, belongs
    to the prompt.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    n_options : int
        2 to 26.
    chat : bool
        The tokens that begin the assistant's turn in the tokenizer's chat template instead: most
        templates put no space before it.

    Returns
    -------
    list of int
        ``n_options`` different token ids, for A, B, C, ...

    Raises
    ------
    ValueError
        If some letter is not a single token, or an unknown one; with ``chat``, as
        :func:`calib.build_prompts`.

    Examples
    --------
    >>> from calib import open_model
    >>> tokenizer = open_model("almanac").tokenizer
    >>> tokenizer.decode(option_tokens(tokenizer, 4))
    ' A B C D'
    """
    return _answer_form(tokenizer, n_options, chat)[1]


def _answer_form(tokenizer, n_options: int, chat: bool) -> tuple[str, list[int]]:
    """What a prompt ends with beyond what is built, such as a space, and the letters' tokens."""
    if not 2 <= n_options <= len(LETTERS):
        raise ValueError(f"{n_options} options; a question must have from 2 to {len(LETTERS)}")

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    letters, context, lead, place = LETTERS[:n_options], CONTEXT, " ", "'Answer:' (with a space"
    if chat:
        context, lead = put_in_turns(tokenizer, [CONTEXT]), answer_start(tokenizer)
        place = f"the chat template's {(context + lead)[-20:]!r} (there"
    answers = [ids(f"{context}{lead}{letter}") for letter in letters]
    tokens = [answer[-1] for answer in answers if answer]
    before = {tuple(answer[:-1]) for answer in answers}
    different = len(set(tokens)) == n_options and tokenizer.unk_token_id not in tokens
    for end in (lead.rstrip(" "), lead):
        if different and before == {tuple(ids(context + end))}:
            return end, tokens
    raise ValueError(
        f"the tokenizer {type(tokenizer).__name__} does not write the letters {letters} as "
        f"{n_options} different single tokens after {place} they end in "
        f"{[answer[-2:] for answer in answers]}); option probabilities are not defined for it"
    )


def _format_body(row) -> str:
    options = "".join(f"{LETTERS[i]}. {c}\n" for i, c in enumerate(row["choices"]))
    return f"{row['question'].strip()}\n{options}Answer:"


def _solved(questions: Dataset, shots: int, exemplars) -> dict[str, list[tuple[str, str]]]:
    """Of each subject, its exemplars: how they are asked, and the letter that answers them."""
    exemplars = _own_exemplars(questions) if exemplars is None else check_questions(exemplars)
    by_subject: dict[str, list[tuple[str, str]]] = {}
    for row in exemplars:
        solved = _format_body(row), LETTERS[row["answer"]]
        by_subject.setdefault(row["subject"], []).append(solved)
    for subject in sorted(set(questions["subject"])):
        have = len(by_subject.get(subject, ()))
        if have < shots:
            raise ValueError(
                f"subject {subject!r} has {have} exemplars, {shots} shots were asked for; "
                f"lower shots to {have} or pass exemplars= with more"
            )
    return by_subject


def _own_exemplars(questions: Dataset) -> Dataset:
    source = questions.info.dataset_name
    if source in ("almanac", "mmlu") or os.path.isdir(source or ""):
        return load_questions(source, "dev")
    where = f"come from {source}, which has none" if source else "do not say where they come from"
    raise ValueError(
        f"exemplars are needed for shots > 0, and these questions {where}: pass "
        "exemplars=load_questions(<source>, 'dev'), or other questions"
    )
