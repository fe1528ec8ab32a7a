"""Which prompts are sampled from together, and which cannot be."""

from __future__ import annotations

import numpy as np

from calib.reading._batches import Batch, equal_lengths


def check_switch(prompts, max_tokens, model) -> None:
    """Refuse an answer on the way of which the keys kept so far would have to be others."""
    for i, prompt in enumerate(prompts):
        if len(prompt) <= (model.rope_switch or np.inf) < len(prompt) + max_tokens - 1:
            raise ValueError(
                f"the prompt of question {i} has {len(prompt)} tokens, and its answer would pass "
                f"{model.rope_switch}, where {model.name} changes its rotary factors; leave the "
                "question out or lower max_tokens"
            )


def plan_samples(prompts, n_samples, max_tokens, batch_tokens, context) -> list[Batch]:
    """Batches of prompts of one length, the longest first."""
    lengths = np.array([len(prompt) for prompt in prompts])
    longest = int(lengths.argmax())
    whole = lengths + max_tokens - 1  # the last token of an answer is not read any more
    room = whole * n_samples if max_tokens > 1 else lengths
    if whole[longest] > context:
        raise ValueError(
            f"the prompt of question {longest} has {lengths[longest]} tokens, with an answer of "
            f"{max_tokens} it is longer than the model's context, {context}; leave the question "
            "out or lower max_tokens"
        )
    if room[longest] > batch_tokens:
        raise ValueError(
            f"question {longest} with its samples takes {room[longest]} tokens, batch_tokens is "
            f"{batch_tokens}; raise it to that, or lower n_samples or max_tokens"
        )
    return equal_lengths(lengths, room, batch_tokens)
