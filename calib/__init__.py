"""Read a language model's confidence layer by layer, and ask whether it is right.

>>> import calib
>>> model = calib.open_model("almanac")
>>> reading = calib.read_layers(model, calib.load_questions("almanac", limit=100))
>>> calib.evolve(reading).decision <= model.n_layers
True
"""

from importlib import import_module

# Loaded when first used, so that importing calib stays light.
_HOMES = {
    "load_questions": "questions.load",
    "build_prompts": "questions.prompts",
    "open_model": "models.open",
    "lens": "models.logit_lens",
    "read_layers": "reading.reading",
    "Reading": "reading.reading",
    "evolve": "analysis.phases",
    "by_category": "analysis.phases",
    "steer": "steering.sweeps",
    "sweep": "steering.sweeps",
    "try_directions": "steering.evaluation",
    "read_branches": "steering.interventions",
    "sample_answers": "sampling.sample",
    "metrics": "",
    "figures": "",
    "mechanisms": "",
    "recalibration": "",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'calib' has no attribute {name!r}")
    if not _HOMES[name]:
        return import_module(f"calib.{name}")
    return getattr(import_module(f"calib.{_HOMES[name]}"), name)


def __dir__():
    return __all__
