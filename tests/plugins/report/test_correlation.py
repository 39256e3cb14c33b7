from __future__ import annotations

import csv
import itertools
import json
import math
import random
import re
import statistics
import sys
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner
from rich.console import Console
from uncollapse.cli.main import main
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps
from uncollapse.plugins.report.correlation import correlate
from uncollapse.plugins.report.correlation_estimate import TOO_FEW, Estimate
from uncollapse.plugins.report.correlation_table import bars, legend, notes, print_correlations
from uncollapse.plugins.report.data import RunData
from uncollapse.plugins.report.following import Target, follow
from uncollapse.plugins.report.rank_correlation import student_p, student_quantile
from uncollapse.plugins.report.run_status import RunStatus
from uncollapse.plugins.report.stratified import independence_p, jackknife_error, rank_correlation
from uncollapse.plugins.report.sweep_report import read_report
from uncollapse.plugins.sweeps.result import Result

SUCCESS = "validation/success"
TARGET = Target(SUCCESS)
HERE = Path("sweep")


def run(label: str, success, status: str = "success", **metrics) -> RunData:
    """A run that logs a value of each metric at steps 0, 1, 2, ..."""
    records = [
        {"step": step, SUCCESS: value, **{name: values[step] for name, values in metrics.items()}}
        for step, value in enumerate(success)
    ]
    return RunData(
        label, Path(label), {}, RunStatus(status), steps=len(success) - 1, course=follow(records, TARGET), title=label
    )


def of(runs, metric="x", target=TARGET):
    (row,) = [row for row in correlate(runs, target, HERE).rows if row.metric == metric]
    return row


def noise(chance, steps=20):
    return [chance.gauss(0, 1) for _ in range(steps)]


def planted(seed: int, lead: int, strength: float = 1.0, steps: int = 40) -> RunData:
    """A run whose success is what ``x`` was ``lead`` steps ago, with noise, and has nothing to do with ``other``."""
    chance = random.Random(seed)
    x = noise(chance, steps)
    success = [strength * (x[step - lead] if step >= lead else 0.0) + chance.gauss(0, 0.3) for step in range(steps)]
    return run(str(seed), success, x=x, other=noise(chance, steps))


def test_the_mean_over_runs_and_its_error_by_hand():
    # x is 1 2 3 4 before success is as in each order: 1 - 6 * 2 / 60 twice, and 1
    orders = [(1, 2, 4, 3), (1, 3, 2, 4), (1, 2, 3, 4)]
    within = of([run(str(order), [0, *order], x=[1, 2, 3, 4, 9]) for order in orders]).within
    rhos = [0.8, 0.8, 1.0]
    assert within.rho == pytest.approx(statistics.fmean(rhos))
    assert within.runs == 3
    # three runs agree by chance: the error of four independent pairs, 1 / sqrt(3) each, is the larger one
    assert within.se == pytest.approx(math.sqrt(3 / 3) / 3)
    assert within.se_from == "pairs"
    assert within.p == pytest.approx(math.erfc(within.rho * 3 / math.sqrt(2)))
    assert within.verdict == "higher"
    reach = 1.959964 / 3
    assert (within.low, within.high) == (pytest.approx(within.rho - reach), 1.0)
    opposed = [(1, 2, 4, 3), (4, 3, 2, 1), (1, 2, 3, 4)]
    spread = of([run(str(order), [0, *order], x=[1, 2, 3, 4, 9]) for order in opposed]).within
    assert spread.rho == pytest.approx(0.8 / 3)
    assert spread.se == pytest.approx(statistics.stdev([0.8, -1.0, 1.0]) / math.sqrt(3))
    assert spread.p == pytest.approx(student_p(0.8 / 3 / spread.se, 2))
    assert (spread.se_from, spread.verdict) == ("runs", "not distinguishable")
    reach = student_quantile(2) * spread.se
    assert (spread.low, spread.high) == (max(-1.0, spread.rho - reach), min(1.0, spread.rho + reach))


def test_what_leads_success_by_some_steps_is_found_at_that_lag_alone():
    runs = [planted(seed, 1) for seed in range(8)]
    row, other = of(runs), of(runs, "other")
    assert row.within.rho > 0.8
    assert row.within.verdict == "higher"
    assert row.within.p_holm < 0.001
    assert row.at_equal_step.rho > 0.8
    assert other.within.verdict == "not distinguishable"
    assert of([planted(seed, 1, -1.0) for seed in range(8)]).within.verdict == "lower"
    late = [planted(seed, 4) for seed in range(8)]
    assert abs(of(late).within.rho) < 0.2


def test_the_strongest_comes_first():
    runs = [planted(seed, 1) for seed in range(4)]
    assert [row.metric for row in correlate(runs, TARGET, HERE).rows] == ["x", "other"]


@pytest.mark.parametrize(("walks", "chance_of_2_se"), [(False, 0.06), (True, 0.10)])
def test_noise_is_found_as_rarely_as_is_said(walks, chance_of_2_se):
    """Walks have long-lasting trends, of which nothing is a sign but that several runs have the same one."""
    chance = random.Random(1)
    tried, above, low = 120, 0, 0

    def series():
        steps = noise(chance, 13)
        return list(itertools.accumulate(steps)) if walks else steps

    for _ in range(tried):
        within = of([run(str(at), series(), x=series()) for at in range(6)]).within
        above += within.above
        low += within.p < 0.05
    # Student's t of 5 degrees of freedom is above 2 in 10.2 % of cases
    assert student_p(2.0, 5) == pytest.approx(0.102, abs=5e-4)
    assert 0.3 * chance_of_2_se < above / tried < chance_of_2_se + 0.06
    assert 0 < low / tried < 0.1


def test_how_many_metrics_chance_alone_would_show():
    chance = random.Random(2)
    metrics = {f"m{at}": noise(chance) for at in range(10)}
    runs = [run(str(at), noise(chance), **metrics, constant=[1.0] * 20) for at in range(3)]
    found = correlate(runs, TARGET, HERE)
    assert (found.tested, found.runs) == (10, 3)
    # t of two degrees of freedom: 1 - 2 / sqrt(6)
    assert found.by_chance == pytest.approx(10 * (1 - 2 / math.sqrt(6)))
    assert found.without == {"constant": ["constant"]}
    assert found.uncompared == [SUCCESS]
    rows = [row for row in found.rows if row.within.p is not None]
    smallest = min(rows, key=lambda row: row.within.p)
    assert smallest.within.p_holm == pytest.approx(min(1.0, 10 * smallest.within.p))


def test_runs_without_a_correlation_are_left_out_and_counted():
    good = run("good", [0, 1, 2, 4, 3], x=[1, 2, 3, 4, 9])
    runs = [
        good,
        attrs.evolve(good, label="again"),
        run("constant", [0, 1, 2, 4, 3], x=[1.0] * 5),
        run("flat", [0, 1, 1, 1, 1], x=[1, 2, 3, 4, 9]),
        run("few", [0, 1, 2], x=[1, 2, 3]),
        run("without", [0, 1, 2, 4, 3], y=[1, 2, 3, 4, 9]),
    ]
    row = of(runs)
    assert (row.within.rho, row.within.runs) == (pytest.approx(0.8), 2)
    assert row.left_out == {"constant": 1, "fewer than 3 pairs": 1, "no pair": 1, "target constant": 1}


def test_one_run_has_a_correlation_and_no_error():
    row = of([run("only", [0, 1, 2, 4, 3], x=[1, 2, 3, 4, 9])])
    assert row.within == Estimate(pytest.approx(0.8), 1, why="one run")
    assert row.within.verdict == "cannot be told"
    assert row.over_runs == Estimate()


def final(label: str, x: float, success: float, **more) -> RunData:
    return run(label, [0.5, 0.4, 0.6, success], x=[1.0, 2.0, x, 99.0], **more)


def test_over_runs_the_last_pairs_are_compared():
    x, success = [3.0, 1.0, 2.0, 5.0, 4.0], [0.3, 0.2, 0.1, 0.5, 0.4]
    pairs = list(zip(x, success, strict=True))
    over = of([final(str(at), *pair) for at, pair in enumerate(pairs)]).over_runs
    assert (over.rho, over.runs) == (pytest.approx(rank_correlation([pairs])), 5)
    assert over.rho == pytest.approx(0.9)
    assert over.p == pytest.approx(independence_p([pairs])) == pytest.approx(10 / 120)
    # the jackknife's error is smaller than that of five independent runs
    assert over.se == pytest.approx(max(0.5, jackknife_error([pairs])))
    # three runs in order are nothing: one in three orders is
    three = of([final(str(at), at, at / 10) for at in range(3)]).over_runs
    assert (three.rho, three.p, three.verdict) == (1.0, pytest.approx(1 / 3), "cannot be told")
    assert (three.why, three.p_holm) == (TOO_FEW, None)
    # two of the 24 orders of four are perfect, 0.083; of five, two of 120
    assert of([final(str(at), at, at / 10) for at in range(4)]).over_runs.verdict == "cannot be told"
    assert of([final(str(at), at, at / 10) for at in range(5)]).over_runs.verdict == "higher"


def test_over_runs_each_environment_is_ranked_by_itself():
    """The easier task has more of the metric; within each task the metric goes with less success."""
    runs = [
        attrs.evolve(final(f"{task} {at}", base + at, (base - at) / 100), environment=task)
        for task, base in (("easy", 50.0), ("hard", 10.0))
        for at in range(4)
    ]
    found = correlate(runs, TARGET, HERE)
    over = found.rows[0].over_runs
    assert (found.environments, over.runs, over.rho) == (2, 8, pytest.approx(-1.0))
    assert over.p == pytest.approx(2 / 24**2)
    assert any("have 2 environments" in note for note in notes(found))
    assert correlate([attrs.evolve(each, environment="") for each in runs], TARGET, HERE).rows[0].over_runs.rho > 0


def test_what_is_measured_at_once_is_held_apart_from_what_follows():
    """Success is what x is in the same step, and a mark of nothing to come."""

    def alike(seed):
        x = noise(random.Random(seed), 30)
        return run(str(seed), x, x=x, rare=[value if at % 3 == 0 else None for at, value in enumerate(x)])

    runs = [alike(seed) for seed in range(6)]
    row, rare = of(runs), of(runs, "rare")
    assert (row.at_once.rho, row.at_once.runs, row.at_once.verdict) == (1.0, 6, "higher")
    assert row.at_once.se == pytest.approx(math.sqrt(6 / 29) / 6)
    assert abs(row.within.rho) < 0.2
    assert row.within.verdict == "not distinguishable"
    # 10 of the 30 steps have the rare one
    assert (rare.at_once.rho, rare.at_once.se) == (1.0, pytest.approx(math.sqrt(6 / 9) / 6))


def test_metrics_that_are_made_of_success_or_rewards_are_marked():
    names = [
        "train/reward",
        "validation/pass@4",
        "critic/returns_mean",
        "critic/advantages",
        "actor/entropy",
        "x/succeed",
    ]
    rows = correlate([run("a", [0, 1, 2, 4, 3], **{name: [1, 2, 3, 4, 9] for name in names})], TARGET, HERE).rows
    assert [row.metric for row in rows if row.of_outcomes] == sorted(names[:4])


def test_only_runs_that_used_their_budget_are_compared_over_runs():
    runs = [final(str(at), at, at / 10) for at in range(5)]
    stopped = attrs.evolve(final("stopped", 9.0, 0.0), run_status=RunStatus("stopped:low_validation_success"))
    earlier = run("earlier", [0.5, 0.4, 0.3, math.nan], x=[1.0, 2.0, 9.0, 9.0])
    found = correlate([*runs, stopped, earlier], TARGET, HERE)
    (row,) = found.rows
    assert (row.over_runs.rho, row.over_runs.runs) == (1.0, 5)
    assert row.within.runs == 6  # also the one that a detector stopped
    assert row.left_out == {"fewer than 3 pairs": 1}
    assert found.left_out_over_runs == [
        ("stopped", "failed regime (low_validation_success)"),
        ("earlier", "last measured at step 2, others at step 3"),
    ]


def test_runs_that_are_left_out_are_named_if_they_are_few_and_counted_if_they_are_many():
    def note(stopped):
        runs = [final(str(at), at, at / 10) for at in range(4)]
        for at in range(stopped):
            status = RunStatus("stopped:low_validation_success" if at else "running")
            runs.append(attrs.evolve(final(f"left {at}", 1.0, 0.0), run_status=status))
        return notes(correlate(runs, TARGET, HERE))[-1]

    assert note(2) == ("Not among the final pairs: left 0: running; left 1: failed regime (low_validation_success).")
    assert note(13) == "Not among the final pairs: running: 1 run; failed regime (low_validation_success): 12 runs."


def test_the_order_of_the_runs_and_monotone_changes_change_nothing():
    runs = [planted(seed, 1, steps=12) for seed in range(5)]
    found = correlate(runs, TARGET, HERE).rows
    assert correlate(runs[::-1], TARGET, HERE).rows == found
    changed = []
    for seed in range(5):
        chance = random.Random(seed)
        x = noise(chance, 12)
        success = [(x[step - 1] if step else 0.0) + chance.gauss(0, 0.3) for step in range(12)]
        other = noise(chance, 12)
        changed.append(
            run(
                str(seed),
                [math.atan(value) for value in success],
                x=[math.exp(v) for v in x],
                other=[v**3 for v in other],
            )
        )
    assert correlate(changed, TARGET, HERE).rows == found


def test_a_target_that_no_run_has_is_refused_with_the_nearest_name():
    runs = [planted(0, 1)]
    with pytest.raises(RequestError, match="no run has logged a finite validation/sucess") as caught:
        correlate(runs, Target("validation/sucess"), HERE)
    assert caught.value.fix == "did you mean 'validation/success'?"
    with pytest.raises(RequestError) as caught:
        correlate([RunData("a", HERE, {}, RunStatus("not started"))], TARGET, HERE)
    assert "no run has logged anything yet" in caught.value.fix


@pytest.fixture
def sweep(tmp_path):
    """Three runs of 8 steps; ``actor/entropy`` goes before success, ``actor/lr`` is constant."""
    points = []
    for seed in range(3):
        chance = random.Random(seed)
        directory = RunDirectory.create(tmp_path / f"seed_{seed}", {"seed": seed}, {})
        entropy = noise(chance, 9)
        for step in range(9):
            success = entropy[step - 1] if step else 0.0
            metrics = {SUCCESS: success, f"{SUCCESS}_se": 0.1, "actor/entropy": entropy[step], "actor/lr": 1e-6}
            directory.append_metrics(step, {**metrics, "timing_s/step": chance.random()})
        directory.set_status("success", step=8)
        points.append({"label": f"seed_{seed}", "hash": "", "values": {"seed": str(seed)}})
    record = {"name": "test", "experiment": {}, "axes": {"seed": [0, 1, 2]}, "points": points}
    (tmp_path / "sweep.yaml").write_text(dumps(record))
    return tmp_path


def test_the_command_line_shows_the_correlations(sweep):
    words = ["sweep", "report", str(sweep), "--correlate", SUCCESS]
    answer = CliRunner().invoke(main, words)
    assert answer.exit_code == 0
    text = " ".join(answer.output.split())
    assert "What goes before validation/success" in text
    assert "actor/entropy +1.000 ± 0.218 +0.57 to +1.00 higher" in text  # sqrt(3 / 7) / 3
    assert "1 of 1 metrics can be told from none within runs" in text
    assert "1 are above 2 standard errors; up to 0.2 would be by chance" in text
    assert "Without a rank correlation (constant): actor/lr." in text
    assert f"Not compared: timing_s/step, {SUCCESS}, {SUCCESS}_se." in text
    data = json.loads(CliRunner().invoke(main, [*words, "--json", "--lag", "2"]).stdout)["correlations"]
    assert (data["target"], data["lag"], data["runs"]) == (SUCCESS, 2, 3)
    assert [row["metric"] for row in data["metrics"]] == ["actor/entropy", "actor/lr"]
    assert data["metrics"][1]["left_out"] == {"constant": 3}
    assert "correlations" not in json.loads(CliRunner().invoke(main, [*words[:3], "--json"]).stdout)


def test_the_page_and_a_file_have_the_correlations(sweep):
    pytest.importorskip("matplotlib")
    page = Result.read(sweep).report(correlate=SUCCESS)
    text = page.read_text(encoding="utf-8")
    assert "What goes before validation/success" in text
    assert "+1.000 ± 0.218" in text and "<span class='chip higher'>higher</span>" in text
    with (page.parent / "correlations.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["metric"], float(first["within_rho"]), first["within_runs"]) == ("actor/entropy", 1.0, "3")
    assert (second["metric"], second["within_rho"], second["left_out"]) == ("actor/lr", "", "3 constant")
    assert read_report(sweep).correlations is None


def test_the_chart_places_each_metric_with_its_interval(sweep):
    pytest.importorskip("matplotlib")
    text = Result.read(sweep).report(correlate=SUCCESS).read_text(encoding="utf-8")
    (chart,) = re.findall(r"<div class='bar higher'>.*?<div class='figure'>.*?</div>", text, re.DOTALL)
    assert "<div class='name'>actor/entropy</div>" in chart and "<div class='figure'>+1.00, 3 runs</div>" in chart
    assert "<span class='dot' style='left:100.00%'></span>" in chart
    reach = 1.959964 * math.sqrt(3 / 7) / 3
    low = 50 * (2 - reach)
    assert f"<span class='reach' style='left:{low:.2f}%;width:{100 - low:.2f}%'></span>" in chart
    row = read_report(sweep, TARGET).correlations.rows[0]
    assert f"<span class='ring' style='left:{50 * (1 + row.at_once.rho):.2f}%'></span>" in chart


def test_a_chart_has_the_strongest_metrics_and_those_that_diagnose():
    chance = random.Random(5)
    x = [float(at) for at in range(20)]
    strong = {f"m{at:02}": [value + at for value in x] for at in range(30)}
    flat = {name: noise(chance) for name in ("actor/entropy", "collapse_first_turn_sample/mi_seq_estimate", "other")}
    found = correlate([run(str(at), x, **strong, **flat) for at in range(2)], TARGET, HERE)
    names = [bar.name for bar in bars(found)]
    assert names[:24] == sorted(strong)[:24]
    assert sorted(names[24:]) == ["actor/entropy", "collapse_first_turn_sample/mi_seq_estimate"]
    assert "The 24 strongest of 33" in legend(found)


def test_what_was_asked_beforehand_is_corrected_for_itself_alone():
    chance = random.Random(6)
    noises = {f"m{at}": noise(chance, 12) for at in range(20)}

    def learning(seed):
        success = noise(random.Random(seed), 12)
        entropy = [-later + 0.8 * random.Random(seed + at).gauss(0, 1) for at, later in enumerate([*success[1:], 0.0])]
        return run(str(seed), success, **{"actor/entropy": entropy}, **noises)

    found = correlate([learning(seed) for seed in range(5)], TARGET, HERE)
    (information, none), (entropy, asked) = found.diagnosis
    assert (information, none, entropy) == ("collapse_first_turn_sample/mi_seq_estimate", None, "actor/entropy")
    (row,) = [row for row in found.rows if row.metric == "actor/entropy"]
    assert asked.within.p_holm == asked.within.p == row.within.p
    assert row.within.p_holm > 5 * asked.within.p_holm
    (note,) = [line for line in notes(found) if line.startswith("Asked before any result")]
    assert f"{information} was not logged; actor/entropy later {asked.within.rho:+.3f} ±" in note
    assert not any(line.startswith("Asked") for line in notes(correlate([learning(0)], Target("actor/entropy"), HERE)))


def test_without_scipy_the_extra_is_named(sweep, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    answer = CliRunner().invoke(main, ["sweep", "report", str(sweep), "--correlate", SUCCESS])
    assert answer.exit_code == 2
    assert "rank correlations need scipy" in answer.output and "uncollapse[train]" in answer.output
    assert CliRunner().invoke(main, ["sweep", "report", str(sweep), "--json"]).exit_code == 0


def test_wrong_requests_are_refused(sweep):
    words = ["sweep", "report", str(sweep)]
    answer = CliRunner().invoke(main, [*words, "--correlate", "actor/entrop"])
    assert answer.exit_code == 2
    assert "no run has logged a finite actor/entrop" in answer.output
    assert "did you mean 'actor/entropy'?" in answer.output
    for wrong in (["--lag", "2"], ["--correlate", SUCCESS, "--lag", "0"], ["--correlate", SUCCESS, "--lag", "1.5"]):
        assert CliRunner().invoke(main, [*words, *wrong]).exit_code == 2


def test_damaged_runs_and_runs_that_have_not_begun_are_in_no_correlation(sweep):
    (sweep / "seed_0" / "metrics.jsonl").write_text("{\n\n")
    (sweep / "seed_1").rename(sweep / "elsewhere")
    found = read_report(sweep, TARGET).correlations
    assert (found.runs, found.rows[0].within.runs) == (1, 1)
    assert found.left_out_over_runs == [("seed 0", "damaged"), ("seed 1", "not started")]


def test_without_any_correlation_the_reason_is_told(sweep, capsys):
    read_report(sweep, Target(SUCCESS, lag=9)).print(Console(width=300))
    said = capsys.readouterr().out
    assert "Without a rank correlation (no pair): actor/lr." in said
    assert "3 no pair" in said


def test_without_a_metric_that_varies_there_is_no_table(capsys):
    table = correlate([run("a", [0, 1, 2, 3], x=[1.0] * 4)], TARGET, HERE)
    print_correlations(table, Console(width=300), 40)
    said = capsys.readouterr().out
    assert "What goes before validation/success: no metric has a rank correlation" in said
    assert "Without a rank correlation (constant): x." in said


def test_one_run_is_told_to_have_no_error(sweep):
    (sweep / "seed_0").rename(sweep / "gone")
    (sweep / "seed_1").rename(sweep / "elsewhere")
    answer = CliRunner().invoke(main, ["sweep", "report", str(sweep), "--correlate", SUCCESS])
    assert "One run: no error." in answer.output
    assert "actor/entropy +1.000 cannot be told" in " ".join(answer.output.split())
