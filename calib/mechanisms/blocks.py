"""Inside a block: what its attention and its MLP each write into the residual stream.

Which modules write is found by name and proved by running the model: the two writes of a block must
add up to what the block changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

import torch

from calib.models.architectures import POST_NORMS, WRITERS
from calib.models.model import Model
from calib.reading._forward import pad_right


@dataclass(frozen=True)
class Block:
    """Where a block's writes come from.

    Attributes
    ----------
    attention, mlp : str
        Paths, inside the block, of the modules whose outputs are added to the stream.
    down : str
        Path of the MLP's last linear map, whose inputs are its neurons. The same as ``mlp`` unless
        a norm comes after it.
    factor : float
        What the outputs are multiplied by before they are added.
    """

    attention: str
    mlp: str
    down: str
    factor: float


def find_blocks(model: Model) -> list[Block]:
    """Every block's writers, proved on five tokens.

    Raises
    ------
    ValueError
        If a block keeps its attention or its MLP under no name known here, as one without attention
        does; or if their writes do not add up to what the block changes.

    Examples
    --------
    >>> from calib import open_model
    >>> find_blocks(open_model("almanac"))[0].down
    'mlp.down_proj'
    """
    blocks = [_find(model, block, i) for i, block in enumerate(model.weights_of("layers"), start=1)]
    with model.running():
        found = read_writes(model, [list(model.probe[-5:])], blocks, 0, model.n_layers)
    streams, writes = found["streams"][0], found["writes"][0]
    changes, sums = streams.diff(dim=0), writes.unflatten(0, (-1, 2)).sum(dim=1)
    off = (sums - changes).abs().amax(dim=1) / streams[1:].abs().amax(dim=1).clamp_min(1e-30)
    if not off.max() <= model.tolerance:
        worst = int(off.argmax())
        raise ValueError(
            f"{model.architecture} ({model.name}): what {blocks[worst].attention} and "
            f"{blocks[worst].mlp} write is not what block {worst + 1} changes; they part by "
            f"{off[worst]:.1e} of the largest value"
        )
    return blocks


def _find(model, block, number):
    factor = getattr(model.module.config.get_text_config(), "residual_multiplier", 1.0)
    attention, down = (_first(model, block, part, number) for part in ("attention", "mlp"))
    after_attention, after_mlp = POST_NORMS
    if hasattr(block, after_mlp):
        return Block(after_attention, after_mlp, down, factor)
    return Block(attention, down, down, factor)


def _first(model, block, part, number):
    for path in WRITERS[part]:
        try:
            attrgetter(path)(block)
        except AttributeError:
            continue
        return path
    raise ValueError(
        f"block {number} of {model.architecture} keeps its {part} under none of "
        f"{', '.join(WRITERS[part])}; it has none, or this architecture is not known here"
    )


def read_writes(model: Model, prompts, blocks, start: int, end: int, prefix=None, readout=None):
    """The stream and what is written into it at the last token, from one layer to another.

    With a readout only what it reads of them leaves the pass, on the way from write to write.

    Parameters
    ----------
    prompts : list of int array ``[tokens]``
    blocks : list of Block
        As :func:`find_blocks` gives them.
    start, end : int
        Layers, 0 to L.
    prefix : transformers Cache, optional
        Of :func:`calib.reading._prefix.run_prefix`.
    readout : Readout, optional
        Of :func:`calib.mechanisms.readout_of`.

    Returns
    -------
    dict of float32 tensors
        ``streams [batch, layers, d_model]`` of the layers from ``start`` to ``end``, and
        ``writes [batch, 2 · blocks, d_model]``, attention and MLP in turn. With a readout instead,
        of the stream at the start and after each write, ``reads [batch, 2 · blocks + 1, tokens]``
        and ``lengths [batch, 2 · blocks + 1]``.
    """
    inputs, last = pad_right(prompts, model.device, prefix)
    n, width, home = len(prompts), model.d_model, model.device
    rows = torch.arange(n, device=home)
    layers, in_tuple = model.part("layers"), model.tuple_output
    parts = [
        (layers[i], [attrgetter(path)(layers[i]) for path in (blocks[i].attention, blocks[i].mlp)])
        for i in range(start, end)
    ]
    factor = blocks[0].factor
    row_vectors, centres, epsilon = (
        (readout.rows, readout.centres, readout.epsilon) if readout else [None] * 3
    )
    with torch.no_grad(), model.trace(**inputs, **model.last_only, use_cache=False):
        streams, writes = [parts[0][0].input[rows, last]], []
        for block, writers in parts:
            for writer in writers:
                written = writer.output
                if isinstance(written, tuple):  # some experts tell their routing too
                    written = written[0]
                # Some architectures run all tokens of a batch as one sequence here.
                written = written.reshape(n, -1, width)
                rows, last = rows.to(written.device), last.to(written.device)
                writes.append(written[rows, last].float().to(home))
            output = block.output
            streams.append((output[0] if in_tuple else output)[rows, last])
        streams = torch.stack([stream.float().to(home) for stream in streams], dim=1)
        writes = factor * torch.stack(writes, dim=1)
        found = [streams, writes]
        if row_vectors is not None:
            # At every layer the stream as it is, and between two as attention leaves it.
            between = torch.stack([streams[:, :-1] + writes[:, ::2], streams[:, 1:]], dim=2)
            steps = torch.cat([streams[:, :1], between.flatten(1, 2)], dim=1)
            divided = steps - steps.mean(dim=-1, keepdim=True) if centres else steps
            lengths = (divided.square().mean(dim=-1) + epsilon).sqrt()
            found = [steps @ row_vectors.to(steps).T, lengths]
        found = [some.cpu() for some in found].save()
    names = ("streams", "writes") if readout is None else ("reads", "lengths")
    return dict(zip(names, found, strict=True))
