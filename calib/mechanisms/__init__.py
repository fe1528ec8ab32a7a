"""Taking apart: the unembedding and its null space, components, neurons, and the tuned lens."""

from calib.mechanisms.ablation import Ablation, ablate_neurons
from calib.mechanisms.attribution import Attribution, read_attribution
from calib.mechanisms.blocks import Block, find_blocks
from calib.mechanisms.neurons import describe_neurons, read_activations
from calib.mechanisms.null_space import (
    norm_shares,
    remove_subspace,
    singular_values,
    unembedding_null_space,
)
from calib.mechanisms.subspaces import (
    Subspace,
    correction_components,
    principal_components,
    random_subspace,
    restore_correction,
)
from calib.mechanisms.tuned_lens import TunedLens, fit_tuned_lens
from calib.mechanisms.unembedding import Readout, readout_of

__all__ = [
    "Ablation", "Attribution", "Block", "Readout", "Subspace", "TunedLens", "ablate_neurons",
    "correction_components", "describe_neurons", "find_blocks", "fit_tuned_lens", "norm_shares",
    "principal_components", "random_subspace", "read_activations", "read_attribution", "readout_of",
    "remove_subspace", "restore_correction", "singular_values", "unembedding_null_space",
]  # fmt: skip
