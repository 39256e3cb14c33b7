"""Conformance tests try whether components of plugins do what they must, without a run and without a GPU.

    from uncollapse.testing import conformance

    test_my_package = conformance("my-distribution")

Importing this module imports neither torch nor pytest.
"""

from .check import check
from .conformance import conformance
from .problems import NotExercisedError, Problem

__all__ = ["NotExercisedError", "Problem", "check", "conformance"]
