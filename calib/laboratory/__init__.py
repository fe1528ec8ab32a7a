"""The models that come with the library, and how they were made in a world whose truth is known.

The world itself is :mod:`calib.questions.almanac`. Each module here is a command, too:
``python -m calib.laboratory.training``.
"""

import lazy_loader

# Loaded when first used: a module that is run as a command must not be imported before.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["model_card", "retraining", "training"]
)
