"""The figures of the study: courses of the untreated runs over the steps, beside those with two remedies."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import matplotlib

matplotlib.use("Agg")

import plan
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tables import Study
from thin import ENTROPY, INVALID
from uncollapse.plugins.report.aggregate import line, standard_error, values
from uncollapse.plugins.report.canvas import COLOURS
from uncollapse.plugins.report.data import RunData
from uncollapse.plugins.report.metrics import INFORMATION, SUCCESS
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


@attrs.frozen
class Panel:
    """A metric that is drawn."""

    metric: str
    title: str
    log: bool = False


PANELS = (
    Panel(SUCCESS, "Success on unseen tasks"),
    Panel(ENTROPY, "Entropy of the policy, nats per token", log=True),
    Panel(INFORMATION, "Mutual information of prompts and thoughts, nats"),
    Panel(INVALID, "Turns without a valid answer, share"),
)
"""What is drawn; the first two on the first screen."""
SMOOTH = (ENTROPY, INVALID)
"""Metrics of single steps, of which the mean over the last steps is drawn."""
LOOKS = (
    Look("", "#ffffff", "#24292f", "#5d6772", "#e4e7eb"),
    Look("-dark", "#0d1117", "#e6edf3", "#9aa4af", "#262c35"),
)


def drawn(study: Study) -> dict[tuple[str, str], list[RunData]]:
    """Return the runs of each task and algorithm of the drawn settings that used their budget, if any is untreated."""
    found: dict[tuple[str, str], list[RunData]] = {}
    for run in study.runs:
        if run.point[AXIS] in LINES and run.status == "success":
            found.setdefault((run.point["task"], run.point["algorithm"]), []).append(run)
    return {place: runs for place, runs in found.items() if any(run.point[AXIS] == plan.NONE for run in runs)}


def names(study: Study) -> list[str]:
    """Return the names of all files that are drawn."""
    stems = [f"study-{task}-{algorithm}" for task, algorithm in drawn(study)]
    first = ["study"] if stems else []
    return [f"{stem}{look.suffix}.png" for stem in [*first, *stems] for look in LOOKS]


def draw(study: Study, directory: Path) -> Iterator[Path]:
    """Write the figure of the first screen, and one for each task and algorithm, light and dark; yields the files."""
    figures = [(place, runs, PANELS) for place, runs in drawn(study).items()]
    figures = [(*figures[0][:2], PANELS[:2]), *figures] if figures else []
    drawings = [(place, runs, panels, look) for place, runs, panels in figures for look in LOOKS]
    for name, (place, runs, panels, look) in zip(names(study), drawings, strict=True):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(png(place, runs, look, panels))
        yield directory / name


def png(place: tuple[str, str], runs: Sequence[RunData], look: Look, panels: Sequence[Panel]) -> bytes:
    """Return the figure of a task and algorithm: panels in one or two columns, lines with bands of a standard error."""
    columns = len(panels) // 2
    figure = Figure(figsize=(columns * WIDTH / 100, HEIGHT / 100), dpi=200, facecolor=look.page)
    # down the columns, so that the first two panels are those of the figure with two
    grid = figure.subplots(2, columns, sharex=True, squeeze=False).T.flat
    for panel, axes in zip(panels, grid, strict=True):
        for name in LINES:
            if own := [run for run in runs if run.point[AXIS] == name and run.series(panel.metric)]:
                _draw(axes, own, panel.metric, look)
        _finish(axes, panel, look)
    for axes in figure.axes[-columns:]:
        axes.set_xlabel("training step", fontsize=9, color=look.ink)
    handles, words = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, words, loc="upper left", bbox_to_anchor=(0.02 / columns, 0.94), ncols=2 * columns, fontsize=8.5,
        frameon=False, labelcolor=look.ink, handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip
    heading = f"SmolLM2-135M, {place[0]}, {place[1].upper()}"
    left = 0.035 / columns
    figure.text(left, 0.985, heading, ha="left", va="top", fontsize=10.5, fontweight="bold", color=look.ink)
    margins = {"left": 0.115 / columns, "right": 1 - 0.03 / columns, "top": 0.77 if columns == 1 else 0.82}
    figure.subplots_adjust(**margins, bottom=0.1, hspace=0.28, wspace=0.16)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor=look.page, metadata={"Software": None})
    return stream.getvalue()


def _draw(axes: Axes, runs: Sequence[RunData], metric: str, look: Look) -> None:
    name, own_colour, style = LINES[runs[0].point[AXIS]]
    colour = own_colour or look.soft
    mean = line(*values(runs, metric), standard_error, smooth=metric in SMOOTH)
    axes.plot(mean.steps, mean.mean, color=colour, linestyle=style, linewidth=2, label=name, solid_capstyle="round")
    if len(runs) > 1:
        axes.fill_between(mean.steps, mean.low, mean.high, color=colour, alpha=0.22, linewidth=0)


def _finish(axes: Axes, panel: Panel, look: Look) -> None:
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    elif axes.lines:  # a metric that no run has leaves its panel empty
        lowest, highest = min(0.0, axes.dataLim.ymin), axes.get_ylim()[1]
        axes.set_ylim(bottom=lowest - 0.03 * (highest - lowest))  # a line at 0 is not one with the axis
    axes.set_facecolor(look.page)
    axes.set_title(panel.title, loc="left", fontsize=9.5, color=look.ink)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(look.soft)
    axes.tick_params(which="both", labelsize=8.5, length=0, colors=look.soft)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=look.grid, linewidth=0.8)
    axes.margins(x=0.01)


def first_screen(study: Study, folder: str) -> Iterator[str]:
    """Yield the lines that show the first figure, with what is in it; none without runs."""
    for place, runs in list(drawn(study).items())[:1]:
        yield from _picture("Success and entropy", f"{folder}/study", place, runs, WIDTH)


def pictures(study: Study, folder: str) -> Iterator[str]:
    """Yield the lines that show a figure for each task and algorithm, with what is in it; none without runs."""
    for place, runs in drawn(study).items():
        yield from _picture("Courses", f"{folder}/study-{'-'.join(place)}", place, runs, 2 * WIDTH)
        yield ""


def _picture(what: str, file: str, place: tuple[str, str], runs: Sequence[RunData], width: int) -> Iterator[str]:
    counts = {name: sum(run.point[AXIS] == name for run in runs) for name in LINES}
    seeds = [f"{LINES[name][0]}: {count} seed{'s' * (count > 1)}" for name, count in counts.items() if count]
    about = f"{what} over the steps, SmolLM2-135M, {place[0]}, {place[1].upper()}"
    yield "<picture>"
    yield f'  <source media="(prefers-color-scheme: dark)" srcset="{file}-dark.png">'
    yield f'  <img alt="{about}" src="{file}.png" width="{width}">'
    yield "</picture>"
    yield ""
    yield f"{about}: means over seeds with a band of one standard error ({'; '.join(seeds)})."
