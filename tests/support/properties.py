"""Hypothesis where it is installed; where it is not, its tests are skipped and all others run."""

import pytest

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
    from hypothesis.extra.numpy import arrays
except ModuleNotFoundError:

    class Absent:
        """Stands for any strategy, and for whatever is made of it."""

        def __getattr__(self, name):
            return self

        def __call__(self, *args, **kwargs):
            return self

    st = arrays = Absent()

    def given(*args, **kwargs):
        return pytest.mark.skip(reason="hypothesis is not installed")

    def settings(*args, **kwargs):
        return lambda test: test


__all__ = ["arrays", "given", "settings", "st"]
