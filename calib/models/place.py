"""Where a model is put, and in which type: one rule, for every machine and every model.

==================  ===========================  ==========================
                    device                       dtype
==================  ===========================  ==========================
said by the caller  what was said                what was said
else                the CUDA GPU, or the CPU     float32 on a CPU, elsewhere
                    where there is none          the checkpoint's own type
a loaded module     where it is                  the one it has
==================  ===========================  ==========================
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager, suppress

import torch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
RUNNING = threading.RLock()  # nnsight runs one trace at a time, of whatever model


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
            f"device is {asked!r}; this machine has {', '.join(there)}. Leave it out for the "
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
        on_cpu = len(devices()) == 1 if device == "auto" else device.type == "cpu"
        return torch.float32 if on_cpu else "auto"
    names = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES} | {"auto": "auto"}
    dtype = names.get(asked.removeprefix("torch.")) if isinstance(asked, str) else asked
    if not isinstance(dtype, torch.dtype | str) or dtype not in names.values():
        raise ValueError(
            f'dtype is {asked!r}; it must be one of {", ".join(map(str, DTYPES))}, or "auto" for '
            "the checkpoint's own. Leave it out for float32 on a CPU and that type elsewhere"
        )
    return dtype


@contextmanager
def full_precision(device_type: str):
    """No autocast, and float32 products of float32's precision, whatever the caller has set.

    TF32 would round their factors to 10 bits, and bfloat16 to 7. All is put back afterwards; one
    thread at a time, since these settings are the process's.
    """
    with RUNNING, ExitStack() as stack:
        stack.enter_context(torch.autocast(device_type, enabled=False))
        older = []
        for get, put, full in _OLDER_SWITCHES:
            with suppress(RuntimeError):  # it cannot tell where both kinds were used
                older.append((put, get(), full))
        for products in _PRODUCTS:
            stack.callback(setattr, products, "fp32_precision", _own_precision(products))
        for put, before, full in older:
            stack.callback(put, before)
            put(full)
        for products in _PRODUCTS:
            products.fp32_precision = "ieee"
        yield


_CUDNN = torch.backends.cudnn
_PRODUCTS = (
    torch.backends.cuda.matmul, _CUDNN.conv, _CUDNN.rnn,
    torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn,
)  # fmt: skip
# Torch's two kinds of switches know of each other, and some of its own code asks the older ones.
_OLDER_SWITCHES = (
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    (lambda: _CUDNN.allow_tf32, lambda allow: setattr(_CUDNN, "allow_tf32", allow), False),
)


def _own_precision(products) -> str:
    """What was set for these products themselves; "none" where they follow what is set for all."""
    now = products.fp32_precision
    products.fp32_precision = "none"
    return "none" if products.fp32_precision == now else now


@contextmanager
def memory_for(what: str, way_out: str):
    """Say what ran out of memory and what would fit; torch tells the bytes alone."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        told = isinstance(error, torch.OutOfMemoryError) and error.__cause__ is not None
        if told or not _is_out_of_memory(error):
            raise
        raise torch.OutOfMemoryError(f"{what} does not fit into memory; {way_out}") from error


def _is_out_of_memory(error) -> bool:
    """CUDA has an error for it; other devices, cuBLAS and the CPU say it in a RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return any(some in str(error) for some in words)


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in float64: on the CPU if its own device has no such numbers, as a Mac's MPS."""
    try:
        return tensor.double()
    except TypeError:
        return tensor.cpu().double()
