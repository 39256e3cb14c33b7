"""The ``sweep.yaml`` of a sweep directory holds the sweep as a person may write one, then its points.

The points, which may be thousands, stand at the end with one line of JSON each. That is YAML too, and it is read and
written a hundred times faster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .. import yaml

POINTS = "points:\n"
LONGEST = 1 << 24
"""Bytes of a file, at most; the part before the points is held to the limit of :func:`.yaml.loads`."""


def dumps(record: Mapping[str, Any]) -> str:
    """The text of a record, whose ``points`` are plain data."""
    head = yaml.dumps({key: value for key, value in record.items() if key != "points"})
    return head + POINTS + "".join(f"- {_json(point)}\n" for point in record["points"])


def loads(text: str, limit: int = yaml.LIMIT) -> Any:
    """The data of a record, or of a file that a person wrote. Raises SyntaxProblem as :func:`.yaml.loads` does."""
    head, points, tail = text.partition(f"\n{POINTS}")
    lines = tail.rstrip("\n").split("\n")
    if not points or not all(line.startswith("- {") for line in lines):
        return yaml.loads(text, limit)
    try:
        read_points = [json.loads(line[2:]) for line in lines]
    except ValueError:  # of a person, or cut off
        return yaml.loads(text, limit)
    record = yaml.loads(f"{head}\n", limit)
    return {**record, "points": read_points} if isinstance(record, dict) else record


def _json(point: object) -> str:
    text = json.dumps(point, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(point)  # YAML takes no bare control characters
