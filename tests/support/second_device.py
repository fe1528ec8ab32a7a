"""A second device on every machine, for tests that a model works elsewhere than on the CPU.

PyTorch lets a device be written in Python. The one here is called ``away``: its tensors compute on
the CPU, say that they are on ``away:0``, and refuse what CUDA's refuse, such as to meet a tensor of
the CPU or to become a numpy array. What runs there runs wherever a device is apart from the CPU.
It counts its memory, and can be given an end of it, and can be without float64, as a Mac's MPS.

Where the machine has an accelerator of its own, :data:`ELSEWHERE` is that one.
"""

from collections import Counter
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

aten = torch.ops.aten
attention = torch.nn.functional.scaled_dot_product_attention
INDEXING = (
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._unsafe_index.Tensor, aten._index_put_impl_.default,
)  # fmt: skip
# What makes a tensor of none. All but the first two would resize an empty one, which a wrapper
# would not notice.
FACTORIES = (
    "empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "eye",
    "eye.m", "linspace", "randperm", "tril_indices", "triu_indices",
)  # fmt: skip


class Device:
    """Bytes of the storages that tensors on the device hold, now and at most; and what it lacks."""

    def __init__(self):
        self.holders, self.sizes = Counter(), {}
        self.now = self.most = 0
        self.limit, self.lacks = float("inf"), ()
        self.crossings = 0  # of numbers, to the CPU or from it: on a GPU, each may have to wait

    def take(self, tensor):
        """Count a tensor's storage, once for all that hold it; where it lies."""
        if tensor.dtype in self.lacks:
            raise TypeError(f"Cannot convert a tensor to {tensor.dtype} on {AWAY}, which has none")
        storage = tensor.untyped_storage()
        at, size = storage.data_ptr(), storage.nbytes()
        if at not in self.sizes:
            if self.now + size > self.limit:
                raise torch.OutOfMemoryError(f"AWAY out of memory. Tried to allocate {size} bytes.")
            self.sizes[at] = size
            self.now += size
            self.most = max(self.most, self.now)
        self.holders[at] += 1
        return at

    def leave(self, at):
        self.holders[at] -= 1
        if not self.holders[at]:
            self.now -= self.sizes.pop(at)
            del self.holders[at]


DEVICE = Device()


class Share:
    """What a tensor holds of the memory, until it goes."""

    def __init__(self, tensor):
        self.at = DEVICE.take(tensor)
        self.leave = DEVICE.leave

    def __del__(self):
        if hasattr(self, "leave"):
            self.leave(self.at)


class Backend(_DummyBackendModule):
    """What torch and transformers ask of a device's module."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("away", Backend())
AWAY = torch.device("away", 0)


class Away(torch.Tensor):
    """A tensor on the second device, around the one on the CPU that holds its numbers."""

    @staticmethod
    def __new__(cls, elem):
        return torch.Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(),
            dtype=elem.dtype, device=AWAY, requires_grad=elem.requires_grad,
        )  # fmt: skip

    def __init__(self, elem):
        self.elem, self.share = elem, Share(elem)

    def __repr__(self):
        return f"Away({self.elem})"

    def numpy(self, *args, **kwargs):
        raise TypeError(
            f"can't convert {AWAY} device type tensor to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first."
        )

    __array__ = numpy

    def tolist(self):
        return self.detach().cpu().tolist()

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is attention and not torch.is_grad_enabled():  # whole, by the CPU's own kernel
            refuse_mixture(function, args, kwargs)
            return Away(function(*map(inner, args), **tree_map(inner, kwargs)))
        return torch._C._disabled_torch_function_impl(function, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operator is aten.copy_.default:
            DEVICE.crossings += not (isinstance(args[0], Away) and isinstance(args[1], Away))
            inner(args[0]).copy_(inner(args[1]))
            return args[0]
        target = kwargs.get("device")
        DEVICE.crossings += operator is aten._to_copy.default and target is not None
        DEVICE.crossings += operator in INDEXING and any(
            isinstance(index, torch.Tensor) and not isinstance(index, Away) for index in args[1]
        )
        if operator is not aten._to_copy.default:
            refuse_mixture(operator, args, kwargs)
        on_cpu = {"device": torch.device("cpu")} if target is not None else {}
        found = operator(*tree_map(inner, args), **(tree_map(inner, kwargs) | on_cpu))
        if target is not None and torch.device(target).type != AWAY.type:
            return found
        return return_and_correct_aliasing(operator, args, kwargs, tree_map(outer, found))


def inner(value):
    return value.elem if isinstance(value, Away) else value


def outer(value):
    is_here = isinstance(value, torch.Tensor) and not isinstance(value, Away)
    return Away(value) if is_here else value


def refuse_mixture(operator, args, kwargs):
    """Refuse tensors of two devices, but for single numbers and for an index on the CPU."""
    if operator in INDEXING and isinstance(args[0], Away):
        args = (args[0], *args[2:])
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if any(leaf.ndim for leaf in tensors if not isinstance(leaf, Away)):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{AWAY} and cpu! (when checking arguments for {operator})"
        )


@contextmanager
def poorer(limit=float("inf"), lacks=()):
    """Let the device have no more than so many bytes beyond those it holds, or lack some types."""
    DEVICE.limit, DEVICE.lacks = DEVICE.now + limit, lacks
    try:
        yield
    finally:
        DEVICE.limit, DEVICE.lacks = float("inf"), ()


def make(operator):
    """A kernel that makes a new tensor there, where no tensor of the device takes part."""

    def kernel(*args, **kwargs):
        kwargs |= {"device": torch.device("cpu"), "pin_memory": False}
        return Away(operator(*args, **kwargs))

    return kernel


def copy_from(source, target, non_blocking=False):
    DEVICE.crossings += 1
    inner(target).copy_(inner(source))
    return target


KERNELS = torch.library.Library("aten", "IMPL")
KERNELS.impl("_copy_from", copy_from, "PrivateUse1")
for name in FACTORIES:
    base, _, overload = name.partition(".")
    KERNELS.impl(name, make(getattr(getattr(aten, base), overload or "default")), "PrivateUse1")


def elsewhere():
    """A device that is not the CPU: the machine's own, or the one made here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "away"


ELSEWHERE = elsewhere()
