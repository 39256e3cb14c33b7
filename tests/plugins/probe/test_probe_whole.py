"""Whole probes of a tiny adapter: nothing is changed by them, and two ranks find what one finds."""

import hashlib
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import uncollapse
from uncollapse.plugins.probe.estimation.passes import trained
from uncollapse.plugins.training.processes.ranks import Ranks
from uncollapse.plugins.training.step.stages import to_batch

sys.path.insert(0, str(Path(__file__).parent))
import probe_ranks_script as script

ONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def checkpoint(bandit, tmp_path_factory):
    """Two steps of our own trainer, with an adapter that has dropout."""
    run = tmp_path_factory.mktemp("run") / "run"
    changes = ("model.lora={rank: 4, dropout: 0.1}", "trainer.steps=2", "advantage=grpo", "validation.every=0")
    uncollapse.train(uncollapse.compose(bandit, (*changes, "trainer.save_every=2")), run)
    return run / "checkpoints" / "step_2"


def fingerprint(tensors):
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode() + tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def files_of(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("direction", ["adamw", "preconditioned_gradient"])
def test_a_probe_with_everything_on_changes_nothing(checkpoint, tmp_path, direction):
    logging = {
        "enabled": True,
        "level": "debug",
        "log_tokens": True,
        "log_raw_tensors": True,
        "output_directory": str(tmp_path / "logs"),
    }
    on_disk = files_of(checkpoint)
    clipping = {"max_grad_norm": 0.01} if direction == "adamw" else {}
    changes = {"direction": direction, "policy_gradient": {"kl": "k3", "kl_coef": 0.1, **clipping}}
    probe, session = script.prepared(checkpoint, ONE, detailed_logging=logging, **changes)
    policy, adam = session.policy, session.adam
    session.policy.train()  # as a trainer may have left it
    before = {module: module.training for module in policy.modules()}

    def state():
        moments = {f"{key} {name}": x for key in ("exp_avg", "exp_avg_sq") for name, x in getattr(adam, key).items()}
        return fingerprint({**policy.state_dict(), **moments}), dict(adam.step), dict(adam.settings)

    first, random = state(), torch.random.get_rng_state()
    found = probe.run_mixed_probe()
    assert state() == first
    assert found["integrity"]["param_hash_before"] == found["integrity"]["param_hash_after"] is not None
    assert {module: module.training for module in policy.modules()} == before
    assert all(p.grad is None for p in policy.parameters())
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), random)
    assert files_of(checkpoint) == on_disk
    assert list((tmp_path / "logs").rglob("*.gz"))
    # and all of it was computed
    assert found["deltaH1"] and found["deltaH_true"] and found["truth"][0]["symmetric_fd"]["delta_minus"]
    statuses = {name: estimate["status"] for name, estimate in found["variance"].items()}
    assert {"vx_vy_unbiased", "conditional_U", "gns", "paired_difference"} < set(statuses)
    assert set(statuses.values()) <= {"ok", "clipped", "undefined"}, statuses


@pytest.mark.parametrize("max_norm", [0.0, 0.01])
def test_the_direction_is_the_step_of_torch_from_the_saved_state(checkpoint, max_norm):
    """On the update batch that was sampled, with the optimizer that was saved, by plain autograd and torch's AdamW."""
    objective = {"advantage": "dr_grpo", "max_grad_norm": max_norm, "entropy_coeff": 0.0}
    work = {"weighting_mode": "dr_grpo", "master_seed": 5}
    _, session = script.prepared(checkpoint, ONE, policy_gradient=objective, probe_rework=work)
    sample = session.draw_U()
    v, parameters = session.step(sample).direction, trained(session.policy)

    rollouts, loss = sample.rollouts, 0.0
    scores = session.policy(to_batch(rollouts), "none")["logprobs"]
    for group in rollouts.group_ids_P:
        rows = (rollouts.groups == group).nonzero().flatten()
        rewards = rollouts.raw_rewards_E[rollouts.episodes[rows]]
        longest = rollouts.mask[rows].sum(1).max()
        advantages = rewards - rewards.mean()
        loss = loss - (advantages / longest * scores[rows].sum(1)).sum() / len(rollouts.tokens)
    loss.backward()

    saved = torch.load(session.loaded.optimizer_path, weights_only=True)
    settings = {key: saved["param_groups"][0][key] for key in ("betas", "eps", "weight_decay")}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, **settings)
    for name, p in parameters.items():
        moments = {key: getattr(session.adam, key)[name].clone() for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": torch.tensor(session.adam.step[name]), **moments}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    norm = torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm or float("inf"))
    assert norm > 0.01
    optimizer.step()
    for name, p in parameters.items():
        taken = (p.detach() - before[name]) / 1e-2
        # in the norm: where a gradient is rounding noise, so is its sign, and AdamW's step with it
        assert float((v[name] - taken).norm()) < 1e-3 * float(taken.norm()), name


def test_prediction_and_checks_agree(checkpoint):
    truth = {"enabled": True, "symmetric": True, "etas": [2e-4, 4e-4]}
    found = script.probed(checkpoint, ONE, learning_rate=2e-4, importance=truth)
    close = {"rel": 1e-3, "abs": 1e-6}
    assert found["integrity"]["reverse_mode"]["deltaH1"] == pytest.approx(found["deltaH1"], **close)
    assert found["bars_dot"] * found["learning_rate"] == pytest.approx(found["deltaH1"])
    for name in ("conditional_E", "conditional_U", "vx_vy", "vx_vy_unbiased", "deriv_delta"):
        assert found["variance"][name]["value"] == pytest.approx(found["deltaH1"], **close), name
    assert found["variance"]["snis_delta"]["value"] == pytest.approx(found["deltaH_true"], **close)
    assert [point["eta"] for point in found["truth"]] == [2e-4, 4e-4]
    slope = found["truth"][0]["symmetric_fd"]["finite_difference"]
    forms = {name: form["deltaH1"] for name, form in found["prediction"]["forms"].items()}
    assert slope * 2e-4 == pytest.approx(forms["snis_derivative"], rel=0.02)
    # of 7 prompts with 2 responses: the score part is N / (N - 1) of what the sample's own mean leaves of it
    assert forms["leave_one_out"] == found["deltaH1"]
    assert abs(slope * 2e-4 - forms["snis_derivative"]) < 0.1 * abs(slope * 2e-4 - forms["leave_one_out"])
    assert found["integrity"]["sampler_gap"] < 1e-4


def test_the_same_seed_finds_the_same_and_another_does_not(checkpoint):
    names = ("deltaH1", "deltaH_true", "avg_generation_length")
    seeds = ({"master_seed": seed, "checks": "none"} for seed in (5, 5, 6))
    one, same, other = (script.probed(checkpoint, ONE, variance=[], probe_rework=work) for work in seeds)
    assert [one[name] for name in names] == [same[name] for name in names]
    assert one["deltaH1"] != other["deltaH1"]


def test_what_is_not_computed_is_none(checkpoint):
    quiet = {"variance": [], "importance": {"enabled": False}}
    predicted = script.probed(checkpoint, ONE, **quiet, probe_rework={"compute_conditional_variance": False})
    assert predicted["deltaH_true"] is None and predicted["truth"] == [] and predicted["comparison"] is None
    assert predicted["SE_conditional"] is None and predicted["deltaH1"] is not None
    measured = script.probed(checkpoint, ONE, variance=[], probe_rework={"compute_delta_h1": False})
    assert measured["deltaH1"] is None and measured["bars_dot"] is None and measured["prediction"] is None
    assert measured["deltaH_true"] is not None


def run_ranks(checkpoint, directory, ranks):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, script.__file__, str(checkpoint), str(directory)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors.decode()[-3000:]
    return [json.loads((directory / f"{rank}_of_{ranks}.json").read_text()) for rank in range(ranks)]


def leaves(value, at=""):
    """Dotted key -> every number and string in it."""
    if isinstance(value, dict):
        return {key: x for name, item in value.items() for key, x in leaves(item, f"{at}.{name}").items()}
    if isinstance(value, list):
        return {key: x for index, item in enumerate(value) for key, x in leaves(item, f"{at}.{index}").items()}
    return {at: value}


@pytest.mark.slow
def test_two_ranks_find_what_one_finds(checkpoint, tmp_path):
    two, (one,) = run_ranks(checkpoint, tmp_path, 2), run_ranks(checkpoint, tmp_path, 1)
    # what takes time differs, and what is about rounding itself
    apart = ("timing", "memory", "sampling_s", "noise_floor", "histogram", "sampler_gap", "log_file", "peak")
    measured = ("truth", "deltaH_true", "H_upd", "comparison", "snis", "paired")
    expected = {key: x for key, x in leaves(one).items() if not any(name in key for name in apart)}
    assert len(expected) > 150
    for rank, other in enumerate(two):
        found = leaves(other)
        for key, value in expected.items():
            if isinstance(value, float) and math.isfinite(value):
                # a gradient summed over ranks rounds otherwise, which differences of float32 entropies show most
                rel = 1e-4 if any(name in key for name in measured) else 1e-5
                assert found[key] == pytest.approx(value, rel=rel, abs=1e-7), (rank, key)
            else:
                assert found[key] == value, (rank, key)
