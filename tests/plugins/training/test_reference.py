"""The reference moves towards the policy: what it then computes, where it stands, and what needs it no longer."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import torch
import uncollapse
from safetensors.torch import load_file, save_file
from uncollapse.core.components import KlController, KlControllerSession, RolloutFilter
from uncollapse.core.compose.combinations import combination_problems
from uncollapse.core.compose.experiment import Critic, Lora, Model, Trainer
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.errors import RequestError, RunError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.estimators.kl.controllers import Refresh
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.training.assemble import assemble
from uncollapse.plugins.training.commands.dry_run import describe
from uncollapse.plugins.training.networks.models import Policy, load_policy
from uncollapse.plugins.training.networks.shared_critic import with_value_head
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.loop import Loop
from uncollapse.plugins.training.step.losses import PolicyObjective
from uncollapse.plugins.training.weights import reference
from uncollapse.plugins.training.weights.reference import ReferenceAdapter, ReferenceModel

sys.path.insert(0, str(Path(__file__).parent))
from ranks_launch import backend

PEER = json.loads((Path(__file__).parents[2] / "peers" / "trl_reference.json").read_text())


def engine_of(policy, stage, dtype, lr=1e-3):
    trainer = Trainer(lr=lr, weight_decay=0.0, grad_clip=0.0)
    return backend(stage).start(policy, trainer, zero_stage=stage, dtype=dtype, ranks=start_ranks())


def step(engine, batch):
    engine.update([attrs.evolve(batch, weights=TokenMean().weights(batch.mask, 1))], PolicyObjective(Ppo()))


def logprobs(scores, batch):
    return scores.logprobs[batch.mask]


# --- what it computes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PEER["cases"], ids=lambda case: f"{case['every']}-{case['alpha']}")
def test_it_moves_as_that_of_trl(case):
    policies = torch.tensor(PEER["inputs"]["policies"])
    layer = torch.nn.Linear(3, 2, bias=False).requires_grad_(False)
    layer.weight.copy_(policies[0])
    moved, session = (
        ReferenceModel(layer, start_ranks(), by_parts=True),
        Refresh(case["every"], case["alpha"]).start(0.1),
    )
    for number, weight in enumerate(policies[1:], 1):
        engine = SimpleNamespace(weights=lambda now=weight: [("weight", now)], fp32_weights=list)
        if share := session.refresh(number):
            moved.move(engine, share)
        expected = torch.tensor(case["references"][number - 1])
        torch.testing.assert_close(layer.weight, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (2, "bfloat16"), (3, "bfloat16")])
def test_soft_moves_are_the_weights_mixed_by_hand_however_little_the_policy_moves(models, batch, stage, dtype):
    torch_dtype, lr = getattr(torch, dtype), 1e-6  # in bfloat16 most weights stay what they are with such a rate
    engine = engine_of(Policy(models(torch_dtype), 1.0), stage, dtype, lr)
    moved = ReferenceModel(Policy(models(torch_dtype), 1.0).requires_grad_(False), start_ranks(), by_parts=True)
    start = {name: p.double() for name, p in models(torch_dtype).named_parameters()}
    by_hand = dict(start)
    for share in (0.25, 1.0, 0.6):
        for _ in range(2):
            step(engine, batch)
        moved.move(engine, share)
        own = dict(engine.fp32_weights()) or dict(engine.weights())
        for name, weight in by_hand.items():
            by_hand[name] = share * own[f"model.{name}"].double() + (1 - share) * weight
    kept = moved.weights()
    assert {weight.dtype for weight in kept.values()} == {torch.float32}
    assert kept.keys() == {f"model.{name}" for name in by_hand}
    for name, weight in by_hand.items():
        torch.testing.assert_close(kept[f"model.{name}"].double(), weight, rtol=1e-7, atol=1e-7)
    gone = sum(float((kept[f"model.{name}"].double() - weight).abs().detach().sum()) for name, weight in start.items())
    assert gone > 1e-8 * sum(weight.numel() for weight in start.values())
    mixed = Policy(models(torch_dtype), 1.0)
    with torch.no_grad():
        for name, parameter in mixed.named_parameters():
            parameter.copy_(kept[name])
        expected = mixed(batch)["logprobs"]
    assert torch.equal(moved.score(batch).logprobs, expected)


@pytest.mark.parametrize("by_parts", [False, True])
@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (2, "bfloat16"), (3, "bfloat16")])
def test_a_whole_move_makes_the_reference_the_policy_and_leaves_it_there(models, batch, stage, dtype, by_parts):
    torch_dtype = getattr(torch, dtype)
    engine = engine_of(Policy(models(torch_dtype), 1.0), stage, dtype)
    moved = ReferenceModel(Policy(models(torch_dtype), 1.0).requires_grad_(False), start_ranks(), by_parts)
    if by_parts:
        moved.move(engine, 0.5)
    before = logprobs(moved.score(batch), batch)
    step(engine, batch)
    policy = logprobs(engine.score(batch), batch)
    assert not torch.equal(before, policy)
    moved.move(engine, 1.0)
    assert {weight.dtype for weight in moved.weights().values()} == {torch.float32 if by_parts else torch_dtype}
    assert torch.equal(logprobs(moved.score(batch), batch), policy)
    step(engine, batch)
    assert not torch.equal(logprobs(engine.score(batch), batch), policy)
    assert torch.equal(logprobs(moved.score(batch), batch), policy)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (2, "bfloat16")])
@pytest.mark.parametrize("shared", [False, True], ids=["policy", "with a value head"])
def test_an_adapter_of_the_reference_is_an_earlier_one_of_the_policy(models, batch, tmp_path, stage, dtype, shared):
    models().save_pretrained(tmp_path)
    policy = load_policy(Model(path=str(tmp_path), dtype=dtype, lora=Lora(rank=2)), tmp_path, 1.0)
    if shared:
        policy = with_value_head(policy, Critic(shared=True))
    engine, moved = engine_of(policy, stage, dtype, lr=1e-2), ReferenceAdapter(policy, start_ranks())
    base = logprobs(moved.score(batch), batch)
    assert moved.weights() == {}
    for _ in range(2):
        step(engine, batch)
    earlier = logprobs(engine.score(batch), batch)
    moved.move(engine, 1.0)
    assert all("lora_" in name for name in moved.weights())
    step(engine, batch)
    now = logprobs(engine.score(batch), batch)
    assert torch.equal(logprobs(moved.score(batch), batch), earlier)
    assert not torch.equal(earlier, now) and not torch.equal(earlier, base)
    # scoring with the reference leaves the policy as it was, and it trains on
    assert torch.equal(logprobs(engine.score(batch), batch), now)
    again = ReferenceAdapter(policy, start_ranks())
    again.load(moved.weights())
    assert torch.equal(logprobs(again.score(batch), batch), earlier)
    with pytest.raises(RunError, match=r"an adapter cannot be mixed by a share of 0\.5"):
        moved.move(engine, 0.5)


def test_every_weight_must_come_from_the_backend(models):
    moved = ReferenceModel(Policy(models(torch.bfloat16), 1.0).requires_grad_(False), start_ranks(), by_parts=True)
    with pytest.raises(RunError, match=r"gives no weight model\.model\.embed_tokens\.weight, which the reference has"):
        moved.move(SimpleNamespace(weights=list, fp32_weights=list), 0.5)


# --- in a run -------------------------------------------------------------------------------------------------------


def made(bandit, *overrides):
    short = ("validation.every=0", "collapse=[]", "trainer.save_every=1", "advantage=grpo", "kl.coef=0.1")
    return uncollapse.compose(bandit, (*short, *overrides))


def with_controller(experiment, component):
    """The experiment with the component of another author."""
    controller = attrs.evolve(experiment.kl.controller, component=component)
    return attrs.evolve(experiment, kl=attrs.evolve(experiment.kl, controller=controller))


def records(path):
    found = [record for record in RunDirectory.open(path).metrics() if record["step"]]
    return [{key: value for key, value in record.items() if not key.startswith("timing_s/")} for record in found]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


RESUMED = {
    "the whole policy": ("kl.controller=refresh(2, 1)",),
    "a part, beside an adaptive coefficient": ("kl.controller=refresh(2, 0.5, of=adaptive)", "kl.placement=reward"),
    "a part, in bfloat16": ("kl.controller=refresh(1, 0.25)", "model.dtype=bfloat16", "trainer.zero_stage=2"),
    "an adapter": ("kl.controller=refresh(2, 1)", "model.lora={rank: 2, dropout: 0.1}"),
}


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in list(RESUMED)[:2]), *list(RESUMED)[2:]]
)
def test_a_run_that_is_killed_after_a_move_goes_on_bitwise(bandit, tmp_path, name, monkeypatch):
    experiment = made(bandit, *RESUMED[name])
    uncollapse.train(experiment, tmp_path / "whole")
    run_step = Loop.train_step

    def killed(loop):
        if loop.step == 3:
            raise MemoryError("killed")
        return run_step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", killed)
        with pytest.raises(MemoryError):
            uncollapse.train(experiment, tmp_path / "parts")
    uncollapse.train(experiment, tmp_path / "parts", resume=True)
    whole, parts = records(tmp_path / "whole"), records(tmp_path / "parts")
    assert whole == parts
    alpha = experiment.kl.controller.component.alpha
    due = [None, alpha] * 2 if experiment.kl.controller.component.every == 2 else [alpha] * 4
    assert [record.get("reference/refreshed") for record in whole] == due
    kls = [record["actor/kl"] for record in whole]
    assert kls[0] == 0 and kls[1] > 0 and kls[3] > 0
    # right after a whole move policy and reference are one
    assert (kls[2] == 0) == (alpha == 1)
    last = [tmp_path / part / "checkpoints" / "step_4" for part in ("whole", "parts")]
    kept = [load_file(path / reference.FILE) for path in last]
    assert same(*kept)
    assert {path.name for path in last[0].iterdir()} == {path.name for path in last[1].iterdir()}
    file = "adapter_model.safetensors" if experiment.model.lora else "model.safetensors"
    assert same(*(load_file(path / "model" / file) for path in last))
    states = [torch.load(path / "optimizer.pt", weights_only=True)["state"] for path in last]
    assert all(same(states[0][key], states[1][key]) for key in states[0])


def test_only_what_has_moved_is_saved_and_a_moved_model_rests_on_the_start_model_no_longer(bandit, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(bandit["model"]["path"], folder)
    settings = (f"model.path={folder}", "kl.controller=refresh(2, 0.5)", "trainer.steps=3")
    uncollapse.train(made(bandit, *settings), tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    names = [{path.name for path in (run.checkpoint_directory / f"step_{n}").iterdir()} for n in (1, 2, 3)]
    assert [(reference.FILE in files, "start_model.json" in files) for files in names] == [
        (False, True),
        (True, False),
        (True, False),
    ]
    whole = records(tmp_path / "run")
    shutil.rmtree(run.latest())
    run.set_status("interrupted")
    weights = load_file(folder / "model.safetensors")
    key = next(name for name in weights if "up_proj" in name)
    save_file({**weights, key: weights[key] + 1}, folder / "model.safetensors", {"format": "pt"})
    assert uncollapse.train(made(bandit, *settings), run.path, resume=True).status == "success"
    assert records(tmp_path / "run") == whole
    # the checkpoint of step 1 rests on it
    for number in (2, 3):
        shutil.rmtree(run.checkpoint_directory / f"step_{number}")
    run.set_status("interrupted")
    with pytest.raises(RequestError, match="another one than when the run began"):
        uncollapse.train(made(bandit, *settings), run.path, resume=True)


def test_a_reference_of_other_weights_is_not_taken(bandit, tmp_path):
    settings = ("kl.controller=refresh(1, 1)", "trainer.steps=2")
    uncollapse.train(made(bandit, *settings), tmp_path / "run")
    checkpoint = RunDirectory.open(tmp_path / "run").latest()
    weights = load_file(checkpoint / reference.FILE)
    for broken, says in (
        (dict(list(weights.items())[1:]), "disagree on 1 weights"),
        ({**weights, min(weights): weights[min(weights)] * torch.nan}, "not all finite"),
    ):
        reference.save(broken, checkpoint)
        with pytest.raises(RequestError, match=says):
            assemble(made(bandit, *settings), start_ranks(), checkpoint)


@attrs.frozen
class Nothing(RolloutFilter):
    def select(self, scores_P):
        return torch.zeros(len(scores_P), dtype=torch.bool)


def test_a_move_in_a_step_that_trains_nothing_is_no_state_of_the_step_before(bandit):
    experiment = made(bandit, "kl.controller=refresh(2, 1)")
    select = attrs.evolve(experiment.filter.select, component=Nothing())
    experiment = attrs.evolve(experiment, filter=attrs.evolve(experiment.filter, select=select))
    ranks = start_ranks()
    loop = Loop(experiment, assemble(experiment, ranks), ranks)
    counts = [loop.optimizer_steps()]
    for _ in range(2):
        loop.train_step()
        counts.append(loop.optimizer_steps())
    assert counts == [(0, 0), (0, 0), (0, 1)]


class WhenFar(KlControllerSession):
    def __init__(self, coef):
        self.coef, self.kl = coef, 0.0

    def update(self, kl, episodes):
        self.kl = kl

    def refresh(self, step):
        return 1.0 if self.kl > 0 else None

    def state_dict(self):
        return {"kl": self.kl}

    def load_state_dict(self, state):
        self.kl = state["kl"]


@attrs.frozen
class Far(KlController):
    """A controller of another author, which moves the reference once the policy has left it."""

    moves_reference = "to_policy"

    def start(self, coef):
        return WhenFar(coef)


def test_a_controller_of_a_plugin_moves_the_reference_as_the_one_around_it_does(bandit, tmp_path):
    far = attrs.evolve(made(bandit).kl.controller, component=Far())
    uncollapse.train(with_controller(made(bandit), Refresh(3, 1.0, of=far)), tmp_path / "run")
    found = records(tmp_path / "run")
    assert [record["actor/kl"] > 0 for record in found] == [False, True, False, False]
    # after step 2 by the plugin's, as the policy has left the reference, and after step 3 by the clock
    assert [record.get("reference/refreshed") for record in found] == [None, 1.0, 1.0, None]


@attrs.frozen
class Odd(Far):
    moves_reference = "sometimes"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["kl.coef=0", "kl.controller=refresh(2)"], "refresh moves the reference, and no reference is used: kl.coef"),
        (["kl.controller=refresh(2, 0.5)", "model.lora={rank: 2}"], "the mix of two adapters is no adapter of their"),
        (
            ["kl.controller=refresh(2, 1, of=refresh(3, 0.5))", "model.lora={rank: 2}"],
            "the mix of two adapters is no adapter of their",
        ),
        (
            ["kl.controller=refresh(2, 1)", "model.lora={rank: 2}", "trainer.zero_stage=3"],
            "which ZeRO 3 does not let into the sharded model",
        ),
        (["kl.controller=refresh(4)"], "first moves the reference after step 4, and the run ends after 4: lower every"),
        (
            ["kl.controller=refresh(3, of=refresh(9))"],
            "first moves the reference after step 9, and the run ends after 4",
        ),
        (["kl.controller=refresh(0)"], "every"),
        (["kl.controller=refresh(1.5)"], "every"),
        (["kl.controller=refresh(2, 0)"], "alpha"),
        (["kl.controller=refresh(2, 1.1)"], "alpha"),
        (["kl.controller=refresh(2, -0.1)"], "alpha"),
        (["kl.controller=refresh(2, .nan)"], "alpha"),
        (["kl.controller=refresh(2, of=k3)"], "of"),
    ],
)
def test_what_has_no_meaning_is_refused(bandit, overrides, says):
    with pytest.raises(CompositionError, match=says):
        made(bandit, *overrides)


def test_a_dry_run_says_what_moves_the_reference(bandit):
    said = {}
    for name, overrides in {"still": (), "moved": ("kl.controller=refresh(2, 1)", "model.lora={rank: 2}")}.items():
        said[name] = describe(made(bandit, *overrides), Path("run"))
    assert "policy (trains), reference (frozen)" in said["still"]
    moved = "reference (the policy without its adapter, until refresh(every=2, alpha=1.0) moves it)"
    assert moved in said["moved"]


def test_a_declaration_that_means_nothing_is_refused(bandit):
    (problem,) = combination_problems(with_controller(made(bandit), Odd()))
    assert "moves_reference is 'sometimes', which is none of never, to_policy" in str(problem)


def test_a_reference_that_a_loss_needs_moves_without_a_kl_term(bandit):
    @attrs.frozen
    class NeedsReference(Ppo):
        needs = frozenset({"reference"})

    experiment = with_controller(made(bandit), Refresh(2, 1.0))
    unused = attrs.evolve(experiment, kl=attrs.evolve(experiment.kl, coef=0.0))
    assert ["no reference is used" in str(problem) for problem in combination_problems(unused)] == [True]
    loss = attrs.evolve(experiment.policy_loss, component=NeedsReference())
    assert combination_problems(attrs.evolve(unused, policy_loss=loss)) == []
