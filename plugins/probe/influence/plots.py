"""The picture of the shares shows them over features of the sequences, and by prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...report.canvas import COLOURS, INK, SOFT, panels, png, title
from ..report.readable import short

RAISES, LOWERS = COLOURS[0], COLOURS[1]
AGAINST = (
    ("advantage", "advantage"),
    ("tokens", "sampled tokens"),
    ("surprisal_mean", "mean surprisal of its tokens (nats)"),
)
PROMPTS = 8
"""Number of prompts that are shown, those with the largest sums."""


def picture(result: Mapping[str, Any]) -> bytes:
    """Draw the shares over advantage, length and rarity, a point for each sequence, and the largest sums of prompts."""
    records = result["sequences"]
    handles = [
        Line2D([], [], ls="", marker="o", color=RAISES, label="raises the entropy"),
        Line2D([], [], ls="", marker="o", color=LOWERS, label="lowers it"),
        Line2D([], [], color=SOFT, label="± 2 standard errors over E"),
    ]
    drawn, axes = panels(len(AGAINST) + 1, handles)
    shares = [record["share"] for record in records]
    colours = [RAISES if share >= 0 else LOWERS for share in shares]
    for panel, (name, words) in zip(axes, AGAINST, strict=False):
        panel.axhline(0, color=SOFT, linewidth=0.8)
        panel.scatter([record[name] for record in records], shares, s=14, c=colours, alpha=0.6, linewidths=0)
        panel.set_xlabel(words)
        panel.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useMathText=True)
        correlation = result["correlations"][name]["share"]
        title(panel, name.replace("_", " "), "" if correlation is None else f"Spearman {short(correlation, '.2f')}")
    axes[0].set_ylabel(f"share of the change ({result['measured_in']})")
    _prompts(axes[-1], result["groups"]["prompt"][:PROMPTS])
    return png(drawn, handles)


def _prompts(panel: Any, prompts: list[dict[str, Any]]) -> None:
    values = [prompt["share"] for prompt in prompts]
    errors = [2 * (prompt["se"] or 0.0) for prompt in prompts]
    heights = list(range(len(prompts)))
    panel.barh(heights, values, xerr=errors, color=[RAISES if value >= 0 else LOWERS for value in values], ecolor=SOFT)
    panel.axvline(0, color=INK, linewidth=0.8)
    panel.set_yticks(heights, [f"prompt {prompt['prompt']}" for prompt in prompts])
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.ticklabel_format(axis="x", style="sci", scilimits=(-2, 4), useMathText=True)
    panel.set_xlabel("share of the change")
    title(panel, "prompts", "the largest sums")
