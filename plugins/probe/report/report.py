"""The page ``report.html`` of an experiment of the probe has the verdict first, then pictures, then the runs."""

from __future__ import annotations

from pathlib import Path

from ....core.files import replace_text
from ...report.page import Section, render, require_libraries
from ...report.plots import Plot
from ..experiments.scaling import ScalingRun
from .data import Experiment
from .tables import cards, details, judgement, subtitle


def write(experiment_directory: Path) -> Path:
    """Write ``report.html``, and its pictures as ``plots/*.png``, into an experiment directory; return the page's path.

    What was not measured is left out: a probe without truth has no picture of it.

    Raises:
        RequestError: the directory holds no results.
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    experiment = Experiment.read(experiment_directory)
    pictures = draw(experiment)
    (experiment.root / "plots").mkdir(exist_ok=True)
    for plot in pictures:
        (experiment.root / "plots" / f"{plot.name}.png").write_bytes(plot.png)
    sections = [*judgement(experiment), Section("Pictures", pictures=pictures), *details(experiment)]
    file = experiment.root / "report.html"
    replace_text(file, render(f"Entropy probe: {experiment.test}", subtitle(experiment), cards(experiment), sections))
    return file


def draw(experiment: Experiment) -> list[Plot]:
    """Draw every picture for which there is data. Raises MissingExtraError without matplotlib."""
    require_libraries()
    from . import plots

    unit, largest = experiment.unit, experiment.largest
    steps = next((result["truth"] for result in largest if result.get("truth")), ())
    drawn = [
        (
            "change_over_eta",
            "Predicted and measured change over the learning rate",
            plots.change_over_eta(largest, unit),
        ),
        ("weights", "Log importance weights of one run", plots.weights(steps)),
    ]
    if "by_batch_size" in experiment.analysis:
        runs = [
            ScalingRun(result["B_E"], result["deltaH1"], result.get("SE_conditional"))
            for result in experiment.results
            if result.get("deltaH1") is not None
        ]
        # what the experiment is about comes first
        drawn[:0] = [
            ("change_over_size", "Predicted change by size", plots.change_over_size(runs, experiment.analysis, unit)),
            ("error_over_size", "Standard error by size", plots.error_over_size(runs, experiment.analysis, unit)),
        ]
    elif len(experiment.results) > 1 and experiment.test != "debug":
        drawn[:0] = [("runs", "Prediction and truth of every run", plots.runs_side_by_side(experiment.results, unit))]
    return [Plot(name, text, png, wide=name == "weights") for name, text, png in drawn if png is not None]
