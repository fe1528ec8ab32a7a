"""Logits to better probabilities: small methods, each fitted on logits and called on logits.

>>> from calib.recalibration import Temperature
>>> Temperature().fit([[4.0, 0.0]] * 4, [0, 0, 0, 1])([[4.0, 0.0]]).round(2).tolist()
[[0.75, 0.25]]
"""

from calib.recalibration.bias_corrected import BiasCorrectedTemperature
from calib.recalibration.by_layer import recalibrate_layers
from calib.recalibration.clipping import FeatureClipping, final_features
from calib.recalibration.curve import Curve
from calib.recalibration.few_shot import FewShot
from calib.recalibration.focal import focal_posterior
from calib.recalibration.g_layers import GLayers
from calib.recalibration.lore import LoRe
from calib.recalibration.method import Method
from calib.recalibration.mixtures import draw_mixtures
from calib.recalibration.option_prior import BatchCalibration, ContextualCalibration, PriDe
from calib.recalibration.temperature import NoTemperature, Temperature
from calib.recalibration.top_label import HistogramBinning, Isotonic, spread

__all__ = [
    "BatchCalibration", "BiasCorrectedTemperature", "ContextualCalibration", "Curve",
    "FeatureClipping", "FewShot", "GLayers", "HistogramBinning", "Isotonic", "LoRe", "Method",
    "NoTemperature", "PriDe", "Temperature", "draw_mixtures", "final_features", "focal_posterior",
    "recalibrate_layers", "spread",
]  # fmt: skip
