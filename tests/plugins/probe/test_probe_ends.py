"""On what the engine itself sampled: the end counts as a token, and the temperature is the same everywhere."""

import math
from types import SimpleNamespace

import attrs
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from uncollapse.core.components import Rollouts, Sampling
from uncollapse.plugins.probe import integrity
from uncollapse.plugins.probe.estimation.measured_change import Weighting
from uncollapse.plugins.probe.estimation.measurement import Measurement
from uncollapse.plugins.probe.estimation.passes import trained
from uncollapse.plugins.probe.experiments import checks
from uncollapse.plugins.rollout.engine_hf import HfEngine
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.processes.ranks import Ranks

ONE = Ranks(0, 1, torch.device("cpu"))
END, WORDS, LONGEST, COUNT = 3, 8, 8, 4000


def model():
    torch.manual_seed(2)
    config = Qwen2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        vocab_size=WORDS,
        tie_word_embeddings=False,
        max_position_embeddings=64,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=END,
    )
    return Qwen2ForCausalLM(config).eval()


MODEL = model()


def played(temperature):
    """What the engine samples after three prompts of different lengths, as rows."""
    prompts = [[(1, 2), (4, 5, 6, 7), (0, 1, 0)][index % 3] for index in range(COUNT)]
    session = HfEngine(batch=500).start(MODEL, SimpleNamespace(eos_token_id=END, chat_template=None))
    found = session.generate(prompts, Sampling(temperature, LONGEST), 11)
    width = max(len(p) + len(c.tokens) for p, c in zip(prompts, found, strict=True))
    tokens, logprobs = torch.zeros(COUNT, width, dtype=torch.long), torch.zeros(COUNT, width)
    mask, lengths = torch.zeros(COUNT, width, dtype=torch.bool), torch.zeros(COUNT, dtype=torch.long)
    for row, (prompt, completion) in enumerate(zip(prompts, found, strict=True)):
        start, lengths[row] = len(prompt), len(prompt) + len(completion.tokens)
        tokens[row, : lengths[row]] = torch.tensor([*prompt, *completion.tokens])
        mask[row, start : lengths[row]] = True
        logprobs[row, start : lengths[row]] = torch.tensor(completion.logprobs)
    return Rollouts(
        tokens=tokens,
        mask=mask,
        turns=torch.where(mask, 0, -1),
        logprobs=logprobs,
        rewards=torch.zeros(tokens.shape),
        episodes=torch.arange(COUNT),
        groups=torch.arange(COUNT),
        raw_rewards_E=torch.zeros(COUNT),
        group_ids_P=torch.arange(COUNT),
        lengths=lengths,
    )


@pytest.fixture(scope="module", params=[1.0, 0.6])
def sampled(request):
    return request.param, played(request.param)


def direction(policy):
    """Any direction, which makes ends likelier as well."""
    generator = torch.Generator().manual_seed(4)
    v = {name: 0.3 * torch.randn(p.shape, generator=generator) for name, p in trained(policy).items()}
    v["model.lm_head.weight"][END] += 2 * MODEL.model.norm.weight.detach()
    return v


def measured(rollouts, temperature, eta=1e-2):
    policy = Policy(MODEL, temperature)
    return Measurement(policy, rollouts, SimpleNamespace(direction=direction(policy)), size=500, ranks=ONE, eta=eta)


def z_of(x):
    return float(x.mean() / (x.double().std() / math.sqrt(len(x))))


def without_ends(rollouts):
    """What is left if the token that ended a sequence is taken for padding."""
    kept = rollouts.mask & (rollouts.tokens != END)
    return attrs.evolve(
        rollouts, mask=kept, turns=torch.where(kept, 0, -1), logprobs=torch.where(kept, rollouts.logprobs, 0.0)
    )


def test_many_sequences_end_and_many_are_cut(sampled):
    _, rollouts = sampled
    last = rollouts.tokens[torch.arange(COUNT), rollouts.lengths - 1]
    assert 0.2 < float((last == END).double().mean()) < 0.95
    assert len(rollouts.mask.sum(1).unique()) == LONGEST
    # nothing before the last one is an end
    assert int(((rollouts.tokens == END) & rollouts.mask).sum()) == int((last == END).sum())


def test_what_must_be_0_or_1_on_the_average_is(sampled):
    temperature, rollouts = sampled
    own = measured(rollouts, temperature)
    H, S1 = own.predicted_sums["H"], own.predicted_sums["S1"]
    surprise = -(own.base["logprobs"] * rollouts.mask).sum(1)
    assert abs(z_of(H - surprise)) < 4
    assert abs(z_of(S1)) < 4
    weights = own.truth(own.eta, Weighting()).w
    assert weights.std() > 0.01 and abs(z_of(weights - 1)) < 4
    # as the probe reports it
    score = integrity.score_identity(own.prediction_terms("per_sequence"))
    assert score["value"] / score["se"] == pytest.approx(z_of(S1), rel=1e-6)


def test_without_the_ends_it_is_not(sampled):
    temperature, rollouts = sampled
    own = measured(without_ends(rollouts), temperature)
    H, S1 = own.predicted_sums["H"], own.predicted_sums["S1"]
    assert abs(z_of(S1)) > 4
    assert abs(z_of(H + own.base["logprobs"].sum(1))) > 4
    assert abs(z_of(own.truth(own.eta, Weighting()).w - 1)) > 4


def test_the_engine_s_log_probs_are_those_of_the_passes(sampled):
    temperature, rollouts = sampled
    assert integrity.sampler_gap(rollouts, measured(rollouts, temperature).base["logprobs"]) < 2e-5
    assert integrity.sampler_gap(rollouts, measured(rollouts, temperature + 0.5).base["logprobs"]) > 0.05


def test_another_temperature_is_seen(sampled):
    """Log-probs and entropies of a policy that is not the one that sampled do not agree on the average."""
    temperature, rollouts = sampled
    own = measured(rollouts, temperature + 0.4)
    assert abs(z_of(own.base_sums["H"] + own.base["logprobs"].sum(1))) > 4


def test_a_log_prob_that_is_off_by_one_is_seen(sampled):
    temperature, rollouts = sampled
    policy = Policy(MODEL, temperature)
    base = measured(rollouts, temperature).base
    found = integrity.shift_canary(policy, rollouts, base, ONE)
    assert found["shifted_logprob"] < found["logprob"] - 0.3
    assert checks.shift_canary([found]).passed
    # where the scores are themselves those of the next position
    wrong = {**found, "gap": found["shifted_gap"], "gap_se": found["shifted_gap_se"]}
    assert checks.shift_canary([wrong]).passed is False
