"""The picture of the gradients shows the scores of the buckets, and the norm of each term over the buckets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ...report.canvas import COLOURS, SOFT, panels, png, title
from ..report.readable import short

TERMS = {"task": COLOURS[0], "kl": COLOURS[1], "entropy": COLOURS[2]}
WORDS = {"task": "task gradient", "kl": "KL gradient", "entropy": "entropy gradient"}


def picture(result: Mapping[str, Any]) -> bytes:
    """Draw a panel of the scores of each bucket, and one for each term with norms of its gradient."""
    records = result["buckets"][1:]
    terms = [term for term in TERMS if term in result["terms"]]
    handles = [
        Line2D([], [], ls="", marker="o", color=SOFT, label="norm without its noise"),
        Line2D([], [], color=SOFT, label="± 2 standard errors over groups"),
        Line2D([], [], ls="", marker="o", mfc="none", color=SOFT, label="norm as measured"),
        Patch(color=SOFT, alpha=0.25, label="least to largest score"),
    ]
    drawn, axes = panels(1 + len(terms), handles)
    _scores(axes[0], records, result["by"])
    for panel, term in zip(axes[1:], terms, strict=True):
        _norms(panel, records, term, result["terms"][term]["coefficient"])
    axes[1].set_ylabel("norm")
    return png(drawn, handles)


def _places(panel: Any, records: list[dict[str, Any]]) -> None:
    """Number the buckets below a panel, with the number of groups in each."""
    labels = [f"{number}\n({record['groups']})" for number, record in enumerate(records, 1)]
    panel.set_xticks(range(len(records)), labels)
    panel.set_xlim(-0.6, len(records) - 0.4)
    panel.set_xlabel("bucket (groups)")


def _scores(panel: Any, records: list[dict[str, Any]], by: str) -> None:
    _places(panel, records)
    for place, record in enumerate(records):
        score = record["score"]
        if score["mean"] is not None:
            panel.bar(place, score["max"] - score["min"], 0.5, score["min"], color=SOFT, alpha=0.25)
            panel.plot(place, score["mean"], "o", color=SOFT, ms=5)
    panel.set_ylabel(f"score of a group: {by}")
    title(panel, "buckets", "mean, least, largest")


def _norms(panel: Any, records: list[dict[str, Any]], term: str, coefficient: float) -> None:
    """Draw the norms of one term; bars are the roots of the unbiased square less and plus two errors."""
    _places(panel, records)
    colour = TERMS[term]
    for place, record in enumerate(records):
        norms = record["gradients"][term]
        if norms["norm"] is not None:
            panel.plot(place - 0.12, norms["norm"], "o", mfc="none", color=colour, ms=5)
        if norms["square"] is None:
            continue
        middle = norms["without_noise"]
        panel.plot(place + 0.12, middle, "o", color=colour, ms=5)
        if norms["square_se"] is not None:
            ends = [math.sqrt(max(norms["square"] + side * norms["square_se"], 0.0)) for side in (-2, 2)]
            panel.plot([place + 0.12] * 2, ends, color=colour, linewidth=1)
    panel.set_ylim(bottom=0)
    title(panel, WORDS[term], "" if term == "task" else f"coefficient {short(coefficient)}")
