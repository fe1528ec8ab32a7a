"""Calibration metrics on arrays: option probabilities and labels in, numbers and intervals out."""

from calib.metrics.binned import (
    ReliabilityTable,
    classwise_ece,
    debiased_l2,
    ece,
    mce,
    reliability_table,
)
from calib.metrics.composition import EceSplit, ece_split
from calib.metrics.decomposition import BrierDecomposition, brier_decomposition
from calib.metrics.grouping import GroupingLoss, grouping_loss
from calib.metrics.inputs import check, confidence_and_correct
from calib.metrics.local import local_calibration_error, mlce
from calib.metrics.pairs import from_pairs
from calib.metrics.ranking import auroc
from calib.metrics.resample import resample
from calib.metrics.resampling import Interval, bootstrap
from calib.metrics.scores import (
    accuracy,
    brier,
    entropy,
    mean_confidence,
    nll,
    signed_gap,
)
from calib.metrics.selective import aurc, ause, uce
from calib.metrics.smooth import smooth_ece

__all__ = [
    "BrierDecomposition",
    "EceSplit",
    "GroupingLoss",
    "Interval",
    "ReliabilityTable",
    "accuracy",
    "aurc",
    "auroc",
    "ause",
    "bootstrap",
    "brier",
    "brier_decomposition",
    "check",
    "classwise_ece",
    "confidence_and_correct",
    "debiased_l2",
    "ece",
    "ece_split",
    "entropy",
    "from_pairs",
    "grouping_loss",
    "local_calibration_error",
    "mce",
    "mean_confidence",
    "mlce",
    "nll",
    "reliability_table",
    "resample",
    "signed_gap",
    "smooth_ece",
    "uce",
]
