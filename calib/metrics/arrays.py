"""What callers hand in as numbers, turned into NumPy arrays: lists, tables, tensors."""

from __future__ import annotations

import numpy as np


def as_array(name: str, values, dtype=None) -> np.ndarray:
    """An array of what is array_like, of a pandas object, or of a tensor wherever it lies.

    Raises
    ------
    TypeError, ValueError
        If the values make no array, such as rows of different lengths, or some are masked.

    Examples
    --------
    >>> as_array("confidences", [[0.9], [0.8, 0.1]])
    Traceback (most recent call last):
    ...
    ValueError: no array can be made of confidences; rows must be equally long, and hold numbers: \
pass one array, for a list of tensors torch.stack of it
    """
    if np.ma.is_masked(values):
        raise ValueError(f"masked entries in {name}; all must be there: leave out what is masked")
    try:
        # PyTorch and pandas are not loaded for their objects' sake.
        if hasattr(values, "detach"):
            values = _of_tensor(values)
        elif hasattr(values, "dtypes") and np.ndim(values) == 2:
            values = _of_table(values)
        array = np.asarray(values, dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(
            f"no array can be made of {name}; rows must be equally long, and hold numbers: pass "
            "one array, for a list of tensors torch.stack of it"
        ) from None
    return array


def as_reals(name: str, values, axes: str) -> np.ndarray:
    """Float64 array of real numbers; ``axes`` says in the error how they are to be laid out.

    >>> as_reals("confidences", ["high", "low"], "[questions]")
    Traceback (most recent call last):
    ...
    TypeError: confidences are <U4; they must be real numbers: pass a float array [questions]
    """
    array = as_array(name, values)
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"{name} are {array.dtype}; they must be real numbers: pass a float array {axes}"
        )
    return np.ascontiguousarray(array, dtype=np.float64).reshape(array.shape)


def as_integers(name: str, values, way_out: str) -> np.ndarray:
    """Array of integers, of whatever integer type they are; bool is none.

    >>> as_integers("labels", [0.0, 1.0], "convert them")
    Traceback (most recent call last):
    ...
    TypeError: labels are float64; they must be integers: convert them
    """
    array = as_array(name, values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} are {array.dtype}; they must be integers: {way_out}")
    return array


def first_place(mask) -> tuple[int, ...]:
    """Index of the first place at which a mask holds.

    >>> first_place(np.array([[False, False], [True, True]]))
    (1, 0)
    """
    return tuple(int(i) for i in np.unravel_index(mask.argmax(), mask.shape))


def _of_tensor(tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()  # NumPy has no bfloat16; the numbers stay what they are
    return tensor.numpy()


def _of_table(table):
    """What pandas keeps as numbers that may be missing, it would else hand over as objects."""
    numbers = all(getattr(kind, "kind", None) in tuple("fiu") for kind in table.dtypes)
    return table.to_numpy(np.float64) if numbers else table
