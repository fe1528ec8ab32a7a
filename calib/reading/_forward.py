"""One traced pass: what every layer says at the answer position of each prompt of a batch.

Prompts are padded on the right. A causal model cannot see what comes later, so the mask is all
ones and positions count from the beginning in every architecture; what is read lies at a place of
its own in each row::

                 position  0  1  2  3  4  5
    prompt 0               t  t  t  t  t  A         t  a token of the prompt
    prompt 1               t  t  t  A  .  .         A  its last token, the answer position: read
    prompt 2               t  t  A  .  .  .         .  padding, which no prompt sees

    layer 0   layers[0].input ──────┐
    layer 1   layers[0].output ─────┤ at A, [layers + 1, batch, d_model]
      ...                           ├──> final norm ──> option rows ──> scale, soft-cap
    layer L   layers[L - 1].output ─┘                   of the unembedding

Of a pass only vectors at A leave it: L + 1 rows of option logits for each prompt, and the streams
that were asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from calib.models.logit_lens import finish
from calib.models.model import Model
from calib.reading._provenance import digest_of

NOTHING = 1e-3  # of a push's length: what rounding may make of none


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
        """As a Reading's provenance carries it."""
        digest = digest_of([self.vector.numpy()])
        return {"layer": int(self.layer), "vector": digest, "everywhere": self.everywhere}


def read_streams(model: Model, prompts, tokens, keep=(), prefix=None, push=None, lens=None):
    """Every layer's lens logits at the last token of each prompt.

    Parameters
    ----------
    prompts : list of int array ``[tokens]``
        Token ids; with a ``prefix``, what follows it.
    tokens : list of int
        The option letters' tokens.
    keep : list of int
        Layers whose residual streams to return.
    prefix : transformers Cache, optional
        Of :func:`calib.reading._prefix.run_prefix`.
    push : Push, optional
        What to add to the residual stream, and where.
    lens : TunedLens, optional
        What to do to each layer's stream before the final norm; nothing in the logit lens.

    Returns
    -------
    dict of tensors
        ``logits [batch, layers + 1, options]``, and ``residuals.ℓ [batch, d_model]`` of each layer
        ℓ that is kept.
    """
    inputs, last = pad_right(prompts, model.device, prefix)
    rows, keep = torch.arange(len(prompts), device=model.device), list(keep)
    # Bound here so that the traced block ships nothing but tensors, numbers and envoys.
    layers, norm, unembedding = (model.part(p) for p in ("layers", "norm", "unembedding"))
    in_tuple, plain, linear = model.tuple_output, model.plain_head, torch.nn.functional.linear
    step = model.at_once
    pushed, vector, everywhere = (push.layer, push.vector, push.everywhere) if push else [None] * 3
    matrices, shifts = (lens.matrices, lens.shifts) if lens else [None] * 2
    with torch.no_grad(), model.trace(**inputs, **model.last_only, use_cache=False):
        # Read once into a name: in a server's sandbox, each reading is another copy.
        hidden = layers[0].input  # [batch, tokens, d_model]
        home = hidden.device
        if plain:
            weight = unembedding.weight[tokens]  # [options, d_model]
            bias = None if unembedding.bias is None else unembedding.bias[tokens]
            home = weight.device
        stream = []
        for ell in range(len(layers) + 1):
            if ell > 0:
                output = layers[ell - 1].output
                hidden = output[0] if in_tuple else output
            # A large model's layers are spread over several devices; here, nothing is copied.
            rows, last = rows.to(hidden.device), last.to(hidden.device)
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
        if plain:
            logits = linear(norm(read).to(home), weight, bias)
        else:  # the whole vocabulary, for some of the vectors at a time
            parts = norm(read).flatten(0, 1).split(step)
            logits = torch.cat([unembedding(some)[:, tokens] for some in parts])
            logits = logits.unflatten(0, read.shape[:2])
        logits = logits.transpose(0, 1)
        # From a server: no views of something larger, or that would come along.
        logits, kept = logits.detach().cpu().save(), stream[keep].detach().cpu().save()
    streams = {f"residuals.{ell}": kept[i] for i, ell in enumerate(keep)}
    return {"logits": finish(logits, model.logit_scale, model.soft_cap)} | streams


def try_pushes(model: Model):
    """Layers, pushes, tokens and what a probe then says of them, ``[pushes, tokens]``; tried once.

    ValueError if a push gets lost: what was pushed was a copy, as where a block runs in a server's
    sandbox and reads a value twice.
    """
    return model.fact("pushes", lambda: _pushed_probe(model))


def _pushed_probe(model: Model):
    prompts, layers, end = [list(model.probe[-5:])], [0, model.n_layers // 2], model.n_layers
    tokens = list(range(min(64, model.vocabulary)))
    still = read_streams(model, prompts, tokens, [*layers, end])
    # As long as half of the stream, and in another direction.
    vectors = torch.cat([still[f"residuals.{ell}"] for ell in layers]).float().roll(1, dims=1) / 2
    pushes = [Push(*push) for push in zip(layers, vectors, strict=True)]
    pushed = [read_streams(model, prompts, tokens, [end], push=push) for push in pushes]
    for push, found in zip(pushes, pushed, strict=True):
        moved = found[f"residuals.{end}"].float() - still[f"residuals.{end}"].float()
        if not moved.norm() > NOTHING * push.vector.norm():
            raise ValueError(
                f"a push at layer {push.layer} of {model.name} does not reach its last layer: the "
                "residual stream cannot be changed where it runs, so nothing can be steered"
            )
    return layers, vectors, tokens, torch.stack([found["logits"][0, -1] for found in pushed])


def pad_right(prompts, device, prefix=None):
    """Model inputs ``[batch, tokens]``, and the place of each prompt's last token ``[batch]``.

    Both are on the device: an index of the CPU would have to wait for it, in every layer.
    """
    rows = [torch.as_tensor(prompt, dtype=torch.long) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True)
    seen = 0 if prefix is None else prefix.get_seq_length()
    mask = torch.ones(len(ids), seen + ids.shape[1], dtype=torch.long)
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    if prefix is not None:
        inputs["past_key_values"] = prefix
    return inputs, torch.tensor([len(row) - 1 for row in rows], device=device)
