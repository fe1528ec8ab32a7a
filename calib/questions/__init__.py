"""What is asked: multiple-choice questions, checked row by row, and the prompts that put them."""

from calib.questions.check import check_questions
from calib.questions.identity import question_ids
from calib.questions.load import category_of, load_questions
from calib.questions.options import count_options, options_per_question
from calib.questions.prompts import (
    build_prompts,
    format_open_question,
    format_question,
    option_tokens,
    tokenize,
)
from calib.questions.transform import content_free, rotate_options, shuffle_options

__all__ = [
    "build_prompts", "category_of", "check_questions", "content_free", "count_options",
    "format_open_question", "format_question", "load_questions", "option_tokens",
    "options_per_question", "question_ids", "rotate_options", "shuffle_options", "tokenize",
]  # fmt: skip
