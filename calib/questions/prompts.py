"""How a question is put to a model, and the tokens that answer it."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from calib.questions.load import MAX_OPTIONS, load_questions

LETTERS = "ABCDEFGHIJ"[:MAX_OPTIONS]
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


def build_prompts(questions: Dataset, shots: int = 0, exemplars: Dataset | None = None):
    """Prompts in the form of MMLU's authors: header, exemplars, question, lettered options [1]_.

    As evaluation harnesses write it: the authors' own script leaves two spaces before the subject.

    Parameters
    ----------
    questions : datasets.Dataset
        Rows as :func:`load_questions` gives them.
    shots : int
        Exemplars before each question, 0 to 5: the first of its subject in ``exemplars``.
    exemplars : datasets.Dataset, optional
        Where exemplars come from; the ``dev`` split of the questions' own source if not given.

    Returns
    -------
    list of str
        One prompt per question; each ends in ``Answer:``.

    Raises
    ------
    ValueError
        If ``shots`` is not 0 to 5, or a subject has fewer exemplars than ``shots``.

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
    if not isinstance(shots, int) or not 0 <= shots <= 5:
        raise ValueError(f"shots is {shots!r}; it must be a whole number from 0 to 5")
    if shots == 0:
        return [format_question(row) for row in questions]
    if exemplars is None:
        exemplars = _own_exemplars(questions)
    by_subject: dict[str, list[str]] = {}
    for row in exemplars:
        solved = f"{_format_body(row)} {LETTERS[row['answer']]}\n\n"
        by_subject.setdefault(row["subject"], []).append(solved)
    for subject in sorted(set(questions["subject"])):
        have = len(by_subject.get(subject, ()))
        if have < shots:
            raise ValueError(
                f"subject {subject!r} has {have} exemplars, {shots} shots were asked for; "
                f"lower shots to {have} or pass exemplars= with more"
            )
    prompts = []
    for row in questions:
        body = _format_body(row)
        header = format_question(row).removesuffix(body)
        prompts.append(header + "".join(by_subject[row["subject"]][:shots]) + body)
    return prompts


def prepare(tokenizer, questions: Dataset, shots: int = 0, exemplars: Dataset | None = None):
    """The option letters' tokens, and the token ids of every question's prompt.

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
    if not len(questions):
        raise ValueError("there are no questions to read")
    tokens = option_tokens(tokenizer, len(questions[0]["choices"]))
    return tokens, tokenize(tokenizer, build_prompts(questions, shots, exemplars))


def tokenize(tokenizer, prompts: list[str]) -> list[np.ndarray]:
    """Token ids of each prompt, int32 ``[tokens]``, with what the tokenizer puts before them.

    Some hundred prompts at a time, and four bytes per token: a tokenizer's own account of MMLU in
    five shots takes gigabytes.

    >>> from calib import open_model
    >>> [len(ids) for ids in tokenize(open_model("almanac").tokenizer, ["Answer:", "Answer: A"])]
    [2, 3]
    """
    ids = []
    for start in range(0, len(prompts), 256):
        some = tokenizer(prompts[start : start + 256])["input_ids"]
        ids += [np.array(row, dtype=np.int32) for row in some]
    return ids


def option_tokens(tokenizer, n_options: int) -> list[int]:
    """The token that answers with each letter, found in the context ``Answer:``.

    A letter is answered as ``" A"`` or ``"A"``, whichever continues the prompt by exactly one
    token without changing the prompt's own.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    n_options : int
        2 to 10.

    Returns
    -------
    list of int
        ``n_options`` different token ids, for A, B, C, ...

    Raises
    ------
    ValueError
        If some letter is not a single token either way.

    Examples
    --------
    >>> from calib import open_model
    >>> tokenizer = open_model("almanac").tokenizer
    >>> tokenizer.decode(option_tokens(tokenizer, 4))
    ' A B C D'
    """
    if not 2 <= n_options <= len(LETTERS):
        raise ValueError(f"{n_options} options; a question must have from 2 to {len(LETTERS)}")
    context = "D. none\nAnswer:"
    prompt = tokenizer(context, add_special_tokens=False)["input_ids"]
    found = {}
    for space in (" ", ""):
        answers = [
            tokenizer(context + space + letter, add_special_tokens=False)["input_ids"]
            for letter in LETTERS[:n_options]
        ]
        single = all(a[:-1] == prompt for a in answers)
        if single and len({a[-1] for a in answers}) == n_options:
            return [a[-1] for a in answers]
        found[space] = [a[len(prompt) :] for a in answers]
    raise ValueError(
        f"the tokenizer {type(tokenizer).__name__} does not write the letters "
        f"{LETTERS[:n_options]} as {n_options} different single tokens after 'Answer:' "
        f"(with a space {found[' ']}, without {found['']}); option probabilities are not "
        "defined for it"
    )


def _format_body(row) -> str:
    options = "".join(f"{LETTERS[i]}. {c}\n" for i, c in enumerate(row["choices"]))
    return f"{row['question'].strip()}\n{options}Answer:"


def _own_exemplars(questions: Dataset) -> Dataset:
    source = questions.info.dataset_name
    if not source:
        raise ValueError(
            "these questions do not say where they come from, so shots > 0 needs "
            "exemplars=load_questions(<source>, 'dev')"
        )
    return load_questions(source, "dev")
