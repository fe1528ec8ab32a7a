"""Many answers: drawn from the model, and the confidence that lies in their agreement."""

from calib.sampling.capability import allocate, capability_brier, expected_pass_at_k, pass_at_k
from calib.sampling.consistency import (
    Answers,
    agreement,
    entropy_consistency,
    first_second_distance,
    majority,
)
from calib.sampling.sample import Samples, sample_answers

__all__ = [
    "Answers", "Samples", "agreement", "allocate", "capability_brier", "entropy_consistency",
    "expected_pass_at_k", "first_second_distance", "majority", "pass_at_k", "sample_answers",
]  # fmt: skip
