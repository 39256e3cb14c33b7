import pickle
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core import plugins
from uncollapse.core.compose.config import compose, dump_yaml, problems, to_dict, validation_environment
from uncollapse.core.compose.experiment import Experiment, Lora, keys
from uncollapse.core.compose.named import Named
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.errors import MissingExtraError, RequestError
from uncollapse.core.registry import Registry
from uncollapse.core.yaml import loads

HERE = Path(__file__).parents[1]
FAKE = HERE / "fake_components.py"
BASE = {"environment": "sokoban", "model": {"path": "org/model"}}


def fake_registry():
    plugin = plugins.load_file(FAKE)
    plugin.distribution = "fake"
    registry = Registry([plugin])
    assert not plugin.errors
    return registry


REGISTRY = fake_registry()


def make(source=BASE, *overrides, **changes):
    return compose({**source, **changes} if changes else source, overrides, REGISTRY)


def wrong(source=BASE, *overrides):
    """{key: text of the problem} of everything that is wrong."""
    return {problem.key: str(problem) for problem in problems(source, overrides, REGISTRY)}


# --- what composes --------------------------------------------------------------------------------------------------


def test_defaults_are_filled_in():
    experiment = make()
    assert experiment.rollout.groups == 8
    assert experiment.rollout.engine == Named("rollout_engine", "hf")
    assert [detector.name for detector in experiment.collapse] == (
        ["reward_variance_collapse", "low_validation_success", "empty_filter", "no_signal"]
    )
    assert experiment.advantage.params == {"gamma": 1.0, "lam": 1.0}
    assert type(experiment.advantage.component).__name__ == "Gae"
    assert experiment.critic is not None
    assert experiment.model.lora is None


@pytest.mark.parametrize(
    "select", ["top_p(0.9)", "top_p(value=0.9)", {"name": "top_p", "value": 0.9}, " top_p( 0.9 ) "]
)
def test_spellings_are_one(select):
    component = make(filter={"select": select}).filter.select
    assert component.params == {"value": 0.9, "type": "largest", "include_zero": True, "prob_mode": "linear"}
    assert component.component.value == 0.9
    assert str(component) == "top_p(value=0.9)"


def test_alias_becomes_the_name():
    assert make(filter={"metric": "reward_std"}) == make(filter={"metric": "reward_variance"})


def test_types_are_kept_and_one_is_a_float():
    experiment = make(BASE, "kl.coef=1", "environment=sokoban([3, 4], p=null, names=[a, no])")
    assert type(experiment.kl.coef) is float
    assert experiment.environment.component.size == (3, 4)
    assert experiment.environment.component.names == ("a", "no")


@pytest.mark.parametrize(
    "value", ["[jsonl, 'wandb(p, [a])']", "jsonl, wandb(p, [a])", "[jsonl, {name: wandb, project: p, tags: [a]}]"]
)
def test_lists_of_components(value):
    trackers = make(BASE, f"trackers={value}").trackers
    assert [tracker.name for tracker in trackers] == ["jsonl", "wandb"]
    assert trackers[1].params == {"project": "p", "tags": ["a"]}


def test_a_function_may_make_a_component():
    assert make(trackers=["function(2)"]).trackers[0].params == {"depth": 2}
    assert "depht" in str(problems({**BASE, "trackers": ["function(depht=2)"]}, registry=REGISTRY)[0])


# --- overrides ------------------------------------------------------------------------------------------------------


def test_overrides():
    experiment = make(
        {**BASE, "filter": {"select": "top_p(0.9, smallest)"}},
        "filter.select.value=0.8",
        "kl.estimator=kl+",
        "kl.coef=1e-6",
        "collapse.low_validation_success.steps=7",
        "model.lora.rank=8",
        "validation.environment.split=no",
    )
    assert experiment.filter.select.params == (
        {"value": 0.8, "type": "smallest", "include_zero": True, "prob_mode": "linear"}
    )
    assert experiment.kl.estimator.name == "kl+"
    assert experiment.kl.coef == 1e-6
    assert experiment.collapse[1].params == {"threshold": 0.1, "steps": 7}
    assert len(experiment.collapse) == 4
    assert experiment.model.lora == Lora(rank=8)
    assert experiment.validation.environment == {"split": "no"}
    assert validation_environment(experiment, REGISTRY).split == "no"
    assert experiment.environment.component.split == "train"


def test_later_overrides_win_and_null_takes_away():
    experiment = make({**BASE, "advantage": "grpo"}, "rollout.groups=2", "rollout.groups=4", "critic=null")
    assert experiment.rollout.groups == 4
    assert experiment.critic is None
    validating = {**BASE, "validation": {"environment": {"split": "no"}}}
    assert make(validating, "validation.environment=null").validation.environment == {}
    assert make(
        validating, "validation.environment=null", "validation.environment.split=no"
    ).validation.environment == ({"split": "no"})


def test_overrides_may_be_data():
    assert compose(BASE, {"model.path": "1", "kl.coef": 0.5}, REGISTRY).model.path == "1"
    assert compose(BASE, "seed=3", REGISTRY).seed == 3


# --- sources --------------------------------------------------------------------------------------------------------


def test_named_experiment_extends_another():
    experiment = make("child")
    assert (experiment.rollout.groups, experiment.rollout.group_size) == (4, 8)
    assert experiment.filter.select.name == "top_p"


def test_component_replaces_and_mapping_without_name_changes(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "environment: sokoban\nmodel: {path: m}\nfilter: {select: 'top_p(0.9, type=smallest)', metric: reward}\n"
    )
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\nfilter: {select: {value: 0.5}}\n")
    filter_ = make(child).filter
    assert (filter_.select.params["value"], filter_.select.params["type"], filter_.metric.name) == (
        0.5,
        "smallest",
        "reward",
    )
    child.write_text("extends: base.yaml\nfilter: {select: top_p(0.5)}\n")
    assert make(str(child)).filter.select.params["type"] == "largest"


def test_files_hold_yaml_1_2(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("environment: sokoban(split=no)\nmodel: {path: m}\ntrainer: {lr: 1e-6}\ncollapse: []\n")
    experiment = make(path)
    assert experiment.environment.component.split == "no"
    assert experiment.trainer.lr == 1e-6
    assert experiment.collapse == ()


def test_composed_experiment_is_a_source():
    experiment = make("child")
    assert compose(experiment, registry=REGISTRY) == experiment
    assert compose(experiment, ["seed=5"], REGISTRY).seed == 5


def test_plugin_files_of_an_experiment_are_loaded(tmp_path):
    (tmp_path / "mine.py").write_text(FAKE.read_text())
    path = tmp_path / "x.yaml"
    path.write_text("plugins: [mine.py]\nenvironment: sokoban\nmodel: {path: m}\n")
    experiment = compose(path, registry=Registry())
    assert experiment.plugins == (str(tmp_path / "mine.py"),)
    assert compose(to_dict(experiment), registry=Registry()) == experiment
    path.write_text("plugins: [absent.py]\nmodel: {path: m}\n")
    assert "there is no such plugin file" in wrong(path)["plugins"]


# --- round trip -----------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_characters="\0~", exclude_categories=["Cs"]), min_size=1, max_size=60)
changes = st.fixed_dictionaries(
    {},
    optional={
        "filter.select": st.sampled_from(
            ["top_p(0.5, smallest)", "top_k(3)", "nofilter", {"name": "top_p", "value": 1}]
        ),
        "kl.coef": st.floats(0, 1e3, width=32, allow_subnormal=False),
        "kl.estimator": st.sampled_from(["kl", "kl+", "low_var_kl"]),
        "advantage": st.sampled_from(["gae(0.9)", "grpo", "grpo(1e-8)"]),
        "environment.split": TEXT,
        "environment.size": st.lists(st.integers(-(2**31), 2**31), min_size=2, max_size=2),
        "model.path": TEXT,
        "model.lora": st.none() | st.fixed_dictionaries({"rank": st.integers(1, 256), "targets": TEXT}),
        "trainer.lr": st.floats(0, 1, width=32, allow_subnormal=False),
        "trainer.betas": st.lists(st.floats(0, 0.875, width=32, allow_subnormal=False), min_size=2, max_size=2),
        "collapse": st.lists(st.sampled_from(["empty_filter", "low_validation_success(0.5, 2)"]), unique=True),
        "trackers": st.lists(st.sampled_from(["jsonl", "function(3)", "wandb(x, [a, b])"]), unique=True),
        "validation.environment": st.fixed_dictionaries(
            {}, optional={"split": TEXT, "p": st.floats(0, 1, width=32, allow_subnormal=False)}
        ),
        "rollout.think": st.booleans(),
        "seed": st.integers(0, 2**32 - 1),
    },
)


@given(changes)
def test_plain_data_and_yaml_compose_to_the_same(overrides):
    experiment = compose(BASE, overrides, REGISTRY)
    again = compose(to_dict(experiment), registry=REGISTRY)
    assert again == experiment
    assert again.filter.select.component == experiment.filter.select.component
    assert to_dict(again) == to_dict(experiment)
    assert compose(loads(dump_yaml(experiment)), registry=REGISTRY) == experiment


def test_plain_data_has_every_key():
    def flat(data, prefix=""):
        for key, value in data.items():
            yield prefix + key
            if isinstance(value, dict) and "name" not in value:
                yield from flat(value, f"{prefix}{key}.")

    assert set(flat(to_dict(make(model={"path": "m", "lora": {}, "warm_start": {"file": "chats.jsonl"}})))) == set(
        keys()
    )


def test_experiments_are_picklable_values():
    # Loaded anew: pickle finds a class by its module's name, under which other tests load the file, too.
    experiment = compose("child", registry=fake_registry())
    assert pickle.loads(pickle.dumps(experiment)) == experiment


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "text"),
    [
        ("kl.ceof=1", "kl.ceof", "kl.ceof = 1: unknown key; did you mean 'coef'?"),
        ("fliter.select=x", "fliter", "fliter = {select: x}: unknown key; did you mean 'filter'?"),
        ("lr=1e-6", "lr", "lr = 1e-06: unknown key; did you mean model.warm_start.lr or critic.lr or trainer.lr?"),
        ("model.lora.rnak=3", "model.lora.rnak", "model.lora.rnak = 3: unknown key; did you mean 'rank'?"),
        ("rollout.groups='4'", "rollout.groups", "rollout.groups = '4': must be a whole number; write 4"),
        ("rollout.groups=3.9", "rollout.groups", "rollout.groups = 3.9: must be a whole number"),
        ("rollout.groups=1e3", "rollout.groups", "rollout.groups = 1000.0: must be a whole number; write 1000"),
        ("rollout.groups=true", "rollout.groups", "rollout.groups = true: must be a whole number"),
        ("rollout.groups=null", "rollout.groups", "rollout.groups = null: must be a whole number"),
        ("rollout.groups=0", "rollout.groups", "rollout.groups = 0: must be at least 1"),
        ("rollout.think='false'", "rollout.think", "rollout.think = 'false': must be true or false; write false"),
        ("rollout.think=no", "rollout.think", "rollout.think = 'no': must be true or false; write false"),
        ("rollout.think=1", "rollout.think", "rollout.think = 1: must be true or false"),
        ("kl.coef='1e-6'", "kl.coef", "kl.coef = '1e-6': must be a number; write 1e-6, without quotes"),
        ("kl.coef=true", "kl.coef", "kl.coef = true: must be a number"),
        ("kl.coef=.nan", "kl.coef", "kl.coef = .nan: must be a number"),
        ("kl.coef=.inf", "kl.coef", "kl.coef = .inf: must be at least 0 and finite"),
        ("kl.coef=-0.1", "kl.coef", "kl.coef = -0.1: must be at least 0"),
        ("trainer.save_every=0", "trainer.save_every", "trainer.save_every = 0: must be at least 1, or -1"),
        ("model.path=5", "model.path", "model.path = 5: must be text; write '5', in quotes"),
        ("model.path=true", "model.path", "model.path = true: must be text; write 'true', in quotes"),
        ("model.path=1e5", "model.path", "model.path = 100000.0: must be text; put it in quotes as it is meant"),
        (
            "model.lora=true",
            "model.lora",
            "model.lora = true: must be a mapping with keys such as rank, alpha, dropout",
        ),
        ("kl.placement=los", "kl.placement", "kl.placement = 'los': must be one of loss, reward; did you mean 'loss'?"),
        ("trainer.zero_stage=2.0", "trainer.zero_stage", "trainer.zero_stage = 2.0: must be one of 0, 1, 2, 3"),
        ("trainer.zero_stage=true", "trainer.zero_stage", "trainer.zero_stage = true: must be one of 0, 1, 2, 3"),
        ("trainer.betas=[1, x]", "trainer.betas.1", "trainer.betas.1 = 'x': must be a number"),
        (
            "trainer.betas=[1, 0]",
            "trainer.betas",
            "trainer.betas = [1.0, 0.0]: must be two numbers of at least 0 and below 1",
        ),
        ("trainer.betas=0.9", "trainer.betas", "trainer.betas = 0.9: must be a list; write [0.9]"),
        ("environment.size=[3]", "environment.size", "environment.size = [3]: must be a list of 2"),
        ("environment.names=abc", "environment.names", "environment.names = 'abc': must be a list; write ['abc']"),
        (
            "environment.view=gird",
            "environment.view",
            "environment.view = 'gird': must be one of grid, coord; did you mean 'grid'?",
        ),
        ("filter.select=top_p(2)", "filter.select.value", "filter.select.value = 2.0: must lie in (0, 1]"),
        ("filter.select=top_p", "filter.select.value", "filter.select.value: is missing, and has no default"),
        ("filter.select=top_k(0.5)", "filter.select.value", "filter.select.value = 0.5: must be a whole number"),
        (
            "filter.select=top_k(2, prob_mode=softmax)",
            "filter.select.prob_mode",
            "filter.select.prob_mode = 'softmax': top_k has no such parameter; choose one of: type, value; "
            "'prob_mode' is a parameter of top_p",
        ),
        ("filter.select.value=0.5", "filter.select.value", "'value' is a parameter of top_k, top_p"),
        ("filter.select=top_q(1)", "filter.select", "there is no rollout_filter 'top_q'; did you mean 'top_p'?"),
        ("filter.select=top_p(1", "filter.select", "the parentheses do not close"),
        (
            "filter.select=null",
            "filter.select",
            "is missing, and has no default; choose one of: nofilter, top_k, top_p",
        ),
        ("filter.select=3", "filter.select", "filter.select = 3: must name a component"),
        ("advantage=gae(1, 2, 3)", "advantage", "gae takes at most 2 positional values"),
        ("advantage=gae(1, gamma=2)", "advantage.gamma", "is given twice, by position and by name"),
        ("policy_loss=ppo(0.3, 0.1)", "policy_loss", "policy_loss: clip_high is below clip_low"),
        ("collapse=[empty_filter, patience]", "collapse.1", "there is no collapse 'patience'"),
        ("collapse=[empty_filter, empty_filter]", "collapse", "empty_filter stands there twice"),
        ("collapse=3", "collapse", "collapse = 3: must be a list of components"),
        ("collapse.patience.steps=1", "collapse.patience", "is not in the list; choose one of: empty_filter"),
        ("collapse.low_validation_success.stesp=1", "collapse.1.stesp", "did you mean 'steps'?"),
        ("validation.environment.splt=x", "validation.environment.splt", "did you mean 'split'?"),
        ("validation.environment.size=3", "validation.environment.size", "must be a list"),
        ("seed.x=1", "seed", "seed = {x: 1}: must be a whole number"),
        ("model.path=null", "model", "needs exactly one of path and build, and has neither"),
        ("model.build=tiny", "model", "needs exactly one of path and build, and has both"),
        ("kl.coef", "kl.coef", "the override 'kl.coef' has no value; write KEY=VALUE"),
        ("=1", "", "the override '=1' has no key; write KEY=VALUE"),
        ("kl.coef=[1", "kl.coef", "is not a YAML value"),
    ],
)
def test_refused_with_key_value_reason_and_nearest(override, key, text):
    found = wrong(BASE, override)
    assert list(found) == [key]
    assert text in found[key]


def test_all_problems_are_reported_at_once(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "rollout: {groups: '4', think: no, typo: 1}\n"
        "filter: {select: 'top_k(2, prob_mode=softmax, valu=1)', metric: rewrd}\n"
        "policy_loss: ppo(clip_low=x)\n"
        "trainer: {lr: -1, steps: 2.5}\n"
    )
    keys_found = (
        "environment",
        "model",
        "rollout.groups",
        "rollout.think",
        "rollout.typo",
        "filter.select.prob_mode",
        "filter.select.valu",
        "filter.metric",
        "policy_loss.clip_low",
        "trainer.lr",
        "trainer.steps",
    )
    assert set(wrong(path)) == set(keys_found)
    with pytest.raises(CompositionError, match="11 problems with the experiment") as caught:
        make(path)
    assert caught.value.exit_code == 2
    assert all(key in str(caught.value) for key in keys_found)
    assert str(path) in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.problems) == (str(caught.value), caught.value.problems)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [1\n", "line 2"),
        ("seed: 1\nseed: 2\n", "line 2: .*duplicate key"),
        ("- a\n", "an experiment is a mapping"),
        ("", "an experiment is a mapping"),
        ("1: 2\n", "the key 1 is not text"),
        ("extends: [a]\n", "must be the name or the path of one experiment"),
        ("extends: absent.yaml\n", "absent.yaml cannot be read: No such file"),
        ("extends: x.yaml\n", "in a circle"),
    ],
)
def test_files_that_are_no_experiment(tmp_path, text, reason):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(CompositionError, match=reason):
        make(path)


def test_sources_that_are_not_there(tmp_path):
    assert "cannot be read: No such file" in wrong(tmp_path / "no.yaml")[""]
    assert "is a directory, not a file" in wrong(tmp_path)[""]
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    assert "is not UTF-8" in wrong(tmp_path / "latin.yaml")[""]
    assert "did you mean 'child'?" in wrong("chld")[""]
    assert "circle: loop_b -> loop_a -> loop_b" in wrong("loop_a")["extends"]


def test_missing_extra_passes_through(monkeypatch):
    def resolve(kind, name):
        if kind == "rollout_engine":
            raise MissingExtraError("vllm is not installed", fix="pip install 'uncollapse[vllm]'")
        return Registry.resolve(REGISTRY, kind, name)

    monkeypatch.setattr(REGISTRY, "resolve", resolve)
    with pytest.raises(MissingExtraError, match="vllm is not installed"):
        problems(BASE, registry=REGISTRY)


def test_composition_errors_are_request_errors():
    assert issubclass(CompositionError, RequestError)


# --- the schema and its reference -----------------------------------------------------------------------------------


def test_schema_defaults_are_valid():
    assert isinstance(make(), Experiment)


def test_reference_has_every_key_with_its_default():
    lines = (HERE.parent.parent / "docs" / "experiments.md").read_text("utf-8").splitlines()
    cells = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    documented = {row[0]: row[2] for row in cells if len(row) == 4}
    fields = {key: field for key, field in keys().items() if not attrs.has(getattr(field.default, "factory", None))}
    assert set(documented) == set(fields)
    for key, field in fields.items():
        default = field.default.factory() if hasattr(field.default, "factory") else field.default
        if key == "environment":
            assert documented[key] == "required"
        else:
            assert loads(documented[key]) == (list(default) if isinstance(default, tuple) else default), key


def test_example_of_the_reference_composes():
    text = (HERE.parent.parent / "docs" / "experiments.md").read_text("utf-8")
    example = loads(text.split("```yaml")[1].split("```")[0]) | {"environment": "sokoban"}
    assert make(example).filter.select.component.value == 0.9
