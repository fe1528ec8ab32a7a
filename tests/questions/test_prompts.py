"""Prompts to the letter, and the tokens that answer them."""

import pytest
from datasets import Dataset
from support.architectures import TOKENIZER
from support.rows import GOOD, THREE, write
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from calib import build_prompts, load_questions
from calib.questions import content_free, option_tokens
from calib.questions.prompts import prepare


def test_a_zero_shot_prompt_is_mmlus_own_form():
    prompt = build_prompts(Dataset.from_list([{**GOOD, "subject": "abstract_algebra"}]))[0]
    assert prompt == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "What is 1 + 1?\nA. 1\nB. 2\nAnswer:"
    )


def test_exemplars_stand_between_header_and_question(tmp_path):
    write(tmp_path, [GOOD])
    write(tmp_path, [{**GOOD, "question": f"What is 1 + {i}?"} for i in range(3)], split="dev")
    assert build_prompts(load_questions(tmp_path), shots=2) == [
        "The following are multiple choice questions (with answers) about sums.\n\n"
        "What is 1 + 0?\nA. 1\nB. 2\nAnswer: B\n\n"
        "What is 1 + 1?\nA. 1\nB. 2\nAnswer: B\n\n"
        "What is 1 + 1?\nA. 1\nB. 2\nAnswer:"
    ]
    with pytest.raises(ValueError, match="'sums' has 3 exemplars, 4 shots were asked for"):
        build_prompts(load_questions(tmp_path), shots=4)


@pytest.mark.parametrize("shots", [-1, 6, 1.0])
def test_shots_run_from_none_to_five(shots):
    with pytest.raises(ValueError, match="from 0 to 5"):
        build_prompts(Dataset.from_list([GOOD]), shots=shots)


def test_questions_of_unknown_origin_need_exemplars():
    with pytest.raises(ValueError, match="exemplars=load_questions"):
        build_prompts(Dataset.from_list([GOOD]), shots=1)


def test_a_file_has_no_exemplars_of_its_own(tmp_path):
    questions = load_questions(write(tmp_path, [GOOD]) / "test.jsonl")
    with pytest.raises(
        ValueError, match=r"come from .*test.jsonl, which has none: pass exemplars="
    ):
        build_prompts(questions, shots=1)


def test_questions_that_break_a_rule_are_not_put():
    for put in (build_prompts, lambda rows: prepare(TOKENIZER, rows)):
        with pytest.raises(ValueError, match=r"question 1 .*answer is 3"):
            put([GOOD, {**THREE, "answer": 3}])
    with pytest.raises(ValueError, match=r"question 0 .*answer is -1"):
        build_prompts([GOOD], shots=1, exemplars=content_free([GOOD]))


def test_each_question_has_its_own_number_of_options():
    assert [prompt.splitlines()[3:] for prompt in build_prompts([GOOD, THREE])] == [
        ["A. 1", "B. 2", "Answer:"],
        ["A. 1", "B. 2", "C. 3", "Answer:"],
    ]
    assert "C. 3\nAnswer: C\n\nWhat is 1 + 1?\nA. 1" in build_prompts([GOOD], 1, [THREE])[0]
    tokens, prompts = prepare(TOKENIZER, [GOOD, THREE])
    assert (tokens, len(prompts)) == (option_tokens(TOKENIZER, 3), 2)


def test_answer_letters_carry_the_space_a_byte_level_tokenizer_gives_them():
    tokens = option_tokens(TOKENIZER, 10)
    assert TOKENIZER.convert_ids_to_tokens(tokens) == [f"Ġ{c}" for c in "ABCDEFGHIJ"]


def word_level(words):
    vocabulary = {w: i for i, w in enumerate(["?", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", eos_token="?")


def test_answer_letters_are_found_without_a_space_in_the_token():
    tokenizer = word_level(["Answer", ":", "D", "C", "B", "A"])
    assert option_tokens(tokenizer, 4) == [6, 5, 4, 3]


def test_letters_that_share_a_token_are_refused():
    with pytest.raises(ValueError, match="as 4 different single tokens after 'Answer:'"):
        option_tokens(word_level(["Answer", ":", "A", "B"]), 4)


@pytest.mark.parametrize("n", [1, 27])
def test_letters_are_defined_for_two_to_26_options(n):
    with pytest.raises(ValueError, match="from 2 to 26"):
        option_tokens(TOKENIZER, n)


def test_a_letter_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match="as 2 different single tokens"):
        option_tokens(word_level(["Answer", ":", "A"]), 2)


def characters(unknown=""):
    """A tokenizer of single characters, the space among them; some it does not know."""
    known = [chr(i) for i in range(10, 127) if chr(i) not in unknown]
    vocabulary = {c: i for i, c in enumerate(["<unk>", *known])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_a_space_that_is_a_token_of_its_own_ends_the_prompt():
    """What is read is where the exemplars' letter stands: right after their space."""
    tokenizer = characters()
    tokens, (prompt,) = prepare(tokenizer, [GOOD], shots=1, exemplars=[THREE])
    text = "".join(tokenizer.convert_ids_to_tokens(prompt))
    assert text == build_prompts([GOOD], 1, [THREE])[0] + " "
    assert tokenizer.convert_ids_to_tokens(tokens) == ["A", "B"]
    letter = text.index("Answer: C") + len("Answer: ")
    assert prompt[letter] == option_tokens(tokenizer, 3)[2]
    assert text[:letter].endswith("Answer: ") and text.endswith("Answer: ")


def test_a_space_that_belongs_to_the_letter_does_not():
    for tokenizer in (TOKENIZER, word_level(["Answer", ":", "B", "A", *"12.:?"])):
        _, (prompt,) = prepare(tokenizer, [GOOD])
        assert prompt.tolist() == tokenizer(build_prompts([GOOD])[0])["input_ids"]


def test_characters_without_letters_are_refused():
    with pytest.raises(ValueError, match="as 4 different single tokens after 'Answer:'"):
        option_tokens(characters(unknown="D"), 4)
    assert len(option_tokens(characters(unknown="D"), 3)) == 3
