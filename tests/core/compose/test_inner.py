"""Components that hold components: spelling, layers, overrides, round trips, needs, messages, instances."""

from pathlib import Path

import pytest
from uncollapse.core import plugins
from uncollapse.core.compose.combinations import components, needs
from uncollapse.core.compose.config import compose, dump_yaml, problems, to_dict, validation_environment
from uncollapse.core.compose.identity import config_hash, differences
from uncollapse.core.registry import Registry
from uncollapse.core.runs.manifest import build_manifest
from uncollapse.core.yaml import loads

REGISTRY = Registry([plugins.load_file(Path(__file__).parents[1] / "fake_components.py")])
BASE = {"environment": "quiz", "model": {"path": "org/model"}}


def make(*overrides, **changes):
    return compose({**BASE, **changes}, overrides, REGISTRY)


def wrong(*overrides, **changes):
    """{key: text of the problem} of everything that is wrong."""
    return {problem.key: str(problem) for problem in problems({**BASE, **changes}, overrides, REGISTRY)}


def chain(named):
    """Name and first number of a loss, and of the losses that it wraps, the outermost first."""
    component = named.component
    own = [(named.name, component.share if named.name == "wraps" else component.clip_low)]
    return own + (chain(component.of) if named.name == "wraps" else [])


SPELLINGS = [
    "wraps(0.3, of=wraps(0.4, of=ppo(0.1)))",
    "wraps(0.3, of={name: wraps, share: 0.4, of: {name: ppo, clip_low: 0.1}})",
    {"name": "wraps", "share": 0.3, "of": "wraps(0.4, of=ppo(clip_low=0.1))"},
    {"name": "wraps", "share": 0.3, "of": {"name": "wraps", "share": 0.4, "of": {"name": "ppo", "clip_low": 0.1}}},
]


@pytest.mark.parametrize("spelled", SPELLINGS, ids=str)
def test_every_spelling_of_an_inner_component_is_the_same_experiment(spelled):
    experiment = make(policy_loss=spelled)
    assert chain(experiment.policy_loss) == [("wraps", 0.3), ("wraps", 0.4), ("ppo", 0.1)]
    assert str(experiment.policy_loss) == 'wraps(share=0.3, of="wraps(share=0.4, of=ppo(clip_low=0.1))")'
    assert experiment == make(policy_loss=SPELLINGS[0])
    assert config_hash(experiment) == config_hash(make(policy_loss=SPELLINGS[0]))


def test_an_experiment_with_inner_components_survives_being_written_down():
    experiment = make(policy_loss=SPELLINGS[0], environment="quiz(hints=[exact(case=true), greedy])")
    for data in (to_dict(experiment), loads(dump_yaml(experiment))):
        assert data["policy_loss"]["of"]["of"] == {"name": "ppo", "clip_low": 0.1, "clip_high": 0.28}
        assert data["environment"]["hints"] == [{"name": "exact", "case": True}, "greedy"]
        again = compose(data, registry=REGISTRY)
        assert again == experiment
        assert chain(again.policy_loss) == chain(experiment.policy_loss)
    for named in (experiment.policy_loss, experiment.environment):
        spelled = compose({**BASE, named.kind: str(named)}, registry=REGISTRY)
        assert getattr(spelled, named.kind) == named


def test_without_a_word_the_inner_default_is_taken_and_not_spelled():
    experiment = make(policy_loss="wraps")
    assert chain(experiment.policy_loss) == [("wraps", 0.2), ("ppo", 0.2)]
    assert str(experiment.policy_loss) == "wraps"


def test_values_with_brackets_and_braces_stay_whole_inside_of_a_spelling():
    named = make("policy_loss=wraps(of={name: ppo, clip_low: 0.1})").policy_loss
    assert chain(named) == [("wraps", 0.2), ("ppo", 0.1)]
    named = make("policy_loss=wraps(0.5, of=wraps(of={name: ppo, clip_low: 0.1}))").policy_loss
    assert chain(named) == [("wraps", 0.5), ("wraps", 0.2), ("ppo", 0.1)]


def test_overrides_reach_inner_components():
    def after(*overrides):
        return chain(make(*overrides, policy_loss=SPELLINGS[0]).policy_loss)

    assert after("policy_loss.of=ppo(0.05)") == [("wraps", 0.3), ("ppo", 0.05)]
    assert after("policy_loss.of.share=0.9") == [("wraps", 0.3), ("wraps", 0.9), ("ppo", 0.1)]
    assert after("policy_loss.of.of.clip_low=0.2") == [("wraps", 0.3), ("wraps", 0.4), ("ppo", 0.2)]
    assert after("policy_loss.of.of={clip_low: 0.2}") == [("wraps", 0.3), ("wraps", 0.4), ("ppo", 0.2)]
    assert after("policy_loss.of={name: ppo}") == [("wraps", 0.3), ("ppo", 0.2)]
    assert after("policy_loss=wraps", "policy_loss.of.clip_low=0.01") == [("wraps", 0.2), ("ppo", 0.01)]
    assert after("policy_loss.share=0.7") == [("wraps", 0.7), ("wraps", 0.4), ("ppo", 0.1)]
    assert after("policy_loss=ppo") == [("ppo", 0.2)]
    inner = make(
        "environment.verifier.case=true", "environment.hints=[greedy, exact]", "environment.hints.exact.case=true"
    )
    assert inner.environment.params["verifier"] == {"name": "exact", "case": True}
    assert inner.environment.params["hints"] == ["greedy", {"name": "exact", "case": True}]


def test_files_lay_inner_components_over_each_other():
    base = {**BASE, "environment": {"name": "quiz", "path": "a", "verifier": {"name": "exact", "case": True}}}
    assert compose(base, {"environment": {"verifier": {"case": False}}}, REGISTRY).environment.params == {
        "path": "a",
        "verifier": {"name": "exact", "case": False},
        "hints": [],
        "judge": None,
    }
    replaced = compose(base, {"environment": {"verifier": "greedy"}}, REGISTRY).environment
    assert (replaced.params["path"], replaced.params["verifier"]) == ("a", "greedy")


def test_validation_may_change_a_parameter_of_an_inner_component():
    experiment = make("validation.environment.verifier.case=true", "environment.path=b")
    assert validation_environment(experiment, REGISTRY).verifier.component.case is True
    assert validation_environment(experiment, REGISTRY).path == "b"
    assert experiment.environment.component.verifier.component.case is False
    found = wrong("validation.environment.verifier.cases=true")
    assert "exact has no such parameter" in found["validation.environment.verifier.cases"]


def test_a_problem_of_an_inner_component_has_its_key():
    found = wrong(
        "policy_loss=wraps",
        "policy_loss.of=pop",
        "environment.verifier.case=much",
        "environment.judge.case=1",
        "advantage=gae(gama=1)",
    )
    assert "there is no policy_loss 'pop'; did you mean 'ppo'" in found["policy_loss.of"]
    assert "must be true or false" in found["environment.verifier.case"]
    assert "needs its name" in found["environment.judge"]
    assert set(found) == {"policy_loss.of", "environment.verifier.case", "environment.judge", "advantage.gama"}
    assert "is missing, and has no default" in wrong(policy_loss="takes")["policy_loss.of"]
    assert "is missing" in wrong("policy_loss.of=null", policy_loss="wraps")["policy_loss.of"]
    assert set(wrong(policy_loss="wraps(of=wraps(of=wraps(3)))")) == {"policy_loss.of.of.share"}
    assert "stands there twice" in wrong("environment.hints=[exact, exact]")["environment.hints"]


def test_needs_and_checks_of_inner_components_count():
    greedy = "environment.verifier=greedy"
    assert needs(make("advantage=grpo", "filter.select=nofilter", "collapse=[]")) == {"groups"}
    assert needs(make("advantage=grpo", greedy, "collapse=[]")) == {"groups", "greedy_rewards"}
    assert make(greedy).environment.needs == {"greedy_rewards"}
    assert "greedy needs greedy rollouts" in wrong(greedy, "rollout.engine=sampler")["environment.verifier"]
    patience = ("environment.hints=[patience]", "validation.every=0", "collapse=[]")
    assert "validation.every is 0" in wrong(*patience)["environment.hints.patience"]


def test_inner_components_have_keys_of_their_own():
    experiment = make("environment.hints=[greedy]", policy_loss=SPELLINGS[0])
    keys = dict(components(experiment))
    assert [key for key in keys if key.startswith("environment")] == [
        "environment", "environment.verifier", "environment.hints.greedy"
    ]  # fmt: skip
    assert [key for key in keys if key.startswith("policy_loss")] == [
        "policy_loss", "policy_loss.of", "policy_loss.of.of"
    ]  # fmt: skip
    manifest = build_manifest(experiment, REGISTRY)["components"]
    assert manifest["policy_loss.of.of"]["name"] == "ppo"
    assert manifest.keys() == keys.keys()


def test_a_change_inside_is_another_experiment():
    first, second = make(policy_loss="wraps"), make("policy_loss.of.clip_low=0.1", policy_loss="wraps")
    assert config_hash(first) != config_hash(second)
    ((key, before, after),) = differences(to_dict(first), to_dict(second))
    assert key == "policy_loss"
    assert "clip_low: 0.2" in before
    assert "clip_low: 0.1" in after


def test_a_description_says_of_which_kind_an_inner_component_is():
    path, verifier, hints, judge = REGISTRY.describe("environment", "quiz").parameters
    assert (path.kind, verifier.kind, hints.kind, judge.kind) == ("", "verifier", "verifier", "verifier")
    assert (verifier.type, verifier.default) == ("a component of the kind verifier", "exact")
    assert (hints.type, hints.default) == ("components of the kind verifier", ())
    assert (judge.type, judge.required) == ("a component of the kind verifier, or None", False)
    (of,) = REGISTRY.describe("policy_loss", "takes").parameters
    assert of.required is True
