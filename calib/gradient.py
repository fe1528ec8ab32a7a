"""A direction learned by gradient: the push that lowers NLL most, the model staying as it is."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset

from calib.batches import plan_batches
from calib.directions import Direction, make_direction
from calib.lenses import finish
from calib.models import Model
from calib.prompts import prepare
from calib.reading import read_layers
from calib.tracing import pad_right


def gradient_direction(
    model: Model,
    questions: Dataset,
    layer: int,
    *,
    epochs: int = 8,
    batch_tokens: int = 8192,
    rate: float = 0.03,
    seed: int = 0,
) -> Direction:
    """A vector trained on the NLL of the answers, added at the answer position of a layer.

    Adam [1]_ from zero, the rate falling to zero in a straight line; the model's weights stay as
    they are.

    Parameters
    ----------
    questions : datasets.Dataset
        Of the calibration split.
    layer : int
        0 to L.
    epochs : int
        How often each question is seen.
    batch_tokens : int
        Most tokens in one step; gradients take a multiple of the memory that reading does.
    rate : float
        Largest step of a coordinate, in units of the layer's scale.
    seed : int
        Of the order of the batches.

    Returns
    -------
    Direction

    Raises
    ------
    ValueError
        If the model is remote, and as :func:`calib.reading.read_layers`.

    References
    ----------
    .. [1] Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015.

    Examples
    --------
    >>> from calib import load_questions, open_model
    >>> questions = load_questions("almanac", "validation", limit=40)
    >>> gradient_direction(open_model("almanac-tuned"), questions, 7, epochs=1).layer
    7
    """
    if model.remote:
        raise ValueError(
            f"a direction is trained where the model is, and {model.name} is on a server; open it "
            "here, or use a direction that is fitted on a reading"
        )
    reading = read_layers(model, questions, keep_residuals=[layer])
    scale = float(np.median(np.linalg.norm(reading.residuals[layer], axis=1)))
    tokens, prompts = prepare(model.tokenizer, questions)
    batches = plan_batches(prompts, questions["subject"], batch_tokens, model.context, share=False)
    rng = np.random.default_rng(seed)
    order = [batches[i] for _ in range(epochs) for i in rng.permutation(len(batches))]

    vector = torch.zeros(model.d_model, requires_grad=True)
    adam = torch.optim.Adam([vector], lr=rate * scale)
    slower = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=len(order))
    for batch in order:
        rows = list(batch.rows)
        logits = _pushed_logits(model, [prompts[i] for i in rows], tokens, layer, vector)
        labels = torch.tensor(reading.labels[rows], device=logits.device)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        (vector.grad,) = torch.autograd.grad(loss, [vector])  # of the vector alone
        adam.step()
        slower.step()
    return make_direction(vector.detach().numpy(), layer, reading, "gradient")


def _pushed_logits(model, prompts, tokens, layer, vector):
    """Option logits ``[batch, options]`` as a function of what is added at the last token."""
    inputs, last = pad_right(prompts, model.device)
    rows = torch.arange(len(prompts))
    layers, unembedding = model.part("layers"), model.part("unembedding")
    norm = model.part("norm")
    with model.trace(**inputs, use_cache=False, logits_to_keep=1):
        for ell in range(layer, len(layers) + 1):
            if ell == 0:
                hidden = layers[0].input
            else:
                output = layers[ell - 1].output
                hidden = output[0] if model.tuple_output else output
            if ell == layer:
                hidden = hidden.detach()  # the graph begins here
                push = torch.zeros_like(hidden)
                push[rows, last] = vector.to(hidden)
                hidden = hidden + push
                if ell == 0:
                    layers[0].input = hidden
                else:
                    changed = (hidden, *output[1:]) if model.tuple_output else hidden
                    layers[ell - 1].output = changed
        weight = unembedding.weight[tokens]  # [options, d_model]
        bias = None if unembedding.bias is None else unembedding.bias[tokens]
        home = weight.device  # a large model's layers are spread over several
        stream = norm(hidden[rows, last].to(home)).to(home)
        logits = torch.nn.functional.linear(stream, weight, bias).save()
    return finish(logits.float(), model.logit_scale, model.soft_cap)
