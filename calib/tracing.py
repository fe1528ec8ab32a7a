"""One traced forward pass over a batch of prompts, and how prompts are put into batches."""

from __future__ import annotations

import numpy as np
import torch

from calib.models import Model, finish


def read_batch(model: Model, ids, mask, tokens: list[int], keep: list[int]):
    """One traced pass over left-padded prompts.

    Parameters
    ----------
    ids, mask : int tensors ``[batch, tokens]``
    tokens : list of int
        The option letters' tokens.
    keep : list of int
        Layers whose residual streams to return.

    Returns
    -------
    tensors ``[batch, layers + 1, options]`` and ``[kept layers, batch, d_model]``
    """
    # Bound here so that the traced block ships nothing but tensors, numbers and envoys.
    layers, norm, unembedding = (model.part(p) for p in ("layers", "norm", "unembedding"))
    in_tuple, linear = model.tuple_output, torch.nn.functional.linear
    with (
        torch.no_grad(),
        model.traced.trace(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1),
    ):
        stream = [layers[0].input[:, -1]]
        for layer in layers:
            output = layer.output
            stream.append((output[0] if in_tuple else output)[:, -1])
        stream = torch.stack(stream)  # [layers + 1, batch, d_model]
        weight = unembedding.weight[tokens]  # [options, d_model]
        bias = None if unembedding.bias is None else unembedding.bias[tokens]
        logits = linear(norm(stream), weight, bias).transpose(0, 1).clone().save()
        kept = stream[keep].clone().save()
    return finish(logits, model.logit_scale, model.soft_cap), kept


def plan_batches(lengths: list[int], batch_tokens: int, context: int) -> list[list[int]]:
    """Group prompts of similar length so that rows x longest stays within ``batch_tokens``.

    >>> plan_batches([5, 9, 5, 4], batch_tokens=12, context=100)
    [[1], [0, 2], [3]]
    """
    longest = int(np.argmax(lengths))
    for limit, rule in ((context, "the model's context"), (batch_tokens, "batch_tokens")):
        if lengths[longest] > limit:
            raise ValueError(
                f"the prompt of question {longest} has {lengths[longest]} tokens, {rule} is "
                f"{limit}; use fewer shots, leave the question out"
                + (" or raise batch_tokens" if rule == "batch_tokens" else "")
            )
    batches: list[list[int]] = []
    # Longest first: if memory is short, the first batch says so.
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches
