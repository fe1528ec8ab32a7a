"""Pushing: directions in the residual stream, branches along them, and a fair judgement."""

from calib.steering.directions import (
    Direction,
    confidence_regression,
    correction_difference,
    difference_in_means,
    make_direction,
    random_direction,
)
from calib.steering.evaluation import Evaluation, check_disjoint, try_directions
from calib.steering.gradient import gradient_direction
from calib.steering.interventions import read_branches, steer
from calib.steering.sweeps import Sweep, sweep

__all__ = [
    "Direction", "Evaluation", "Sweep", "check_disjoint", "confidence_regression",
    "correction_difference", "difference_in_means", "gradient_direction", "make_direction",
    "random_direction", "read_branches", "steer", "sweep", "try_directions",
]  # fmt: skip
