"""The reproductions of RAGEN-2's tables: points, settings, claims with the paper's figures, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import uncollapse
from click.testing import CliRunner
from sweep_help import Launcher
from uncollapse.cli.main import main
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps
from uncollapse.plugins.ragen.main_table import FROZEN_LAKE, SOKOBAN
from uncollapse.plugins.ragen.reproduction import SIZES
from uncollapse.plugins.report.claim import without_points
from uncollapse.plugins.report.sweep_report import read_report
from uncollapse.plugins.sweeps.sweep import Sweep, load

NAMES = ("main-table", "budget", "quartiles", "filters", "slip")
SINGLE = {"extends": "sokoban", "rollout": {"groups": 32, "group_size": 1}}


def points(name, experiment="tiny-sokoban", **options):
    return {point.label: point.experiment for point in load(name, experiment=experiment, **options).points()}


def claims(name, experiment="tiny-sokoban", **options):
    return {claim.text: claim for claim in load(name, experiment=experiment, **options).claims}


@pytest.mark.parametrize("name", NAMES)
def test_all_have_the_settings_of_the_main_tables_scripts(name):
    for experiment in points(name, "frozen-lake" if name == "slip" else "sokoban").values():
        assert (experiment.kl.coef, experiment.entropy.coef, experiment.filter.loss_scaling) == (0.0, 0.001, "none")
        assert (experiment.filter.metric.name, experiment.trainer.steps) == ("reward_variance", 400)
        loss = experiment.policy_loss.component
        assert (experiment.policy_loss.name, loss.clip_low, loss.clip_high) == ("ppo", 0.2, 0.28)
        assert [named.name for named in experiment.collapse][-1] == "mutual_information"


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_is_about_points_of_the_sweep_with_weights_that_cancel(name):
    sweep = load(name, **({} if name == "slip" else {"experiment": "tiny-sokoban"}))
    assert sweep.claims
    assert without_points(sweep.claims, [point.values for point in sweep.points()]) == []
    for claim in sweep.claims:
        assert sum(term.weight for term in claim.terms) == pytest.approx(0)
        assert "arXiv 2604.06268), " in claim.source


class TestDiagnosis:
    def test_the_claims_are_about_all_runs_with_and_without_the_filter(self):
        assert list(points("diagnosis")) == ["none", "top_p"]
        found = claims("diagnosis")
        said = {text: (each.measure, each.direction, each.claimed) for text, each in found.items()}
        assert said == {
            "mutual information goes with success": ("information_with_success", "higher", 0.39),
            "entropy goes against success": ("entropy_with_success", "lower", -0.11),
        }

    def test_without_mutual_information_it_says_that_its_claim_cannot_be_told(self):
        notices = load("diagnosis", experiment="tiny-sokoban", mutual_information=False).notices
        assert "claims about mutual information cannot be told, as it is not measured" in notices


class TestMainTable:
    def test_points_are_algorithms_with_and_without_filter(self):
        found = points("main-table")
        assert list(found) == [f"{name}-{tag}" for name in ("ppo", "grpo", "dr_grpo") for tag in ("nofilter", "filter")]
        settings = {
            label: (experiment.advantage.name, str(experiment.trainer.loss_aggregation), experiment.filter.select.name)
            for label, experiment in found.items()
        }
        assert settings["ppo-filter"] == ("gae", "token-mean", "top_p")
        assert settings["grpo-nofilter"] == ("grpo", "seq-mean-token-mean", "nofilter")
        assert settings["dr_grpo-filter"] == ("dr_grpo", "seq-mean-token-sum", "top_p")
        chosen = found["ppo-filter"].filter.select.component
        assert (chosen.value, chosen.prob_mode, chosen.include_zero) == (0.9, "softmax", True)

    def test_claims_have_the_figures_of_their_rows(self):
        found = claims("main-table")
        figures = {text: [term.figure for term in claim.terms] for text, claim in found.items()}
        assert figures == {
            "top-p filtering raises peak success (PPO)": [0.289, 0.129],
            "top-p filtering raises peak success (DAPO)": [0.213, 0.162],
            "top-p filtering raises peak success (GRPO)": [0.211, 0.121],
            "top-p filtering does not raise peak success (Dr. GRPO)": [0.117, 0.121],
        }
        dapo = found["top-p filtering raises peak success (DAPO)"]
        assert dapo.terms[0].at == {"algorithm": "ppo", "filter": "top_p"}
        assert "settings of PPO" in dapo.note
        useless = found["top-p filtering does not raise peak success (Dr. GRPO)"]
        assert (useless.direction, useless.margin) == ("not higher", 0.05)

    def test_a_frozen_lake_is_held_against_its_own_column(self):
        found = claims("main-table", "frozen-lake", algorithms="grpo")
        (claim,) = found.values()
        assert (claim.direction, claim.claimed) == ("not higher", pytest.approx(-0.03))
        assert claim.source.endswith("table 4: FrozenLake, 3B")
        assert claim.text == "top-p filtering does not raise peak success (GRPO, as the text has it)"
        assert "+2.3" in claim.note

    def test_models_are_crossed_with_all_and_held_against_their_rows(self):
        found = load("main-table", experiment="tiny-sokoban", models="0.5B,tiny_qwen2,a/b", algorithms="ppo")
        models = {point.values["model"]: point.experiment.model for point in found.points()}
        assert models["0.5B"].path == "Qwen/Qwen2.5-0.5B"
        assert models["0.5B"].build is None
        assert models["a/b"].path == "a/b"
        assert (models["tiny_qwen2"].path, models["tiny_qwen2"].build.name) == (None, "tiny_qwen2")
        gains = {claim.text: (claim.claimed, claim.source.split(": ")[1]) for claim in found.claims}
        assert gains["0.5B: top-p filtering raises peak success (PPO)"] == (pytest.approx(0.229), "Sokoban, 0.5B")
        assert gains["a/b: top-p filtering raises peak success (PPO)"] == (pytest.approx(0.16), "Sokoban, 3B")
        assert gains["a/b: top-p filtering raises peak success (DAPO)"][0] == pytest.approx(0.051)
        assert "0.5B: top-p filtering raises peak success (DAPO)" not in gains

    def test_the_model_of_the_experiment_is_held_against_its_own_row(self):
        experiment = {"environment": "sokoban", "model": {"path": "Qwen/Qwen2.5-7B"}}
        first = next(iter(claims("main-table", experiment).values()))
        assert (first.claimed, first.source.split(": ")[1]) == (pytest.approx(0.049), "Sokoban, 7B")

    def test_the_table_has_the_same_rows_for_both_environments(self):
        assert SOKOBAN.keys() == FROZEN_LAKE.keys()
        assert {size for _, size in SOKOBAN} == SIZES.keys()
        assert sum(gained for _, gained in FROZEN_LAKE.values()) == pytest.approx(13.7)
        assert sum(without for without, _ in SOKOBAN.values()) == pytest.approx(162.9)


class TestOthers:
    def test_budget(self):
        found = points("budget")
        assert [(each.rollout.groups, each.rollout.group_size) for each in found.values()] == [
            (64, 2), (64, 2), (32, 4), (32, 4), (8, 16), (8, 16)
        ]  # fmt: skip
        assert list(found)[:2] == ["64x2-nofilter", "64x2-filter"]
        tested = claims("budget")
        assert [round(claim.claimed, 4) for claim in tested.values()] == [0.085, -0.29, 0.032, -0.41, 0.08, -0.26]
        faster = tested["a step takes less time with top-p filtering (32x4)"]
        assert (faster.measure, faster.direction, faster.relative) == ("seconds", "lower", True)
        assert [claim.claimed for claim in claims("budget", shapes="16x4").values()] == [None, None]

    def test_quartiles(self):
        quarters = [each.filter.select.component for each in points("quartiles").values()]
        bands = [(quarter.low, quarter.high) for quarter in quarters]
        assert bands == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
        assert {quarter.type for quarter in quarters} == {"largest"}
        assert [round(claim.claimed, 4) for claim in claims("quartiles").values()] == [0.0945, 0.101, 0.17, 0.22]

    def test_filters(self):
        found = {
            label: (each.filter.select.name, str(each.filter.episodes)) for label, each in points("filters").items()
        }
        assert found == {
            "none": ("nofilter", "all"),
            "groups": ("top_p", "all"),
            "episodes": ("nofilter", "best_worst(k=4)"),
        }
        assert points("filters", best_worst=7)["episodes"].filter.episodes.component.k == 7
        assert [(round(each.claimed, 3), each.direction) for each in claims("filters").values()] == [
            (0.107, "higher"), (0.068, "higher"), (0.039, "higher"), (0.97, "higher"), (-0.63, "lower")
        ]  # fmt: skip

    def test_slip(self):
        found = points("slip", "frozen-lake", slips="0,20,65,100")
        rates = {label: each.environment.component.success_rate for label, each in found.items()}
        assert rates["slip0-filter"] == 1.0
        assert rates["slip20-nofilter"] == 0.8
        assert rates["slip100-filter"] == 0.0
        assert found["slip20-filter"].filter.select.component.include_zero is False
        helps, useless, more = claims("slip", "frozen-lake", slips="0,20,65,100").values()
        assert {term.at["slip"]: term.weight for term in helps.terms if term.at["filter"] == "top_p"} == {
            "0": 0.5,
            "20": 0.5,
        }
        assert (useless.direction, {term.at["slip"] for term in useless.terms}) == ("not higher", {"100"})
        assert [term.weight for term in more.terms] == [0.5, -0.5, 0.5, -0.5, -1.0, 1.0]
        assert len(claims("slip", "frozen-lake", slips="0,60")) == 1

    @pytest.mark.parametrize("name", ["budget", "quartiles", "filters"])
    def test_the_algorithm_may_be_another_or_the_experiments_own(self, name):
        experiment = {
            "extends": "tiny-sokoban",
            "advantage": "maxrl",
            "policy_loss": "gspo",
            "kl": {"coef": 0.02},
            "entropy": {"coef": 0.0},
        }
        for each in points(name, experiment, algorithm="own").values():
            assert (each.advantage.name, each.policy_loss.name, each.kl.coef) == ("maxrl", "gspo", 0.02)
        for each in points(name, experiment, algorithm="grpo").values():
            assert (each.advantage.name, each.policy_loss.name, each.kl.coef) == ("grpo", "ppo", 0.0)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("slip", {"experiment": "tiny-sokoban"}, "actions never slip in the environment sokoban"),
        ("slip", {"slips": "60,70"}, "no claim is about slips above 50 % and below 80 % alone"),
        ("slip", {"slips": "120"}, "120, which is no percentage"),
        ("slip", {"slips": "x"}, "--slips takes numbers"),
        ("main-table", {"algorithms": "ppo,dapo"}, "give dapo the settings of ppo"),
        ("main-table", {"algorithms": "reinforce"}, "--algorithms has no 'reinforce'"),
        ("main-table", {"models": "3B,3B"}, "names a model twice"),
        ("main-table", {"models": "9B"}, "--models has no model '9B'"),
        ("main-table", {"models": "0.5B,./nowhere"}, "a path where there is no model"),
        ("main-table", {"filter_value": 1.0}, "filters nothing or everything"),
        ("budget", {"shapes": "8x16,4x16"}, "8x16 = 128, 4x16 = 64"),
        ("budget", {"shapes": "128x1"}, "no reward variance"),
        ("budget", {"shapes": "8*16"}, "--shapes has no shape"),
        ("filters", {"best_worst": 8}, "the best 8 and the worst 8 of 16 episodes"),
        ("filters", {"best_worst": -1}, "make no sense"),
        (
            "quartiles",
            {"experiment": {"extends": "sokoban", "rollout": {"groups": 32, "group_size": 1}}},
            "no reward variance",
        ),
        ("quartiles", {"experiment": {"extends": "sokoban", "validation": {"every": 0}}}, "never measured"),
        (
            "slip",
            {"experiment": {"extends": "frozen-lake", "validation": {"environment": {"success_rate": 0.8}}}},
            "slips of its own",
        ),
    ],
)
def test_what_no_claim_can_be_tested_with_is_refused(name, options, reason):
    with pytest.raises(RequestError, match=reason.replace("*", r"\*")):
        load(name, **options)


def test_a_quartile_of_fewer_than_four_groups_is_refused():
    sweep = load(
        "quartiles", experiment={"extends": "sokoban", "rollout": {"groups": 3}, "trainer": {"mini_batch": 16}}
    )
    with pytest.raises(RequestError, match="keeps no group"):
        sweep.points()


def test_what_is_not_measured_is_said_before_anything_runs():
    notice = "claims about mutual information cannot be told, as it is not measured"
    assert load("quartiles", mutual_information=False).notices == (notice,)
    unthinking = {"extends": "sokoban", "rollout": {"think": False}}
    assert load("filters", experiment=unthinking).notices[-1] == notice
    assert load("budget", mutual_information=False).notices == ()
    own = {"extends": "sokoban", "collapse": ["mutual_information(num_samples=8)"]}
    assert load("quartiles", experiment=own, mutual_information=False).notices == ()


def test_keys_that_a_sweep_varies_are_refused_with_its_option():
    for name, key, option in (
        ("slip", "environment.success_rate", "--slips"),
        ("budget", "rollout.groups", "--shapes"),
        ("filters", "filter.episodes", "--best-worst"),
        ("main-table", "advantage", "--algorithms"),
    ):
        with pytest.raises(RequestError) as refused:
            load(name).changed({key: 0.5 if key.endswith("rate") else 4 if "groups" in key else "all"})
        assert option in str(refused.value)


def test_show_lists_the_claims_with_their_sources():
    done = CliRunner().invoke(main, ["sweep", "show", "quartiles"])
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    first = lines[lines.index("claims that its report checks") + 1]
    assert first == (
        "success is higher for the half with the larger reward variance "
        "RAGEN-2 (arXiv 2604.06268), table 6: Sokoban, PPO, 3B"
    )


def test_a_claim_about_no_point_is_refused():
    claim = load("quartiles").claims[0]
    with pytest.raises(RequestError, match="a claim is about quartile Q1, of which the sweep has no point"):
        Sweep("sokoban", {"kl.coef": [0, 1]}, claims=[claim]).points()


# --- run ------------------------------------------------------------------------------------------------------------


def test_claims_survive_in_the_record_and_a_sweep_that_is_run_from_it(tmp_path):
    sweep = load("filters", experiment="sokoban")
    sweep.run(tmp_path / "a", Launcher())
    again = load(tmp_path / "a" / "sweep.yaml")
    assert again.claims == tuple(sweep.claims)
    checked = read_report(tmp_path / "a").claims.checked
    assert [each.verdict for each in checked] == ["cannot be told"] * 5


@pytest.fixture
def planted(tmp_path):
    """The sweep ``filters`` with three seeds: groups help, episodes harm."""
    peaks = {"none": (0.20, 0.21, 0.22), "groups": (0.60, 0.62, 0.61), "episodes": (0.05, 0.04, 0.05)}
    sweep = load("filters", experiment="sokoban").changed(axes={"seed": [0, 1, 2]})
    prepared = sweep.prepared(tmp_path)
    record = sweep.record(prepared)
    # what is planted has no configuration to compare with
    record["points"] = [{**point, "hash": ""} for point in record["points"]]
    (tmp_path / "sweep.yaml").write_text(dumps(record))
    for point in prepared:
        made = RunDirectory.create(point.place.run, {"seed": point.experiment.seed}, {})
        value = peaks[point.values["filtered"]][point.experiment.seed]
        made.append_metrics(1, {"validation/success": value, "validation/success_se": 0.01})
        made.append_metrics(2, {"validation/success": 0.01, "validation/success_se": 0.01})
        made.set_status("success", step=2)
    return tmp_path


def test_the_command_prints_verdicts_beside_the_papers_figures(planted):
    done = CliRunner().invoke(main, ["sweep", "report", str(planted)])
    assert done.exit_code == 0, done.output
    lines = {line.split("  ")[0]: " ".join(line.split()) for line in done.output.splitlines()}
    assert "holds +0.107 +0.400 ± 0.008 " in lines["filtering groups raises peak success"]
    assert "fails +0.039 -0.163 ± 0.008 " in lines["filtering episodes raises peak success"]
    assert (
        "cannot be told +0.970 – – 0 filtered groups: last mutual information"
        in lines["filtering groups keeps mutual information"]
    )
    assert "2 claims hold, 1 fails, 2 cannot be told" in " ".join(done.output.split())


def test_the_command_gives_the_same_as_data(planted):
    done = CliRunner().invoke(main, ["sweep", "report", str(planted), "--json"])
    data = json.loads(done.output)["claims"]
    assert [each["verdict"] for each in data["claims"]] == [
        "holds",
        "holds",
        "fails",
        "cannot be told",
        "cannot be told",
    ]
    assert data["claims"][0]["contrast"] == pytest.approx(0.4)
    assert data["settings"][0]["figure"] == 0.236


@pytest.mark.slow
def test_a_tiny_main_table_runs_and_tells_what_it_cannot_tell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["rollout.groups=4", "rollout.group_size=4", "rollout.max_turns=2", "validation.groups=4"]
    small += ["validation.every=1", "trainer.mini_batch=8"]
    words = ["main-table", "-e", "tiny-sokoban", "--models", "tiny_qwen2", "--algorithms", "grpo", "--steps", "1"]
    words += [word for setting in small for word in ("--set", setting)]
    done = CliRunner().invoke(main, ["sweep", "run", *words, "--seeds", "0,1", "--json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert [run["status"] for run in data["runs"]] == ["success"] * 4
    (claim,) = data["claims"]["claims"]
    assert claim["claim"] == "tiny_qwen2: top-p filtering raises peak success (GRPO)"
    assert (claim["verdict"], claim["seeds"]) == ("cannot be told", ["0", "1"])
    assert claim["source_contrast"] == pytest.approx(0.09)
    assert [setting["seeds"] for setting in data["claims"]["settings"]] == [2, 2]


def test_the_guides_claims_are_read_and_checked_against_points(tmp_path):
    guide = Path(uncollapse.__file__).parent / "docs" / "ragen-claims.md"
    (text,) = re.findall(r"```yaml\n(.*?)```", guide.read_text("utf-8"), flags=re.DOTALL)
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    sweep = load(file)
    assert len(sweep.points()) == 10
    assert sweep.claims[0].claimed == pytest.approx(0.16)
    file.write_text(text.replace("at: {filter.select: nofilter}", "at: {filter.select: off}"))
    with pytest.raises(RequestError, match=r"a claim is about filter\.select off"):
        load(file).points()
