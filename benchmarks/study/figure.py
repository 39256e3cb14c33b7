"""The figures of the study: success and entropy of the untreated runs over the steps, beside two remedies."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import matplotlib

matplotlib.use("Agg")

import plan
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tables import Study
from thin import ENTROPY
from uncollapse.plugins.report.aggregate import line, standard_error, values
from uncollapse.plugins.report.canvas import COLOURS
from uncollapse.plugins.report.data import RunData
from uncollapse.plugins.report.metrics import SUCCESS
from uncollapse.plugins.sweeps.interventions import AXIS

LINES = {
    plan.NONE: ("untreated", COLOURS[1], "-"),
    plan.COLD: ("untreated, without warm start", "", "--"),
    plan.SIDE_BY_SIDE[0]: ("filter top_p(0.9)", COLOURS[0], "-"),
    plan.SIDE_BY_SIDE[1]: ("KL 0.01", COLOURS[2], "-"),
}
"""Name, colour and line of each setting that is drawn; without a colour, that of soft ink."""
WIDTH = 430
"""Width in pixels at which a figure is shown; it is drawn at twice that."""
HEIGHT = 470


@attrs.frozen
class Look:
    """Colours of a light or a dark page."""

    suffix: str
    page: str
    ink: str
    soft: str
    grid: str


LOOKS = (
    Look("", "#ffffff", "#24292f", "#5d6772", "#e4e7eb"),
    Look("-dark", "#0d1117", "#e6edf3", "#9aa4af", "#262c35"),
)


def drawn(study: Study) -> dict[str, list[RunData]]:
    """Return the runs of GRPO of the drawn settings that used their budget, of each task with untreated ones."""
    found: dict[str, list[RunData]] = {}
    for run in study.runs:
        if run.point["algorithm"] == "grpo" and run.point[AXIS] in LINES and run.status == "success":
            found.setdefault(run.point["task"], []).append(run)
    return {task: runs for task, runs in found.items() if any(run.point[AXIS] == plan.NONE for run in runs)}


def draw(study: Study, directory: Path) -> Iterator[Path]:
    """Write a figure for each task, light and dark; yields the files."""
    for task, runs in drawn(study).items():
        directory.mkdir(parents=True, exist_ok=True)
        for look in LOOKS:
            file = directory / f"study-{task}{look.suffix}.png"
            file.write_bytes(png(task, runs, look))
            yield file


def png(task: str, runs: Sequence[RunData], look: Look) -> bytes:
    """Return the figure of a task: success above, entropy below, a line with a band of one standard error each."""
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=200, facecolor=look.page)
    above, below = figure.subplots(2, 1, sharex=True)
    for name in LINES:
        if own := [run for run in runs if run.point[AXIS] == name]:
            _draw(above, own, SUCCESS, look)
            _draw(below, own, ENTROPY, look)
    _finish(above, "Success on unseen tasks", look)
    _finish(below, "Entropy of the policy, nats per token", look)
    above.set_ylim(bottom=0)
    below.set_yscale("log")
    below.yaxis.set_major_formatter("{x:g}")
    below.set_xlabel("training step", fontsize=9, color=look.ink)
    handles, names = above.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="upper left", bbox_to_anchor=(0.02, 0.94), ncols=2, fontsize=8.5, frameon=False,
        labelcolor=look.ink, handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip
    heading = f"SmolLM2-135M, {task}, GRPO"
    figure.text(0.035, 0.985, heading, ha="left", va="top", fontsize=10.5, fontweight="bold", color=look.ink)
    figure.subplots_adjust(left=0.115, right=0.97, top=0.77, bottom=0.1, hspace=0.28)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor=look.page, metadata={"Software": None})
    return stream.getvalue()


def _draw(axes: Axes, runs: Sequence[RunData], metric: str, look: Look) -> None:
    name, own_colour, style = LINES[runs[0].point[AXIS]]
    colour = own_colour or look.soft
    # single validations are few, and of many tasks each
    mean = line(*values(runs, metric), standard_error, smooth=metric != SUCCESS)
    axes.plot(mean.steps, mean.mean, color=colour, linestyle=style, linewidth=2, label=name, solid_capstyle="round")
    if len(runs) > 1:
        axes.fill_between(mean.steps, mean.low, mean.high, color=colour, alpha=0.22, linewidth=0)


def _finish(axes: Axes, title: str, look: Look) -> None:
    axes.set_facecolor(look.page)
    axes.set_title(title, loc="left", fontsize=9.5, color=look.ink)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(look.soft)
    axes.tick_params(which="both", labelsize=8.5, length=0, colors=look.soft)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=look.grid, linewidth=0.8)
    axes.margins(x=0.01)


def picture(study: Study, folder: str) -> Iterator[str]:
    """Yield the lines of a page that show the first figure, with what is in it; none without runs."""
    for task, runs in list(drawn(study).items())[:1]:
        by_setting = {name: sum(run.point[AXIS] == name for run in runs) for name in LINES}
        counts: Mapping[str, Any] = {name: count for name, count in by_setting.items() if count}
        seeds = "; ".join(f"{LINES[name][0]}: {count} seed{'s' * (count > 1)}" for name, count in counts.items())
        about = f"Success and entropy over the steps, SmolLM2-135M, {task}, GRPO"
        yield "<picture>"
        yield f'  <source media="(prefers-color-scheme: dark)" srcset="{folder}/study-{task}-dark.png">'
        yield f'  <img alt="{about}" src="{folder}/study-{task}.png" width="{WIDTH}">'
        yield "</picture>"
        yield ""
        yield f"{about}: means over seeds with a band of one standard error ({seeds})."
