"""What a reading says: phases, parts, comparisons, and where it is known, the truth."""

from calib.analysis.comparison import Comparison, compare
from calib.analysis.letters import answer_changes, by_option, read_rotations, recall_by_letter
from calib.analysis.phases import Correction, Evolution, evolve
from calib.analysis.subjects import by_category, by_subject, calibrated_ece
from calib.analysis.temperatures import layer_temperatures
from calib.analysis.truth import (
    bayes_scores,
    correlate,
    known_grouping_loss,
    true_ece,
    truth_correlation,
)

__all__ = [
    "Comparison", "Correction", "Evolution", "answer_changes", "bayes_scores", "by_category",
    "by_option", "by_subject", "calibrated_ece", "compare", "correlate", "evolve",
    "known_grouping_loss", "layer_temperatures", "read_rotations", "recall_by_letter", "true_ece",
    "truth_correlation",
]  # fmt: skip
