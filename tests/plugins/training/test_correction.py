"""Runs whose sampler is not quite the trainer: what is measured, and what is corrected."""

import math
from pathlib import Path

import attrs
import pytest
import torch
import uncollapse
from safetensors.torch import load_file
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.collapse.replay import find_runs, replay_all
from uncollapse.plugins.rollout.engine_hf import HfEngine, HfSession
from uncollapse.plugins.training.deepspeed_backend import DeepSpeedEngine
from uncollapse.plugins.training.step import learning

SHIFT = 0.1
"""Nats by which the engine below overstates its log-probs, so that every ratio trainer / sampler is exp(-SHIFT)."""
NAMES = {"k1", "k2", "abs", "max_ratio", "min_ratio", "seq_max_ratio", "ess"}


@pytest.fixture
def overstating(monkeypatch):
    generate = HfSession.generate

    def overstate(session, prompts, sampling, seed):
        return [
            attrs.evolve(completion, logprobs=tuple(logprob + SHIFT for logprob in completion.logprobs))
            for completion in generate(session, prompts, sampling, seed)
        ]

    monkeypatch.setattr(HfSession, "generate", overstate)


def train(base, path, *overrides):
    overrides = ["trainer.steps=2", "validation.every=0", *overrides]
    outcome = uncollapse.train(uncollapse.compose(base, overrides), path)
    assert outcome.status == "success"
    return [record for record in RunDirectory.open(path).metrics() if record["step"] > 0]


def of(prefix, record):
    return {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix)}


def weights(path):
    return load_file(Path(path) / "checkpoints" / "step_2" / "model" / "model.safetensors")


ONE_STEP = "trainer.mini_batch=8"


def test_tis_measures_and_corrects_every_step(bandit, tmp_path, overstating):
    records = train(bandit, tmp_path, ONE_STEP, "correction=tis")
    assert len(records) == 2
    for record in records:
        found = of("mismatch/", record)
        assert found.keys() == NAMES
        assert found["k1"] == pytest.approx(SHIFT, abs=1e-5)
        assert found["k2"] == pytest.approx(SHIFT**2 / 2, abs=1e-5)
        assert found["abs"] == pytest.approx(record["rollout/logprob_gap"], abs=1e-6) == pytest.approx(SHIFT, abs=1e-5)
        assert (
            found["max_ratio"]
            == pytest.approx(found["min_ratio"], abs=1e-4)
            == pytest.approx(math.exp(-SHIFT), abs=1e-4)
        )
        assert found["seq_max_ratio"] <= math.exp(-SHIFT) * 1.0001
        assert 1 / 8 <= found["ess"] < 1 + 1e-9
        assert of("correction/", record) == {"mean_weight": pytest.approx(math.exp(-SHIFT), abs=1e-4), "truncated": 0}


def test_the_correction_scales_the_policy_loss(bandit, tmp_path, overstating):
    # the model is too random to earn anything: without whitening its penalties are advantages
    settings = (ONE_STEP, "trainer.steps=1", "trainer.grad_clip=0", "entropy_coeff=0", "advantage=gae(whiten=false)")
    plain = train(bandit, tmp_path / "plain", *settings)[0]
    assert plain["actor/grad_norm"] > 0.01
    assert plain["actor/pg_loss"] > 0.01
    half = train(bandit, tmp_path / "half", *settings, f"correction=tis({math.exp(-SHIFT) / 2})")[0]
    assert half["correction/truncated"] == 1
    share = math.exp(-SHIFT) / 2
    assert half["actor/pg_loss"] == pytest.approx(share * plain["actor/pg_loss"], rel=1e-3)
    assert half["actor/grad_norm"] == pytest.approx(share * plain["actor/grad_norm"], rel=1e-3)
    dropped = train(bandit, tmp_path / "dropped", *settings, "correction=icepop(1, 2)")[0]
    assert (dropped["correction/masked"], dropped["actor/grad_norm"]) == (1, 0)


@pytest.mark.parametrize("budget", [0, 600])
def test_the_only_optimizer_step_measures_and_corrects_by_itself(bandit, tmp_path, overstating, monkeypatch, budget):
    passes = []
    score = DeepSpeedEngine.score
    monkeypatch.setattr(DeepSpeedEngine, "score", lambda engine, *a, **o: passes.append(a) or score(engine, *a, **o))
    settings = ["advantage=grpo", "critic=null", ONE_STEP, "correction=tis(0.95)"]
    settings.append(f"trainer.token_budget={budget}")
    own = train(bandit, tmp_path / "own", *settings)
    assert not passes
    monkeypatch.setattr(learning, "has_dropout", lambda module: True)  # then a pass without it comes first
    before = train(bandit, tmp_path / "before", *settings)
    assert passes
    prefixes = ("mismatch/", "correction/", "actor/", "rollout/")
    for one, other in zip(own, before, strict=True):
        named = {key: value for key, value in one.items() if key.startswith(prefixes)}
        assert named.keys() > {"mismatch/ess", "correction/truncated", "actor/entropy", "actor/grad_norm"}
        assert named == pytest.approx({key: other[key] for key in named}, rel=1e-3, abs=1e-5)
    assert own[0]["correction/truncated"] == 0
    assert own[0]["correction/mean_weight"] == pytest.approx(math.exp(-SHIFT), abs=1e-4)
    one, other = weights(tmp_path / "own"), weights(tmp_path / "before")
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-5


def test_a_pass_with_dropout_measures_nothing(bandit, tmp_path):
    settings = [ONE_STEP, "model.lora={rank: 2, dropout: 0.5}"]
    for record in train(bandit, tmp_path / "trusted", *settings):
        assert not of("mismatch/", record)
    for record in train(bandit, tmp_path / "corrected", *settings, "correction=tis"):
        assert record["mismatch/abs"] < 1e-4


def test_an_engine_with_weights_of_its_own_is_always_measured(bandit, tmp_path, monkeypatch):
    monkeypatch.setattr(HfEngine, "own_weights", True, raising=False)
    for record in train(bandit, tmp_path, ONE_STEP):
        found = of("mismatch/", record)
        assert found.keys() == NAMES
        assert 0 < found["abs"] < 1e-4
        assert found["ess"] == pytest.approx(1, abs=1e-6)
        assert not of("correction/", record)


def test_no_correction_is_the_run_without_the_key_and_one_of_the_trainers_own_samples_changes_rounding_only(
    bandit, tmp_path
):
    runs = {name: tmp_path / name for name in ("absent", "none", "tis")}
    records = {
        name: train(bandit, path, *([] if name == "absent" else [f"correction={name}"])) for name, path in runs.items()
    }
    assert all(of("mismatch/", record).keys() == NAMES for record in records["none"])  # two optimizer steps
    absent, none, tis = (weights(path) for path in runs.values())
    assert all(torch.equal(absent[name], none[name]) for name in absent)
    assert records["tis"][0]["correction/mean_weight"] == pytest.approx(1, abs=1e-5)
    assert max(float((none[name] - tis[name]).abs().max()) for name in none) < 1e-3


def test_the_detector_says_the_same_live_and_offline(bandit, tmp_path, overstating):
    detector = "sampler_mismatch(max_k2=0.004, window=2)"
    train(bandit, tmp_path / "run", f'collapse=["{detector}"]')
    (said,) = RunDirectory.open(tmp_path / "run").status()["verdicts"]
    (found,) = replay_all(find_runs([tmp_path / "run"]), [detector], None)
    assert (said["detector"], said["step"]) == ("sampler_mismatch", found.verdict.step) == ("sampler_mismatch", 2)
    assert said["evidence"] == found.verdict.evidence
    assert said["evidence"]["last"] == pytest.approx(SHIFT**2 / 2, abs=1e-5)
