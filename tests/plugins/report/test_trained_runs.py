"""Two trained runs are correlated and laid side by side; every number is computed again from what they logged."""

from __future__ import annotations

import json
import math
import statistics

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core.runs.directory import RunDirectory

TARGET = "validation/response_length"
"""A policy without training never succeeds, so that success has no order; its responses differ in length."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(bandit, tmp_path_factory):
    pytest.importorskip("deepspeed")
    import uncollapse

    home = tmp_path_factory.mktemp("trained")
    trainer = {**bandit["trainer"], "steps": 5, "log_rollouts": 99}
    validation = {**bandit["validation"], "groups": 16, "every": 1}
    common = {**bandit, "trainer": trainer, "validation": validation}
    for name, rate in (("slow", 1e-3), ("fast", 5e-2)):
        uncollapse.train({**common, "trainer": {**trainer, "lr": rate}}, home / name)
    return home / "slow", home / "fast"


def invoke(*words):
    answer = CliRunner().invoke(main, [*map(str, words)])
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def test_correlations_are_those_of_the_logged_values(trained):
    stats = pytest.importorskip("scipy.stats")
    found = invoke("report", *trained, "--correlate", TARGET, "--json")["correlations"]
    rows = {row["metric"]: row for row in found["metrics"]}
    logged = [RunDirectory.open(path).metrics() for path in trained]
    # validations at 0 .. 5, training metrics at 1 .. 5: four pairs with the next, five at once
    later = [
        stats.spearmanr([r["actor/entropy"] for r in records[1:5]], [r[TARGET] for r in records[2:6]]).statistic
        for records in logged
    ]
    at_once = [
        stats.spearmanr([r["actor/entropy"] for r in records[1:6]], [r[TARGET] for r in records[1:6]]).statistic
        for records in logged
    ]
    for kind, expected in (("within", later), ("at_once", at_once)):
        known = [rho for rho in expected if not math.isnan(rho)]  # the fast one may say the same in all steps
        assert known and rows["actor/entropy"][kind]["runs"] == len(known)
        assert rows["actor/entropy"][kind]["rho"] == pytest.approx(statistics.fmean(known))
    assert {"actor/lr", "train/rows"} <= rows.keys()
    assert rows["actor/entropy"]["over_runs"]["rho"] is None  # two runs


def test_the_same_tasks_stand_side_by_side(trained):
    data = invoke("transcripts", *trained, "--step", "first,last", "--json")
    assert [step["step"] for step in data["steps"]] == [1, 5]
    for step in data["steps"]:
        assert step["tasks_in_common"]
        assert [side["alike"]["episodes"] for side in step["sides"]] == [8, 8]
        for task in step["tasks"]:
            assert {episode["turns"][0]["user"] for episode in task["episodes"]} == {task["prompt"]}
        for path, side in zip(trained, step["sides"], strict=True):
            records = RunDirectory.open(path).read_rollouts(step["step"])
            said = [record["turns"][0]["response"].strip() for record in records]
            assert side["alike"]["distinct"] == len(set(said))
            entropy = RunDirectory.open(path).metrics()[step["step"]]["actor/entropy"]
            assert side["facts"]["entropy (nats per token)"] == [step["step"], entropy]
