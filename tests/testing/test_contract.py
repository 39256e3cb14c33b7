"""``uncollapse show KIND`` prints what an author must know, of every kind."""

import json

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core import components
from uncollapse.core.kinds import KINDS


def show(*words, code=0):
    done = CliRunner().invoke(main, ["show", *words])
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_has_its_hook_its_methods_and_its_names(kind):
    contract = json.loads(show(kind.name, "--json"))
    assert (contract["kind"], contract["hook"], contract["does"]) == (kind.name, kind.hook, kind.does)
    assert contract["names"] == sorted(contract["names"]) != []
    if kind.contract:
        methods = {method["name"] for method in contract["contract"]["methods"]}
        base = getattr(components, kind.contract)
        own = {name for name in vars(base) if name == "__call__" or (name[0] != "_" and name in methods)}
        assert methods == {*own, "check"}
        assert base.__abstractmethods__ <= own
        fields = {field["name"]: field for field in contract["contract"]["fields"]}
        assert (fields["needs"]["default"], fields["needs"]["required"]) == ("frozenset()", False)
    assert bool(contract["laws"]) == (kind.name != "train_backend")
    assert all(law.endswith(".") for law in contract["laws"])


def objects(kind):
    return {each["name"]: each for each in json.loads(show(kind, "--json"))["objects"]}


def test_the_objects_that_a_kind_is_given_are_shown_with_their_fields():
    assert {"LossInputs", "LossOutput"} == set(objects("policy_loss"))
    fields = {field["name"]: field for field in objects("policy_loss")["LossInputs"]["fields"]}
    assert fields["entropies"]["doc"].startswith("[B, T] nats: token entropies of the policy that trains")
    assert (fields["logprobs"]["type"], fields["logprobs"]["required"]) == ("Tensor", True)
    assert {"CreditInputs", "Advantages", "AdvantageEstimatorSession"} == set(objects("advantage"))
    assert {"CollapseSession", "Rollouts", "Verdict"} <= set(objects("collapse"))
    assert {"Env", "Step", "Tool"} == set(objects("environment"))
    memory = {"SamplingLoad", "EngineMemory", "Shortage"}
    assert {"RolloutEngineSession", "Sampling", "Completion", *memory} == set(objects("rollout_engine"))
    assert "Job" in objects("launcher")
    assert {"Terms", "Estimate"} <= set(objects("variance"))
    session = {
        method["name"]: method["signature"] for method in objects("kl_controller")["KlControllerSession"]["methods"]
    }
    assert session["update"] == "(kl: float, episodes: int) -> None"


def test_text_says_the_same():
    text = show("policy_loss")
    for words in (
        "registered by the hook register_policy_losses(register)",
        "__call__(inputs: LossInputs) -> LossOutput",
        "turns: Tensor | None = None\n      [B, T] int64: the turn of each sampled token, -1 off the mask.",
        "Any split of the rows into micro-batches and ranks has the same gradient",
        "names: ",
    ):
        assert words in text
    assert "Base class for protocol classes" not in show("kl_controller")


def test_a_kind_that_is_not_there_has_its_nearest():
    assert "did you mean 'policy_loss'?" in show("policy_los", code=2)


def test_a_name_is_still_shown():
    assert show("kl", "low_var_kl").startswith("kl low_var_kl")
