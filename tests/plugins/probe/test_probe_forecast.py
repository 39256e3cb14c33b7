"""The detector ``entropy_forecast`` in runs of a tiny model: what it predicts and measures, what it leaves alone."""

import copy
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
import uncollapse
from safetensors.torch import load_file
from uncollapse.core.components import Scores
from uncollapse.core.errors import UncollapseError
from uncollapse.core.runs import RunDirectory
from uncollapse.plugins.collapse.replay import replay_all
from uncollapse.plugins.probe.estimation.passes import trained
from uncollapse.plugins.probe.forecast import forecast, planned
from uncollapse.plugins.probe.forecast.forecast import EntropyForecast, predict
from uncollapse.plugins.probe.forecast.planned import PlannedUpdate

EVERY = "collapse=[entropy_forecast(every=1)]"


def train(bandit, directory, *overrides, resume=False):
    experiment = uncollapse.compose(bandit, ["validation.every=0", EVERY, *overrides])
    uncollapse.train(experiment, directory, **({"resume": True} if resume else {}))
    return {record["step"]: record for record in RunDirectory.open(directory).metrics()}


def only(records, *prefixes):
    return {s: {k: v for k, v in r.items() if k.startswith(prefixes)} for s, r in records.items()}


@pytest.fixture
def captured(monkeypatch):
    """Calls ``look(update, sampled)`` at every forecast, before the update is made."""
    found = []

    def hook(look):
        def watched(update, sampled):
            found.append(look(update, sampled))
            return predict(update, sampled)

        monkeypatch.setattr(forecast, "predict", watched)
        return found

    return hook


# --- what is predicted ----------------------------------------------------------------------------------------------


def by_hand(update, sampled):
    """The prediction with nothing of the probe's: torch's own AdamW in float64, gradients by reverse mode."""
    module, batch = update.policy.module, update.batch
    parameters = list(trained(module).values())
    module.eval()
    table = module(batch, entropy="gradient")
    H, T = table["entropies"].sum(1), batch.mask.sum(1).double()
    h = (H.double().sum() / T.sum()).detach()
    total = 0.0
    for group in sampled.group_ids_P.tolist():
        gradients = []
        for rows in update.optimizer_steps:
            rest = update.weighted([row for row in rows if int(update.rollouts.groups[row]) != group])
            scores = module(batch, entropy="gradient")
            loss = update.objective.tokens(Scores(**scores), rest)[0].sum()
            gradients.append(torch.autograd.grad(loss, parameters))
        v = adamw(update, gradients)
        own = sampled.groups == group
        scores = module(batch, entropy="gradient")
        score = (H - h * T).detach()
        entropy = (score * scores["logprobs"].sum(1) + scores["entropies"].sum(1))[own].sum() / T.sum()
        X = torch.autograd.grad(entropy, parameters)
        total += sum(float((x.double() * y).sum()) for x, y in zip(X, v, strict=True))
    return update.lr * total


def adamw(update, gradients):
    """The displacement by torch.optim.AdamW over its tiny learning rate, gradients staying as they are."""
    lr = 1e-9
    trainer, saved = update.experiment.trainer, update.policy.optimizer_state()["state"]
    names = list(trained(update.policy.module))
    copies = [torch.nn.Parameter(p.detach().double()) for p in trained(update.policy.module).values()]
    optimizer = torch.optim.AdamW(copies, lr=lr, betas=trainer.betas, weight_decay=trainer.weight_decay)
    for name, parameter in zip(names, copies, strict=True):
        if saved:
            values = {k: v.double() if k != "step" else v.clone() for k, v in saved[name].items()}
            optimizer.state[parameter] = values
    start = [parameter.detach().clone() for parameter in copies]
    for of_step in gradients:
        for parameter, gradient in zip(copies, of_step, strict=True):
            parameter.grad = gradient.double().clone()
        torch.nn.utils.clip_grad_norm_(copies, trainer.grad_clip)
        optimizer.step()
    return [(p.detach() - before) / lr for p, before in zip(copies, start, strict=True)]


@pytest.mark.parametrize(
    "overrides",
    [
        ("advantage=grpo", "trainer.mini_batch=8"),
        ("advantage=grpo", "trainer.mini_batch=4", "trainer.epochs=2", "trainer.grad_clip=0.05", "kl.coef=0.1"),
        ("advantage=gae", "trainer.lr_schedule=linear", "trainer.warmup_steps=2", "entropy_coeff=0.05"),
    ],
    ids=["one step", "two epochs of two steps", "critic and entropy bonus"],
)
def test_the_prediction_is_the_derivative_along_the_update_of_the_other_groups(bandit, tmp_path, captured, overrides):
    hand = captured(by_hand)
    found = train(bandit, tmp_path / "run", *overrides, "trainer.steps=2")
    assert len(hand) == 2
    for step, value in enumerate(hand, 1):
        assert found[step]["forecast/predicted"] == pytest.approx(value, rel=2e-3, abs=1e-6)
        assert found[step]["forecast/predicted_se"] > 0


def without_the_group(update, sampled):
    """Directions of the update without its third group, and of an update that never had it."""
    kept = torch.tensor([0, 1, 3])
    rows = update.rollouts.rows_of(torch.isin(update.rollouts.group_ids_P, kept))
    number = {int(row): new for new, row in enumerate(rows.nonzero()[:, 0])}
    smaller = attrs.evolve(
        update,
        rollouts=update.rollouts.select(torch.isin(update.rollouts.group_ids_P, kept)),
        batch=update.batch.take(rows.nonzero()[:, 0]),
        optimizer_steps=[[number[row] for row in step if row in number] for step in update.optimizer_steps],
    )
    return PlannedUpdate(update).direction(without=2), PlannedUpdate(smaller).direction()


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "computed again"])
def test_a_group_left_out_is_as_if_it_had_never_been_there(bandit, tmp_path, captured, monkeypatch, kept):
    if not kept:
        monkeypatch.setattr(planned, "KEPT_BYTES", 0)
    directions = captured(without_the_group)
    train(bandit, tmp_path / "run", "advantage=grpo", "trainer.steps=2")
    one, other = directions[1]
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


def test_the_direction_is_where_the_trainer_goes(bandit, tmp_path, captured):
    def remember(update, sampled):
        parameters = trained(update.policy.module)
        return PlannedUpdate(update).direction(), {n: p.detach().clone() for n, p in parameters.items()}, update

    found = captured(remember)
    train(bandit, tmp_path / "run", "advantage=grpo", "trainer.mini_batch=8", "trainer.zero_stage=2")
    after = {n: p.detach() for n, p in trained(found[-1][2].policy.module).items()}
    direction, before, update = found[-1]
    one = torch.cat([(after[n] - before[n]).flatten() / update.lr for n in before])
    other = torch.cat([direction[n].flatten() for n in before])
    assert float(torch.cosine_similarity(one, other, 0)) > 0.9999
    assert float(one.norm() / other.norm()) == pytest.approx(1, abs=1e-3)


def test_a_group_alone_in_an_optimizer_step_is_not_looked_at(bandit, tmp_path, captured):
    found = captured(lambda update, sampled: [PlannedUpdate(update).direction(without=g) is None for g in range(4)])
    metrics = train(
        bandit,
        tmp_path / "run",
        "advantage=grpo",
        "trainer.mini_batch=1",
        "trainer.micro_batch=1",
        "trainer.steps=1",
    )
    assert found == [[True] * 4]
    assert not any(key.startswith("forecast/") for record in metrics.values() for key in record)


# --- what is realised -----------------------------------------------------------------------------------------------


def test_the_realised_change_is_weighed_back_from_the_next_rollouts(bandit, tmp_path, monkeypatch):
    compared, seen = forecast._compared, []

    def watched(waiting, rollouts):
        new = waiting.update.policy.module.eval()
        old = copy.deepcopy(new)
        with torch.no_grad():
            for name, parameter in old.named_parameters():
                parameter.copy_(waiting.before[name])
            now, then = (m(forecast.to_batch(rollouts)) for m in (new, old))
        w = (then["logprobs"] - now["logprobs"]).double().sum(1).exp()
        T = rollouts.mask.sum(1)
        h_now = now["entropies"].double().sum() / T.sum()
        h_then = (w * then["entropies"].double().sum(1)).sum() / (w * T).sum()
        seen.append(float(h_now - h_then))
        return compared(waiting, rollouts)

    monkeypatch.setattr(forecast, "_compared", watched)
    found = train(bandit, tmp_path / "run", "filter.select=top_k(2)", "trainer.steps=3", "trainer.lr=3e-4")
    assert len(seen) == 2
    for step, value in enumerate(seen, 2):
        record, before = found[step], found[step - 1]
        assert record["forecast/realised"] == pytest.approx(value, rel=1e-4)
        assert record["forecast/for_step"] == step - 1
        assert 0 < record["forecast/ess_fraction"] < 1
        errors = math.hypot(record["forecast/realised_se"], before["forecast/predicted_se"])
        z = (before["forecast/predicted"] - record["forecast/realised"]) / errors
        assert record["forecast/z"] == pytest.approx(z)


def test_a_policy_that_went_too_far_is_not_measured(bandit, tmp_path):
    found = train(bandit, tmp_path / "run", "trainer.lr=0.1", "trainer.steps=2")
    assert found[2]["forecast/for_step"] == 1
    assert found[2]["forecast/ess_fraction"] < 0.5
    assert "forecast/realised" not in found[2]
    assert "forecast/z" not in found[2]


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
