"""The sweeps of RAGEN-2 by name: values, labels, names and files exactly as its scripts have them."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from sweep_help import Launcher
from uncollapse.core.compose.combinations import needs
from uncollapse.core.compose.config import compose
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.ragen import smoke as smoke_module
from uncollapse.plugins.ragen.interventions import value_label
from uncollapse.plugins.sweeps import information
from uncollapse.plugins.sweeps.points import Case
from uncollapse.plugins.sweeps.sweep import Sweep, load

COEFS = ["0", "0.001", "0.003", "0.01", "0.03", "0.1"]
COEF_LABELS = ["0", "0001", "0003", "001", "003", "01"]


def relative(path: Path | None, root: Path) -> str | None:
    return None if path is None else str(path.relative_to(root))


def smoke(name="smoke", **options):
    """Without the detectors of mutual information, which decide nothing but the tag."""
    return load(name, **{"collapse": "nocd", **options})


@pytest.mark.parametrize(
    ("text", "label"),
    [("0.95", "095"), ("1.0", "10"), ("10", "10"), ("0", "0"), ("0.001", "0001"), ("nofilter", "nofilter"), ("A", "a")],
)
def test_labels_lose_their_dots(text, label):
    assert value_label(text) == label


@pytest.mark.parametrize(
    ("name", "options", "label"),
    [
        ("kl", {"kl_values": "1.0,10"}, "10"),
        ("entropy", {"entropy_values": "0.1,01"}, "01"),
        ("top-p", {"rollout_filter_value": "0.9,0.9"}, "09"),
    ],
)
def test_two_values_with_one_label_are_refused(name, options, label):
    with pytest.raises(RequestError, match=f"two points of the sweep are called '{label}'"):
        load(name, **options).points()


@pytest.mark.parametrize(
    ("experiment", "model"), [("sokoban", "Qwen2.5-3B"), ("tiny-sokoban", "cloned_qwen2")], ids=["sokoban", "tiny"]
)
class TestPlaces:
    def test_top_p(self, experiment, model, tmp_path):
        sweep = load("top-p", experiment=experiment)
        points = sweep.prepared(tmp_path)
        labels = ["10", "098", "095", "09", "08", "06", "04", "nofilter"]
        assert [point.label for point in points] == labels
        assert [point.place.name for point in points] == [f"sokoban_top_p_{label}-{model}" for label in labels]
        logs = f"logs/top_p_sweep_{model}"
        place, name = points[2].place, f"sokoban_top_p_095-{model}"
        assert relative(place.home, tmp_path) == logs
        assert relative(place.run, tmp_path) == f"{logs}/095"
        assert relative(place.log, tmp_path) == f"{logs}/095/{name}.log"
        assert relative(place.summary, tmp_path) == f"{logs}.log"
        assert relative(place.checkpoints, tmp_path) == f"model_saving/top_p_sweep_{model}/095/{name}"
        assert sweep.project == "ragen_release_top_p_sweep"

    @pytest.mark.parametrize(("include_zero", "tag"), [(True, "nofilter"), (False, "filter_zero")])
    @pytest.mark.parametrize("kind", ["kl", "entropy"])
    def test_kl_and_entropy(self, experiment, model, tmp_path, kind, include_zero, tag):
        sweep = load(kind, experiment=experiment, rollout_filter_include_zero=include_zero)
        points = sweep.prepared(tmp_path)
        assert [point.label for point in points] == COEF_LABELS
        assert [point.values[kind] for point in points] == COEFS
        logs, name = f"logs/{kind}_sweep_{model}", f"sokoban_{kind}_sweep_{tag}_001-{model}"
        place = points[3].place
        assert place.name == name
        assert relative(place.home, tmp_path) == f"{logs}/{tag}"
        assert relative(place.run, tmp_path) == f"{logs}/{tag}/001"
        assert relative(place.log, tmp_path) == f"{logs}/{tag}/001/{name}.log"
        assert relative(place.summary, tmp_path) == f"{logs}.log"
        # the tag is in the name alone
        assert relative(place.checkpoints, tmp_path) == f"model_saving/{kind}_sweep_{model}/001/{name}"
        assert sweep.project == f"ragen_release_{kind}_sweep"
        for point in points:
            select = point.experiment.filter.select
            assert (select.name, select.params["value"], select.params["prob_mode"]) == ("top_p", 1.0, "softmax")
            assert select.params["include_zero"] is include_zero

    @pytest.mark.parametrize("strategy", ["top_p", "top_k", "min_p", "top_f"])
    def test_smoke(self, experiment, model, tmp_path, strategy):
        options = {"groups": "1,3,5", "kl_type": "kl", "rollout_filter_strategy": strategy, "experiment": experiment}
        sweep = smoke(**options)
        points = sweep.prepared(tmp_path)
        assert len(points) == 36
        size = "3B" if experiment == "sokoban" else model
        place, logs = points[0].place, f"logs/smoke_test_{strategy}"
        assert place.name == points[0].label == "g1-smoke-ppo-sokoban-topk100-kl0001-ent0-kl-nocd"
        assert relative(place.summary, tmp_path) == f"{logs}/smoke_test_results_{size}_kl_nocd.log"
        assert relative(place.log, tmp_path) == f"{logs}_details/{place.name}.log"
        assert relative(place.run, tmp_path) == f"{logs}_details/{place.name}"
        assert sweep.project == f"ragen-smoke_test_{strategy}"


def test_top_p_filters_by_softmax_and_tells_its_two_conditions_of_all_mass_apart():
    points = {point.values["value"]: point.experiment for point in load("top-p").points()}
    selects = {value: experiment.filter.select.params for value, experiment in points.items()}
    assert [params["value"] for params in selects.values()] == [1.0, 0.98, 0.95, 0.9, 0.8, 0.6, 0.4, 1.0]
    assert {value: params["include_zero"] for value, params in selects.items() if params["value"] == 1.0} == (
        {"1.0": False, "nofilter": True}
    )
    for experiment in points.values():
        assert experiment.filter.select.params["prob_mode"] == "softmax"
        assert experiment.filter.select.params["type"] == "largest"
        kl = experiment.kl
        assert (kl.estimator.name, kl.coef, kl.placement, experiment.entropy.coef) == ("kl", 0.001, "loss", 0.001)


def test_a_coefficient_of_zero_has_no_reference_pass():
    experiments = {point.values["kl"]: point.experiment for point in load("kl").points()}
    assert {value: "reference" in needs(experiment) for value, experiment in experiments.items()} == (
        {value: value != "0" for value in COEFS}
    )
    assert {experiment.kl.coef for experiment in experiments.values()} == {float(value) for value in COEFS}
    assert {experiment.entropy.coef for experiment in experiments.values()} == {0.0}
    for point in load("entropy").points():
        assert (point.experiment.kl.coef, "reference" in needs(point.experiment)) == (0.0, False)


def test_k1_as_a_loss_is_warned_of_and_can_be_changed():
    for name in ("kl", "top-p"):
        assert "expected gradient is zero" in load(name).notices[0]
        changed = load(name, kl_type="low_var_kl")
        assert changed.notices == ()
        assert {point.experiment.kl.estimator.name for point in changed.points()} == {"low_var_kl"}


@pytest.mark.parametrize("name", ["top-p", "kl", "entropy"])
def test_what_the_scripts_fix_holds_for_any_experiment(name):
    for experiment in ("sokoban", "tiny-sokoban"):
        for point in load(name, experiment=experiment, steps=7, save_freq=3).points():
            found = point.experiment
            assert (found.advantage.name, found.validation.before_train) == ("gae", True)
            assert (found.trainer.steps, found.trainer.save_every) == (7, 3)
            assert (found.filter.metric.name, found.filter.loss_scaling) == ("reward_variance", "none")


def test_seeds_repeat_every_point_and_the_first_keeps_its_name(tmp_path):
    import attrs

    sweep = attrs.evolve(load("kl", kl_values="0,0.01"), axes={"seed": [0, 1]})
    points = sweep.prepared(tmp_path)
    assert [point.label for point in points] == ["0", "0__seed_1", "001", "001__seed_1"]
    assert [point.experiment.seed for point in points] == [0, 1, 0, 1]
    assert points[2].place.name == "sokoban_kl_sweep_nofilter_001-Qwen2.5-3B"
    assert points[3].place.name == "sokoban_kl_sweep_nofilter_001__seed_1-Qwen2.5-3B"
    assert len({point.place.run for point in points} | {point.place.checkpoints for point in points}) == 8
    # the values of a point without seeds, and its hash, are those of seed 0
    assert load("kl", kl_values="0,0.01").points()[1].hash == points[2].hash


# --- smoke tests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "runs"), [("1", 16), ("2", 16), ("3", 4), ("4", 16), ("5", 16)])
def test_smoke_grids(group, runs):
    points = smoke(groups=group).points()
    assert len(points) == runs
    kls = sorted({point.experiment.kl.coef for point in points})
    entropies = sorted({point.experiment.entropy.coef for point in points})
    values = [0.001, 0.003, 0.01, 0.03]
    assert kls == (values if group in "145" else [0.0])
    assert entropies == (values if group in "245" else [0.0])
    ratios = [point.experiment.filter.select.params["value"] for point in points]
    assert sorted(set(ratios), reverse=True) == ([1.0, 0.8, 0.6, 0.4] if group in "123" else [1.0])
    assert {point.experiment.zero_task_advantage for point in points} == {group == "4"}
    assert all(("reference" in needs(point.experiment)) == (point.experiment.kl.coef > 0) for point in points)
    assert {point.experiment.trainer.steps for point in points} == {50}
    assert {point.experiment.filter.loss_scaling for point in points} == {"sqrt"}
    assert {point.experiment.validation.before_train for point in points} == {False}
    assert {point.experiment.model.path for point in points} == {"Qwen/Qwen2.5-3B-Instruct"}


def test_smoke_names_in_order():
    def names(group):
        return [point.label for point in smoke(groups=group, kl_type="mse").points()]

    assert names("1")[:5] == [
        "g1-smoke-ppo-sokoban-topk100-kl0001-ent0-mse-nocd",
        "g1-smoke-ppo-sokoban-topk100-kl0003-ent0-mse-nocd",
        "g1-smoke-ppo-sokoban-topk100-kl001-ent0-mse-nocd",
        "g1-smoke-ppo-sokoban-topk100-kl003-ent0-mse-nocd",
        "g1-smoke-ppo-sokoban-topk80-kl0001-ent0-mse-nocd",
    ]
    assert names("2")[-1] == "g2-smoke-ppo-sokoban-topk40-kl0-ent003-mse-nocd"
    assert names("3") == [f"g3-smoke-ppo-sokoban-topk{ratio}-kl0-ent0-mse-nocd" for ratio in (100, 80, 60, 40)]
    assert names("4")[:2] == [f"g4-smoke-ppo-sokoban-ta-topk100-kl0001-ent{e}-mse-nocd" for e in ("0001", "0003")]
    assert names("5")[-1] == "g5-smoke-ppo-sokoban-nofilter-kl003-ent003-mse-nocd"
    assert [name[:2] for name in names("5,3")] == ["g5"] * 16 + ["g3"] * 4


def test_smoke_counts_groups_for_top_k():
    def ks(**options):
        points = smoke(groups="3", rollout_filter_strategy="top_k", **options).points()
        return [point.experiment.filter.select.params["value"] for point in points]

    assert ks() == [8, 6, 4, 3]
    assert all(isinstance(k, int) for k in ks())


def test_smoke_keeps_at_least_one_group(tmp_path):
    file = tmp_path / "two.yaml"
    file.write_text("extends: sokoban-instruct\nrollout: {groups: 2}\n")
    points = smoke(groups="3", rollout_filter_strategy="top_k", experiment=str(file)).record(())
    selects = [case["overrides"]["filter.select"] for case in points["cases"]]
    assert selects == ["top_k(2)", "top_k(1)", "top_k(1)", "top_k(1)"]


@pytest.mark.parametrize(("strategy", "spelled"), [("top_p", "softmax"), ("min_p", None), ("top_f", None)])
def test_smoke_passes_ratios_on_for_other_filters(strategy, spelled):
    selects = [p.experiment.filter.select for p in smoke(groups="3", rollout_filter_strategy=strategy).points()]
    assert [select.name for select in selects] == [strategy] * 4
    assert [select.params["value"] for select in selects] == [1.0, 0.8, 0.6, 0.4]
    assert [select.params.get("prob_mode") for select in selects] == [spelled] * 4


@pytest.mark.parametrize("strategy", ["top_p", "top_k", "min_p", "top_f"])
@pytest.mark.parametrize("experiment", ["sokoban-instruct", "tiny-sokoban"])
def test_smoke_all_is_164_runs_with_names_of_their_own(strategy, experiment, tmp_path):
    points = smoke("smoke-all", rollout_filter_strategy=strategy, experiment=experiment).prepared(tmp_path)
    assert len(points) == 164
    assert len({point.label for point in points}) == len({point.hash for point in points}) == 164
    assert len({point.place.run for point in points}) == 164
    by_type = [point.values["kl_type"] for point in points]
    assert by_type == ["kl"] * 48 + ["mse"] * 48 + ["low_var_kl"] * 68
    summaries = list(dict.fromkeys(point.place.summary.name for point in points))
    size = "3B" if experiment == "sokoban-instruct" else "cloned_qwen2"
    assert summaries == [f"smoke_test_results_{size}_{kl}_nocd.log" for kl in ("kl", "mse", "low_var_kl")]
    assert {point.place.home.relative_to(tmp_path) for point in points} == {Path(f"logs/smoke_test_{strategy}/nocd")}


def test_smoke_and_its_wrapper_name_and_compute_the_same(tmp_path):
    wrapper = {point.label: (point.place.run, point.hash) for point in smoke("smoke-all").prepared(tmp_path)}
    alone = smoke(groups="1,4,5", kl_type="mse").prepared(tmp_path)
    assert len(alone) == 48
    assert all(wrapper[point.label] == (point.place.run, point.hash) for point in alone)


@pytest.mark.parametrize(("tag", "drawn"), [("ftmt", (True, True)), ("ft", (True, False)), ("mt", (False, True))])
def test_the_tag_is_what_is_measured(tag, drawn):
    found, without = (load("smoke", groups="3", collapse=each).points() for each in (tag, "nocd"))
    for point, plain in zip(found, without, strict=True):
        *others, added = point.experiment.collapse
        assert added.name == "mutual_information"
        params = added.params
        assert (params["first_turn"], params["multi_turn"], params["num_samples"]) == (*drawn, 64)
        assert tuple(others) == plain.experiment.collapse
        assert point.label.endswith(f"-{tag}")


class _NoDetectors:
    def names(self, kind):
        return []


@pytest.mark.parametrize("tag", ["ftmt", "ft", "mt"])
def test_a_tag_that_nothing_measures_can_be_shown_and_not_run(tag, tmp_path, monkeypatch):
    monkeypatch.setattr(smoke_module, "registry", _NoDetectors)
    sweep = load("smoke", groups="3", collapse=tag)
    assert sweep.points()[0].label == f"g3-smoke-ppo-sokoban-topk100-kl0-ent0-low_var_kl-{tag}"
    launcher = Launcher()
    with pytest.raises(RequestError, match="no detector mutual_information"):
        sweep.run(tmp_path / "root", launcher)
    assert launcher.jobs == []
    assert not (tmp_path / "root").exists()


def test_groups_that_are_none_are_refused():
    with pytest.raises(RequestError, match="--groups has no group 6, x"):
        load("smoke", groups="1,6,x")
    with pytest.raises(RequestError, match="empty value"):
        load("smoke", groups="1,,2")


# --- files ----------------------------------------------------------------------------------------------------------


def test_logs_and_checkpoints_have_the_names_of_the_scripts(tmp_path):
    sweep = load("kl", experiment="sokoban", kl_values="0.01")
    sweep.run(tmp_path, Launcher())
    name = "sokoban_kl_sweep_nofilter_001-Qwen2.5-3B"
    run = RunDirectory(tmp_path / "logs" / "kl_sweep_Qwen2.5-3B" / "nofilter" / "001")
    (run.path / "log.txt").write_text("what it said\n")
    assert (run.path / f"{name}.log").read_text() == "what it said\n"
    checkpoints = tmp_path / "model_saving" / "kl_sweep_Qwen2.5-3B" / "001" / name
    assert checkpoints.is_symlink()
    assert checkpoints.resolve() == run.checkpoint_directory.resolve()
    # The links hold wherever the tree is moved to, and after the run was started anew.
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert (moved / checkpoints.relative_to(tmp_path)).resolve() == moved / run.checkpoint_directory.relative_to(
        tmp_path
    )
    load("kl", experiment="sokoban", kl_values="0.01", steps=7).run(moved, Launcher())
    again = moved / checkpoints.relative_to(tmp_path)
    assert again.resolve() == moved / run.checkpoint_directory.relative_to(tmp_path)


def test_a_file_where_a_link_should_be_stays(tmp_path, capsys):
    sweep = load("kl", experiment="sokoban", kl_values="0.01")
    point = sweep.prepared(tmp_path)[0]
    point.place.checkpoints.mkdir(parents=True)
    (point.place.checkpoints / "mine").write_text("mine")
    sweep.run(tmp_path, Launcher())
    assert (point.place.checkpoints / "mine").read_text() == "mine"
    assert f"{point.place.checkpoints} is there already and stays" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["top-p", "kl", "entropy", "smoke"])
def test_a_save_frequency_keeps_every_checkpoint(name):
    for save_freq, keep in ((50, 0), (-1, 1)):
        trainers = [point.experiment.trainer for point in load(name, save_freq=save_freq).points()]
        assert {(trainer.save_every, trainer.keep) for trainer in trainers} == {(save_freq, keep)}


@pytest.mark.parametrize("name", ["../x", "a/b", "/abs", "..", ".", " ", "a\nb", "x" * 300])
def test_a_sweep_does_not_leave_the_directory_of_its_name(name):
    with pytest.raises(RequestError, match="name"):
        attrs.evolve(load("demo"), name=name).prepared()


def test_an_override_that_a_case_or_an_axis_takes_back_is_refused_in_python_too():
    with pytest.raises(RequestError, match="kl is set for all points, and again case by case"):
        attrs.evolve(load("kl"), overrides={"kl": {"estimator": "mse"}}).points()
    with pytest.raises(RequestError, match=r"kl.coef is set for all points, and again on the axis kl.coef"):
        Sweep("tiny-sokoban", {"kl.coef": [0, 1]}, overrides={"kl.coef": 0.5}).points()
    some = [Case("plain", {}), Case("off", {"kl.coef": 0})]
    assert len(Sweep("tiny-sokoban", cases=some, overrides={"kl.coef": 0.5}).points()) == 2
    with pytest.raises(RequestError, match=r"sets kl\.coef itself, case by case"):
        Sweep("tiny-sokoban", cases=some).changed({"kl.coef": 0.5})


def test_an_exclusion_says_its_components_as_it_likes_and_goes_with_its_axis():
    axes = {"filter.select": ["nofilter", "top_p(0.9)"], "seed": [0, 1]}
    made = Sweep("tiny-sokoban", axes, exclude=[{"filter.select": {"name": "top_p", "value": 0.9}, "seed": 1}])
    assert len(made.points()) == 3
    with pytest.raises(RequestError, match="matches no point"):
        attrs.evolve(made, exclude=[{"seed": 7}]).points()
    assert len(made.changed(axes={"seed": [0]}).points()) == 2


def test_both_spellings_of_a_key_are_one_key_of_a_sweep():
    axis, other = {"entropy_coeff": [0, 0.1]}, {"entropy.coef": [0, 0.1]}
    assert [point.label for point in Sweep("tiny-sokoban", axis).points()] == ["entropy_coeff_0", "entropy_coeff_0.1"]
    hashes = [[point.hash for point in Sweep("tiny-sokoban", axes).points()] for axes in (axis, other)]
    assert hashes[0] == hashes[1]
    with pytest.raises(RequestError, match=r"two axes change entropy\.coef"):
        Sweep("tiny-sokoban", {**axis, **other}).points()
    with pytest.raises(RequestError, match="names a key twice"):
        Sweep("tiny-sokoban", {"entropy.coef,entropy_coeff": [[0, 0.1]]}).points()
    with pytest.raises(RequestError, match=r"entropy\.coef is set for all points, and again on the axis entropy_coeff"):
        Sweep("tiny-sokoban", axis, overrides={"entropy.coef": 0.5}).points()
    cases = [Case("low", {"entropy.coef": 0.25}), Case("high", {"entropy_coeff": 4})]
    with pytest.raises(RequestError, match=r"a case and an axis change entropy\.coef"):
        Sweep("tiny-sokoban", axis, cases=cases).points()
    for exclusion in ({"entropy_coeff": 0.1, "seed": 1}, {"entropy.coef": 0.1, "seed": 1}):
        for axes in (axis, other):
            assert len(Sweep("tiny-sokoban", {**axes, "seed": [0, 1]}, exclude=[exclusion]).points()) == 3


def test_a_change_of_either_spelling_takes_the_place_of_the_other():
    for there, asked in (("entropy_coeff", "entropy.coef"), ("entropy.coef", "entropy_coeff")):
        base = Sweep("tiny-sokoban", {"seed": [0]}, overrides={there: 0.5})
        (point,) = base.changed({asked: 0.125}).points()
        assert point.experiment.entropy.coef == 0.125
        varied = Sweep("tiny-sokoban", {there: [0, 1], "seed": [0]}, exclude=[{there: 1}]).changed(axes={asked: [2, 3]})
        assert [point.experiment.entropy.coef for point in varied.points()] == [2, 3]
        fixed = attrs.evolve(base, overrides={}, fixed={there: "the names say so"})
        with pytest.raises(RequestError, match="fixes entropy"):
            fixed.changed({asked: 1})
    for key in ("entropy_coeff", "entropy.coef"):
        with pytest.raises(RequestError, match="--entropy-values"):
            load("entropy").changed({key: 1})


def test_the_coefficient_that_cases_have_anyway_adds_nothing_to_a_name():
    cases = [Case("plain", {"kl.coef": 0.5})]
    there = compose("tiny-sokoban").entropy.coef
    for key in ("entropy_coeff", "entropy.coef"):
        labels = [point.label for point in Sweep("tiny-sokoban", {key: [there, 3]}, cases=cases).points()]
        assert labels == ["plain", f"plain__{key}_3"]


def test_what_does_not_divide_over_the_processes_of_a_run_is_found_before_it_starts(tmp_path):
    with pytest.raises(RequestError, match=r"rollout.groups = 3.*2 processes"):
        load("kl").changed({"rollout.groups": 3, "trainer.mini_batch": 24}).prepared(tmp_path, ranks=2)


def test_a_share_of_the_gpu_that_an_engine_refuses_is_a_wrong_request():
    made = attrs.evolve(load("demo"), engine={"gpu_memory_utilization": 1.7}, overrides={"rollout.engine": "vllm"})
    with pytest.raises(RequestError, match="gpu_memory_utilization"):
        made.prepared()


# --- mutual information ---------------------------------------------------------------------------------------------

MEASURING = ["top-p", "kl", "entropy"]


@pytest.mark.parametrize("experiment", ["sokoban", "tiny-sokoban"])
@pytest.mark.parametrize("name", MEASURING)
def test_the_interventions_measure_mutual_information_beside_what_the_experiment_watches(name, experiment):
    own = compose(experiment).collapse
    assert [named.name for named in own] == [
        "reward_variance_collapse",
        "low_validation_success",
        "empty_filter",
        "no_signal",
    ]
    for point in load(name, experiment=experiment).points():
        *others, added = point.experiment.collapse
        assert tuple(others) == own
        # the settings of RAGEN-2's base.yaml
        settings = {key: added.params[key] for key in ("first_turn", "multi_turn", "num_samples", "compute_freq")}
        assert (added.name, settings) == (
            "mutual_information",
            {"first_turn": True, "multi_turn": True, "num_samples": 64, "compute_freq": 5},
        )
    (without, *_) = load(name, experiment=experiment, mutual_information=False).points()
    assert without.experiment.collapse == own


@pytest.mark.parametrize(
    ("settings", "names", "notice"),
    [
        (
            "collapse: ['mutual_information(compute_freq=2)', entropy_collapse]",
            "mutual_information entropy_collapse",
            "",
        ),
        ("collapse: [template_collapse, mutual_information]", "template_collapse mutual_information", ""),
        ("collapse: ['entropy_collapse(0.3)']", "entropy_collapse mutual_information", ""),
        ("collapse: []", "mutual_information", ""),
        (
            "collapse: [entropy_collapse]\nrollout: {think: false}",
            "entropy_collapse",
            "mutual information is not measured: mutual_information measures thoughts, and rollout.think is false",
        ),
    ],
)
@pytest.mark.parametrize("name", MEASURING)
def test_an_experiments_own_detectors_stay_as_they_are(name, settings, names, notice, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(f"extends: tiny-sokoban\n{settings}\n")
    sweep = load(name, experiment=str(file))
    own = {named.name: named for named in compose(file).collapse}
    for point in sweep.points():
        assert " ".join(named.name for named in point.experiment.collapse) == names
        assert all(named == own[named.name] for named in point.experiment.collapse if named.name in own)
    assert any(notice in one for one in sweep.notices) if notice else "measured" not in " ".join(sweep.notices)


@pytest.mark.parametrize("name", MEASURING)
def test_whoever_sets_the_detectors_of_a_sweep_has_these_alone(name):
    (point, *_) = load(name).changed({"collapse": ["kl_runaway"]}).points()
    assert [named.name for named in point.experiment.collapse] == ["kl_runaway"]
    varied = load(name, experiment="tiny-sokoban").changed(axes={"collapse": [["kl_runaway"], ["no_signal"]]}).points()
    assert {named.name for point in varied for named in point.experiment.collapse} == {"kl_runaway", "no_signal"}


def test_a_blocked_detector_is_not_measured_and_the_sweep_says_so(monkeypatch):
    monkeypatch.setattr(information, "registry", _NoDetectors)
    sweep = load("entropy")
    assert sweep.notices == ("mutual information is not measured: no detector mutual_information is installed",)
    assert "mutual_information" not in [named.name for named in sweep.points()[0].experiment.collapse]
