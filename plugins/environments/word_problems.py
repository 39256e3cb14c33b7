"""A small generated data set in the format of GSM8K: word problems of one or two operations."""

from __future__ import annotations

import json
import random
from functools import lru_cache
from pathlib import Path

from .common import seeded, split_of

SIZES = {"train": 400, "test": 100}
"""Rows of each split."""

_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn")
_THINGS = ("apples", "books", "coins", "eggs", "pens", "stones")


@lru_cache(maxsize=1)
def generate() -> dict[str, tuple[dict[str, str], ...]]:
    """Rows with ``question`` and ``answer`` (the reasoning, ``####``, the number) for each split; always the same.

    The splits share no calculation: ``3 + 4`` is asked about, with whatever names and things, in one of them only.
    """
    rng = seeded("word problems")
    found: dict[str, dict[str, dict[str, str]]] = {split: {} for split in SIZES}
    while any(len(found[split]) < size for split, size in SIZES.items()):
        question, calculation, result = _draw(rng)
        split = "test" if split_of(calculation) == "validation" else "train"
        if len(found[split]) < SIZES[split]:
            answer = f"{calculation} = {result}\n#### {result}"
            found[split].setdefault(question, {"question": question, "answer": answer})
    return {split: tuple(rows.values()) for split, rows in found.items()}


def write(directory: Path) -> None:
    """Write the splits as ``train.jsonl`` and ``test.jsonl``."""
    for split, rows in generate().items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / f"{split}.jsonl").write_text(text, encoding="utf-8")


def _draw(rng: random.Random) -> tuple[str, str, int]:
    """A question, its calculation and the result, which is never negative."""
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    if rng.random() < 0.5:
        start, calculation, total = f"{name} has {a} {things} and gets {b} more", f"{a} + {b}", a + b
    else:
        start, calculation, total = f"{name} has {a} boxes with {b} {things} each", f"{a} * {b}", a * b
    if rng.random() < 0.5:
        return f"{start}. How many {things} does {name} have?", calculation, total
    c = rng.randint(2, min(9, total))
    question = f"{start}, then gives {c} away. How many {things} are left?"
    return question, f"{calculation} - {c}", total - c
