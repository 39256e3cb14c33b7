"""Thin rows are what the repository keeps of the study: the courses that the page needs, in ``results/*.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the thin rows of a directory, the oldest file first."""
    for file in sorted(directory.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)
