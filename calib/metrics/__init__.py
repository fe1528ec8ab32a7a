"""Arrays to numbers: calibration metrics of option probabilities and labels, with intervals.

Every metric is called alike, ``metric(probabilities, labels)``, and takes leading axes such as
layers. What they take is said once, by :data:`Probabilities` and :data:`Labels`; what is none is
refused by :func:`check`, with a TypeError or ValueError that names the place, and so is a count,
such as ``n_bins``, that is no integer of at least 1.
"""

from calib.metrics.binned import (
    ReliabilityTable,
    classwise_ece,
    debiased_l2,
    ece,
    mce,
    reliability_table,
)
from calib.metrics.decomposition import BrierDecomposition, EceSplit, brier_decomposition, ece_split
from calib.metrics.grouping import GroupingLoss, grouping_loss
from calib.metrics.inputs import (
    Features,
    Labels,
    Probabilities,
    Score,
    check,
    confidence_and_correct,
    softmax,
)
from calib.metrics.intervals import Interval, mean_interval, wilson
from calib.metrics.local import Projection, kernel, local_calibration_error, mlce
from calib.metrics.pairs import from_pairs
from calib.metrics.ranking import auroc
from calib.metrics.resampling import bootstrap, resample
from calib.metrics.scores import accuracy, brier, entropy, mean_confidence, nll, signed_gap
from calib.metrics.selective import aurc, ause, uce
from calib.metrics.smooth import smooth_ece

__all__ = [
    "BrierDecomposition", "EceSplit", "Features", "GroupingLoss", "Interval", "Labels",
    "Probabilities", "Projection", "ReliabilityTable", "Score", "accuracy", "aurc", "auroc", "ause",
    "bootstrap", "brier", "brier_decomposition", "check", "classwise_ece", "confidence_and_correct",
    "debiased_l2", "ece", "ece_split", "entropy", "from_pairs", "grouping_loss", "kernel",
    "local_calibration_error", "mce", "mean_confidence", "mean_interval", "mlce", "nll",
    "reliability_table", "resample", "signed_gap", "smooth_ece", "softmax", "uce", "wilson",
]  # fmt: skip
