"""Prompts to the letter, and the tokens that answer them."""

import pytest
from datasets import Dataset
from support.architectures import TOKENIZER
from support.rows import GOOD, write
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from calib import build_prompts, load_questions
from calib.questions import option_tokens


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


@pytest.mark.parametrize("n", [1, 11])
def test_letters_are_defined_for_two_to_ten_options(n):
    with pytest.raises(ValueError, match="from 2 to 10"):
        option_tokens(TOKENIZER, n)
