"""The detector ``entropy_forecast`` in runs of a tiny model: what it predicts and measures, what it leaves alone."""

import copy
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import torch
import uncollapse
from safetensors.torch import load_file
from uncollapse.core.components import Scores
from uncollapse.core.errors import UncollapseError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.collapse.replay import replay_all
from uncollapse.plugins.probe.estimation import shared_prefix
from uncollapse.plugins.probe.estimation.passes import Passes, trained
from uncollapse.plugins.probe.forecast import forecast
from uncollapse.plugins.probe.forecast.change import Change, degrees_of_freedom, error
from uncollapse.plugins.probe.forecast.folds import Folds
from uncollapse.plugins.probe.forecast.forecast import EntropyForecast
from uncollapse.plugins.probe.forecast.response import Before
from uncollapse.plugins.training.networks.models import Policy

EVERY = "collapse=[entropy_forecast(every=1)]"


def train(bandit, directory, *overrides, resume=False):
    experiment = uncollapse.compose(bandit, ["validation.every=0", EVERY, *overrides])
    uncollapse.train(experiment, directory, **({"resume": True} if resume else {}))
    return {record["step"]: record for record in RunDirectory.open(directory).metrics()}


def only(records, *prefixes):
    return {s: {k: v for k, v in r.items() if k.startswith(prefixes)} for s, r in records.items()}


# --- what is predicted ----------------------------------------------------------------------------------------------


@pytest.fixture
def captured(monkeypatch):
    """The forecasts of a run as they are made, theta before each update, and what ``look`` says of them."""
    found, theta = [], {}
    of, predict = Before.of.__func__, forecast.predict

    def hook(look=lambda before, theta: None):
        def remembered(cls, update, *arguments):
            theta.clear()
            theta.update({n: p.detach().clone() for n, p in trained(update.policy.module).items()})
            return of(cls, update, *arguments)

        def watched(before):
            made = SimpleNamespace(before=before, theta=dict(theta), looked=look(before, theta))
            made.forecast = predict(before)
            found.append(made)
            return made.forecast

        monkeypatch.setattr(Before, "of", classmethod(remembered))
        monkeypatch.setattr(forecast, "predict", watched)
        return found

    return hook


def by_hand(before, theta):
    """The forecast with nothing of the probe's: torch's own AdamW in float64, sums token by token."""
    update, sampled = before.update, before.sampled
    module = update.policy.module.eval()
    after = {n: p.detach().clone() for n, p in trained(module).items()}
    groups = sampled.group_ids_P.tolist()
    put(module, theta)
    with torch.no_grad():
        base = module(forecast.to_batch(sampled))
    displacements = {}
    for fold in (None, 0, 1, 2, 3):
        gradients = []
        for rows in update.optimizer_steps:
            kept = [row for row in rows if fold is None or groups.index(int(update.rollouts.groups[row])) % 4 != fold]
            # weights as if there were no other rows, in a batch of whole sequences
            scores = module(update.batch, entropy="gradient")
            loss = update.objective.tokens(Scores(**scores), update.weighted(kept))[0].sum()
            gradients.append(torch.autograd.grad(loss, list(trained(module).values())))
        displacements[fold] = dict(zip(theta, adamw(update, theta, gradients), strict=True))
    H, mask = base["entropies"].double(), sampled.mask
    a, c = dict.fromkeys(groups, 0.0), dict.fromkeys(groups, 0.0)
    for group in groups:
        fold = groups.index(group) % 4
        put(module, {n: after[n] + displacements[fold][n] - displacements[None][n] for n in after})
        with torch.no_grad():
            moved = module(forecast.to_batch(sampled))
        w = (moved["logprobs"] - base["logprobs"]).double().exp().clamp(max=5)
        for row in (sampled.groups == group).nonzero()[:, 0].tolist():
            places = mask[row].nonzero()[:, 0].tolist()
            for t, place in enumerate(places):
                others = [mask[other].nonzero()[:, 0] for other in (sampled.groups != group).nonzero()[:, 0].tolist()]
                rows = (sampled.groups != group).nonzero()[:, 0].tolist()
                usual = [float(H[r, at[t + 1 :]].sum()) for r, at in zip(rows, others, strict=True) if len(at) > t]
                left = [len(at) - t - 1 for at in others if len(at) > t]
                b, n = (sum(x) / len(x) if x else 0.0 for x in (usual, left))
                a[group] += float(moved["entropies"][row, place].double() - H[row, place])
                a[group] += float((w[row, place] - 1) * (H[row, places[t + 1 :]].sum() - b))
                c[group] += float((w[row, place] - 1) * (len(places) - t - 1 - n))
    put(module, after)
    total = 0.0
    for group in groups:
        rest = (sampled.groups != group)[:, None] & mask
        total += a[group] - float(H[rest].sum() / rest.sum()) * c[group]
    return total / int(mask.sum())


def put(module, parameters):
    with torch.no_grad():
        for name, parameter in trained(module).items():
            parameter.copy_(parameters[name])


def adamw(update, theta, gradients):
    """The displacement by torch.optim.AdamW from the state before the update, gradients staying as they are.

    By a tiny learning rate, so that weight decay sees the parameters before the update.
    """
    tiny = 1e-9
    trainer, saved = update.experiment.trainer, STATES[-1]
    copies = [torch.nn.Parameter(theta[name].double()) for name in theta]
    optimizer = torch.optim.AdamW(copies, lr=tiny, betas=trainer.betas, weight_decay=trainer.weight_decay)
    for name, parameter in zip(theta, copies, strict=True):
        if saved:
            values = {k: v.double() if k != "step" else v.clone() for k, v in saved[name].items()}
            optimizer.state[parameter] = values
    start = [parameter.detach().clone() for parameter in copies]
    for of_step in gradients:
        for parameter, gradient in zip(copies, of_step, strict=True):
            parameter.grad = gradient.double().clone()
        torch.nn.utils.clip_grad_norm_(copies, trainer.grad_clip)
        optimizer.step()
    return [(update.lr * (p.detach() - before) / tiny) for p, before in zip(copies, start, strict=True)]


STATES = []
"""The optimizer's state before each update of a run."""


@pytest.fixture
def states(monkeypatch):
    """Remembers the optimizer's state before every update."""
    STATES.clear()
    displacements = Folds.displacements

    def remembered(self):
        STATES.append(copy.deepcopy(self._update.policy.optimizer_state()["state"]))
        return displacements(self)

    monkeypatch.setattr(Folds, "displacements", remembered)


@pytest.mark.parametrize(
    "overrides",
    [
        ("advantage=grpo", "trainer.mini_batch=8"),
        ("advantage=grpo", "trainer.mini_batch=4", "trainer.epochs=2", "trainer.grad_clip=0.05", "kl.coef=0.1"),
        ("advantage=gae", "trainer.lr_schedule=linear", "trainer.warmup_steps=2", "entropy_coeff=0.05"),
    ],
    ids=["one step", "two epochs of two steps", "critic and entropy bonus"],
)
def test_the_forecast_follows_the_update_that_was_made_less_that_of_the_own_fold(
    bandit, tmp_path, captured, states, overrides
):
    hand = captured(by_hand)
    found = train(bandit, tmp_path / "run", *overrides, "trainer.steps=2")
    assert len(hand) == 2
    for step, value in enumerate([made.looked for made in hand], 1):
        assert abs(value) > 1e-6
        assert found[step]["forecast/predicted"] == pytest.approx(value, rel=5e-3, abs=1e-6)
        assert found[step]["forecast/predicted_se"] > 0


def test_a_fold_left_out_is_as_if_it_had_never_been_there(bandit, tmp_path):
    def displacements(update):
        """Without the third group, and by an update that never had it."""
        kept = torch.isin(update.rollouts.group_ids_P, torch.tensor([0, 1, 3]))
        rows = update.rollouts.rows_of(kept).nonzero()[:, 0]
        number = {int(row): new for new, row in enumerate(rows)}
        smaller = attrs.evolve(
            update,
            rollouts=update.rollouts.select(kept),
            batch=update.batch.take(rows),
            optimizer_steps=[[number[row] for row in step if row in number] for step in update.optimizer_steps],
        )
        return Folds(update, 4).displacements()[1][2], Folds(smaller, 2).displacements()[0]

    found = []
    train_with(bandit, tmp_path / "run", lambda update: found.append(displacements(update)))
    one, other = found[-1]
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-7)


def test_without_a_fold_the_others_weigh_as_much_as_all_did_also_where_weights_are_no_shares(bandit, tmp_path):
    """With ``token-sum`` the weights add up to the number of tokens; Adam's state of the step before tells sizes."""

    def displacements(update):
        kept = torch.isin(update.rollouts.group_ids_P, torch.tensor([0, 1, 3]))
        rows = update.rollouts.rows_of(kept).nonzero()[:, 0]
        tokens = update.batch.mask.sum()
        left = update.batch.take(rows)
        raised = attrs.evolve(left, advantages=left.advantages * tokens / left.mask.sum())
        smaller = attrs.evolve(
            update, rollouts=update.rollouts.select(kept), batch=raised, optimizer_steps=[list(range(len(rows)))]
        )
        return Folds(update, 4).displacements()[1][2], Folds(smaller, 2).displacements()[0]

    found = []
    overrides = (
        "trainer.loss_aggregation=token-sum",
        "trainer.mini_batch=8",
        "entropy_coeff=0",
        "trainer.grad_clip=1e6",
    )
    look = lambda update: found.append(displacements(update))  # noqa: E731
    train_with(bandit, tmp_path / "run", look, *overrides, "advantage=gae")
    one, other = found[-1]
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-7)
    assert max(float(moved.abs().max()) for moved in one.values()) > 1e-5


def train_with(bandit, directory, look, *overrides):
    """Two steps, with ``look(update)`` before each update."""
    of = Before.of
    with pytest.MonkeyPatch.context() as patch:

        def looked(cls, update, *arguments):
            look(update)
            return of(update, *arguments)

        patch.setattr(Before, "of", classmethod(looked))
        return train(bandit, directory, "advantage=grpo", "trainer.steps=2", *overrides)


@pytest.mark.parametrize(
    ("overrides", "skipped"),
    [
        (("advantage=grpo", "entropy_coeff=0"), True),
        (("advantage=grpo", "entropy_coeff=0.01"), False),
        (("advantage=grpo", "entropy_coeff=0", "kl.coef=0.1"), False),
        (("advantage=gae", "entropy_coeff=0"), True),
    ],
    ids=["groups without spread", "entropy bonus", "KL", "critic"],
)
def test_rows_that_move_nothing_need_no_pass(bandit, tmp_path, captured, monkeypatch, overrides, skipped):
    rows = []
    loss_gradient = Passes.loss_gradient

    def counted(self, loss):
        rows.append(len(self.batch))
        return loss_gradient(self, loss)

    monkeypatch.setattr(Passes, "loss_gradient", counted)
    made = captured()
    train(bandit, tmp_path / "run", *overrides, "trainer.steps=3", "trainer.mini_batch=8", "seed=1")
    batches = [sum(len(step) for step in one.before.update.optimizer_steps) for one in made]
    idle = [int((one.before.update.batch.advantages == 0).all(1).sum()) for one in made]
    assert sum(rows) == sum(batches) - (sum(idle) if skipped else 0)
    if overrides[0] == "advantage=grpo":
        assert sum(idle) > 0
    # and what they say is what passes over all rows say
    update, base = made[-1].before.update, made[-1].before.base
    put(update.policy.module, made[-1].theta)
    (one, others), (all_rows, all_others) = Folds(update, 4, base).displacements(), Folds(update, 4).displacements()
    for a, b in zip([one, *others], [all_rows, *all_others], strict=True):
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_with_a_token_budget_few_packed_passes_plan_the_same(bandit, tmp_path, monkeypatch, dtype):
    passes, of, forward = [], Before.of.__func__, Policy.forward

    def counted(self, batch, *arguments, **options):
        passes.append((len(batch), options.get("packed", False)))
        return forward(self, batch, *arguments, **options)

    def planned(cls, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Policy, "forward", counted)
            return of(cls, *arguments)

    monkeypatch.setattr(shared_prefix, "WORTH", 10**9)
    monkeypatch.setattr(Before, "of", classmethod(planned))
    own = ("advantage=grpo", "entropy_coeff=0.01", "rollout.group_size=4", "trainer.steps=1", f"model.dtype={dtype}")
    rows = ("trainer.mini_batch=8", "trainer.micro_batch=1", f"trainer.zero_stage={int(dtype == 'bfloat16')}")
    found, plans = [], []
    for budget in (0, 4000):
        found.append(train(bandit, tmp_path / str(budget), *own, *rows, f"trainer.token_budget={budget}")[1])
        plans.append(list(passes))
        passes.clear()
    assert plans[0] == [(1, False)] * 16
    # two optimizer steps of four folds at most
    assert len(plans[1]) <= 8
    assert sum(rows for rows, _ in plans[1]) == 16
    assert all(packed for _, packed in plans[1])
    for name in ("forecast/predicted", "forecast/predicted_se"):
        assert found[0][name] != 0
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-3 if dtype == "float32" else 0.1)


def test_the_plan_is_where_the_trainer_goes(bandit, tmp_path, captured):
    found, plans = captured(), []
    train_with(bandit, tmp_path / "run", lambda update: plans.append(Folds(update, 2).displacements()[0]))
    before, theta = found[-1].before, found[-1].theta
    after = {n: p.detach() for n, p in trained(before.update.policy.module).items()}
    one = torch.cat([(after[n] - theta[n]).flatten() for n in theta])
    other = torch.cat([plans[-1][n].flatten() for n in theta])
    assert float(torch.cosine_similarity(one, other, 0)) > 0.99
    assert float(one.norm() / other.norm()) == pytest.approx(1, abs=0.05)


def test_a_group_alone_in_an_optimizer_step_is_not_looked_at(bandit, tmp_path):
    metrics = train(
        bandit,
        tmp_path / "run",
        "advantage=grpo",
        "trainer.mini_batch=1",
        "trainer.micro_batch=1",
        "trainer.steps=1",
    )
    assert not any(key.startswith("forecast/") for record in metrics.values() for key in record)


def test_a_group_that_the_filter_left_out_is_held_against_the_whole_update(bandit, tmp_path, captured):
    found = captured()
    train(bandit, tmp_path / "run", "advantage=grpo", "filter.select=top_k(3)", "trainer.steps=1")
    before = found[0].before
    idle = before.rows[-1].tolist()
    assert before.corrections[-1] == {}
    assert len(before.update.rollouts.group_ids_P) == 3
    assert sorted(row for rows in before.rows for row in rows.tolist()) == list(range(len(before.sampled.tokens)))
    trained_groups = set(before.update.rollouts.group_ids_P.tolist())
    assert {int(before.sampled.groups[row]) for row in idle} == {0, 1, 2, 3} - trained_groups


def test_half_precision_differentiates_at_the_policy_that_sampled(bandit, tmp_path, captured):
    """There differences of two passes are below their rounding; the derivative is that of the float32 model."""
    found = captured()
    train(bandit, tmp_path / "run", "advantage=grpo", "trainer.steps=1", "trainer.lr=1e-5")
    before, theta = found[0].before, found[0].theta
    differences, _ = before.response()
    as_if_half = attrs.evolve(before, parameters={n: p.cpu() for n, p in theta.items()})
    derivatives, _ = as_if_half.response()
    mask = before.sampled.mask
    for name in ("logprobs_rate", "entropies_rate"):
        one, other = differences[name][mask], derivatives[name][mask]
        assert float((one - other).norm()) < 0.05 * float(other.norm())


# --- what is realised -----------------------------------------------------------------------------------------------


def test_the_realised_change_is_that_of_the_entropy_of_the_rollouts(bandit, tmp_path, captured):
    found = captured()
    records = train(bandit, tmp_path / "run", "filter.select=top_k(2)", "trainer.steps=3", "trainer.lr=3e-4")

    def level(before):
        mask = before.sampled.mask
        H = torch.where(mask, before.base["entropies"], 0.0)
        h, influence = float(H.sum() / mask.sum()), []
        for group in before.sampled.group_ids_P.tolist():
            rows = before.sampled.groups == group
            influence.append(float((H[rows].sum() - h * mask[rows].sum()) / mask.sum()))
        return h, torch.tensor(influence, dtype=torch.float64)

    levels = [level(made.before) for made in found]
    assert len(levels) == 3
    for step in (2, 3):
        (h_0, influence_0), (h_1, influence_1) = levels[step - 2 : step]
        record, before = records[step], records[step - 1]
        assert record["forecast/for_step"] == step - 1
        assert record["forecast/realised"] == pytest.approx(h_1 - h_0, rel=1e-6)
        assert record["forecast/realised_se"] == pytest.approx(math.hypot(error(influence_0), error(influence_1)))
        # prediction and realised change lean on the same rollouts before the update
        shared = found[step - 2].forecast.change.influence_G + influence_0
        errors = math.hypot(error(shared), error(influence_1))
        difference = before["forecast/predicted"] - record["forecast/realised"]
        assert record["forecast/z"] == pytest.approx(difference / errors)


# --- in a run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.lora={rank: 4, dropout: 0.1}",),
        ("trainer.zero_stage=1", "model.dtype=bfloat16"),
        ("trainer.zero_stage=2", "advantage=reinforce_plus_plus"),
        ("rollout.context_window=single_turn", "rollout.max_turns=2", "environment=frozen_lake"),
    ],
    ids=["LoRA", "bfloat16", "ZeRO 2", "turns as rows"],
)
def test_whatever_is_trained(bandit, tmp_path, overrides):
    found = train(bandit, tmp_path / "run", *overrides, "trainer.steps=3", "trainer.lr=2e-4")
    for step in (1, 2):
        assert abs(found[step]["forecast/predicted"]) < 1
        assert found[step]["forecast/predicted_se"] > 0
        assert found[step + 1]["forecast/for_step"] == step
        assert math.isfinite(found[step + 1]["forecast/z"])


def test_the_training_does_not_notice(bandit, tmp_path):
    watched = train(bandit, tmp_path / "watched", "model.lora={rank: 4, dropout: 0.1}", "trainer.save_every=4")
    alone = train(
        bandit, tmp_path / "alone", "model.lora={rank: 4, dropout: 0.1}", "trainer.save_every=4", "collapse=[]"
    )
    kinds = ("train/", "actor/", "critic/", "rollout/")
    assert only(watched, *kinds) == only(alone, *kinds)
    one, other = (
        load_file(RunDirectory.open(tmp_path / name).latest() / "model" / "adapter_model.safetensors")
        for name in ("watched", "alone")
    )
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_every_so_many_steps(bandit, tmp_path):
    found = train(bandit, tmp_path / "run", "trainer.steps=5", "collapse=[entropy_forecast(every=2)]")
    assert [step for step, record in found.items() if "forecast/predicted" in record] == [1, 2, 4]
    assert {step: record["forecast/for_step"] for step, record in found.items() if "forecast/for_step" in record} == {
        2: 1,
        3: 2,
        5: 4,
    }


def test_a_resumed_run_skips_one_comparison(bandit, tmp_path):
    whole = train(bandit, tmp_path / "cut", "trainer.save_every=2")
    cut = RunDirectory.open(tmp_path / "cut")
    cut.latest().rename(tmp_path / "moved")
    cut.set_status("interrupted")
    resumed = train(bandit, tmp_path / "cut", "trainer.save_every=2", resume=True)
    keys = ("forecast/",)
    assert only(resumed, *keys)[4] == only(whole, *keys)[4]
    assert resumed[3]["forecast/predicted"] == whole[3]["forecast/predicted"]
    assert "forecast/realised" in whole[3]
    assert "forecast/realised" not in resumed[3]


# --- verdicts -------------------------------------------------------------------------------------------------------


def test_it_speaks_of_updates_that_take_too_much_entropy():
    session = EntropyForecast(threshold=0.1, window=2).start(None)
    said = [
        session.judge(step, metrics)
        for step, metrics in enumerate(
            [
                {"forecast/predicted": -0.2, "forecast/predicted_se": 0.02},
                {},  # no forecast in this step
                {"forecast/predicted": -0.2, "forecast/predicted_se": 0.06},  # not by two standard errors
                {"forecast/predicted": -0.2, "forecast/predicted_se": 0.04},
                {"forecast/predicted": -0.3, "forecast/predicted_se": 0.04},
            ]
        )
    ]
    assert said[:4] == [None] * 4
    assert (said[4].detector, said[4].step, said[4].stop) == ("entropy_forecast", 4, False)
    assert said[4].evidence["predicted"] == -0.3
    again = EntropyForecast(threshold=0.1, window=2, stop=True).start(None)
    again.load_state_dict(session.state_dict())
    assert again.judge(5, {"forecast/predicted": -0.3, "forecast/predicted_se": 0.0}).stop
    assert EntropyForecast().start(None).judge(1, {"forecast/predicted": -9.0, "forecast/predicted_se": 0.0}) is None


def test_it_does_not_speak_of_what_it_cannot_tell():
    rule = EntropyForecast(threshold=0.1, window=1)
    low = {"forecast/predicted": -0.9, "forecast/predicted_se": 0.1}
    for status, spoken in ((forecast.TOLD, True), (forecast.WIDE, False), (forecast.FEW_GROUPS, False)):
        verdict = rule.start(None).judge(1, {**low, "forecast/status": float(status)})
        assert (verdict is not None) is spoken


@pytest.mark.parametrize(
    ("value", "influence", "status"),
    [
        (-1.0, [0.1, -0.1, 0.1, -0.1, 0.1, -0.1], forecast.TOLD),
        (0.9, [0.1, -0.1, 0.1, -0.1, 0.1, -0.1], forecast.TOLD),
        (-0.5, [0.1, -0.1, 0.1, -0.1, 0.1, -0.1], forecast.WIDE),
        (-9.0, [0.5, -0.1, -0.1, -0.1, -0.1, -0.1], forecast.FEW_GROUPS),  # one group has it all
        (-9.0, [0.1, -0.1, 0.1, -0.1], forecast.FEW_GROUPS),
    ],
)
def test_the_status_says_how_far_it_can_be_trusted(value, influence, status):
    influence = torch.tensor(influence, dtype=torch.float64)
    change = Change(value, influence)
    metrics = forecast.Forecast(None, change, Change(0.2, influence)).metrics()
    assert metrics["forecast/status"] == status
    assert metrics["forecast/predicted_se"] == pytest.approx(error(influence))
    assert metrics["forecast/degrees_of_freedom"] == pytest.approx(degrees_of_freedom(influence))
    if status != forecast.FEW_GROUPS:
        assert (abs(value) >= 2 * change.se) is (status == forecast.TOLD)


def test_groups_that_are_all_alike_have_no_error():
    alike = Change(-0.1, torch.zeros(8, dtype=torch.float64))
    metrics = forecast.Forecast(None, alike, alike).metrics()
    assert metrics["forecast/predicted"] == -0.1
    assert "forecast/predicted_se" not in metrics
    assert metrics["forecast/status"] != forecast.TOLD


def test_it_is_replayed(bandit, tmp_path):
    found = train(bandit, tmp_path / "run", "trainer.steps=3")
    below = [s for s, r in found.items() if s and r["forecast/predicted"] + 2 * r["forecast/predicted_se"] < -1e-9]
    (replay,) = replay_all(
        [RunDirectory.open(tmp_path / "run")], ["entropy_forecast(threshold=1.0e-9, window=1)"], None
    )
    assert (replay.verdict and replay.verdict.step) == (below[0] if below else None)


@pytest.mark.parametrize(
    ("override", "reason"),
    [("trainer.zero_stage=3", "ZeRO 3 leaves no rank"), ("rollout.groups=1", "rollout.groups is 1")],
)
def test_what_it_cannot_do_is_refused(bandit, override, reason):
    rest = ["rollout.group_size=8"] if "groups" in override else []
    with pytest.raises(UncollapseError, match=reason):
        uncollapse.compose(bandit, [EVERY, override, *rest])


# --- ranks ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_ranks_forecast_what_one_does(bandit, tmp_path):
    results = [forecast_on(bandit, tmp_path, size) for size in (1, 2)]
    for values in results[1]:
        assert values == pytest.approx(results[0][0], rel=1e-4)
    assert results[1][0] == results[1][1]


def forecast_on(bandit, directory, size):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("probe_forecast_script.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), bandit["model"]["path"], str(directory)],
            env={
                **os.environ,
                "WORLD_SIZE": str(size),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank in range(size)
    ]
    assert [process.wait(timeout=200) for process in processes] == [0] * size
    return [torch.load(directory / f"{size}_{rank}.pt", weights_only=True) for rank in range(size)]
