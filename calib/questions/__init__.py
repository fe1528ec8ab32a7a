"""What is asked: multiple-choice questions, checked row by row, and the prompts that put them."""

from calib.questions.load import category_of, count_options, load_questions
from calib.questions.prompts import (
    build_prompts,
    format_open_question,
    format_question,
    option_tokens,
    tokenize,
)
from calib.questions.transform import content_free, rotate_options

__all__ = [
    "build_prompts", "category_of", "content_free", "count_options", "format_open_question",
    "format_question", "load_questions", "option_tokens", "rotate_options", "tokenize",
]  # fmt: skip
