"""Recalibration after training: small methods, each fitted on logits and called on logits.

>>> from calib.recalibration import Temperature
>>> Temperature().fit([[4.0, 0.0]] * 4, [0, 0, 0, 1])([[4.0, 0.0]]).round(2).tolist()
[[0.75, 0.25]]
"""

from calib.recalibration.clipping import FeatureClipping, final_features
from calib.recalibration.few_shot import FewShot
from calib.recalibration.g_layers import GLayers
from calib.recalibration.lore import LoRe
from calib.recalibration.option_prior import (
    BatchCalibration,
    ContextualCalibration,
    PriDe,
    content_free,
)
from calib.recalibration.temperature import Temperature
from calib.recalibration.top_label import HistogramBinning, Isotonic

__all__ = [
    "BatchCalibration",
    "ContextualCalibration",
    "FeatureClipping",
    "FewShot",
    "GLayers",
    "HistogramBinning",
    "Isotonic",
    "LoRe",
    "PriDe",
    "Temperature",
    "content_free",
    "final_features",
]
