from __future__ import annotations

import io
from pathlib import Path

import pytest
from uncollapse.plugins.report.data import RunData, SweepData, collect
from uncollapse.plugins.report.metrics import CURVES, SUCCESS
from uncollapse.plugins.report.plots import plots
from uncollapse.plugins.report.run_status import RunStatus

pytest.importorskip("matplotlib")


@pytest.fixture
def figures(monkeypatch) -> dict:
    """Every figure that is drawn, under the title of its first panel."""
    from matplotlib.figure import Figure

    drawn, save = {}, Figure.savefig

    def keep(self, *args, **options):
        drawn[self.axes[0].get_title(loc="left") if not self.texts else self.texts[0].get_text()] = self
        return save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


def run(values: list[float], status: str = "success", se: float | None = None, **point: str) -> RunData:
    """A run that validated ``values`` at the steps 0, 10, ..."""
    records = [{"step": 10 * at, SUCCESS: value, f"{SUCCESS}_se": se} for at, value in enumerate(values)]
    label = "-".join(point.values())
    return RunData(label, Path(label), point, RunStatus(status), collect(records), steps=10 * len(values) - 10)


def sweep(runs: list[RunData]) -> SweepData:
    axes = {axis: list(dict.fromkeys(run.point[axis] for run in runs)) for axis in runs[0].point}
    return SweepData("test", Path("test"), axes, runs)


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines(axes) -> dict[str, list]:
    """Colour -> points of each line with more than one point."""
    return {str(line.get_color()): line.get_xydata().tolist() for line in axes.lines if len(line.get_xdata()) > 1}


def marks(axes) -> list:
    """Where marks are: of scatters, not of bands."""
    from matplotlib.collections import PathCollection

    return [
        at for found in axes.collections if isinstance(found, PathCollection) for at in found.get_offsets().tolist()
    ]


def test_a_stop_is_marked_at_its_step_with_its_detector(sweep_directory, figures):
    plots(SweepData.read(sweep_directory))
    success = figures["Validation success"]
    assert marks(success.axes[0]) == [[6.0, 0.35]]
    assert legend(success) == [
        "filter.select nofilter, kl.coef 0",
        "filter.select nofilter, kl.coef 0.01",
        "filter.select top_p(0.9), kl.coef 0",
        "filter.select top_p(0.9), kl.coef 0.01 (stopped at 6)",
        "reward_variance_collapse (1 stopped)",
    ]
    kl = figures["KL to the reference"]
    assert legend(kl)[:2] == [
        "filter.select nofilter, kl.coef 0.01",
        "filter.select top_p(0.9), kl.coef 0.01 (stopped at 6)",
    ]
    bars = figures["Seconds per step"].axes[0].containers
    assert [bar.get_label() for bar in bars] == ["rollout", "score", "update", "validation", "other"]
    assert [patch.get_width() for patch in bars[2]] == pytest.approx([1.0] * 4)


def test_seeds_are_a_line_with_a_band_and_stopped_seeds_are_not_in_it(figures):
    runs = [
        run([0.1, 0.4], kl="0", seed="0"),
        run([0.3, 0.8], kl="0", seed="1"),
        run([0.1, 0.0], "stopped:low", kl="0", seed="2"),
        run([0.2, 0.5], kl="1", seed="0"),
        run([0.2, 0.7], kl="1", seed="1"),
    ]
    names = [plot.name for plot in plots(sweep(runs))]
    assert names == ["final_kl", "success"]
    figure = figures["Validation success"]
    axes = figure.axes[0]
    assert legend(figure) == ["kl=0 (1 of 3 stopped)", "kl=1", "low (1 stopped)"]
    assert "band: lowest to highest" in axes.get_title(loc="right")
    drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert [pytest.approx(point) for line in drawn for point in line] == [
        [0, 0.2], [10, 0.6],  # the mean of the two that went on
        [0, 0.1], [10, 0.0],  # the stopped one, on its own
        [0, 0.2], [10, 0.6],
    ]  # fmt: skip
    assert marks(axes) == [[10.0, 0.0]]
    low, high = axes.collections[0].get_datalim(axes.transData).get_points()[:, 1]
    assert (low, high) == pytest.approx((0.1, 0.8))


def test_many_settings_are_shown_by_the_values_of_each_axis(figures):
    runs = [
        run([0.1, 0.1 * int(a) + 0.05 * int(b)], "stopped:low" if (a, b) == ("0", "1") else "success", a=a, b=b)
        for a in "012"
        for b in "0123"
    ]
    found = plots(sweep(runs))
    assert [plot.name for plot in found] == ["final_a", "final_b", "by_a", "by_b"]
    assert [plot.wide for plot in found] == [False, False, True, True]
    figure = figures["By a"]
    assert legend(figure) == ["0 (1 of 4 stopped)", "1", "2", "low (1 stopped)"]
    assert "± 1 standard error" in figure.texts[1].get_text()
    last = [points[-1] for points in lines(figure.axes[0]).values()]
    assert last == [pytest.approx([10, mean]) for mean in ((0.0 + 0.10 + 0.15) / 3, 0.175, 0.275)]
    assert marks(figure.axes[0]) == [pytest.approx([10.0, 0.05])]


def test_final_values_are_averaged_without_failed_regimes_and_unfinished_runs(figures):
    runs = [
        run([0.0, 0.4], a="10", b="x"),
        run([0.0, 0.6], a="10", b="y"),
        run([0.0, 0.9], "stopped:low", a="10", b="z"),
        run([0.0, 0.8], "running", a="2", b="x"),
        run([0.0, 0.3], a="2", b="y", se=0.02),
        run([0.0, 0.2], a="30", b="x", se=0.03),
        run([0.0, 0.2], a="30", b="y", se=0.04),
    ]
    plots(sweep(runs))
    figure = figures["Final success by a"]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "10", "30"]  # numbers by size
    (single, _, (low_high,)), (mean, _, (errors,)), (_, _, (agreeing,)) = axes.containers
    assert mean.get_xydata().tolist() == [pytest.approx([1, 0.5])]
    assert errors.get_segments()[0][:, 1].tolist() == pytest.approx([0.4, 0.6])  # sqrt(.02) / sqrt(2) = .1
    assert single.get_xydata().tolist() == [pytest.approx([0, 0.3])]
    assert low_high.get_segments()[0][:, 1].tolist() == pytest.approx([0.28, 0.32])  # over its tasks
    # two runs that agree by chance: sqrt(.03^2 + .04^2) / 2 over their tasks
    assert agreeing.get_segments()[0][:, 1].tolist() == pytest.approx([0.175, 0.225])
    ((_, value),) = marks(axes)
    assert value == 0.9
    assert legend(figure) == ["low (1 stopped)"]


def test_plots_stay_whole_with_a_value_per_run(figures):
    from matplotlib.image import imread

    runs = [run([0.1, 0.001 * at], seed="0", a=f"top_p(0.{at:03})") for at in range(164)]
    found = plots(sweep(runs))
    assert len(legend(figures["By a"])) == 12
    assert [text for text in legend(figures["By a"]) if text.endswith(("0.000)", "0.163)"))]
    for plot in found:
        height, width = imread(io.BytesIO(plot.png)).shape[:2]
        assert height < 2000
        assert width <= 3200


def test_a_curve_has_a_file_of_its_own(sweep_directory):
    names = [plot.name for plot in plots(SweepData.read(sweep_directory))]
    assert names == ["final_filter.select", "final_kl.coef", *(curve.name for curve in CURVES), "seconds"]
