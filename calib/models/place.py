"""Where a model is put, and in which type: one rule, for every machine and every model.

==================  ===========================  ==========================
                    device                       dtype
==================  ===========================  ==========================
said by the caller  what was said                what was said
else                the first CUDA GPU, or the   float32 on a CPU, elsewhere
                    CPU where there is none      the checkpoint's own type
a loaded module     where it is                  the one it has
==================  ===========================  ==========================
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import torch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def device_of(asked) -> torch.device | str:
    """The device to open a model on, ``"auto"`` as it is; ValueError names those there are.

    >>> device_of("cpu")
    device(type='cpu')
    """
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(asked, str) and asked == "auto":
        return asked
    there = devices()
    try:
        device = torch.device(asked)
    except (RuntimeError, TypeError):
        device = None
    if device is None or f"{device.type}:{device.index or 0}" not in there:
        raise ValueError(
            f"device is {asked!r}; this machine has {', '.join(there)}. Leave it out for the first "
            'CUDA GPU or else the CPU, or say "auto" for all GPUs together'
        )
    return device


def devices() -> list[str]:
    """The devices that torch finds on this machine, the CPU first."""
    found, accelerator = ["cpu:0"], torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        count = torch.accelerator.device_count()
        found += [f"{accelerator.type}:{i}" for i in range(count)]
    return found


def dtype_of(asked, device) -> torch.dtype | str:
    """The type to open a model in on a device, ``"auto"`` for the checkpoint's own.

    >>> dtype_of(None, torch.device("cpu")), dtype_of("bfloat16", torch.device("cpu"))
    (torch.float32, torch.bfloat16)
    """
    if asked is None:
        kind = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        kind = kind if device == "auto" else device
        return torch.float32 if kind.type == "cpu" else "auto"
    dtype = getattr(torch, asked, asked) if isinstance(asked, str) else asked
    if dtype not in (*DTYPES, "auto"):
        raise ValueError(
            f'dtype is {asked!r}; it must be one of {", ".join(map(str, DTYPES))}, or "auto" for '
            "the checkpoint's own. Leave it out for float32 on a CPU and that type elsewhere"
        )
    return dtype


@contextmanager
def full_precision(device_type: str):
    """No autocast, and float32 products of float32's precision, whatever the caller has set.

    TF32 would round their factors to 10 bits, and bfloat16 to 7.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device_type, enabled=False))
        backends = torch.backends
        for products in (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul):
            stack.callback(setattr, products, "fp32_precision", products.fp32_precision)
            products.fp32_precision = "ieee"
        yield


@contextmanager
def memory_for(what: str, way_out: str):
    """Say what ran out of memory and what would fit; torch tells the bytes alone."""
    try:
        yield
    except RuntimeError as error:
        # On MPS it is a plain RuntimeError.
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
            raise
        raise torch.OutOfMemoryError(f"{what} does not fit into memory; {way_out}") from error


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in float64: on the CPU if its own device has no such numbers, as a Mac's MPS."""
    try:
        return tensor.double()
    except TypeError:
        return tensor.cpu().double()
