"""A small data set is generated in the format of GSM8K: word problems of one or two operations."""

from __future__ import annotations

import json
import random
from functools import lru_cache
from pathlib import Path

from .common import seeded, split_of

SIZES = {"train": 400, "test": 100}
"""Number of rows of each split."""

_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn")
_THINGS = ("apples", "books", "coins", "eggs", "pens", "stones")


@lru_cache(maxsize=1)
def generate() -> dict[str, tuple[dict[str, str], ...]]:
    """Generate rows with ``question`` and ``answer`` (the reasoning, ``####``, the number) for each split.

    They are always the same. The splits share no calculation: questions about ``3 + 4``, with whatever names and
    things, are in one of them only.
    """
    rng = seeded("word problems")
    rows_by_question: dict[str, dict[str, dict[str, str]]] = {split: {} for split in SIZES}
    while any(len(rows_by_question[split]) < size for split, size in SIZES.items()):
        question, calculation, result = _draw(rng)
        split = "test" if split_of(calculation) == "validation" else "train"
        if len(rows_by_question[split]) < SIZES[split]:
            answer = f"{calculation} = {result}\n#### {result}"
            rows_by_question[split].setdefault(question, {"question": question, "answer": answer})
    return {split: tuple(rows.values()) for split, rows in rows_by_question.items()}


def write(directory: Path) -> None:
    """Write the splits as ``train.jsonl`` and ``test.jsonl``."""
    for split, rows in generate().items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / f"{split}.jsonl").write_text(text, encoding="utf-8")


def _draw(rng: random.Random) -> tuple[str, str, int]:
    """Draw a question, with its calculation and the result, which is never negative."""
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    if rng.random() < 0.5:
        start = f"{name} has {a} {things} and gets {b} more"
        calculation, total = f"{a} + {b}", a + b
    else:
        start = f"{name} has {a} boxes with {b} {things} each"
        calculation, total = f"{a} * {b}", a * b
    if rng.random() < 0.5:
        return f"{start}. How many {things} does {name} have?", calculation, total
    c = rng.randint(2, min(9, total))
    question = f"{start}, then gives {c} away. How many {things} are left?"
    return question, f"{calculation} - {c}", total - c
