"""Grouping loss: what confidence says the same of, and should not.

A calibrated model may give 80 % to questions it answers right 95 times of 100 and to others it
answers right 65 times of 100. No calibration error sees this; features that tell them apart do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calib._checks import check_count, check_level
from calib.metrics.bins import bin_index, bin_sums
from calib.metrics.inputs import Features, Labels, Probabilities, check_with_features, top
from calib.metrics.intervals import Interval

PARTITIONS = ("tree", "clusters")
MOST_NEIGHBOURS = 2000


@dataclass(frozen=True)
class GroupingLoss:
    """A lower bound on the grouping loss and its parts; see :func:`grouping_loss`.

    Attributes
    ----------
    value : float
        The lower bound, plug_in - bias - induced.
    low, high : float
        Interval of what ``value`` estimates: ``low`` bounds the loss too, ``high`` does not.
    plug_in : float
        Variance between the regions' observed accuracies.
    bias : float
        What chance alone adds to it.
    induced : float
        What confidence, not being constant within bins, may add to it. Mostly chance where
        questions are few: of answers that are right with chance .7 at every confidence, in 5 bins,
        about .008 at 300 questions, .002 at 1,000 and .0006 at 4,000.
    n_regions : int
        Regions counted, of all bins together; as many as bins where the features split none.
    """

    value: float
    low: float
    high: float
    plug_in: float
    bias: float
    induced: float
    n_regions: int

    @property
    def interval(self) -> tuple[float, float, float]:
        """The value with its limits."""
        return self.value, self.low, self.high


def grouping_loss(
    probabilities: Probabilities,
    labels: Labels,
    features: Features,
    *,
    n_bins: int = 15,
    binning: str = "equal-mass",
    partition: str = "tree",
    min_region: int = 20,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> GroupingLoss:
    """Lower bound on the variance of the chance of being right among equal confidences [1]_.

    With C the accuracy at a question's confidence and Q its own chance of being right, the
    grouping loss is E[(Q - C)²]: the part of the top-label Brier score that is neither calibration
    nor chance. Q cannot be seen, but averages of it can. In each bin of confidence one half of the
    questions teaches a partition of the features, and the other half is counted in its regions:

    - plug-in Σ_b Σ_j n_bj (a_bj - a_b)² / n, of bin b and region j with n_bj questions and
      accuracy a_bj;
    - bias Σ_b n_b / n [Σ_j n_bj / n_b a_bj (1 - a_bj) / (n_bj - 1) - a_b (1 - a_b) / (n_b - 1)];
    - induced Σ_b n_b / n Var_b(C), since confidence differs within bins too, with C the accuracy
      of the tenth of the questions nearest in confidence, at most 2000.

    The value is plug-in - bias - induced. In expectation it bounds the loss from below, whatever
    the partition, and it says as much about the features and the number of questions as about the
    model: near 0, nothing was found, which is not to say that nothing is there. All of induced is
    taken off, though only as much as the regions follow confidence was added, so the value can be
    negative.

    Scaled as (confidence - correct)²; the authors' package glest reports the Brier score of two
    classes, twice this. As in glest, regions with one question are left out. Choices: bins of equal
    mass (there, of equal width), which keep induced small where confidences crowd; 20 questions a
    region; and the interval, which is not in [1]_. It holds the partition and ``induced`` fixed and
    resamples the questions counted. In a resample the debiased sum is centred on the plug-in, so
    the two are compared and the difference reflected at the value, the basic bootstrap of [2]_.

    Parameters
    ----------
    n_bins : int
    binning : {"equal-mass", "equal-width"}
        As in :func:`calib.metrics.ece`.
    partition : {"tree", "clusters"}
        A decision tree that predicts whether the answer is right, or k-means.
    min_region : int
        Questions that a leaf needs, or a cluster has on average, in the half that teaches: a bin is
        split only if it has twice as many there.
    n_resamples : int
    level : float
        Between 0 and 1.
    seed : int
        Of the halves, the partition and the resamples.

    Returns
    -------
    GroupingLoss
        Loss 0 to 1/4. Where all answers are right, or all wrong, it and its parts are 0.

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check`; if the features are not finite ``[questions, d]``, an
        argument is out of range, no bin is large enough to be split, or no region holds two of the
        questions to count.

    References
    ----------
    .. [1] Perez-Lebel, Le Morvan & Varoquaux, "Beyond calibration: estimating the grouping loss of
       modern neural networks", ICLR 2023, arXiv 2210.16315.
    .. [2] Davison & Hinkley, "Bootstrap methods and their application", Cambridge 1997,
       section 5.2.

    Examples
    --------
    Confidence .75 throughout, but all is right where the feature is positive, half elsewhere:

    >>> x, labels = np.tile([[1.0], [-1.0]], (400, 1)), np.tile([0, 0, 0, 1], 200)
    >>> loss = grouping_loss(np.full((800, 2), [0.75, 0.25]), labels, x, n_bins=1)
    >>> bool(loss.low < 0.25**2 < loss.high)
    True
    """
    p, labels, features = check_with_features(probabilities, labels, features)
    n_bins, min_region = check_count("n_bins", n_bins), check_count("min_region", min_region)
    n_resamples = check_count("n_resamples", n_resamples)
    if partition not in PARTITIONS:
        raise ValueError(f"partition is {partition!r}; it must be one of {', '.join(PARTITIONS)}")
    check_level(level)

    confidence, correct = top(p, labels)
    index = bin_index(confidence, n_bins, binning)
    rng = np.random.default_rng(seed)
    teach, count = halves(index, rng)
    fullest = np.bincount(index[teach], minlength=1).max()
    if fullest < 2 * min_region and 0 < correct.mean() < 1:
        raise ValueError(
            f"the fullest bin has {fullest} questions to learn from, min_region is {min_region}: "
            "no bin can be split; pass more questions, or lower n_bins or min_region"
        )
    region = np.zeros(len(count), dtype=np.int64)
    for b in np.intersect1d(index[teach], index[count]):
        here, there = teach[index[teach] == b], index[count] == b
        assign = _learn(partition, features[here], correct[here], min_region, seed)
        region[there] = assign(features[count[there]])
    tally = _tally(index[count], region, correct[count], n_bins)
    induced = _induced(confidence[count], correct[count], index[count], n_bins)
    return _estimate(tally, induced, n_resamples, level, rng)


def halves(index, rng):
    """Two halves of the questions, each with half of every bin to within one question."""
    shuffled = rng.permutation(len(index))
    by_bin = shuffled[np.argsort(index[shuffled], kind="stable")]
    return by_bin[::2], by_bin[1::2]


def _learn(partition, features, correct, min_region, seed):
    """A function from features to regions, learned on one bin's questions."""
    if partition == "tree":
        from sklearn.tree import DecisionTreeRegressor

        # Of all splits, least squares on 0 and 1 takes the one with most variance between regions.
        tree = DecisionTreeRegressor(min_samples_leaf=min_region, random_state=seed)
        return tree.fit(features, correct).apply
    from sklearn.cluster import KMeans

    n_clusters = min(max(1, len(features) // min_region), len(np.unique(features, axis=0)))
    return KMeans(n_clusters, random_state=seed).fit(features).predict


def _tally(index, region, correct, n_bins):
    """Right and wrong answers ``[2, bins, regions]``; regions with one question are left out."""
    n_regions = region.max(initial=0) + 1
    cell = (~correct * n_bins + index) * n_regions + region
    tally = np.bincount(cell, minlength=2 * n_bins * n_regions).reshape(2, n_bins, n_regions)
    tally = np.where(tally.sum(axis=0) > 1, tally, 0)
    if not tally.any():
        raise ValueError(
            "no region holds two questions to count: pass more questions, or lower n_bins or raise "
            "min_region"
        )
    return tally


def _estimate(tally, induced, n_resamples, level, rng):
    n_counted = tally.sum()
    # Resampling questions is resampling how many fall in each cell: all that the sums depend on.
    resampled = rng.multinomial(n_counted, tally.ravel() / n_counted, size=n_resamples)
    plug_in, bias = between_regions(tally)
    drawn_plug_in, drawn_bias = between_regions(resampled.reshape(-1, *tally.shape))
    value = plug_in - bias - induced
    interval = Interval.of(value, value - (drawn_plug_in - drawn_bias - plug_in), level)
    return GroupingLoss(
        value=float(value),
        low=interval.low,
        high=interval.high,
        plug_in=float(plug_in),
        bias=float(bias),
        induced=float(induced),
        n_regions=int((tally.sum(axis=0) > 0).sum()),
    )


def between_regions(tally):
    """Plug-in and bias ``[...]`` of right and wrong answers ``[..., 2, bins, regions]``.

    >>> [x.tolist() for x in between_regions(np.array([[[2, 1]], [[0, 1]]]))]  # 2 of 2, 1 of 2
    [0.0625, 0.0625]
    """
    n, right = tally.sum(axis=-3), tally[..., 0, :, :]  # [..., bins, regions]
    n, right = np.where(n > 1, n, 0), np.where(n > 1, right, 0)
    n_bin, right_bin = n.sum(axis=-1), right.sum(axis=-1)  # [..., bins]
    a, a_bin = right / np.maximum(n, 1), right_bin / np.maximum(n_bin, 1)
    between = n * (a - a_bin[..., None]) ** 2
    noise = n * a * (1 - a) / np.maximum(n - 1, 1)
    noise_bin = n_bin * a_bin * (1 - a_bin) / np.maximum(n_bin - 1, 1)
    with np.errstate(invalid="ignore"):  # nan for a resample without two questions in a region
        return (
            between.sum(axis=(-2, -1)) / n_bin.sum(axis=-1),
            (noise.sum(axis=-1) - noise_bin).sum(axis=-1) / n_bin.sum(axis=-1),
        )


def _induced(confidence, correct, index, n_bins):
    from sklearn.neighbors import KNeighborsRegressor

    n_neighbours = min(max(1, len(correct) // 10), MOST_NEIGHBOURS)
    one_column = confidence[:, None]
    accuracy = KNeighborsRegressor(n_neighbours).fit(one_column, correct).predict(one_column)
    n, total = bin_sums(index, n_bins, accuracy)
    mean = total / np.maximum(n, 1)
    return np.square(accuracy - mean[index]).mean()
