"""Tree attention: many branches of a prompt in one pass, each the model's answer to another push.

To push the stream at the answer position alone leaves the keys and values of every other position
as they were. So K pushed runs of one prompt are K copies of its last token: each has the last
token's position, and sees the prompt before it and itself::

                     prompt         branches            A    the last token, not pushed
                   t  t  t  A     A1    A2    A3        A1   a copy of it, pushed at layer 0
    position       0  1  2  3     3     3     3         A2   one pushed at layer 1, A3 at layer 2
    ------------------------------------------------
    t              x
    t              x  x                                 rows see the columns marked x
    t              x  x  x
    A              x  x  x  x
    A1             x  x  x  .     x
    A2             x  x  x  .           x
    A3             x  x  x  .                 x

A copy is not even needed below the layer at which it is pushed: it leaves the last token's stream
there. Through the blocks the sequence grows as branches leave::

    block 1   [ t t t A | A1       ]        A1 = A + push, at the block's input
    block 2   [ t t t A | A1 A2    ]        A2 = A + push, at the output of block 1
    block 3   [ t t t A | A1 A2 A3 ]        A3 = A + push, at the output of block 2

One traced pass then gives any set of branches, each for about half the work of a token.
"""

from __future__ import annotations

import inspect

import numpy as np
import torch
from torch.utils._pytree import tree_map

from calib.models.logit_lens import finish
from calib.models.model import Model
from calib.reading._forward import pad_right, read_streams, try_pushes
from calib.reading._prefix import has_only_attention

MOST = 512  # branches per pass; beyond, their attention mask outgrows what sharing the prompt saves


def read_tree(model: Model, prompts, tokens, layers, vectors, prefix=None, keep=False, basis=None):
    """The last layer of every branch of each prompt, in one traced pass.

    Parameters
    ----------
    prompts : list of int array ``[tokens]``
        Token ids; with a ``prefix``, what follows it.
    tokens : list of int
        The option letters' tokens.
    layers : list of int
        Where each branch leaves the prompt, in rising order.
    vectors : tensor ``[branches, d_model]`` or ``[batch, branches, d_model]``
        What is added there; the same for all prompts, or for each its own.
    prefix : transformers Cache, optional
        Of :func:`calib.reading._prefix.run_prefix`.
    keep : bool
        Whether to return the residual streams too.
    basis : tensor ``[n, d_model]``, optional
        What the ``vectors`` are made of; they are then ``[batch, branches, n]``, so many of each.
        To a server that is less to send.

    Returns
    -------
    dict of tensors
        ``logits [batch, branches, options]``, and with ``keep`` ``residuals [batch, branches,
        d_model]``.
    """
    inputs, last, n_prompt = _with_branches(model, prompts, len(layers), prefix)
    seen = inputs["attention_mask"].shape[3] - inputs["input_ids"].shape[1]  # of the prefix
    rows = torch.arange(len(prompts), device=model.device)
    last, vectors = last.to(model.device), vectors.to(model.device)
    bounds = np.searchsorted(layers, np.arange(model.n_layers + 2)).tolist()
    # Bound here so that the traced block ships nothing but tensors, numbers and envoys.
    blocks, norm, unembedding = (model.part(p) for p in ("layers", "norm", "unembedding"))
    in_tuple, linear, on_every = model.tuple_output, torch.nn.functional.linear, tree_map
    plain, step = model.plain_head, model.at_once
    basis = None if basis is None else basis.to(model.device)
    with torch.no_grad(), model.trace(**inputs, **model.last_only, use_cache=False):
        if basis is not None:
            vectors = vectors @ basis
        if plain:
            weight = unembedding.weight[tokens]  # [options, d_model]
            bias = None if unembedding.bias is None else unembedding.bias[tokens]
        for ell, block in enumerate(blocks):
            n = n_prompt + bounds[ell + 1]  # the prompt, and the branches that have left it so far

            def cut(value, n=n, seen=seen):
                if not isinstance(value, torch.Tensor):
                    return value
                if value.ndim == 4:  # the mask
                    return value[:, :, :n, : seen + n]
                return value[:n] if value.ndim == 1 else value[:, :n]

            if ell == 0:
                # Read once into a name: in a server's sandbox, each reading is another copy.
                first = block.input
                first[:, n_prompt:n] += vectors[..., : bounds[1], :].to(first)
            block.inputs = on_every(cut, block.inputs)
            output = block.output
            hidden = output[0] if in_tuple else output
            rows, last = rows.to(hidden.device), last.to(hidden.device)
            new = vectors[..., bounds[ell + 1] : bounds[ell + 2], :].to(hidden)
            hidden = torch.cat([hidden, hidden[rows, last][:, None] + new], dim=1)
            block.output = (hidden, *output[1:]) if in_tuple else hidden
        stream = hidden[:, n_prompt:]  # [batch, branches, d_model]
        if plain:
            stream = stream.to(weight.device)
            logits = linear(norm(stream).to(weight.device), weight, bias)
        else:  # the whole vocabulary, for some of the vectors at a time
            parts = norm(stream).flatten(0, 1).split(step)
            logits = torch.cat([unembedding(some)[:, tokens] for some in parts])
            logits = logits.unflatten(0, stream.shape[:2])
        logits = logits.detach().cpu().save()
        kept = ([stream.detach().cpu()] if keep else []).save()
    logits = finish(logits, model.logit_scale, model.soft_cap)
    return {"logits": logits, "residuals": kept[0]} if keep else {"logits": logits}


def _with_branches(model, prompts, n_branches, prefix):
    """Model inputs with room for the branches, the place of each last token, and the prompts' room.

    The sequence is [prompt, padding, branches]. The tokens of a prefix, if there is one, come
    before it in the mask, and every token sees them.
    """
    inputs, last = pad_right(prompts, "cpu", prefix)
    ids = inputs["input_ids"]
    n_prompt, seen = ids.shape[1], inputs["attention_mask"].shape[1] - ids.shape[1]
    n = n_prompt + n_branches
    rows = torch.arange(len(prompts))
    copies = ids[rows, last][:, None].expand(-1, n_branches)
    places = torch.arange(n_prompt).expand(len(prompts), -1)
    places = torch.cat([places, last[:, None].expand(-1, n_branches)], dim=1) + seen
    visible = torch.ones(n, n, dtype=torch.bool).tril().repeat(len(prompts), 1, 1)
    visible[:, n_prompt:, :n_prompt] = torch.arange(n_prompt) < last[:, None, None]
    visible[:, n_prompt:, n_prompt:] = torch.eye(n_branches, dtype=torch.bool)
    hidden = torch.finfo(model.dtype).min
    mask = torch.zeros(len(prompts), 1, n, seen + n, dtype=model.dtype)
    mask[..., seen:].masked_fill_(~visible[:, None], hidden)
    inputs |= {
        "input_ids": torch.cat([ids, copies], dim=1).to(model.device),
        "position_ids": places.to(model.device),
        "attention_mask": mask.to(model.device),
    }
    return inputs, last, n_prompt


def at_once(model: Model, longest, n_branches: int, batch_tokens: int) -> int:
    """How many branches fit beside the longest prompt of a run; 0 where each takes its own pass."""
    step = min(n_branches, MOST, batch_tokens - len(longest))
    fits = step >= 1 and len(longest) <= model.context
    return step if fits and can_branch(model, longest) else 0


def chunks(items, size: int) -> list:
    """Consecutive parts of a list, of at most a size each.

    >>> chunks([1, 2, 3], 2)
    [[1, 2], [3]]
    """
    return [items[i : i + size] for i in range(0, len(items), size)]


def can_branch(model: Model, prompt) -> bool:
    """Whether branches are right for this model and prompts up to this one's length.

    Asked of the model, not of a list: once for a prompt, three branches that are not pushed must
    say what the prompt itself says; once for the model, branches that are pushed must say what the
    model says when it is pushed. Where positions cannot be given (ALiBi), or layers do more than
    attend, there is nothing to ask; a sliding window shorter than the prompt shows here.
    """
    return model.fact(("can branch", *prompt), lambda: _branches_alike(model, prompt))


def _branches_alike(model: Model, prompt) -> bool:
    takes_positions = "position_ids" in inspect.signature(model.module.forward).parameters
    # Other implementations do not take a mask of single tokens, or end the process with it.
    takes_masks = model.module.config._attn_implementation in ("eager", "sdpa")
    # In a model that does not pad, what stands beside a token changes it even unseen.
    if not (model.pads and takes_positions and takes_masks and has_only_attention(model)):
        return False
    still = torch.zeros(3, model.d_model)
    layers = [0, 0, model.n_layers // 2]
    branches = read_tree(model, [prompt], [0, 1], layers, still)["logits"][0]
    own = read_streams(model, [prompt], [0, 1])["logits"][0, -1]
    if not (branches - own).abs().max() <= model.tolerance * own.abs().max():
        return False
    return model.fact("branches are pushed", lambda: _pushed_alike(model))


def _pushed_alike(model: Model) -> bool:
    layers, vectors, tokens, said = try_pushes(model)
    branches = read_tree(model, [list(model.probe[-5:])], tokens, layers, vectors)["logits"][0]
    return bool((branches - said).abs().max() <= model.tolerance * said.abs().max())
