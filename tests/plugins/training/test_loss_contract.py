"""What a policy loss and an advantage estimator are given, and that how rows are split changes nothing."""

import attrs
import pytest
import torch
import uncollapse
from uncollapse.core.components import LossOutput, PolicyLoss, Scores
from uncollapse.core.registry import registry
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.step.batch import shares
from uncollapse.plugins.training.step.losses import CriticObjective, JointObjective, PolicyObjective


@attrs.frozen
class LargestHalf(PolicyLoss):
    """Trains on the half of the tokens of an optimizer step whose advantages are largest in size."""

    def prepare(self, batch):
        sizes = batch.advantages.abs()
        chosen = (sizes >= sizes[batch.mask].median()) & batch.mask
        return {"chosen": chosen, "per_row": chosen.sum(1), "in_all": chosen.sum()}

    def __call__(self, inputs):
        ratio = (inputs.logprobs - inputs.old_logprobs).exp()
        chosen, in_all = inputs.prepared["chosen"], inputs.prepared["in_all"]
        weight = 1 + inputs.prepared["per_row"][:, None] / in_all
        loss_B_T = torch.where(chosen, -inputs.advantages * ratio * weight, 0.0)
        return LossOutput(loss_B_T, {"chosen": (chosen.sum(), inputs.mask.sum())})


@attrs.frozen
class HalfOfItsOwn(LargestHalf):
    """The mistake: the half of each micro-batch."""

    def __call__(self, inputs):
        return super().__call__(attrs.evolve(inputs, prepared=self.prepare(inputs)))


def gradient(loss, batch, model, size, ranks):
    """What all ranks' micro-batches of at most ``size`` rows add up to."""
    policy = Policy(model, temperature=0.7)
    policy.zero_grad()
    batch = attrs.evolve(
        batch,
        weights=TokenMean().weights(batch.mask, 1).double(),
        sampler_logprobs=batch.old_logprobs,
        old_entropies=batch.old_logprobs.abs(),
        rows=torch.arange(len(batch)),
        groups=torch.arange(len(batch)) // 2,
    )
    objective = PolicyObjective(loss)
    batch = objective.prepare(batch, None)
    for micro_batches in shares(batch, range(len(batch)), ranks, size):
        for part in micro_batches:
            objective(Scores(**policy(part)), part)[0].backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def losses():
    return [*registry().names("policy_loss"), LargestHalf()]


@pytest.mark.parametrize("loss", losses(), ids=str)
def test_any_split_into_micro_batches_and_ranks_has_the_same_gradient(loss, batch, models):
    component = registry().create("policy_loss", loss) if isinstance(loss, str) else loss
    model = models(torch.float64)
    whole = gradient(component, batch, model, len(batch), 1)
    assert whole.norm() > 0
    for size, ranks in ((1, 1), (2, 1), (3, 1), (1, 2), (2, 3)):
        torch.testing.assert_close(gradient(component, batch, model, size, ranks), whole, rtol=1e-6, atol=1e-9)


def test_a_loss_that_couples_rows_by_itself_does_not_have_this_property(batch, models):
    model = models(torch.float64)
    whole = gradient(HalfOfItsOwn(), batch, model, len(batch), 1)
    torch.testing.assert_close(whole, gradient(LargestHalf(), batch, model, len(batch), 1))
    assert (gradient(HalfOfItsOwn(), batch, model, 1, 1) - whole).norm() > 0.01 * whole.norm()


def test_prepare_sees_the_rows_of_its_optimizer_step_and_no_other(batch):
    seen = []

    class Loss(LargestHalf):
        def prepare(self, inputs):
            seen.append(inputs)
            return {"rows": inputs.rows.float(), "tokens": inputs.mask.float()}

    weights = TokenMean().weights(batch.mask, 1)
    weights[[0, 4]] = 0
    weights[1, batch.mask[1].long().argmax()] = 0
    whole = attrs.evolve(batch, weights=weights, sampler_logprobs=batch.old_logprobs, rows=torch.arange(7))
    prepared = PolicyObjective(Loss(), step=5).prepare(whole, None).prepared
    assert seen[0].rows.tolist() == [1, 3, 5, 6]  # row 2 has no token that trains
    assert seen[0].step == 5
    assert torch.equal(seen[0].logprobs, seen[0].old_logprobs)
    assert prepared["rows"].tolist() == [0, 1, 0, 3, 0, 5, 6]
    assert torch.equal(prepared["tokens"], (batch.mask & (weights > 0)).float())
    critic = CriticObjective(0.2)
    assert JointObjective(PolicyObjective(Loss()), critic, 0.1).prepare(whole, None).prepared.keys() == prepared.keys()
    assert JointObjective(None, critic, 0.1).prepare(whole, None) is whole


PLUGIN = """
import attrs
import torch
from uncollapse.core.components import AdvantageEstimator, Advantages, LossOutput, PolicyLoss
from uncollapse.core.hookspecs import hookimpl

SEEN = {"credit": [], "loss": [], "prepare": []}


@attrs.frozen
class Greedy(AdvantageEstimator):
    needs = frozenset({"logprobs", "entropies", "second_moments", "collision_probs"})

    def compute(self, batch):
        SEEN["credit"].append(batch)
        ones = batch.mask.float()
        return Advantages(ones * torch.linspace(-1, 1, len(ones))[:, None], ones)


@attrs.frozen
class Seeing(PolicyLoss):
    needs = frozenset({"minibatch"})

    def prepare(self, batch):
        SEEN["prepare"].append(batch)
        return {"kept": batch.mask}

    def __call__(self, inputs):
        SEEN["loss"].append(inputs)
        return LossOutput(torch.where(inputs.mask, -inputs.advantages * inputs.logprobs, 0.0), {})


@hookimpl
def register_advantage_estimators(register):
    register("seeing", Greedy)


@hookimpl
def register_policy_losses(register):
    register("seeing", Seeing)
"""


def test_what_components_declare_to_need_is_handed_over(bandit, tmp_path):
    path = tmp_path / "seeing.py"
    path.write_text(PLUGIN)
    plugin = registry().load_file(path)
    seen = plugin.hooks.SEEN
    overrides = ("advantage=seeing", "policy_loss=seeing", "trainer.steps=1", "trainer.mini_batch=4", "trainer.lr=0.01")
    uncollapse.train(uncollapse.compose(bandit, (*overrides, "trainer.micro_batch=2")), tmp_path / "run")

    (credit,) = seen["credit"]
    assert (credit.step, credit.steps, credit.success_E.dtype) == (0, 1, torch.bool)
    p = credit.logprobs[credit.mask].exp()
    assert bool(((p > 0) & (p < 1)).all())
    variance = (credit.second_moments - credit.entropies**2)[credit.mask]
    assert bool((credit.entropies[credit.mask] > 0).all()) and bool((variance > 0).all())
    # two draws are the same token at least as often as both are this one; and by Jensen, at least with exp(-H)
    collisions = credit.collision_probs[credit.mask]
    assert bool((collisions >= p**2 - 1e-6).all()) and bool((collisions <= 1).all())
    assert bool((collisions >= torch.exp(-credit.entropies[credit.mask]) - 1e-6).all())

    first, second = seen["prepare"]
    assert sorted([*first.rows.tolist(), *second.rows.tolist()]) == list(range(8))
    torch.testing.assert_close(first.logprobs, first.old_logprobs)
    moved = (second.logprobs - second.old_logprobs)[second.mask]
    assert float(moved.abs().max()) > 1e-4  # by the first optimizer step
    later = [inputs for inputs in seen["loss"] if inputs.rows[0] in second.rows]
    for inputs in later:  # the pass of the update itself agrees with the one before it
        where = [second.rows.tolist().index(row) for row in inputs.rows.tolist()]
        width = inputs.mask.shape[1]
        expected = second.logprobs[where][:, :width][inputs.mask]
        torch.testing.assert_close(inputs.logprobs.detach()[inputs.mask], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(inputs.prepared["kept"], inputs.mask)
        assert inputs.groups.shape == inputs.rows.shape and inputs.turns.shape == inputs.mask.shape
