"""Where a model is put, and in which type: one rule, for every machine and every model.

==================  ===========================  ==========================
                    device                       dtype
==================  ===========================  ==========================
said by the caller  what was said                what was said
else                the CUDA GPU, or the CPU     float32 on a CPU, elsewhere
                    where there is none; of      the checkpoint's own type
                    several processes, each      (bfloat16 of a GGUF file
                    has a GPU of its own         that is quantized)
a loaded module     where it is                  the one it has
==================  ===========================  ==========================
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

import torch
import torch.distributed as dist

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
RUNNING = threading.RLock()  # nnsight runs one trace at a time, of whatever model


class Launch(NamedTuple):
    """Which of the processes that were started together this one is.

    Attributes
    ----------
    rank, size : int
        Its place among all, on whatever machine, and how many they are.
    local : int or None
        Its place on its own machine, if the launcher says it; it chooses a GPU and nothing else.
    """

    rank: int
    size: int
    local: int | None


def launched() -> Launch | None:
    """Where this process stands among those a launcher started; None for a process alone.

    torchrun and accelerate say it in RANK, WORLD_SIZE and LOCAL_RANK, srun in variables of its
    *step*: SLURM_NTASKS, which a batch script has too, says nothing of this process.
    """
    rank, size, local = map(_number, ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if dist.is_available() and dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
    elif (size or 0) < 2 or rank is None:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        rank, size, local = map(_number, names)
    return None if rank is None or (size or 0) < 2 else Launch(rank, size, local)


def _number(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else None


def device_of(asked) -> torch.device | str:
    """The device to open a model on, ``"auto"`` as it is; ValueError names those there are.

    >>> device_of("cpu")
    device(type='cpu')
    """
    launch = launched()
    if isinstance(asked, str) and asked == "auto":
        if launch and (launch.local or (_number("LOCAL_WORLD_SIZE") or 1) > 1):
            raise ValueError(
                'device is "auto", and several processes were started on this machine, each of '
                "which would take all GPUs; leave it out, and each takes one for a copy of the "
                "model, or start one process"
            )
        return asked
    if asked is None:
        asked = "cuda" if torch.cuda.is_available() else "cpu"
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
    return own_gpu(launch) if launch and device == torch.device("cuda") else device


def own_gpu(launch: Launch) -> torch.device:
    """The GPU that one of several processes has for itself; ValueError if there is none."""
    count, local = torch.cuda.device_count(), launch.local
    if count == 1 and "SLURM_GPUS_PER_TASK" in os.environ:
        local = 0  # each process sees its own alone
    if local is None or local >= count:
        told = "nothing says which this one is of the processes on its machine"
        if local is not None:
            told = f"this is process {local + 1} on a machine with {count} of them"
        raise ValueError(
            f"each of several processes takes a GPU of its own, and {told}; start one process for "
            "each GPU (torchrun --nproc_per_node, srun --gpus-per-task=1), or say which with "
            'device="cuda:0"'
        )
    return torch.device("cuda", local)


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
