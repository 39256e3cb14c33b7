"""Claims against planted runs: what holds, what fails and what cannot be told, with errors and corrections."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from uncollapse.core.compose.plain_data import plain
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps
from uncollapse.plugins.report.claim import Claim, Term
from uncollapse.plugins.report.claim_check import check
from uncollapse.plugins.report.claim_table import claim_rows, note, setting_cells, settings_note, verdicts
from uncollapse.plugins.report.data import RunData, collect
from uncollapse.plugins.report.metrics import INFORMATION, SUCCESS
from uncollapse.plugins.report.run_status import RunStatus
from uncollapse.plugins.report.sweep_report import read_report


def run(setting: str, seed: int, *success: float, status: str = "success", se: float | None = None, **last: float):
    error = {} if se is None else {f"{SUCCESS}_se": se}
    records = [{"step": 10 * at, SUCCESS: value, **error} for at, value in enumerate(success)]
    records[-1] |= last
    point = {"filter": setting, "seed": str(seed)}
    return RunData(f"{setting}-{seed}", Path(setting), point, RunStatus(status), collect(records), steps=10)


def term(weight: float, setting: str, figure: float | None = None) -> Term:
    return Term(weight=weight, at={"filter": setting}, figure=figure)


def claim(**changes) -> Claim:
    terms = (term(1.0, "top_p", 0.289), term(-1.0, "none", 0.129))
    given = {"text": "it helps", "source": "table 4", "measure": "peak", "terms": terms}
    return Claim(**{**given, **changes})


def runs(with_it: tuple[float, ...], without: tuple[float, ...], **more):
    return [
        run(setting, seed, 0.1, value, 0.05, **more)
        for setting, values in (("top_p", with_it), ("none", without))
        for seed, value in enumerate(values)
    ]


LOW, HIGH = (0.20, 0.22, 0.24), (0.50, 0.54, 0.58)


def one(all_runs, tested: Claim):
    return check(all_runs, [tested]).checked[0]


def test_the_contrast_is_taken_seed_by_seed_of_the_peaks_with_students_t():
    found = one(runs(HIGH, LOW), claim())
    # .30, .32, .34: mean .32, standard deviation .02; the last validations, .05, do not matter
    assert found.contrast == pytest.approx(0.32)
    assert found.se == pytest.approx(0.02 / math.sqrt(3))
    t = 0.32 / (0.02 / math.sqrt(3))
    assert found.p == pytest.approx(1 - t / math.sqrt(t**2 + 2), abs=1e-9)
    assert (found.verdict, found.why, found.seeds) == ("holds", "higher", ("0", "1", "2"))
    assert found.claim.claimed == pytest.approx(0.16)


@pytest.mark.parametrize(
    ("with_it", "without", "direction", "margin", "verdict", "why"),
    [
        (HIGH, LOW, "higher", 0.0, "holds", "higher"),
        (LOW, HIGH, "higher", 0.0, "fails", "lower"),
        (LOW, HIGH, "lower", 0.0, "holds", "lower"),
        (HIGH, LOW, "lower", 0.0, "fails", "higher"),
        (LOW, (0.24, 0.20, 0.22), "higher", 0.0, "cannot be told", "p is above 0.05"),
        (HIGH, LOW, "not higher", 0.05, "fails", "it is higher"),
        (LOW, HIGH, "not higher", 0.05, "holds", "it is less than 0.05 higher"),
        ((0.210, 0.229, 0.250), LOW, "not higher", 0.05, "holds", "it is less than 0.05 higher"),
        ((0.30, 0.20, 0.24), LOW, "not higher", 0.05, "cannot be told", "p is above 0.05"),
        ((0.230, 0.249, 0.270), LOW, "not higher", 0.05, "holds", "it is less than 0.05 higher"),
        ((0.250, 0.269, 0.290), LOW, "not higher", 0.05, "fails", "it is higher"),
        (LOW, LOW, "higher", 0.0, "cannot be told", "no seed has any difference"),
    ],
)
def test_a_verdict_needs_a_difference_that_chance_does_not_make(with_it, without, direction, margin, verdict, why):
    found = one(runs(with_it, without), claim(direction=direction, margin=margin))
    assert (found.verdict, found.why) == (verdict, why)


def course(setting: str, seed: int, success, information, **changes) -> RunData:
    """A run that measures success in every step, and information in those where it is not None."""
    records = [
        {"step": step, SUCCESS: value, INFORMATION: told}
        for step, (value, told) in enumerate(zip(success, information, strict=True))
    ]
    return attrs.evolve(run(setting, seed, 0.0), logged=collect(records), **changes)


def test_what_goes_with_success_is_the_rank_correlation_within_runs():
    # 1 - 6 * 2 / 60, and 1 without the last two steps; a seed is the mean of its runs
    success, information = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 4.0, 3.0]
    all_runs = [
        course(setting, seed, success, [1.0, 2.0, 3.0, None] if seed == 2 else information)
        for setting in ("none", "top_p")
        for seed in range(3)
    ]
    goes = claim(measure="information_with_success", terms=(Term(weight=1.0, at={}, figure=0.39),))
    found = one(all_runs, goes)
    assert found.contrast == pytest.approx((0.8 + 0.8 + 1.0) / 3)
    assert found.se == pytest.approx(statistics.stdev([0.8, 0.8, 1.0]) / math.sqrt(3))
    assert (found.verdict, found.why, found.claim.claimed) == ("holds", "higher", 0.39)
    assert one(all_runs, attrs.evolve(goes, direction="lower")).verdict == "fails"
    # of two steps nothing is known
    assert one([course("none", 0, success, [1.0, 2.0, None, None])], goes).why == (
        "the sweep: rank correlation of mutual information with success was not measured"
    )
    assert (
        "entropy with success was not measured" in one(all_runs, attrs.evolve(goes, measure="entropy_with_success")).why
    )


def test_many_claims_at_once_need_stronger_evidence():
    strong, weak = claim(), claim(text="other", terms=(term(1.0, "weak"), term(-1.0, "none")))
    weaker = [run("weak", seed, 0.1, value) for seed, value in enumerate((0.25, 0.30, 0.29))]
    alone = one([*runs(HIGH, LOW), *weaker], weak)
    together = check([*runs(HIGH, LOW), *weaker], [strong, weak, weak, weak]).checked
    # .05, .08, .05 have t = 6 with 2 degrees of freedom
    assert alone.p == together[1].p == pytest.approx(1 - 6 / math.sqrt(38), abs=1e-9)
    assert (alone.verdict, together[1].verdict) == ("holds", "cannot be told")
    assert together[1].p_adjusted == pytest.approx(3 * alone.p)
    assert together[0].p_adjusted == pytest.approx(4 * together[0].p)
    assert together[0].verdict == "holds"


def test_one_seed_decides_nothing_however_small_its_error_over_tasks():
    found = one(runs((0.9,), (0.1,), se=0.001), claim())
    assert (found.verdict, found.p) == ("cannot be told", None)
    assert found.contrast == pytest.approx(0.8)
    assert found.se == pytest.approx(0.001 * math.sqrt(2))
    assert found.why.startswith("one seed")


def test_seeds_that_agree_to_the_last_digit_give_no_error_without_that_over_tasks():
    assert one(runs((0.5, 0.5), (0.25, 0.25)), claim()).why.startswith("all seeds agree")
    # 0.3 - 0.1 is not 0.4 - 0.2 in binary
    assert one(runs((0.3, 0.4), (0.1, 0.2)), claim()).why.startswith("all seeds agree")
    known = one(runs((0.5, 0.5), (0.25, 0.25), se=0.03), claim())
    assert known.se == pytest.approx(math.sqrt(4 * 0.03**2) / 2)
    assert known.verdict == "cannot be told"  # t = 8.3 with one degree of freedom


def test_only_seeds_that_have_all_runs_of_the_claim_count():
    some = [each for each in runs(HIGH, LOW) if each.label != "none-1"]
    found = one(some, claim())
    assert found.seeds == ("0", "2")
    assert found.contrast == pytest.approx((0.30 + 0.34) / 2)
    failed = [*some, run("none", 1, 0.1, 0.9, status="failed")]
    assert one(failed, claim()).seeds == ("0", "2")


def test_a_run_that_a_detector_stopped_counts_with_its_peak_and_is_counted():
    all_runs = [*runs(HIGH, LOW[:2]), run("none", 2, 0.1, 0.24, 0.0, status="stopped:no_signal")]
    claims = check(all_runs, [claim()])
    assert claims.checked[0].contrast == pytest.approx(0.32)
    assert [(setting.at["filter"], setting.stopped, setting.seeds) for setting in claims.settings] == [
        ("top_p", 0, 3),
        ("none", 1, 3),
    ]


def test_figures_stand_beside_means_of_the_runs_with_their_errors():
    with_it, without = check(runs(HIGH, LOW), [claim()]).settings
    assert (with_it.figure, without.figure) == (0.289, 0.129)
    assert (with_it.mean, with_it.se) == (pytest.approx(0.54), pytest.approx(0.04 / math.sqrt(3)))
    assert setting_cells(without) == {
        "measure": "peak success",
        "setting": "filter none",
        "source says": "0.129",
        "ours": "0.220 ± 0.012",
        "seeds": "3",
        "stopped": "–",
        "source": "table 4",
    }


def test_two_figures_for_the_same_runs_are_both_shown():
    other = claim(text="its other row", terms=(term(1.0, "top_p", 0.213), term(-1.0, "none", 0.162)))
    assert [setting.figure for setting in check(runs(HIGH, LOW), [claim(), other]).settings] == [
        0.289,
        0.129,
        0.213,
        0.162,
    ]


def test_a_relative_claim_compares_logarithms():
    def timed(setting, seed, seconds):
        return run(setting, seed, 0.1, 0.1, **{"timing_s/step": seconds})

    faster = claim(measure="seconds", relative=True, direction="lower", figure=-0.26)
    times = [(2.0, 1.5), (3.0, 2.1), (2.5, 1.8)]
    found = one(
        [timed(name, seed, pair[at]) for seed, pair in enumerate(times) for at, name in enumerate(("none", "top_p"))],
        faster,
    )
    logs = [math.log(0.75), math.log(0.70), math.log(0.72)]
    mean = sum(logs) / 3
    assert found.contrast == pytest.approx(math.exp(mean) - 1)
    spread = math.sqrt(sum((each - mean) ** 2 for each in logs) / 2 / 3)
    assert found.se == pytest.approx(math.exp(mean) * spread)
    assert (found.verdict, found.claim.claimed) == ("holds", -0.26)
    assert check([], [faster]).checked[0].why == "filter top_p: there is no run"


def test_a_contrast_of_four_settings_is_weighted_by_hand():
    """The gain at one slip less that at another."""
    gains = {"a": (0.5, 0.6), "b": (0.3, 0.3), "c": (0.45, 0.5), "d": (0.4, 0.5)}
    all_runs = [run(name, seed, value) for name, values in gains.items() for seed, value in enumerate(values)]
    found = one(all_runs, claim(terms=(term(1, "a"), term(-1, "b"), term(-1, "c"), term(1, "d"))))
    # seed 0: .2 - .05, seed 1: .3 - 0
    assert found.contrast == pytest.approx((0.15 + 0.30) / 2)
    assert found.se == pytest.approx(0.075)
    assert found.claim.claimed is None


@pytest.mark.parametrize(
    ("all_runs", "measure", "why"),
    [
        ([run("top_p", 0, 0.5)], "peak", "filter none: there is no run"),
        ([run("top_p", 0, 0.5), run("none", 0, 1, status="queued")], "peak", "filter none: no run has ended (queued)"),
        (runs(HIGH, LOW), "information", "filter top_p: last mutual information was not measured"),
        ([run("top_p", 0, 0.5), run("none", 1, 0.5)], "peak", "no seed has ended in all of its settings"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(all_runs, measure, why):
    found = one(all_runs, claim(measure=measure))
    assert (found.verdict, found.why, found.contrast, found.seeds) == ("cannot be told", why, None, ())


@given(st.permutations(range(6)), st.lists(st.floats(0.01, 1), min_size=6, max_size=6))
def test_the_order_of_runs_changes_nothing_and_swapped_sides_swap_the_sign(order, values):
    all_runs = runs(tuple(values[:3]), tuple(values[3:]))
    found = one(all_runs, claim())
    shuffled = one([all_runs[at] for at in order], claim())
    assert (shuffled.contrast, shuffled.p) == (pytest.approx(found.contrast), pytest.approx(found.p))
    swapped = one(runs(tuple(values[3:]), tuple(values[:3])), claim(direction="lower"))
    assert (swapped.contrast, swapped.p) == (pytest.approx(-found.contrast), pytest.approx(found.p))
    assert swapped.verdict == found.verdict


# --- in a sweep on disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path) -> Path:
    """Two settings with two seeds each."""
    points = []
    for setting, values in (("top_p", (0.5, 0.52)), ("none", (0.2, 0.25))):
        for seed, value in enumerate(values):
            place = {"filter": setting, "seed": str(seed)}
            made = RunDirectory.create(tmp_path / f"{setting}-{seed}", {"seed": seed}, {})
            made.append_metrics(1, {SUCCESS: value, f"{SUCCESS}_se": 0.01, "timing_s/step": 1.0, INFORMATION: 1.0})
            made.set_status("success", step=1)
            points.append({"label": made.path.name, "hash": "", "values": place})
    claims = [claim(note="as printed"), claim(text="one quarter", measure="information", direction="lower")]
    record = {"name": "test", "experiment": "sokoban", "points": points, "claims": plain(claims)}
    (tmp_path / "sweep.yaml").write_text(dumps(record))
    return tmp_path


def test_a_report_prints_figures_claims_and_what_they_mean(directory):
    report = read_report(directory)
    console = Console(width=220, record=True, file=None, quiet=False)
    with console.capture() as captured:
        report.print(console)
    text = captured.get()
    rows = [line.split() for line in text.splitlines()]
    assert ["peak", "success", "filter", "none", "0.129", "0.225", "±", "0.025", "2"] in rows
    line = next(line for line in text.splitlines() if line.startswith("it helps"))
    assert " ".join(line.split()) == (
        "it helps cannot be told +0.160 +0.285 ± 0.015 0.067 2 p is above 0.05 as printed"
    )
    said = " ".join(text.split())
    assert "0 claims hold, 0 fail, 2 cannot be told" in said
    assert "Source: table 4. Peak success: " in said and "Last mutual information: " in said
    assert "Seconds per step: " not in said


def test_what_the_sources_have_in_common_is_said_once():
    cited = [claim(source=f"A paper (2604), table {number}: Sokoban") for number in (4, 5)]
    claims = check(runs(HIGH, LOW), cited)
    assert settings_note(claims).startswith("Source: A paper (2604). Peak")
    assert [row["source"] for row in claim_rows(claims)] == ["table 4: Sokoban", "table 5: Sokoban"]
    apart = check(runs(HIGH, LOW), [claim(source="A book, page 4"), claim(source="A letter, page 4")])
    assert settings_note(apart).startswith("Peak")
    assert [row["source"] for row in claim_rows(apart)] == ["A book, page 4", "A letter, page 4"]


def test_a_report_as_data_has_the_numbers_unrounded(directory):
    data = read_report(directory).to_dict()["claims"]
    first, second = data["claims"]
    assert first["source_contrast"] == pytest.approx(0.16)
    assert first["contrast"] == pytest.approx((0.3 + 0.27) / 2)
    assert first["se"] == pytest.approx(0.015)
    assert (first["verdict"], first["seeds"], first["direction"]) == ("cannot be told", ["0", "1"], "higher")
    assert first["p_adjusted"] == pytest.approx(2 * first["p"] if second["p"] > first["p"] else first["p"])
    assert second["why"] == "no seed has any difference"
    assert [setting["at"] for setting in data["settings"][:2]] == [{"filter": "top_p"}, {"filter": "none"}]


def test_the_page_opens_with_the_claims(directory):
    text = read_report(directory).write().read_text("utf-8")
    assert text.index("it helps") < text.index("Validation success:")
    assert "cannot be told: p is above 0.05" in text
    assert "0 claims hold, 0 fail, 2 cannot be told" in text


def test_a_damaged_claim_damages_the_record_of_the_sweep(directory):
    file = directory / "sweep.yaml"
    file.write_text(file.read_text().replace("measure: peak", "measure: beauty"))
    with pytest.raises(RequestError, match="name, points or claims"):
        read_report(directory)


def test_the_count_of_verdicts_reads_well():
    checked = check(runs(HIGH, LOW), [claim(), claim(direction="lower"), claim(terms=(term(1.0, "nobody"),))])
    assert verdicts(checked) == "1 claim holds, 1 fails, 1 cannot be told"
    assert verdicts(attrs.evolve(checked, checked=[])) == "0 claims hold, 0 fail, 0 cannot be told"
    assert note(checked).startswith("1 claim holds, 1 fails, 1 cannot be told. Ours: mean over seeds")
