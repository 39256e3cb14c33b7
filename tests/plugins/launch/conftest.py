"""Lets the tests of this folder import ``launch_help``."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def some_gpu(monkeypatch):
    """Lists of GPUs are believed, as on a machine that has some."""
    from uncollapse.plugins.launch import slots

    monkeypatch.setattr(slots, "has_gpu", lambda: True)
