"""The logger of everything that the probe says while it runs."""

from __future__ import annotations

import logging

messages = logging.getLogger(__package__)
