"""The pictures of a probe, as PNG, show prediction and truth over eta, errors and changes over B_E, and the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ...report.canvas import COLOURS, INK, SOFT, figure, panels, png, title
from ..experiments.scaling import ScalingRun
from .readable import short

PREDICTED, MEASURED = COLOURS[0], COLOURS[1]
SIZE = 6.4, 4.0
"""Width and height in inches."""
ERRORS = 2
"""Number of standard errors that bands and bars reach either way."""


def change_over_eta(runs: Sequence[Mapping[str, Any]], unit: str) -> bytes | None:
    """Draw the change of the entropy over the learning rate, predicted (a line) and measured (points), with bands.

    Several runs have independent samples of E: their means are drawn, with the errors of the means. ``None`` stands
    for no picture, without truth.

    Args:
        unit: the unit in words, such as ``nats per sequence``.
    """
    steps = _mean_over_runs(runs)
    if not steps:
        return None
    drawn, axes = figure(*SIZE)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    handles = []
    predicted = [step for step in steps if step["predicted"] is not None]
    if predicted:
        # the line goes through 0: without a step there is no change; etas may be negative
        origin = {"eta": 0.0, "predicted": 0.0, "predicted_se": 0.0}
        line = sorted([origin, *predicted], key=lambda step: step["eta"])
        etas = [step["eta"] for step in line]
        changes = [step["predicted"] for step in line]
        band = _reach(changes, [step["predicted_se"] for step in line])
        axes.fill_between(etas, *band, color=PREDICTED, alpha=0.15, linewidth=0)
        axes.plot(etas, changes, color=PREDICTED, lw=2)
        handles.append(Line2D([], [], color=PREDICTED, lw=2, label="predicted, first order"))
    etas = [step["eta"] for step in steps]
    changes = [step["deltaH"] for step in steps]
    reach = [ERRORS * step["se"] for step in steps]
    axes.plot(etas, changes, color=MEASURED, lw=1, ls=":")
    axes.errorbar(etas, changes, reach, fmt="o", ms=5, color=MEASURED, capsize=3, lw=1.4)
    handles.append(Line2D([], [], color=MEASURED, marker="o", ls=":", lw=1, label="measured by importance sampling"))
    axes.set_xlabel("learning rate η")
    axes.set_ylabel(f"change of the entropy ({unit})")
    _scientific(axes)
    count = steps[0]["runs"]
    of = f"mean of {count} runs" if count > 1 else "one run"
    title(axes, "Entropy change of the step", f"{of}; bands: ± {ERRORS} standard errors")
    return png(drawn, handles)


def error_over_size(runs: Sequence[ScalingRun], analysis: Mapping[str, Any], unit: str) -> bytes | None:
    """Draw the standard errors of the runs, and the scatter of the runs, over B_E, both axes logarithmic.

    The fitted power law and the slope -1/2, which independent prompts have, are drawn as well. ``None`` stands for no
    picture, without a standard error.
    """
    errors = [(run.B_E, run.SE_conditional) for run in runs if run.SE_conditional and math.isfinite(run.SE_conditional)]
    if not errors:
        return None
    drawn, axes = figure(*SIZE)
    sizes = sorted({B_E for B_E, _ in errors})
    x, y = zip(*errors, strict=True)
    axes.scatter(x, y, s=22, color=PREDICTED, alpha=0.6, linewidths=0, zorder=3)
    handles = [Line2D([], [], color=PREDICTED, marker="o", ls="", alpha=0.6, label="SE_conditional of a run")]
    spread = [(int(B_E), size["std_deltaH1"]) for B_E, size in analysis["by_batch_size"].items()]
    spread = [(B_E, std) for B_E, std in spread if std]
    if spread:
        x, y = zip(*spread, strict=True)
        axes.scatter(x, y, s=60, facecolors="none", edgecolors=MEASURED, marker="D", lw=1.6, zorder=4)
        handles.append(
            Line2D([], [], mec=MEASURED, mfc="none", marker="D", ls="", label="standard deviation of deltaH1 over runs")
        )
    if law := analysis["se_scaling"]["SE_conditional"]:
        handles += _power_law(axes, law, sizes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _sizes(axes, sizes)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(f"standard error ({unit})")
    title(axes, "How the error falls with the batch")
    return png(drawn, handles)


def _power_law(axes: Axes, law: Mapping[str, Any], sizes: Sequence[int]) -> list[Line2D]:
    """Draw the fitted power law, and the slope -1/2 through its middle; return their handles."""
    ends = sizes[0] / 1.15, sizes[-1] * 1.15
    fitted = [law["at_1"] * B_E ** law["slope"] for B_E in ends]
    middle = math.sqrt(ends[0] * ends[1])
    level = law["at_1"] * middle ** law["slope"]
    half = [level * (B_E / middle) ** -0.5 for B_E in ends]
    axes.plot(ends, half, color=SOFT, lw=1.4, ls="--", zorder=1)
    axes.plot(ends, fitted, color=PREDICTED, lw=2, zorder=2)
    low, high = law["ci95"]
    label = f"fitted slope {short(law['slope'], '.2f')} (95 %: {short(low, '.2f')} to {short(high, '.2f')})"
    return [
        Line2D([], [], color=PREDICTED, lw=2, label=label),
        Line2D([], [], color=SOFT, lw=1.4, ls="--", label="slope −1/2"),
    ]


def change_over_size(runs: Sequence[ScalingRun], analysis: Mapping[str, Any], unit: str) -> bytes | None:
    """Draw the predicted change over B_E: runs, means with errors, and the two fitted models; ``None`` without runs."""
    points = [(run.B_E, run.deltaH1) for run in runs if math.isfinite(run.deltaH1)]
    if not points:
        return None
    drawn, axes = figure(*SIZE)
    sizes = sorted({B_E for B_E, _ in points})
    axes.axhline(0, color=SOFT, linewidth=0.8)
    x, changes = zip(*points, strict=True)
    axes.scatter(x, changes, s=18, color=INK, alpha=0.3, linewidths=0, zorder=2)
    handles = [Line2D([], [], color=INK, marker="o", ls="", alpha=0.3, label="runs")]
    means = _means_of_sizes(analysis)
    axes.errorbar(*means, fmt="o", ms=6, color=INK, capsize=4, lw=1.6, zorder=4)
    handles.append(Line2D([], [], color=INK, marker="o", ls="-", label=f"mean ± {ERRORS} standard errors"))
    if fit := analysis["fit"]:
        # on a logarithmic axis 1 / B_E is a curve, so that it is drawn through many points
        ends = [sizes[0] * (sizes[-1] / sizes[0]) ** (part / 60) for part in range(61)]
        models = {"convergence": ("constant", PREDICTED), "inverse_B": ("as 1 / B_E", MEASURED)}
        for name, (words, colour) in models.items():
            model = fit[name]
            shape = [1.0 if name == "convergence" else fit["B_ref"] / B_E for B_E in ends]
            chosen = analysis["verdict"] == name
            axes.plot(ends, [model["c"] * s for s in shape], color=colour, lw=2.4 if chosen else 1.4, zorder=3)
            label = f"{words}: χ² {model['chi2']:.1f} / {model['degrees_of_freedom']}"
            handles.append(Line2D([], [], color=colour, lw=2.4 if chosen else 1.4, label=label))
    axes.set_xscale("log")
    _sizes(axes, sizes)
    _scientific(axes, "y")
    axes.set_ylabel(f"deltaH1 ({unit})")
    title(axes, "Predicted change by batch size", f"verdict: {analysis['verdict'].replace('_', ' ')}")
    return png(drawn, handles)


def weights(truth: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Draw a histogram of the log importance weights of one run for each eta; ``None`` without histograms."""
    steps = [step for step in truth if step["eta"] and (step.get("logw") or {}).get("histogram")]
    if not steps:
        return None
    handles = [
        Patch(color=MEASURED, alpha=0.55, label="sequences"),
        Line2D([], [], color=SOFT, ls="--", lw=1.2, label="0: as likely as before the step"),
    ]
    drawn, grid = panels(len(steps), handles)
    for axes, step in zip(grid, steps, strict=True):
        histogram = step["logw"]["histogram"]
        axes.stairs(histogram["counts"], histogram["edges"], fill=True, color=MEASURED, alpha=0.55)
        axes.axvline(0, color=SOFT, ls="--", lw=1.2)
        axes.set_xlabel("log weight (nats)")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        _scientific(axes, "x")
        share = step.get("ess_fraction")
        title(axes, f"η = {short(step['eta'])}", "" if share is None else f"ESS {share:.1%}")
    grid[0].set_ylabel("sequences")
    return png(drawn, handles)


def runs_side_by_side(runs: Sequence[Mapping[str, Any]], unit: str) -> bytes | None:
    """Draw the prediction of each run beside its truth, with errors, and their mean; ``None`` for a single run."""
    predicted = [run for run in runs if run.get("deltaH1") is not None]
    if len(predicted) < 2:
        return None
    drawn, axes = figure(*SIZE)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    kinds = (
        ("deltaH1", _error_of_prediction, PREDICTED, -0.13, "deltaH1, predicted"),
        ("deltaH_true", _error_of_truth, MEASURED, 0.13, "deltaH_true, measured"),
    )
    handles = []
    for key, error, colour, beside, label in kinds:
        # a little to either side of the run's number, so that the bars do not hide each other
        shown = [(number + beside, run) for number, run in enumerate(predicted, 1) if run.get(key) is not None]
        if shown:
            x, values = [position for position, _ in shown], [run[key] for _, run in shown]
            reach = [ERRORS * error(run) for _, run in shown]
            axes.errorbar(x, values, reach, fmt="o", ms=4, color=colour, capsize=2, lw=1.3)
            handles.append(Line2D([], [], color=colour, marker="o", label=label))
    mean = sum(run["deltaH1"] for run in predicted) / len(predicted)
    axes.axhline(mean, color=PREDICTED, ls="--", lw=1.2)
    handles.append(Line2D([], [], color=PREDICTED, ls="--", lw=1.2, label="mean of the predictions"))
    axes.xaxis.set_major_locator(MaxNLocator(15, integer=True))
    axes.set_xlabel("run")
    axes.set_ylabel(f"change of the entropy ({unit})")
    _scientific(axes, "y")
    title(axes, "Every run", f"bars: ± {ERRORS} standard errors")
    return png(drawn, handles)


def _mean_over_runs(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the truth at each eta that all runs have: means over the runs, and the errors of these means."""
    of_runs: list[dict[float, Mapping[str, Any]]] = []
    for run in runs:
        if run.get("truth"):
            of_runs.append({step["eta"]: step for step in run["truth"]})
    shared = set.intersection(*map(set, of_runs)) if of_runs else set()
    rows = []
    for eta in sorted(shared):
        steps = [of_run[eta] for of_run in of_runs]
        row: dict[str, Any] = {"eta": eta, "runs": len(steps)}
        for value, se in (("deltaH", "se"), ("predicted", "predicted_se")):
            values: list[Any] = [step.get(value) for step in steps]
            errors: list[Any] = [step.get(se) for step in steps]
            row[value] = None if None in values else sum(values) / len(values)
            row[se] = math.nan if None in errors else math.hypot(*errors) / len(errors)
        if row["deltaH"] is not None:
            rows.append(row)
    return rows


def _means_of_sizes(analysis: Mapping[str, Any]) -> tuple[list[int], list[float], list[float]]:
    """Return sizes, means and the reach of their bars; the means' errors are those that the fits are weighed with."""
    sizes = {int(B_E): size for B_E, size in analysis["by_batch_size"].items() if size["mean_deltaH1"] is not None}
    errors = [size["SE_of_mean"] for size in sizes.values()]
    reach = [math.nan if se is None else ERRORS * se for se in errors]
    return list(sizes), [size["mean_deltaH1"] for size in sizes.values()], reach


def _error_of_prediction(run: Mapping[str, Any]) -> float:
    return math.nan if run.get("SE_conditional") is None else run["SE_conditional"]


def _error_of_truth(run: Mapping[str, Any]) -> float:
    """Return the error of the step at the learning rate, whose change is deltaH_true."""
    errors = [step.get("se") for step in run.get("truth") or () if step["eta"] == run.get("learning_rate")]
    return math.nan if not errors or errors[0] is None else errors[0]


def _reach(y: Sequence[float], se: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the lower and the upper ends of the bars."""
    pairs = list(zip(y, se, strict=True))
    return [value - ERRORS * error for value, error in pairs], [value + ERRORS * error for value, error in pairs]


def _sizes(axes: Axes, sizes: Sequence[int]) -> None:
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("B_E (prompts of the evaluation batch)")


def _scientific(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    axes.ticklabel_format(axis=axis, style="sci", scilimits=(-2, 4), useMathText=True)
    for one in (axes.xaxis, axes.yaxis):
        one.get_offset_text().set_fontsize(8)
