"""A loss that wraps another by name, and an environment with a verifier of somebody's own: as the guide has them."""

import json
import re
from pathlib import Path

import attrs
import pytest
import torch
import uncollapse
from uncollapse.core.components import LossOutput, PolicyLoss, Verifier
from uncollapse.core.compose.combinations import needs
from uncollapse.core.compose.named import Named
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.errors import RunError
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.environments.dataset import Dataset
from uncollapse.plugins.rollout.borders import CheckedEnvironment
from uncollapse.plugins.training.step import stages
from uncollapse.plugins.training.step.borders import CheckedLoss, guarded
from uncollapse.plugins.training.step.losses import PolicyObjective
from uncollapse.plugins.verifiers.verifiers import Choice, Exact
from uncollapse.testing import check

GUIDE = Path(uncollapse.__file__).with_name("docs") / "plugins.md"
INNER = '''
import attrs
import torch
from uncollapse import hookimpl
from uncollapse.core.components import LossOutput, PolicyLoss, Verifier


def ratio(inputs):
    return torch.where(inputs.mask, -inputs.advantages * (inputs.logprobs - inputs.old_logprobs).exp(), 0.0)


@attrs.frozen
class Halves(PolicyLoss):
    """The largest half of the advantages of an optimizer step, by the policy just before it."""

    needs = frozenset({"minibatch", "reference"})

    def prepare(self, batch):
        return {"half": batch.advantages[batch.mask].abs().median()}

    def __call__(self, inputs):
        return LossOutput(torch.where(inputs.advantages.abs() >= inputs.prepared["half"], ratio(inputs), 0.0), {})

    def check(self, experiment):
        if experiment.trainer.epochs > 3:
            yield "it was made for few epochs"


@attrs.frozen
class Fails(PolicyLoss):
    def __call__(self, inputs):
        return 1 / 0


@attrs.frozen
class Mean(PolicyLoss):
    def __call__(self, inputs):
        return LossOutput(ratio(inputs).mean(), {})


@attrs.frozen
class Percent(Verifier):
    def verify(self, answer, golds):
        return 80.0 if answer in golds else 1 / 0


@hookimpl
def register_policy_losses(register):
    register("halves", Halves)
    register("fails", Fails)
    register("mean", Mean)


@hookimpl
def register_verifiers(register):
    register("percent", Percent)
'''


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugins")
    texts = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    (wrapper,) = (text for text in texts if "class HighEntropy" in text)
    for name, text in (("high_entropy.py", wrapper), ("inner.py", INNER)):
        (folder / name).write_text(text)
        uncollapse.registry().load_file(folder / name)
    yield folder
    plugins = [plugin for plugin in uncollapse.registry().plugins if str(folder) in plugin.module]
    forget(plugins)


def forget(plugins):
    """So that no later test meets them."""
    registry = uncollapse.registry()
    for plugin in plugins:
        registry.plugins.remove(plugin)
        for spellings in registry._entries.values():
            for spelling in [spelling for spelling, entry in spellings.items() if entry.plugin is plugin]:
                del spellings[spelling]


def experiment(bandit, *overrides):
    return uncollapse.compose(bandit, overrides)


def weighed(batch):
    return attrs.evolve(
        batch,
        weights=batch.mask.float(),
        sampler_logprobs=batch.old_logprobs,
        old_entropies=batch.old_logprobs.abs(),
        rows=torch.arange(len(batch)),
    )


def inputs_of(loss, batch):
    """What a loss is given of all rows, as one micro-batch, after it has prepared."""
    objective = PolicyObjective(loss)
    prepared = objective.prepare(weighed(batch), None)
    logprobs = (batch.old_logprobs + 0.1 * batch.returns).requires_grad_()
    return objective.inputs(prepared, logprobs, batch.old_logprobs, prepared.old_entropies, batch.mask)


def test_the_wrapper_of_the_guide_keeps_the_laws_of_losses():
    for spelling in ("high_entropy", "high_entropy(0.5, of=ppo(0.1))", "high_entropy(1, of=high_entropy(0.3))"):
        assert check("policy_loss", spelling) == []
    (problem, *_) = check("policy_loss", "high_entropy(0.5, of=fails)")
    assert "policy_loss 'fails' of plugin 'inner'" in problem.what
    assert ", in policy_loss 'high_entropy'" in problem.what


def test_an_inner_loss_is_prepared_and_trains_the_tokens_that_the_outer_one_leaves(bandit, batch):
    loss = guarded(experiment(bandit, "policy_loss=high_entropy(0.5, of=halves)")).policy_loss.component
    given = inputs_of(loss, batch)
    assert given.prepared.keys() == {"high", "of.half"}
    loss_B_T, _ = loss(given)
    half = batch.advantages[batch.mask].abs().median()
    high = batch.mask & (batch.old_logprobs.abs() >= batch.old_logprobs[batch.mask].abs().quantile(0.5))
    assert torch.equal(loss_B_T != 0, high & (batch.advantages.abs() >= half) & (batch.advantages != 0))
    whole = guarded(experiment(bandit, "policy_loss=high_entropy(1, of=ppo(0.1, 0.1))")).policy_loss.component
    given = inputs_of(whole, batch)
    assert torch.equal(whole(given)[0], Ppo(0.1, 0.1)(given)[0])


def test_what_an_inner_loss_needs_is_handed_over(bandit):
    made = experiment(bandit, "policy_loss=high_entropy(of=halves)", "kl.coef=0")
    assert needs(made) >= {"minibatch", "reference", "entropies"}
    assert stages.needs_of(made.policy_loss) == {"minibatch", "reference", "entropies"}
    assert stages.needs_of(guarded(made).policy_loss) == {"minibatch", "reference", "entropies"}


def test_the_check_of_an_inner_loss_is_asked(bandit):
    with pytest.raises(CompositionError, match=r"policy_loss\.of: halves: it was made for few epochs"):
        experiment(bandit, "policy_loss=high_entropy(of=halves)", "trainer.epochs=4")


@pytest.mark.parametrize(
    ("inner", "says"),
    [("fails", "failed in call: ZeroDivisionError"), ("mean", "call gave a tensor of shape [], not [7, 19]")],
)
def test_a_mistake_of_an_inner_loss_names_it_and_what_it_is_in(bandit, files, batch, inner, says):
    loss = guarded(experiment(bandit, f"policy_loss=high_entropy(of=high_entropy(of={inner}))")).policy_loss.component
    with pytest.raises(RunError) as raised:
        loss(inputs_of(loss, batch))
    told = str(raised.value)
    assert f"policy_loss {inner!r} of plugin 'inner' (" in told
    assert ", in policy_loss 'high_entropy', in policy_loss 'high_entropy'" in told
    assert says in told
    assert str(files / "inner.py") in told


def test_every_inner_component_is_checked_by_its_own_kind(bandit):
    made = experiment(bandit, "policy_loss=high_entropy(of=halves)", "environment=dataset(arithmetic, verifier=exact)")
    outer = guarded(made).policy_loss.component
    assert isinstance(outer, CheckedLoss)
    assert isinstance(outer.component.of.component, CheckedLoss)
    assert not isinstance(made.policy_loss.component.of.component, CheckedLoss)


@pytest.mark.parametrize("right", [True, False])
def test_a_mistake_of_a_verifier_names_it_and_its_environment(bandit, right):
    made = experiment(bandit, "environment=dataset(arithmetic, verifier=percent)")
    env = CheckedEnvironment(made.environment).make(0)
    says = "gave 80.0, which is no score from 0 to 1" if right else "failed in verify: ZeroDivisionError"
    with pytest.raises(RunError) as raised:
        env.step(made.environment.component.row(0).answer if right else "?")
    assert "verifier 'percent' of plugin 'inner' (" in str(raised.value)
    assert ", in environment 'dataset'" in str(raised.value)
    assert says in str(raised.value)


@attrs.frozen
class Share(Verifier):
    """The share of the right letters."""

    def verify(self, answer, golds):
        return len(set(answer) & set(golds[0])) / len(set(golds[0])) if answer else None


def test_a_score_between_right_and_wrong_is_the_reward_and_no_success(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "Which?", "answer": "abcd"}))
    dataset = Dataset(str(tmp_path), verifier=Share())
    said = [dataset.make(0).step(answer) for answer in ("abcd", "ax", "xyz", "")]
    assert [step.reward for step in said] == [1.0, 0.25, 0.0, 0.0]
    assert [step.success for step in said] == [True, False, False, False]
    assert [step.metrics["share_of_played_actions_accepted"] for step in said] == [1.0, 1.0, 1.0, 0.0]
    assert dataset.verifier.described == "verifier 'Share'"
    assert dataset.instruction == "Answer the question."


def test_a_program_may_give_an_inner_component_itself(bandit):
    made = Dataset("arithmetic", verifier=Choice())
    assert made == Dataset("arithmetic", verifier="choice") == Dataset("arithmetic", verifier={"name": "choice"})
    assert hash(made) == hash(Dataset("arithmetic", verifier="choice"))
    assert made.verifier == Named("verifier", "choice")
    composed = uncollapse.compose(bandit, {"environment": made})
    assert composed.environment.params["verifier"] == "choice"
    assert composed == experiment(bandit, "environment=dataset(arithmetic, verifier=choice)")
    replaced = uncollapse.compose(composed, {"environment.verifier": Exact()})
    assert replaced == experiment(bandit, "environment=dataset(arithmetic, verifier=exact)")
    high_entropy = uncollapse.registry().resolve("policy_loss", "high_entropy")
    wrapped = uncollapse.compose(bandit, {"policy_loss": high_entropy(0.5, of=high_entropy(of=Ppo(0.1)))})
    assert wrapped == experiment(bandit, "policy_loss=high_entropy(0.5, of=high_entropy(of=ppo(0.1)))")
    assert wrapped.policy_loss.component.of.component.of.component == Ppo(0.1)


def test_what_is_no_component_of_the_kind_is_refused_where_it_is_given():
    for value in (Ppo(), 3, Exact, ["exact"], None):
        with pytest.raises(ValueError, match="verifier must be a component of the kind verifier"):
            Dataset("arithmetic", verifier=value)
    with pytest.raises(ValueError, match=r"verifier = 'exakt': there is no verifier 'exakt'; did you mean 'exact'"):
        Dataset("arithmetic", verifier="exakt")
    with pytest.raises(ValueError, match=r"verifier\.case = true: exact has no such parameter"):
        Dataset("arithmetic", verifier="exact(case=true)")


@attrs.frozen
class Alone(PolicyLoss):
    """Registered by nobody."""

    def __call__(self, inputs):
        return LossOutput(torch.where(inputs.mask, -inputs.logprobs, 0.0), {})


def test_an_inner_component_without_a_name_works_alone_and_is_refused_in_an_experiment(bandit, batch):
    high_entropy = uncollapse.registry().resolve("policy_loss", "high_entropy")
    loss = high_entropy(1.0, of=Alone())
    assert check("policy_loss", loss) == []
    for source, overrides in ((bandit, {"policy_loss": high_entropy(of=loss)}), ({**bandit, "policy_loss": loss}, ())):
        with pytest.raises(CompositionError, match=r"policy_loss\.of.*Alone, which no plugin registers") as raised:
            uncollapse.compose(source, overrides)
        assert [problem.key for problem in raised.value.problems] == [f"policy_loss.of{'.of' if overrides else ''}"]


@pytest.mark.slow
def test_a_wrapper_of_all_tokens_trains_as_the_loss_alone(bandit, tmp_path):
    records = []
    for number, loss in enumerate(("ppo(0.1, 0.1)", "high_entropy(1, of=ppo(0.1, 0.1))")):
        changes = ("filter={select: top_k(3), metric: entropy}", "trainer.epochs=2", "collapse=[]")
        made = experiment(bandit, f"policy_loss={loss}", *changes)
        uncollapse.train(made, run_dir=tmp_path / str(number))
        lines = (tmp_path / str(number) / "metrics.jsonl").read_text().splitlines()
        records.append([{k: v for k, v in json.loads(line).items() if "timing" not in k} for line in lines])
    assert len(records[0]) > 1
    assert records[0] == records[1]
