"""Questions in chat templates: to the letter, token by token, and what is refused."""

import pytest
from support.architectures import TOKENIZER
from support.chats import TEMPLATES, chatting
from support.rows import GOOD, THREE
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from calib import build_prompts
from calib.questions import content_free, option_tokens, tokenize
from calib.questions.chat import (
    answer_start,
    check_exemplars,
    end_of_turn,
    put_alone,
    put_in_turns,
    template_digest,
    template_of,
)
from calib.questions.prompts import prepare

HEADER = "The following are multiple choice questions (with answers) about sums.\n\n"
SOLVED = "What is 2 + 1?\nA. 1\nB. 2\nC. 3\nAnswer:"
ASKED = "What is 1 + 1?\nA. 1\nB. 2\nAnswer:"

ONE_SHOT = {
    "chatml": (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        f"<|im_start|>user\n{HEADER}{SOLVED}<|im_end|>\n"
        "<|im_start|>assistant\nC<|im_end|>\n"
        f"<|im_start|>user\n{ASKED}<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "gemma": (
        f"<bos><start_of_turn>user\n{HEADER}{SOLVED}<end_of_turn>\n"
        "<start_of_turn>model\nC<end_of_turn>\n"
        f"<start_of_turn>user\n{ASKED}<end_of_turn>\n"
        "<start_of_turn>model\n"
    ),
    "llama3": (
        f"<bos><|start_header_id|>user<|end_header_id|>\n\n{HEADER}{SOLVED}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nC<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{ASKED}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "llama2": f"<bos>[INST] {HEADER}{SOLVED} [/INST] C <end>[INST] {ASKED} [/INST]",
}
FORMS = list(ONE_SHOT)


def turns(shots):
    """The conversation by hand, without the library."""
    if not shots:
        return [{"role": "user", "content": HEADER + ASKED}]
    return [
        {"role": "user", "content": HEADER + SOLVED},
        {"role": "assistant", "content": "C"},
        {"role": "user", "content": ASKED},
    ]


# What is refused


@pytest.mark.parametrize("put", [
    lambda t: build_prompts([GOOD], chat=t),
    lambda t: prepare(t, [GOOD], chat=True),
    lambda t: option_tokens(t, 4, chat=True),
    template_of, template_digest, answer_start, end_of_turn,
])  # fmt: skip
def test_a_tokenizer_without_a_template_is_refused(put):
    with pytest.raises(ValueError, match=r"has no chat template; leave out chat=True or set"):
        put(TOKENIZER)


@pytest.mark.parametrize("chat", [True, False, "chatml"])
def test_build_prompts_needs_the_tokenizer_itself(chat):
    with pytest.raises(TypeError, match=r"chat is .*; it must be the tokenizer whose template"):
        build_prompts([GOOD], chat=chat)


def test_several_templates_need_a_default():
    tokenizer = chatting("chatml")
    tokenizer.chat_template = {"default": TEMPLATES["chatml"], "tool_use": TEMPLATES["gemma"]}
    try:
        assert template_of(tokenizer) == TEMPLATES["chatml"]
        assert build_prompts([GOOD], 1, [THREE], chat=tokenizer) == [ONE_SHOT["chatml"]]
        tokenizer.chat_template = {"tool_use": TEMPLATES["gemma"], "rag": TEMPLATES["gemma"]}
        with pytest.raises(ValueError, match="multiple chat templates with no default"):
            build_prompts([GOOD], chat=tokenizer)
    finally:
        tokenizer.chat_template = TEMPLATES["chatml"]


def test_a_thought_that_is_left_open_is_refused():
    for put in (lambda t: build_prompts([GOOD], chat=t), lambda t: prepare(t, [GOOD], chat=True)):
        with pytest.raises(ValueError, match=r"opens a thought \(<think>\) .*leave out chat=True"):
            put(chatting("thinker"))


def test_a_thought_in_the_question_is_its_own_affair():
    asked = {**GOOD, "question": "What does <think> mean?"}
    (prompt,) = build_prompts([asked], chat=chatting("gemma"))
    assert "What does <think> mean?\nA. 1" in prompt


def test_a_template_that_takes_one_turn_takes_no_exemplars():
    tokenizer = chatting("single")
    said = r"refuses a conversation of 3 turns \(it says: one turn at a time\); ask with shots=0 or"
    with pytest.raises(ValueError, match=said):
        build_prompts([GOOD], 1, [THREE], chat=tokenizer)
    tokens, (prompt,) = prepare(tokenizer, [GOOD], chat=True)
    assert tokenizer.decode(tokens) == "AB"
    assert tokenizer.decode(prompt).endswith(f"{ASKED}<|im_end|>\n<|im_start|>assistant\n")
    assert end_of_turn(tokenizer) is None


def test_a_template_that_drops_the_question_is_refused():
    with pytest.raises(ValueError, match=r"does not write a user's turn, 'The following"):
        build_prompts([GOOD], chat=chatting("parts"))


def test_exemplars_must_be_answered_as_the_question_is():
    tokenizer = chatting("uneven")
    tokens, _ = prepare(tokenizer, [GOOD], chat=True)
    a, b = TOKENIZER(" A B")["input_ids"]
    with pytest.raises(ValueError, match=rf"of exemplars as \[\({a}, {b}\)\], where .*shots=0"):
        prepare(tokenizer, [GOOD], 1, [GOOD], chat=True)
    with pytest.raises(ValueError, match="letters of exemplars"):
        check_exemplars(chatting("chatml"), tokens[::-1])


def test_letters_that_are_unknown_are_refused():
    known = {c: i for i, c in enumerate(["?", *map(chr, range(10, 127))]) if c != "B"}
    known = {c: i for i, c in enumerate(known)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(known, [], unk_token="?")), unk_token="?"
    )
    tokenizer.chat_template = TEMPLATES["chatml"]
    with pytest.raises(ValueError, match=r"as 2 different single tokens after the chat template's"):
        option_tokens(tokenizer, 2, chat=True)
    with pytest.raises(ValueError, match="from 2 to 26"):
        option_tokens(tokenizer, 27, chat=True)


# What is written


@pytest.mark.parametrize("form", FORMS)
def test_an_exemplar_is_a_turn_and_its_letter_the_answer(form):
    assert build_prompts([GOOD], 1, [THREE], chat=chatting(form)) == [ONE_SHOT[form]]


def test_a_question_is_one_turn_and_has_the_header():
    prompts = build_prompts(
        [{**GOOD, "subject": "abstract_algebra"}, THREE], chat=chatting("gemma")
    )
    header = (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
    )
    assert prompts == [
        f"<bos><start_of_turn>user\n{header}{ASKED}<end_of_turn>\n<start_of_turn>model\n",
        f"<bos><start_of_turn>user\n{HEADER}{SOLVED}<end_of_turn>\n<start_of_turn>model\n",
    ]


def test_a_template_that_can_think_is_told_not_to():
    start = f"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{HEADER}{ASKED}<|im_end|>\n"
    for form, end in (("qwen3", "<think>\n\n</think>\n\n"), ("deepseek", "</think>")):
        (prompt,) = build_prompts([GOOD], chat=chatting(form))
        assert prompt == f"{start}<|im_start|>assistant\n{end}"
        tokens, _ = prepare(chatting(form), [GOOD], 1, [THREE], chat=True)
        assert chatting(form).decode(tokens) == "AB"


def test_the_clock_of_a_template_stands_still():
    (prompt,) = build_prompts([GOOD], chat=chatting("dated"))
    assert prompt.startswith("Today is 26 Jul 2024, Friday.\n<|im_start|>system\nBe kind.")


@pytest.mark.parametrize("shots", [0, 1])
def test_questions_without_content_are_put_too(shots):
    empty = content_free([GOOD], texts=["N/A", ""])
    prompts = build_prompts(empty, shots, [THREE], chat=chatting("gemma"))
    before = HEADER + f"{SOLVED}<end_of_turn>\n<start_of_turn>model\nC<end_of_turn>\n" * shots
    before += "<start_of_turn>user\n" * shots
    assert prompts[0] == (
        f"<bos><start_of_turn>user\n{before}N/A\nA. N/A\nB. N/A\nAnswer:<end_of_turn>\n"
        "<start_of_turn>model\n"
    )
    assert prompts[1].endswith("A. \nB. \nAnswer:<end_of_turn>\n<start_of_turn>model\n")


def test_nothing_else_changes_for_a_tokenizer_that_has_a_template():
    plain, tokens = build_prompts([GOOD], 1, [THREE]), option_tokens(TOKENIZER, 4)
    tokenizer = chatting("llama3")
    found, (prompt,) = prepare(tokenizer, [GOOD], 1, [THREE])
    assert tokenizer.decode(prompt) == plain[0]
    assert found == tokens[:2] == option_tokens(tokenizer, 2)


# Tokens


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("shots", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_prompts_are_what_the_tokenizer_makes_of_the_conversation(form, shots, adds_bos):
    tokenizer = chatting(form, adds_bos=adds_bos)
    _, (prompt,) = prepare(tokenizer, [GOOD], shots, [THREE], chat=True)
    own = tokenizer.apply_chat_template(turns(shots), add_generation_prompt=True)["input_ids"]
    assert prompt.tolist() == own
    # As often as the template writes it, whatever the tokenizer adds to a plain text.
    count = 0 if form == "chatml" else 1
    assert prompt.tolist().count(tokenizer.bos_token_id) == count
    (plain,) = tokenize(tokenizer, build_prompts([GOOD]))
    assert plain.tolist().count(tokenizer.bos_token_id) == adds_bos


@pytest.mark.parametrize("form", [*FORMS, "qwen3", "deepseek", "channels"])
def test_an_exemplars_letter_is_the_token_that_answers(form):
    tokenizer = chatting(form)
    tokens, (prompt,) = prepare(tokenizer, [THREE], 1, [THREE], chat=True)
    assert tokens == option_tokens(tokenizer, 3, chat=True)
    _, (other,) = prepare(tokenizer, [THREE], 1, [{**THREE, "answer": 0}], chat=True)
    (place,) = (prompt != other).nonzero()[0]
    assert [other[place], prompt[place]] == [tokens[0], tokens[2]]


def test_most_letters_have_no_space_before_them():
    for form in ("chatml", "gemma", "llama3", "qwen3"):
        assert chatting(form).convert_ids_to_tokens(
            option_tokens(chatting(form), 4, chat=True)
        ) == ["A", "B", "C", "D"]
    # Llama 2 was tuned on " A", and so are its letters read.
    letters = option_tokens(chatting("llama2"), 4, chat=True)
    assert letters == option_tokens(TOKENIZER, 4)


def test_what_stands_before_the_answer_belongs_to_the_prompt():
    tokenizer = chatting("channels")
    assert answer_start(tokenizer) == "<|channel|>final<|message|>"
    _, (prompt,) = prepare(tokenizer, [GOOD], chat=True)
    assert tokenizer.decode(prompt) == (
        f"<|im_start|>user<|message|>{HEADER}{ASKED}<|im_end|>"
        "<|im_start|>assistant<|channel|>final<|message|>"
    )
    assert [answer_start(chatting(form)) for form in FORMS] == ["", "", "", " "]
    assert put_alone(tokenizer, ["Who?"]) == [
        "<|im_start|>user<|message|>Who?<|im_end|><|im_start|>assistant<|channel|>final<|message|>"
    ]
    assert put_alone(chatting("llama2"), ["Who?"]) == ["<bos>[INST] Who? [/INST]"]


def test_the_end_of_a_turn_is_the_templates_own():
    ends = ["<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<end>"]
    for form, end in zip(FORMS, ends, strict=True):
        assert end_of_turn(chatting(form)) == chatting(form).convert_tokens_to_ids(end)
    assert end_of_turn(chatting("words")) is None


def test_the_digest_is_the_templates():
    digests = {template_digest(chatting(form)) for form in FORMS}
    assert len(digests) == len(FORMS)
    # echo -n '{{ messages[0].content }}' | sha256sum
    tokenizer = chatting("echo")
    assert template_digest(tokenizer) == "21b1d9c74a217211"
    assert put_in_turns(tokenizer, ["Who?"]) == "Who?"
