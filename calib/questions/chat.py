"""Questions as turns of a conversation, in the words of a tokenizer's own chat template.

A model that was tuned on conversations was tuned on one template, with its own marks for whose turn
it is. Here a question is a user's turn, and its letter is how the assistant's turn begins::

    <|im_start|>user                      what build_prompts(..., chat=tokenizer) writes
    ... A. 1 / B. 2 / Answer:<|im_end|>
    <|im_start|>assistant                 the generation prompt, its end
    B                                     the letter: the token that is read

Templates are programs and may do anything with what they are given. What they do is found by
trying: what stands before the assistant's words, what ends them, whether a thought is left open.
"""

from __future__ import annotations

import hashlib
import re

CHAT_FORM = "MMLU, lettered options, one user turn a question; the assistant's turn is the letter"
CONTEXT = "D. none\nAnswer:"  # the end of a question, after which letters are looked for

# A template that can think is told not to; it is called the one or the other.
NO_THINKING = {"enable_thinking": False, "thinking": False}
THOUGHT = re.compile(r"[<\[◁](/?)[\w:|]*think\w*[>\]▷]", re.IGNORECASE)

# Some templates tell the model what day it is, and the same question would be another tomorrow. To
# them it is always the day that Llama 3's own template names where it knows of no clock.
DAY = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24", "%A": "Friday"}
CLOCK = (
    "{%- macro strftime_now(form) -%}{{ form"
    + "".join(f" | replace('{sign}', '{day}')" for sign, day in DAY.items())
    + " }}{%- endmacro %}\n"  # a line end after a block is not written
)


def template_of(tokenizer) -> str:
    """The chat template of a tokenizer; of several the one that it calls its default.

    Raises
    ------
    TypeError, ValueError
        If this is no tokenizer, or one without a template.

    Examples
    --------
    >>> from calib import open_model
    >>> template_of(open_model("almanac").tokenizer)
    Traceback (most recent call last):
    ...
    ValueError: ... has no chat template; leave out chat=True or set tokenizer.chat_template
    """
    if not hasattr(tokenizer, "apply_chat_template"):
        raise TypeError(
            f"chat is {tokenizer!r:.60}; it must be the tokenizer whose template is meant, such as "
            "model.tokenizer"
        )
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer {type(tokenizer).__name__} has no chat template; leave out chat=True "
            "or set tokenizer.chat_template"
        )
    return tokenizer.get_chat_template()


def template_digest(tokenizer) -> str:
    """Sixteen hexadecimal digits that change with the template."""
    return hashlib.sha256(template_of(tokenizer).encode()).hexdigest()[:16]


def put_in_turns(tokenizer, asked: list[str], answered=()) -> str:
    """A conversation as the template writes it: the user's turns, and the assistant's after them.

    If the last one asked is not answered, the text ends with the generation prompt, after which the
    assistant would speak. The default system prompt that some templates write by themselves is left
    standing: it belongs to how the model was tuned. A template that asks what day it is hears
    26 July 2024, always.

    Parameters
    ----------
    asked : list of str
    answered : list of str
        As many, or one fewer.

    Raises
    ------
    TypeError, ValueError
        As :func:`template_of`; if the template raises, does not write what it is given, or leaves
        a thought open at the end.

    Examples
    --------
    >>> from calib import open_model
    >>> tokenizer = open_model("almanac").tokenizer
    >>> tokenizer.chat_template = (
    ...     "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\\n{% endfor %}"
    ...     "{% if add_generation_prompt %}assistant: {% endif %}"
    ... )
    >>> print(put_in_turns(tokenizer, ["1 + 1?", "2 + 1?"], ["2"]) + "3")
    user: 1 + 1?
    assistant: 2
    user: 2 + 1?
    assistant: 3
    """
    template, kind = template_of(tokenizer), type(tokenizer).__name__
    if "strftime_now" in template:
        template = CLOCK + template
    turns = []
    for i, words in enumerate(asked):
        turns.append({"role": "user", "content": words})
        turns += [{"role": "assistant", "content": words} for words in answered[i : i + 1]]
    prompting = len(answered) < len(asked)
    try:
        text = tokenizer.apply_chat_template(
            turns, chat_template=template, tokenize=False, add_generation_prompt=prompting,
            **NO_THINKING,
        )  # fmt: skip
    except Exception as error:  # a template raises what it likes
        fewer = "ask with shots=0 or " if len(asked) > 1 else ""
        raise ValueError(
            f"the chat template of {kind} refuses a conversation of {len(turns)} turns (it says: "
            f"{error}); {fewer}leave out chat=True"
        ) from error
    for words in asked:
        if words.strip() not in text:
            raise ValueError(
                f"the chat template of {kind} does not write a user's turn, {words[:40]!r}, as it "
                "stands; it changes the words or wants more than plain text: leave out chat=True"
            )
    if prompting:
        _check_thoughts(text.rpartition(asked[-1].strip())[2], kind)
    return text


def answer_start(tokenizer) -> str:
    """What the template writes between its generation prompt and the assistant's first word.

    For most nothing; for some a space, the name of a channel, an empty thought. It is read off a
    whole conversation. Where that does not begin as the prompt does, or the template takes no turn
    of the assistant's, the first word follows the generation prompt.

    Raises
    ------
    TypeError, ValueError
        As :func:`put_in_turns`.
    """
    prompt = put_in_turns(tokenizer, [CONTEXT])
    before = _around_the_answer(tokenizer)[0]
    if not before.startswith(prompt):
        return ""
    start = before.removeprefix(prompt)
    _check_thoughts(start, type(tokenizer).__name__)
    return start


def put_alone(tokenizer, asked: list[str]) -> list[str]:
    """Each text as a conversation of its own, up to where the assistant's first word follows.

    Raises
    ------
    TypeError, ValueError
        As :func:`put_in_turns`.
    """
    start = answer_start(tokenizer).rstrip(" ")  # a word brings its space with it
    return [put_in_turns(tokenizer, [words]) + start for words in asked]


def end_of_turn(tokenizer) -> int | None:
    """The token by which the template ends an assistant's turn, if it is one made for that.

    Models say it at the end of their answer. Not all tokenizers know it as the end of a text.

    Raises
    ------
    TypeError, ValueError
        As :func:`template_of`.
    """
    after = _around_the_answer(tokenizer)[1].lstrip()
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    return ids[0] if ids and ids[0] in tokenizer.added_tokens_decoder else None


def check_exemplars(tokenizer, tokens: list[int]) -> None:
    """Refuse a template in which an exemplar's letter is another token than the answer's.

    Parameters
    ----------
    tokens : list of int
        Those that answer, for A, B, C, ...
    """
    letters = [chr(ord("A") + i) for i in range(len(tokens))]
    texts = [put_in_turns(tokenizer, [CONTEXT, CONTEXT], [letter]) for letter in letters]
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    different = [column for column in zip(*rows, strict=False) if len(set(column)) > 1]
    if len(set(map(len, rows))) > 1 or different != [tuple(tokens)]:
        raise ValueError(
            f"the chat template of {type(tokenizer).__name__} writes the letters of exemplars as "
            f"{different[:2]}, where the tokens of an answer are {tokens}; ask with shots=0 or "
            "leave out chat=True"
        )


def _around_the_answer(tokenizer) -> tuple[str, str]:
    """What the template writes before and after the assistant's words; nothing if it takes none."""
    template_of(tokenizer)  # refuses what has none
    try:
        texts = [put_in_turns(tokenizer, [CONTEXT], [letter]) for letter in "AB"]
    except ValueError:
        return "", ""
    places = (i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b)
    place = next(places, 0)  # 0 where the words are not written at all
    return texts[0][:place], texts[0][place + 1 :]


def _check_thoughts(text: str, kind: str) -> None:
    """Refuse a place for the answer that lies inside a thought."""
    marks = list(THOUGHT.finditer(text))
    if marks and not marks[-1][1]:
        raise ValueError(
            f"the chat template of {kind} opens a thought ({marks[-1][0]}) before the answer, "
            "though it was told not to think: the letter would be read inside its thinking; leave "
            "out chat=True"
        )
