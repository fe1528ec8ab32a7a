"""Traced forward passes over batches of prompts, and the beginning that prompts may share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.cache_utils import Cache, DynamicLayer

from calib.models.logit_lens import TOLERANCE, finish
from calib.models.open import Model
from calib.reading._batches import Batch
from calib.reading._checkpoint import Shards
from calib.reading._provenance import digest_of


@dataclass(frozen=True)
class Push:
    """Something added to the residual stream during a pass.

    Attributes
    ----------
    layer : int
        Whose residual stream, 0 to L.
    vector : float32 tensor ``[d_model]``, or within one batch ``[batch, d_model]``
    everywhere : bool
        At every position, instead of the last token alone.
    """

    layer: int
    vector: torch.Tensor
    everywhere: bool = False

    def describe(self) -> dict:
        """As a Reading's origin carries it."""
        digest = digest_of([self.vector.numpy()])
        return {"layer": int(self.layer), "vector": digest, "everywhere": self.everywhere}


def read_batches(model: Model, prompts, batches: list[Batch], read, shards: Shards | None):
    """Rows of each batch and what was read there, taken from the shards where they have it.

    ``read(prompts, beginning=...)`` gives a dict of tensors. Yields lists of row and dicts of
    float32 arrays.
    """
    beginning, ids = None, ()
    with tqdm(total=len(prompts), desc="reading", unit="question", delay=5) as progress:
        for number, batch in enumerate(batches):
            rows, shared = list(batch.rows), batch.shared
            found = shards.read(number) if shards else None
            if found is None:
                if shared and not np.array_equal(ids, prompts[rows[0]][:shared]):
                    beginning, ids = None, prompts[rows[0]][:shared]  # free the last one first
                    beginning = run_beginning(model, [ids])
                rest = [prompts[i][shared:] for i in rows]
                found = read(rest, beginning=beginning if shared else None)
                found = {name: tensor.float().cpu().numpy() for name, tensor in found.items()}
                if shards:
                    shards.write(number, found)
            progress.update(len(rows))
            yield rows, found


def read_batch(model: Model, prompts, tokens, keep=(), beginning=None, push=None, lens=None):
    """Every layer's lens logits at the last token of each prompt, in one traced pass.

    Prompts are padded on the right, where a causal model cannot see the padding, so that the mask
    is all ones and positions count from the beginning in every architecture.

    Parameters
    ----------
    prompts : list of int array ``[tokens]``
        Token ids; with a ``beginning``, what follows it.
    tokens : list of int
        The option letters' tokens.
    keep : list of int
        Layers whose residual streams to return.
    beginning : transformers Cache, optional
        Of :func:`run_beginning`.
    push : Push, optional
        What to add to the residual stream, and where.
    lens : TunedLens, optional
        What to do to each layer's stream before the final norm; nothing in the logit lens.

    Returns
    -------
    dict of tensors
        ``logits [batch, layers + 1, options]`` and ``residuals [kept layers, batch, d_model]``
    """
    inputs, last = pad_right(prompts, model.device, beginning)
    rows, keep = torch.arange(len(prompts)), list(keep)
    # Bound here so that the traced block ships nothing but tensors, numbers and envoys.
    layers, norm, unembedding = (model.part(p) for p in ("layers", "norm", "unembedding"))
    in_tuple, linear = model.tuple_output, torch.nn.functional.linear
    pushed, vector, everywhere = (push.layer, push.vector, push.everywhere) if push else [None] * 3
    matrices, shifts = (lens.matrices, lens.shifts) if lens else [None] * 2
    with torch.no_grad(), model.trace(**inputs, use_cache=False, logits_to_keep=1):
        weight = unembedding.weight[tokens]  # [options, d_model]
        bias = None if unembedding.bias is None else unembedding.bias[tokens]
        home = weight.device  # a large model's layers are spread over several
        stream = []
        for ell in range(len(layers) + 1):
            if ell == 0:
                hidden = layers[0].input  # [batch, tokens, d_model]
            else:
                output = layers[ell - 1].output
                hidden = output[0] if in_tuple else output
            if ell == pushed and everywhere:
                hidden += vector.to(hidden)
            elif ell == pushed:
                hidden[rows, last] += vector.to(hidden)
            stream.append(hidden[rows, last].to(home))
        stream = torch.stack(stream)  # [layers + 1, batch, d_model]
        read = stream
        if matrices is not None:
            turned = stream.to(matrices) @ matrices.transpose(1, 2) + shifts[:, None]
            read = (stream.to(matrices) + turned).to(stream)
        logits = linear(norm(read).to(home), weight, bias).transpose(0, 1)
        # From a server: no views of something larger, or that would come along.
        logits, kept = logits.detach().cpu().save(), stream[keep].detach().cpu().save()
    return {"logits": finish(logits, model.logit_scale, model.soft_cap), "residuals": kept}


def pad_right(prompts, device, beginning=None):
    """Model inputs ``[batch, tokens]``, and the place of each prompt's last token ``[batch]``."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = torch.as_tensor(prompt)
    seen = 0 if beginning is None else beginning.get_seq_length()
    mask = torch.ones(len(prompts), seen + ids.shape[1], dtype=torch.long)
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    if beginning is not None:
        inputs["past_key_values"] = beginning
    return inputs, lengths - 1


class SharedLayer(DynamicLayer):
    """One layer's keys and values of a beginning: every row of a batch sees them, none adds any.

    They are joined to the rows' own for the moment a layer attends, and forgotten: a batch needs
    the memory of one layer's keys and values, not of all.
    """

    def __init__(self, keys, values):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values  # [1, heads, tokens, d_head]

    def update(self, key_states, value_states, *args, **kwargs):
        """Joined keys and values ``[batch, heads, beginning + tokens, d_head]``."""
        own = key_states, value_states
        pairs = zip((self.keys, self.values), own, strict=True)
        return tuple(torch.cat([a.expand(len(b), -1, -1, -1), b], dim=-2) for a, b in pairs)


def run_beginning(model: Model, prompts) -> Cache:
    """Run what prompts begin with, once, and keep every layer's keys and values.

    ``prompts`` are token ids, all of one length: one beginning for all rows of a later batch, or
    one for each of them.
    """
    cache = Cache(layer_class_to_replicate=DynamicLayer)
    inputs, _ = pad_right(prompts, model.device)
    with torch.no_grad():
        model.module(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Cache(layers=[SharedLayer(layer.keys, layer.values) for layer in cache.layers])


def can_share(model: Model) -> bool:
    """Whether prompts may share a beginning in this model: asked of the model, not of a list.

    Recurrent layers keep no keys and values; elsewhere five tokens are read both ways. A remote
    model cannot: a server forgets a pass when it is over, and to send its keys and values back and
    forth takes more than to run the beginning again.
    """
    if model.remote or not has_only_attention(model):
        return False
    ids, last = [5, 3, 2, 7, 1], [model.n_layers]
    whole = read_batch(model, [ids], [0], last)["residuals"]
    shared = read_batch(model, [ids[2:]], [0], last, run_beginning(model, [ids[:2]]))["residuals"]
    return bool((whole - shared).abs().max() <= TOLERANCE[whole.dtype] * whole.abs().max())


def has_only_attention(model: Model) -> bool:
    """Whether all that a token learns of earlier ones comes through their keys and values."""
    kinds = set(getattr(model.module.config.get_text_config(), "layer_types", None) or ())
    return not model.module._is_stateful and kinds <= {"full_attention", "sliding_attention"}
