"""The pass: questions and a model become a Reading, one traced pass for each batch.

A value's way: :func:`read_layers` (``layers``) prepares a ``Run`` (``_run``), which plans batches
(``_batches``), runs what their prompts have in common once (``_prefix``), runs a pass for each
(``_pass``), traced in ``_forward`` (``_tree_attention`` where branches are wanted), keeps it
(``_checkpoint``) and notes what it was made from (``_provenance``). Several processes of a launcher
find each other (``_processes``) and share the batches out (``_shares``). Readings that others made
come in through ``harness``.
"""

from calib.reading._batches import Batch, plan_batches
from calib.reading.harness import read_harness
from calib.reading.layers import read_layers
from calib.reading.reading import Reading
from calib.reading.sources import load_reading, same_questions

__all__ = [
    "Batch", "Reading", "load_reading", "plan_batches", "read_harness", "read_layers",
    "same_questions",
]  # fmt: skip
