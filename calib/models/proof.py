"""The proof on opening: what is read of a model must be what the model itself says.

Two real questions of different length are traced as one padded batch, as a reading does it, and
each is run alone through the module's own forward pass, in evaluation mode. At the answer position
and at one in the middle, for about a thousand words from all over the vocabulary, three things are
to agree::

    the module alone  =  the module in the batch  =  the lens at the last layer in the batch
                      1                           2

Where 1 fails, a prompt sees what stands beside it: it is read without padding from then on, and by
itself where even a prompt of equal length changes it. Where 2 fails for the unembedding's rows, the
unembedding is called as a whole. What is left is refused, with the name of the part.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from calib.models.logit_lens import finish
from calib.models.model import TOLERANCE, Model
from calib.questions.prompts import format_question

QUESTIONS = (
    {
        "question": "Which of these planets is the nearest to the sun?",
        "subject": "astronomy",
        "choices": ["Mars", "Mercury", "Venus", "Jupiter"],
    },
    {
        "question": "What is 7 times 8?",
        "subject": "elementary_mathematics",
        "choices": ["54", "56"],
    },
)


def probes_of(tokenizer, context: int) -> list[list[int]]:
    """Token ids of two real questions of different length, the longer first, within a context."""
    texts = [format_question(row) for row in QUESTIONS]
    long, short = sorted((tokenizer(text)["input_ids"][-context:] for text in texts), key=len)[::-1]
    return [long, short if len(short) < len(long) else short[:-1]]


def prove(model: Model, probes: list[list[int]]) -> Model:
    """The model with what only running it tells, or ValueError that says where readings part."""
    model.check_ids(probes)
    with model.running(), torch.no_grad():
        alone = torch.cat([_own_logits(model, probe) for probe in probes])
        if not alone.isfinite().all():
            raise ValueError(
                f"the logits of {model.name} are not finite; open it with dtype=torch.float32 or "
                "torch.bfloat16, whose numbers reach further than float16's"
            )
        seen, how = _read_rightly(model, [probes], alone)
        if how is None:  # a prompt sees what stands beside it
            model = replace(model, pads=False, shares=_shares(model, probes))
            seen, how = _read_rightly(model, [[probe] for probe in probes], alone)
        if how is None:
            raise ValueError(
                f"{_called(model)}: what is traced of it is not its own forward pass; they part "
                f"by {_difference(seen.own, alone):.1e} of the largest logit"
            )
    plain = how == "rows"
    return replace(model, tuple_output=seen.in_tuple, plain_head=plain, dtype=seen.dtype)


def _shares(model: Model, probes) -> bool:
    """Whether two prompts of equal length read the same in one batch and each alone."""
    long, short = probes
    equal = [long[: len(short)], short]
    together = _trace(model, equal, "")
    alone = torch.cat([_own_logits(model, probe) for probe in equal])
    return _difference(together.own, alone) <= together.tolerance


def _read_rightly(model: Model, batches, alone):
    """What is seen in the batches, and how the lens reads what the model says.

    None for how if already the model's own logits are others than those of the prompts ``alone``.
    """
    for how in ("rows", "called"):
        try:
            several = [_trace(model, batch, how) for batch in batches]
        except Exception as error:
            if how == "called" and isinstance(error, OSError):
                raise  # of a server: neither way was gone
            continue
        own, read = (torch.cat([getattr(seen, x) for seen in several]) for x in ("own", "read"))
        seen = several[0]._replace(own=own, read=read)
        if not _difference(own, alone) <= seen.tolerance:
            return seen, None
        if _difference(finish(read, model.logit_scale, model.soft_cap), alone) <= seen.tolerance:
            return seen, how
    raise ValueError(
        f"{_called(model)}: the lens at the last layer is not the model's own logits; "
        f"{_where(model, batches[0][0])}"
    )


class _Seen(NamedTuple):
    """What a traced batch says at the probed places, two in each prompt.

    The model's ``own`` logits and those ``read`` by the lens are ``[places, words]``.
    """

    own: torch.Tensor
    read: torch.Tensor
    in_tuple: bool
    dtype: torch.dtype
    tolerance: float


def _trace(model: Model, prompts, how: str) -> _Seen:
    """Trace a padded batch; read by ``"rows"`` of the unembedding, have it ``"called"``, or not.

    Where the weights are is also where the lens is read: a few vectors come back.
    """
    ids = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
    inputs = {"input_ids": ids.to(model.device), "attention_mask": torch.ones_like(ids)}
    inputs["attention_mask"] = inputs["attention_mask"].to(model.device)
    rows, places = _places(prompts)
    layers, norm, unembedding = (model.part(p) for p in ("layers", "norm", "unembedding"))
    whole, linear = model.traced, torch.nn.functional.linear
    with model.trace(**inputs, use_cache=False):
        output = layers[-1].output
        in_tuple = isinstance(output, tuple)
        residual = (output[0] if in_tuple else output)[rows, places].clone()
        read, dtype = residual, residual.dtype
        if how == "rows":
            weight = unembedding.weight
            some = torch.arange(0, len(weight), 1 + len(weight) // 1000)
            bias = None if unembedding.bias is None else unembedding.bias[some]
            read, dtype = linear(norm(residual).to(weight.device), weight[some], bias), weight.dtype
        if how == "called":
            read = unembedding(norm(residual))
            read = read[:, :: 1 + read.shape[-1] // 1000].clone()
        output = whole.output
        own = output.logits if hasattr(output, "logits") else output[0]
        shape = tuple(own.shape)
        own = own[rows, places, :: 1 + own.shape[-1] // 1000]
        types = [dtype, residual.dtype, own.dtype]
        own, read = own.detach().float().cpu(), read.detach().float().cpu()
        found = [own, read, in_tuple, types, shape].save()
    own, read, in_tuple, (dtype, *computed), shape = found
    if shape[:2] != tuple(ids.shape):
        raise ValueError(_longer(model, shape, ids.shape))
    return _Seen(own, read, in_tuple, dtype, max(TOLERANCE[some] for some in computed))


def _own_logits(model: Model, prompt) -> torch.Tensor:
    """Logits ``[places, words]`` of a prompt by itself, as the module says them."""
    if model.remote:
        return _trace(model, [prompt], "").own
    ids = torch.tensor([prompt], device=model.device)
    try:
        output = model.module(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    except Exception as error:
        raise ValueError(
            f"{_called(model)} does not run on a short prompt ({type(error).__name__}: {error})"
        ) from error
    logits = output.logits if hasattr(output, "logits") else output[0]
    if logits.shape[:2] != ids.shape:
        raise ValueError(_longer(model, logits.shape, ids.shape))
    return logits[0, _places([prompt])[1], :: 1 + logits.shape[-1] // 1000].float().cpu()


def _places(prompts) -> tuple[list[int], list[int]]:
    """The rows and positions probed: each prompt's last token and one in its middle."""
    lasts = [len(prompt) - 1 for prompt in prompts]
    rows = [row for row in range(len(prompts)) for _ in range(2)]
    return rows, [place for last in lasts for place in (last, last // 2)]


def _longer(model, found, asked) -> str:
    return (
        f"{_called(model)} gives logits at {found[1]} positions for {asked[1]} tokens, as a prompt "
        "with virtual tokens of its own (prompt tuning) does; open the model without them"
    )


def _called(model) -> str:
    return f"{model.architecture} ({model.name})"


def _where(model: Model, probe) -> str:
    """Which part of a model the lens does not know, found stage by stage."""
    layers, norm, unembedding = (model.part(p) for p in ("layers", "norm", "unembedding"))
    whole = model.traced
    ids = torch.tensor([probe], device=model.device)
    try:
        with model.trace(input_ids=ids, use_cache=False):
            output = layers[-1].output
            stages = [output[0] if isinstance(output, tuple) else output]
            stages += [norm.input, norm.output, unembedding.input, unembedding.output]
            stages += [whole.output.logits]
            stages = [stage[:, -1].detach().float().cpu().clone() for stage in stages]
            stages = stages.save()
    except Exception as error:
        reason = " ".join(str(error).split())[-200:]
        return (
            f"{model.norm} or {model.unembedding} is not used once, in this order, after the last "
            f"layer ({type(error).__name__}: {reason})"
        )
    residual, norm_in, norm_out, head_in, head_out, own = stages
    finished = finish(head_out, model.logit_scale, model.soft_cap)
    parts = {
        f"between the last layer and {model.norm}": _difference(residual, norm_in),
        f"between {model.norm} and {model.unembedding}": _difference(norm_out, head_in),
        f"after {model.unembedding} (a scale or cap not known here)": _difference(finished, own),
    }
    where, size = max(parts.items(), key=lambda part: part[1])
    if size == float("inf"):
        return f"something changes the width {where}"
    if size <= TOLERANCE[residual.dtype]:
        kind = type(model.weights_of("unembedding")).__name__
        return (
            f"{model.unembedding} ({kind}) gives a position other logits by itself than among "
            "others, as a map that is quantized as it runs does; open the model unquantized"
        )
    return f"they part {where}, by {size:.1e} of the largest value"


def _difference(a, b) -> float:
    """Largest difference over the largest value; infinite for other shapes."""
    if a.shape != b.shape:
        return float("inf")
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()
