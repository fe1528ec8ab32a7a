"""Where confidence lives: the readout, its null space, components, neurons, and the tuned lens."""

from calib.mechanisms.ablation import Ablation, ablate_neurons
from calib.mechanisms.attribution import Ledger, read_ledger
from calib.mechanisms.neurons import describe_neurons, read_activations
from calib.mechanisms.null_space import (
    norm_shares,
    remove_subspace,
    singular_values,
    unembedding_null_space,
)
from calib.mechanisms.tuned_lens import TunedLens, fit_tuned_lens
from calib.mechanisms.unembedding import Readout, readout_of

__all__ = [
    "Ablation",
    "Ledger",
    "Readout",
    "TunedLens",
    "ablate_neurons",
    "describe_neurons",
    "fit_tuned_lens",
    "norm_shares",
    "read_activations",
    "read_ledger",
    "readout_of",
    "remove_subspace",
    "singular_values",
    "unembedding_null_space",
]
