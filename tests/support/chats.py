"""Chat templates of the great families, in short, each planted in a small tokenizer."""

import copy
from functools import cache

from support.architectures import TOKENIZER
from tokenizers.processors import TemplateProcessing

BOS = "<bos>"
MARKS = [
    BOS, "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<think>", "</think>", "<|channel|>", "<|message|>",
]  # fmt: skip

_chatml = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
TEMPLATES = {
    "chatml": _chatml + "{% endif %}",
    "gemma": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
        "\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    # A space before the assistant's words, and no generation prompt.
    "llama2": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} "
        "[/INST]{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    # Thinks if it is not told otherwise, by the one name or the other.
    "qwen3": (
        _chatml + "{% if enable_thinking is defined and not enable_thinking %}"
        "<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    "deepseek": (
        _chatml + "{% if thinking is defined and not thinking %}</think>{% else %}<think>"
        "{% endif %}{% endif %}"
    ),
    "thinker": _chatml + "<think>\n{% endif %}",
    # What the assistant says it says on a channel that the generation prompt does not name.
    "channels": (
        "{% for m in messages %}<|im_start|>{{ m.role }}"
        "{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    ),
    "single": (
        "{% if messages | length > 1 %}{{ raise_exception('one turn at a time') }}{% endif %}"
        + _chatml + "{% endif %}"
    ),
    # Earlier answers have a space before them, the one to come has none.
    "uneven": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' and not loop.last %} {% endif %}{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "dated": "Today is {{ strftime_now('%d %b %Y') }}, {{ strftime_now('%A') }}.\n"
    + _chatml + "{% endif %}",
    "echo": "{{ messages[0].content }}",
    "words": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "parts": (
        "{% for m in messages %}{{ m.role }}: {% for part in m.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}"
    ),
}  # fmt: skip


@cache
def chatting(form: str, *, adds_bos: bool = False):
    """A tokenizer with a template; it may put a BOS before a text by itself, as Llama's do."""
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.add_special_tokens({"bos_token": BOS, "additional_special_tokens": MARKS[1:]})
    tokenizer.chat_template = TEMPLATES[form]
    if adds_bos:
        bos = (BOS, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[bos]
        )
    return tokenizer
