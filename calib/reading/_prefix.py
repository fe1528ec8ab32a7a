"""A shared prefix: what many prompts begin with is run once, and each of them goes on from there.

The questions of a subject have its exemplars in common, in five shots nine tokens of ten. Their
keys and values are computed in a pass of their own, and every row of a later batch attends to
them::

                 exemplars (run once)      questions (run in batches)
    prompt 0   ┐                         ┌ q q q q q A
    prompt 1   ├ e e e e e e e e e e e e ┤ q q q A . .
    prompt 2   ┘                         └ q q A . . .

    a token q of prompt 1 sees  every e, and the q before it in its own row

No row adds to what is shared: :class:`SharedLayer` joins it to the row's own keys and values for
the moment in which a layer attends.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer

from calib.models.model import TOLERANCE, Model
from calib.reading._forward import pad_right, read_streams


class SharedLayer(DynamicLayer):
    """One layer's keys and values of a prefix: every row of a batch sees them, none adds any.

    They are joined to the rows' own for the moment a layer attends, and forgotten: a batch needs
    the memory of one layer's keys and values, not of all.
    """

    def __init__(self, keys, values):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values  # [1, heads, tokens, d_head]

    def update(self, key_states, value_states, *args, **kwargs):
        """Joined keys and values ``[batch, heads, prefix + tokens, d_head]``."""
        own = key_states, value_states
        pairs = zip((self.keys, self.values), own, strict=True)
        return tuple(torch.cat([a.expand(len(b), -1, -1, -1), b], dim=-2) for a, b in pairs)


def run_prefix(model: Model, prompts) -> Cache:
    """Run what prompts begin with, once, and keep every layer's keys and values.

    ``prompts`` are token ids, all of one length: one prefix for all rows of a later batch, or one
    for each of them.
    """
    cache = Cache(layer_class_to_replicate=DynamicLayer)
    inputs, _ = pad_right(prompts, model.device)
    with torch.no_grad():
        model.module(**inputs, **model.last_only, past_key_values=cache, use_cache=True)
    return Cache(layers=[SharedLayer(layer.keys, layer.values) for layer in cache.layers])


def can_share(model: Model) -> bool:
    """Whether prompts may share a prefix in this model: asked of the model once, not of a list.

    Recurrent layers keep no keys and values; elsewhere five tokens are read both ways. A remote
    model cannot: a server forgets a pass when it is over, and to send its keys and values back and
    forth takes more than to run the prefix again.
    """
    return model.fact("can share", lambda: _reads_alike(model))


def _reads_alike(model: Model) -> bool:
    if model.remote or not model.pads or not has_only_attention(model):
        return False
    ids, last = list(model.probe[-5:]), model.n_layers
    prefix = run_prefix(model, [ids[:2]])
    whole, shared = (
        read_streams(model, [some], [0], [last], before)[f"residuals.{last}"]
        for some, before in ((ids, None), (ids[2:], prefix))
    )
    return bool((whole - shared).abs().max() <= TOLERANCE[whole.dtype] * whole.abs().max())


def has_only_attention(model: Model) -> bool:
    """Whether all that a token learns of earlier ones comes through their keys and values."""
    kinds = set(getattr(model.module.config.get_text_config(), "layer_types", None) or ())
    recurrent = getattr(model.module, "_is_stateful", False)
    return not recurrent and kinds <= {"full_attention", "sliding_attention"}
