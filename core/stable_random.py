"""Random numbers that depend on texts alone, on every machine and in every process."""

from __future__ import annotations

import hashlib
import random


def stable_hash(text: str) -> int:
    """Hash a text to 64 bits that depend on it alone: not on the process, the platform or PYTHONHASHSEED."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def seeded(*parts: object) -> random.Random:
    """Make a random generator that depends on the text of ``parts`` alone."""
    return random.Random(stable_hash(":".join(map(str, parts))))
