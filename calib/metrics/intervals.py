"""A number with its interval: how it is read off resampled values, written and read back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calib._checks import check_not_negative
from calib.metrics.arrays import as_array, as_reals, first_place

ENDS = ("", "_low", "_high")  # of the columns of a value and of its two limits


@dataclass(frozen=True)
class Interval:
    """A metric, its percentile interval, and the resampled values this is read from.

    It unpacks into its value and its two limits: ``value, low, high = interval``.

    Attributes
    ----------
    value, low, high : float or float64 array of the leading shape
    samples : float64 array ``[resamples, ...]`` or None
        None where the interval has a formula. Row r is the same resample of the questions for every
        layer and metric, so the difference of two of them is resampled by subtracting.

    Examples
    --------
    >>> interval = Interval.of(0.5, np.array([0.4, 0.5, 0.6]), level=0.9)
    >>> interval.columns("ece")
    {'ece': 0.5, 'ece_low': 0.4, 'ece_high': 0.6}
    >>> Interval.read(interval.columns("ece"), "ece")
    (0.5, 0.4, 0.6)
    """

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    samples: np.ndarray | None = None

    def __iter__(self):
        return iter((self.value, self.low, self.high))

    def __getitem__(self, where) -> Interval:
        """Of some of the leading shape, such as one layer."""
        every = (slice(None), *where) if isinstance(where, tuple) else (slice(None), where)
        return Interval(self.value[where], self.low[where], self.high[where], self.samples[every])

    @classmethod
    def of(cls, value, samples, level: float) -> Interval:
        """Percentile interval of resampled values ``[resamples, ...]``, nan left out.

        Limits are order statistics, rounded outwards.
        """
        ordered = np.sort(samples, axis=0)  # nan last
        last = np.count_nonzero(~np.isnan(samples), axis=0) - 1  # -1 where all are nan: any row
        tail = (1 - level) / 2 * last
        low, high = (
            np.take_along_axis(ordered, rank.astype(np.int64)[None], axis=0)[0]
            for rank in (np.floor(tail), np.ceil(last - tail))
        )
        return cls(value=value, low=plain(low), high=plain(high), samples=samples)

    def columns(self, name: str) -> dict:
        """The three as columns of a table: ``name``, ``name_low`` and ``name_high``."""
        return {name + end: part for end, part in zip(ENDS, self, strict=True)}

    @staticmethod
    def read(row, name: str) -> tuple[float, float, float]:
        """Value, low and high from a table's row that holds :meth:`columns` of this name."""
        return tuple(float(row[name + end]) for end in ENDS)


def columns_of(intervals: dict[str, Interval]) -> dict:
    """The columns of a table of several: three for each, in their order."""
    return {key: part for name, i in intervals.items() for key, part in i.columns(name).items()}


def wilson(share, count, z: float = 1.96):
    """Wilson's interval of a share of a count, 95 % by default [1]_.

    Parameters
    ----------
    share : float or array ``[...]``, 0 to 1
    count : int or array ``[...]``
    z : float
        Standard deviations of a normal distribution that the level leaves on either side.

    Returns
    -------
    low, high : float or float64 array ``[...]``, 0 to 1

    Raises
    ------
    TypeError, ValueError
        If a share is not from 0 to 1, a count is not above 0, or ``z`` is negative.

    References
    ----------
    .. [1] Wilson, "Probable inference, the law of succession, and statistical inference",
       Journal of the American Statistical Association 22, 1927.

    Examples
    --------
    >>> np.round(wilson(0.5, 100), 4).tolist()
    [0.4038, 0.5962]
    """
    check_not_negative("z", z)
    share, count = as_reals("shares", share, "[...]"), as_reals("counts", count, "[...]")
    for name, values, holds, rule in (
        ("share", share, (share >= 0) & (share <= 1), "lie between 0 and 1: divide by the count"),
        ("count", count, count > 0, "be above 0: leave out what has no questions"),
    ):
        if not holds.all():
            at = first_place(~holds)
            raise ValueError(f"{name}{list(at) or ''} is {values[at]}; it must {rule}")
    center = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return np.maximum(center - half, 0), np.minimum(center + half, 1)  # rounding may pass the ends


def mean_interval(values, z: float = 1.96) -> tuple[float, float, float]:
    """A mean over questions with its normal interval, 95 % by default: value, low and high [1]_.

    Parameters
    ----------
    values : array_like ``[questions]``
        Finite numbers, or right and wrong as bool; at least 1, which has no width.
    z : float
        Standard errors on either side; the standard deviation in them is that with n.

    Raises
    ------
    TypeError, ValueError
        If the values are not finite numbers ``[questions]``, there are none, or ``z`` is negative.

    References
    ----------
    .. [1] Wasserman, "All of statistics", Springer 2004, section 6.3.2: normal-based intervals.

    Examples
    --------
    >>> [round(x, 4) for x in mean_interval([0.0, 1.0] * 50)]
    [0.5, 0.402, 0.598]
    """
    check_not_negative("z", z)
    values = as_array("values", values)
    if values.dtype == bool:
        values = values.astype(np.float64)  # right or wrong
    values = as_reals("values", values, "[questions]")
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"values have shape {values.shape}; they must be [questions], at least 1: check what "
            "selected them"
        )
    if not np.isfinite(values).all():
        at = first_place(~np.isfinite(values))
        raise ValueError(f"values{list(at)} is {values[at]}; a mean needs finite ones: drop it")
    mean, half = float(values.mean()), float(z * values.std() / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def plain(array):
    """A Python float where no leading axis is left, the array itself elsewhere."""
    return float(array) if np.ndim(array) == 0 else array
