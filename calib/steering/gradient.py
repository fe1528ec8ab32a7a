"""A direction learned by gradient: the push that lowers NLL most, the model staying as it is."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset

from calib.models.logit_lens import finish
from calib.models.model import Model
from calib.models.place import memory_for
from calib.questions import check_questions
from calib.questions.prompts import prepare
from calib.reading._batches import equal_lengths
from calib.reading._forward import pad_right
from calib.reading._prefix import can_share, run_prefix
from calib.reading.layers import read_layers
from calib.steering.directions import Direction, make_direction


def gradient_direction(
    model: Model,
    questions: Dataset,
    layer: int,
    *,
    max_steps: int = 30,
    chat: bool = False,
    batch_tokens: int = 8192,
) -> Direction:
    """The vector that lowers the NLL of the answers most, added at the answer position of a layer.

    Found by L-BFGS [1]_ from zero on all questions at once; the model's weights stay as they are.
    Only the last token is run again and again: the keys and values of what comes before it are
    kept, which for each token takes two vectors of every layer's memory.

    Parameters
    ----------
    questions : datasets.Dataset
        Of the calibration split.
    layer : int
        0 to L.
    max_steps : int
        Of L-BFGS.
    chat : bool
        As in :func:`calib.read_layers`.
    batch_tokens : int
        Most tokens that are run at once.

    Raises
    ------
    ValueError
        If the model is remote, if it keeps more of earlier tokens than keys and values, if no push
        lowers the NLL, and as :func:`calib.read_layers`.

    References
    ----------
    .. [1] Liu & Nocedal, "On the limited memory BFGS method for large scale optimization",
       Mathematical Programming 45, 1989.

    Examples
    --------
    >>> from calib import load_questions, open_model
    >>> questions = load_questions("almanac", "validation", limit=40)
    >>> gradient_direction(open_model("almanac-tuned"), questions, 7, max_steps=3).layer
    7
    """
    model.require_rows("a direction is trained by gradients, which a server does not compute")
    if not can_share(model):
        raise ValueError(
            f"{model.architecture} keeps more of earlier tokens than keys and values, so its last "
            "token cannot be run by itself; use a direction that is fitted on a reading"
        )
    questions = check_questions(questions)  # of which each has an answer
    how = {"chat": chat, "batch_tokens": batch_tokens}
    reading = read_layers(model, questions, keep_residuals=[layer], **how)
    scale = reading.scale(layer)
    tokens, prompts = prepare(model.tokenizer, questions, chat=chat)
    if any(len(prompt) - 1 == model.rope_switch for prompt in prompts):
        raise ValueError(
            f"a prompt has {model.rope_switch + 1} tokens, of which all but the last are read with "
            f"other rotary factors in {model.name}; leave such questions out"
        )
    way_out = "the keys and values of all questions are kept: use fewer questions"
    with model.running(), memory_for(f"a direction from {len(prompts)} questions", way_out):
        batches = _last_tokens(model, prompts, reading, layer, batch_tokens)
        vector = _descend(model, batches, tokens, layer, scale, max_steps, len(prompts))
    return make_direction(vector.detach().numpy(), layer, reading, "gradient")


def _descend(model, batches, tokens, layer, scale, max_steps, n_questions):
    """The vector ``[d_model]`` of lowest NLL, in units of the scale."""
    vector = torch.zeros(model.d_model, requires_grad=True)
    lbfgs = torch.optim.LBFGS([vector], max_iter=max_steps, line_search_fn="strong_wolfe")

    def loss_and_gradient():
        total, vector.grad = 0.0, torch.zeros_like(vector)
        for ids, prefix, stream, labels, absent in batches:
            pushed = stream + scale * vector  # [batch, d_model]
            logits = _pushed_logits(model, ids, prefix, tokens, layer, pushed)
            labels, absent = labels.to(logits.device), absent.to(logits.device)
            logits = logits.masked_fill(absent, -torch.inf)
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / n_questions
            vector.grad += torch.autograd.grad(loss, [vector])[0]  # of the vector alone
            total += loss.item()
        return total

    lbfgs.step(loss_and_gradient)
    return vector


def _last_tokens(model, prompts, reading, layer, batch_tokens):
    """Last tokens, keys and values of what comes before, streams and labels, batch by batch.

    Each batch is of equal length, so that no position or mask needs a thought in any architecture.
    """
    lengths = np.array([len(prompt) for prompt in prompts])
    batches = []  # the shortest first: in this order their gradients are summed
    for batch in sorted(
        equal_lengths(lengths, lengths, batch_tokens), key=lambda b: lengths[b.rows[0]]
    ):
        rows = list(batch.rows)
        ids = [prompts[i] for i in rows]
        prefix = run_prefix(model, [row[:-1] for row in ids])
        stream = torch.from_numpy(reading.residuals[layer][rows])
        labels = torch.from_numpy(reading.labels[rows])
        absent = torch.from_numpy(reading.logits[rows, -1]).isneginf()  # options not there
        batches.append(([row[-1:] for row in ids], prefix, stream, labels, absent))
    return batches


def _pushed_logits(model, ids, prefix, tokens, layer, stream):
    """Option logits ``[batch, options]`` of last tokens whose stream at a layer is given.

    The blocks below the layer are skipped: they need neither time nor memory.
    """
    inputs, _ = pad_right(ids, model.device, prefix)
    layers, unembedding = model.part("layers"), model.part("unembedding")
    norm, stream = model.part("norm"), stream.to(model.device)[:, None]  # [batch, 1, d_model]
    with model.trace(**inputs, **model.last_only, use_cache=False):
        if layer == 0:
            layers[0].input = stream.to(layers[0].input)
        for block in layers[:layer]:
            given = stream.to(block.input)
            block.skip((given, None) if model.tuple_output else given)
        if layer < len(layers):
            output = layers[-1].output
            last = output[0] if model.tuple_output else output
        else:
            last = stream
        weight = unembedding.weight[tokens]
        bias = None if unembedding.bias is None else unembedding.bias[tokens]
        normed = norm(last[:, -1].to(weight)).to(weight.device)
        logits = torch.nn.functional.linear(normed, weight, bias).save()
    return finish(logits.float(), model.logit_scale, model.soft_cap)
