"""The neurons of an MLP: what each writes, and whether it could change confidence and nothing else.

An *entropy neuron* (Stolfo et al., NeurIPS 2024) has a long output vector that hardly points to any
token: it lies in the effective null space of the unembedding and acts through the final norm. Such
neurons are found by these measures; :mod:`calib.mechanisms.ablation` shows what they do.
"""

from __future__ import annotations

from operator import attrgetter

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers.pytorch_utils import Conv1D

from calib.mechanisms.blocks import Block, find_blocks
from calib.mechanisms.null_space import unembedding_null_space
from calib.mechanisms.unembedding import Norm, norm_of, readout_of
from calib.models.calls import rows_of
from calib.models.model import Model
from calib.reading._forward import pad_right
from calib.reading._run import Run


def describe_neurons(
    model: Model, layer: int, *, k: int | None = None, tokens=None, unigram=None
) -> pd.DataFrame:
    """Measures of every neuron's output vector against the unembedding.

    Parameters
    ----------
    layer : int
        The layer that the block ends in, 1 to L; entropy neurons are known from the last.
    k : int, optional
        Dimensions of the effective null space; by the rule of
        :func:`calib.mechanisms.unembedding_null_space` if not given.
    tokens : list of int, optional
        Only these rows of the unembedding, such as the option letters'.
    unigram : array_like ``[tokens]``, optional
        How often each token occurs; every count or probability above 0.

    Returns
    -------
    pandas.DataFrame
        One row per neuron.

        - ``norm``: length of its output vector, less its mean where the final norm removes it;
        - ``logit_var``: variance over the tokens of the cosines between it and the rows of the
          unembedding, 0 to 1; small where no token is favoured;
        - ``rho``: length of its part in the null space over its length, 0 to 1; the root of
          k/d_model if it points anywhere;
        - ``frequency``, with ``unigram``: cosine of what it adds to the logits with the
          *token-frequency direction*, the log-frequencies less their mean; -1 to 1, positive where
          it pushes towards the unigram distribution.

    Raises
    ------
    ValueError
        If the layer does not exist or its MLP has no neurons that write through one linear map, as
        in a mixture of experts; if there are not as many counts as tokens, or one is not above 0;
        and as :func:`calib.mechanisms.find_blocks`.

    Notes
    -----
    Where a norm follows the MLP, its gain is folded into the output vectors; what it divides by
    depends on all neurons together, and is left out.

    Examples
    --------
    >>> from calib import open_model
    >>> neurons = describe_neurons(open_model("almanac"), layer=8)
    >>> len(neurons), list(neurons.columns)
    (384, ['norm', 'logit_var', 'rho'])
    """
    readout = readout_of(model, tokens)
    block = neuron_block(model, layer)
    vectors = block.factor * output_vectors(model, block, layer)  # [neurons, d_model]
    if post := post_norm(model, block, layer):
        vectors = vectors * post.gain.to(vectors)
    frequency = None if unigram is None else _frequency_direction(unigram, len(readout.rows))
    null_space = unembedding_null_space(model, k, tokens).basis
    with model.running():
        columns = _measures(vectors, readout, null_space, frequency)
    columns = {name: column.cpu().double().numpy() for name, column in columns.items()}
    index = pd.RangeIndex(len(columns["norm"]), name="neuron")
    return pd.DataFrame(columns, index=index)


def _measures(vectors, readout, null_space, frequency) -> dict[str, torch.Tensor]:
    """Each measure of every neuron, ``[neurons]``, of output ``vectors [neurons, d_model]``."""
    if readout.centres:  # the mean of the stream is removed before its length is taken
        vectors = vectors - vectors.mean(dim=1, keepdim=True)
    norm = vectors.norm(dim=1)
    long_enough = norm.clamp_min(1e-30)
    rows = readout.rows.to(vectors)
    units = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    of_vocabulary = [part @ units.T for part in (vectors / long_enough[:, None]).split(256)]
    null_space = torch.tensor(null_space).to(vectors)
    columns = {
        "norm": norm,
        "logit_var": torch.cat([cosines.var(dim=1, correction=0) for cosines in of_vocabulary]),
        "rho": (vectors @ null_space.T).norm(dim=1) / long_enough,
    }
    if frequency is not None:
        contrasts = readout.contrasts.to(vectors)
        logits = (part @ contrasts.T for part in vectors.split(256))
        columns["frequency"] = torch.cat([_cosine(some, frequency.to(some)) for some in logits])
    return columns


def read_activations(
    model: Model,
    questions: Dataset,
    layer: int,
    *,
    shots: int = 0,
    exemplars: Dataset | None = None,
    chat: bool = False,
    batch_tokens: int = 8192,
) -> np.ndarray:
    """Activations of an MLP's neurons at the answer position, after the gate if there is one.

    Parameters
    ----------
    layer : int
        The layer that the block ends in, 1 to L.
    shots, exemplars, chat, batch_tokens
        As in :func:`calib.read_layers`.

    Returns
    -------
    float32 array ``[questions, neurons]``

    Raises
    ------
    ValueError
        As :func:`describe_neurons` and :func:`calib.read_layers`.

    Examples
    --------
    >>> from calib import load_questions, open_model
    >>> questions = load_questions("almanac", "validation", limit=20)
    >>> read_activations(open_model("almanac"), questions, layer=8).shape
    (20, 384)
    """
    block = neuron_block(model, layer)
    run = Run.prepare(model, questions, shots, exemplars, chat=chat)

    def forward(part):
        found = read_neurons(model, block, layer, part.prompts, part.prefix)
        return {"activations": found["activations"]}

    batches, settings = run.plan(batch_tokens), {"activations": layer}
    return run.through(batches, forward, settings=settings)["activations"]


def neuron_block(model: Model, layer: int) -> Block:
    """The block that ends in a layer, if its MLP has neurons; else ValueError."""
    if model.spread:
        model.require_weights("its neurons are divided among them")
    blocks = find_blocks(model)
    if not 1 <= layer <= model.n_layers:
        raise ValueError(
            f"layer is {layer}; it is the layer that a block ends in, from 1 to {model.n_layers}"
        )
    block = blocks[layer - 1]
    down = attrgetter(block.down)(model.weights_of("layers")[layer - 1])
    if not isinstance(down, torch.nn.Linear | Conv1D):
        raise ValueError(
            f"the MLP of layer {layer} of {model.architecture} is a {type(down).__name__}, which "
            "does not write through one linear map, so there is no basis of neurons to take apart; "
            "read_attribution shows what it does as a whole"
        )
    return block


def n_neurons(model: Model, block: Block, layer: int) -> int:
    """How many neurons an MLP has; of a remote model, too."""
    return _shape(attrgetter(block.down)(model.weights_of("layers")[layer - 1]))[0]


def output_vectors(model: Model, block: Block, layer: int, neurons=None) -> torch.Tensor:
    """What the linear map gives for each neuron alone at 1, float32 ``[neurons, d_model]``."""
    down = attrgetter(block.down)(model.weights_of("layers")[layer - 1])
    if model.remote:
        traced = attrgetter(block.down)(model.part("layers")[layer - 1])
        return rows_of(model, traced, _shape(down), inputs=neurons)[0]
    weight = down.weight if isinstance(down, Conv1D) else down.weight.T
    return weight[slice(None) if neurons is None else neurons].detach().float()


def _shape(down) -> tuple[int, int]:
    """Numbers that a linear map takes and gives."""
    return tuple(down.weight.shape)[:: 1 if isinstance(down, Conv1D) else -1]


def post_norm(model: Model, block: Block, layer: int) -> Norm | None:
    """The norm after an MLP, if there is one."""
    if block.mlp == block.down:
        return None
    part = attrgetter(block.mlp)(model.part("layers")[layer - 1])
    return norm_of(model, part, f"{block.mlp} of block {layer}")


def read_neurons(model: Model, block: Block, layer: int, prompts, prefix=None, neurons=None):
    """Activations of all or some neurons, and the stream after the block, at the last token.

    Also ``written``, what their linear map gives.
    """
    inputs, last = pad_right(prompts, model.device, prefix)
    n, in_tuple, home = len(prompts), model.tuple_output, model.device
    rows = torch.arange(n, device=home)
    some = slice(None) if neurons is None else neurons
    traced = model.part("layers")[layer - 1]
    down = attrgetter(block.down)(traced)
    with torch.no_grad(), model.trace(**inputs, **model.last_only, use_cache=False):
        acting, written = down.input, down.output
        rows, last = rows.to(written.device), last.to(written.device)
        # Some architectures run all tokens of a batch as one sequence here.
        acting = acting.reshape(n, -1, acting.shape[-1])[rows, last][:, some]
        written = written.reshape(n, -1, written.shape[-1])[rows, last]
        output = traced.output
        stream = (output[0] if in_tuple else output)[rows, last]
        found = [part.float().to(home) for part in (acting, written, stream)].save()
    return dict(zip(("activations", "written", "stream"), found, strict=True))


def _frequency_direction(unigram, n_tokens):
    counts = np.asarray(unigram, dtype=np.float64)
    if counts.shape != (n_tokens,):
        raise ValueError(
            f"unigram has shape {counts.shape}; there must be one count for each of the {n_tokens} "
            "tokens"
        )
    if not (np.isfinite(counts).all() and (counts > 0).all()):
        at = int((~(counts > 0) | ~np.isfinite(counts)).argmax())
        raise ValueError(
            f"unigram[{at}] is {counts[at]}; every count must be above 0 to have a logarithm: add "
            "1 to all counts, or leave tokens out with tokens="
        )
    logs = np.log(counts)
    return torch.from_numpy(logs - logs.mean())


def _cosine(rows, vector):
    lengths = rows.norm(dim=1) * vector.norm()
    return rows @ vector / lengths.clamp_min(1e-30)
