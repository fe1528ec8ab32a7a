"""Calibration metrics on arrays: option probabilities and labels in, numbers and intervals out."""

from calib.metrics.binned import (
    ReliabilityTable,
    classwise_ece,
    debiased_l2,
    ece,
    mce,
    reliability_table,
)
from calib.metrics.bootstrap import Interval, bootstrap
from calib.metrics.checks import check, confidence_and_correct
from calib.metrics.decomposition import BrierDecomposition, brier_decomposition
from calib.metrics.ranking import auroc
from calib.metrics.scores import (
    accuracy,
    brier,
    entropy,
    mean_confidence,
    nll,
    signed_gap,
)
from calib.metrics.smooth import smooth_ece

__all__ = [
    "BrierDecomposition",
    "Interval",
    "ReliabilityTable",
    "accuracy",
    "auroc",
    "bootstrap",
    "brier",
    "brier_decomposition",
    "check",
    "classwise_ece",
    "confidence_and_correct",
    "debiased_l2",
    "ece",
    "entropy",
    "mce",
    "mean_confidence",
    "nll",
    "reliability_table",
    "signed_gap",
    "smooth_ece",
]
