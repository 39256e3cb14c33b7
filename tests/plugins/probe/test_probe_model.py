"""The probe on a real tiny model: it does not matter how rows are packed, and only sampled tokens count."""

import attrs
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from uncollapse.core.components import Rollouts
from uncollapse.estimators.advantage.outcome import DrGrpo
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.estimators.variance.entropy_change import (
    mean_entropy,
    predicted_change,
    predicted_change_reward_to_go,
    true_change,
)
from uncollapse.plugins.probe import integrity
from uncollapse.plugins.probe.checkpoint.adam_state import AdamSettings, AdamState, Coverage
from uncollapse.plugins.probe.estimation.directions import AdamW, PreconditionedGradient
from uncollapse.plugins.probe.estimation.measured_change import Weighting
from uncollapse.plugins.probe.estimation.measurement import Measurement
from uncollapse.plugins.probe.estimation.passes import inner, trained
from uncollapse.plugins.probe.estimation.step import Step
from uncollapse.plugins.probe.estimation.update import make_update
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.processes.ranks import Ranks
from uncollapse.plugins.training.step.losses import PolicyObjective

ONE = Ranks(0, 1, torch.device("cpu"))
VOCABULARY = 61
SNIS = Weighting()
ROUNDING = 2e-6
UNITS = ("per_sequence", "per_token_ratio", "per_seq_token_mean")


def tiny_policy(temperature=0.8, seed=0):
    torch.manual_seed(seed)
    config = Qwen2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
        max_position_embeddings=256,
        initializer_range=0.15,
    )
    return Policy(Qwen2ForCausalLM(config).eval(), temperature)


def conversations(count, seed, longest=90):
    """[(is sampled, tokens)] runs: a prompt, then turns with what the environment wrote between them."""
    generator = torch.Generator().manual_seed(seed)

    def words(most):
        length = int(torch.randint(1, most, (), generator=generator))
        return torch.randint(1, VOCABULARY, (length,), generator=generator)

    return [
        [run for _ in range(1 + index % 3) for run in ((False, words(longest // 4)), (True, words(longest // 8)))]
        for index in range(count)
    ]


def rollouts_of(episodes, responses, by_turn=False, seed=0):
    """One row for each episode, or one for each turn in which only that turn's tokens are sampled ones."""
    rows = []
    for index, runs in enumerate(episodes):
        tokens = torch.cat([tokens for _, tokens in runs])
        number = torch.cat([torch.full_like(own, k // 2 if sampled else -1) for k, (sampled, own) in enumerate(runs)])
        turns = range(len(runs) // 2)
        for turn in turns if by_turn else [None]:
            end = len(tokens) if turn is None else int((number == turn).nonzero().max()) + 1
            kept = number[:end] if turn is None else torch.where(number[:end] == turn, turn, -1)
            rows.append((index, tokens[:end], kept))
    width = max(len(tokens) for _, tokens, _ in rows)

    def table(values, fill):
        return torch.stack([torch.nn.functional.pad(x, (0, width - len(x)), value=fill) for x in values])

    number = table([kept for _, _, kept in rows], -1)
    of_row = torch.tensor([index for index, _, _ in rows])
    rewards = torch.randn(len(episodes), generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor([len(tokens) for _, tokens, _ in rows])
    last = (number >= 0) & ((number >= 0).flip(1).cumsum(1).flip(1) == 1)
    return Rollouts(
        tokens=table([tokens for _, tokens, _ in rows], 0),
        mask=number >= 0,
        turns=number,
        logprobs=torch.zeros(number.shape),
        rewards=torch.where(last, rewards[of_row][:, None], 0.0),
        episodes=of_row,
        groups=of_row // responses,
        raw_rewards_E=rewards,
        group_ids_P=torch.arange(len(episodes) // responses),
        lengths=lengths,
    )


def adam_of(policy):
    generator = torch.Generator().manual_seed(3)

    def moments(scale):
        return {n: scale * torch.randn(p.shape, generator=generator) for n, p in trained(policy).items()}

    names = list(trained(policy))
    return AdamState(
        step=dict.fromkeys(names, 5.0),
        exp_avg=moments(1e-2),
        exp_avg_sq={n: (m.abs() + 1e-2) ** 2 for n, m in moments(2e-2).items()},
        max_exp_avg_sq=None,
        settings=dict.fromkeys(names, AdamSettings((0.9, 0.999), 1e-8, 0.01)),
        base_lr=None,
        coverage=Coverage(len(names), len(names), len(names), "names"),
    )


POLICY = tiny_policy()
E = rollouts_of(conversations(10, 1), 2)
U = rollouts_of(conversations(8, 2), 4, seed=5)


def measurement(E=E, U=U, size=4, eta=1e-3, rule="proxy", advantages=1.0, policy=POLICY, mode="rb"):
    update = make_update(U, advantage=DrGrpo(), objective=PolicyObjective(Ppo())).scaled(advantages)
    adam = adam_of(policy)
    own = PreconditionedGradient(adam) if rule == "proxy" else AdamW(adam, trained(policy))
    step = Step(policy, update, own, size=size, ranks=ONE)
    return Measurement(policy, E, step, size=size, ranks=ONE, eta=eta, mode=mode)


def numbers(measured):
    found = {}
    for unit in UNITS:
        terms = measured.prediction_terms(unit)
        found[f"deltaH1 {unit}"] = predicted_change(terms).value
        found[f"deltaH_true {unit}"] = measured.truth(measured.eta, SNIS).change(measured.truth_terms(unit))[0]
        if unit != "per_seq_token_mean":
            found[f"reward to go {unit}"] = predicted_change_reward_to_go(terms).value
    return found


WHOLE = {rule: numbers(measurement(rule=rule)) for rule in ("proxy", "adamw")}
ENTROPY = {unit: mean_entropy(measurement().truth_terms(unit)).value for unit in UNITS}


def close(found, expected):
    """To 1e-4, or to some float32 roundings of the entropy: the weight that multiplies it has those of all tokens."""
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=ROUNDING * ENTROPY[name.split()[-1]]), name


def padded(rollouts, more):
    fills = {"tokens": 7, "mask": False, "turns": -1, "logprobs": float("nan"), "rewards": 0}
    return attrs.evolve(
        rollouts,
        **{n: torch.nn.functional.pad(getattr(rollouts, n), (0, more), value=fill) for n, fill in fills.items()},
    )


def shuffled(rollouts, seed=0):
    rows = torch.randperm(len(rollouts.tokens), generator=torch.Generator().manual_seed(seed))
    fields = ("tokens", "mask", "turns", "logprobs", "rewards", "episodes", "groups", "lengths")
    return attrs.evolve(rollouts, **{name: getattr(rollouts, name)[rows] for name in fields})


def test_changes_are_large_enough_to_be_compared():
    assert E.tokens.shape[1] > 64  # more than one block of queries
    for found in WHOLE.values():
        for name, value in found.items():
            assert abs(value) > 5 * ROUNDING * ENTROPY[name.split()[-1]], (name, value)


@pytest.mark.parametrize("rule", ["proxy", "adamw"])
@pytest.mark.parametrize(
    "change",
    [
        {"size": 1},
        {"size": 3},
        {"size": 100},
        {"E": padded(E, 9), "U": padded(U, 5)},
        {"E": shuffled(E), "U": shuffled(U)},
        {"E": padded(shuffled(E, 1), 3), "U": shuffled(U, 1), "size": 3},
        {"E": rollouts_of(conversations(10, 1), 2, by_turn=True)},
        {"U": rollouts_of(conversations(8, 2), 4, by_turn=True, seed=5)},
    ],
    ids=["rows alone", "3 rows", "all rows", "padding", "order", "all of it", "E by turn", "U by turn"],
)
def test_packing_does_not_matter(rule, change):
    close(numbers(measurement(rule=rule, **change)), WHOLE[rule])


@pytest.mark.parametrize("rule", ["proxy", "adamw"])
def test_an_episode_of_several_rows_is_one_sequence(rule):
    whole = measurement(rule=rule)
    by_turn = measurement(E=shuffled(rollouts_of(conversations(10, 1), 2, by_turn=True)), rule=rule)
    assert len(by_turn.rollouts.tokens) > len(whole.rollouts.tokens)
    for name, value in whole.predicted_sums.items():
        scale = float(value.double().abs().max())
        torch.testing.assert_close(by_turn.predicted_sums[name], value, rtol=1e-4, atol=1e-4 * scale, msg=name)
    one, other = (m.truth(1e-3, SNIS) for m in (whole, by_turn))
    torch.testing.assert_close(other.log_weights, one.log_weights, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.h1, one.h1, rtol=1e-5, atol=1e-5)


def test_the_truth_is_paired_with_entropies_of_the_same_kind_of_pass():
    """The forward-mode pass rounds otherwise; the difference would be taken for a change."""
    measured = measurement()
    terms = measured.terms("per_sequence", {"eta", "H", "T", "jH", "S1", "w", "h1"}, SNIS)
    assert torch.equal(terms.H, measured.base_sums["H"])
    assert not torch.equal(terms.H, measured.predicted_sums["H"])
    none = measurement(eta=0.0).terms("per_sequence", {"eta", "H", "T", "jH", "S1", "w", "h1"}, SNIS)
    assert torch.equal(none.h1, none.H) and true_change(none).value == 0


def test_without_a_step_there_is_no_change_whatever_the_packing():
    for size in (1, 3, 100):
        none = measurement(size=size, eta=0.0).truth(0.0, SNIS)
        assert bool((none.log_weights == 0).all())
        assert none.change(measurement(size=size).truth_terms("per_sequence"))[0] == 0


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("mode", ["rb", "naive"])
def test_forward_mode_reverse_mode_and_differences(unit, mode):
    measured = measurement(mode=mode)
    slope = predicted_change(measured.prediction_terms(unit)).value / measured.eta
    product = inner(measured.entropy_gradient(unit), measured.step.direction)
    assert product == pytest.approx(slope, rel=1e-4, abs=1e-4)
    step, terms = 3e-4, measured.truth_terms(unit)
    plus, minus = (measured.truth(sign * step, SNIS).change(terms)[0] for sign in (1, -1))
    assert (plus - minus) / (2 * step) == pytest.approx(slope, rel=2e-2, abs=0.02)


def test_the_prediction_is_linear_in_eta_and_odd_in_the_advantages():
    one = WHOLE["proxy"]
    predicted = [name for name in one if "true" not in name]
    tripled, turned = numbers(measurement(eta=3e-3)), numbers(measurement(advantages=-1.0))
    for name in predicted:
        assert tripled[name] == pytest.approx(3 * one[name], rel=1e-9)
        assert turned[name] == pytest.approx(-one[name], rel=1e-5)
    # the real step is neither: momentum and decay go on
    turned = numbers(measurement(advantages=-1.0, rule="adamw"))
    assert any(abs(turned[name] + WHOLE["adamw"][name]) > 1e-3 for name in predicted)


def test_what_the_environment_wrote_contributes_nothing():
    """Neither entropy nor score; and after the last sampled token it is not even seen."""
    measured = measurement()
    for table in (*measured.rates.values(), *measured.base.values()):
        assert bool((table[~E.mask] == 0).all())
    assert measured.predicted_sums["T"].tolist() == [
        sum(len(tokens) for sampled, tokens in runs if sampled) for runs in conversations(10, 1)
    ]
    told = [[*runs, (False, torch.arange(1, 12))] for runs in conversations(10, 1)]
    close(numbers(measurement(E=rollouts_of(told, 2))), WHOLE["proxy"])


def test_the_shift_canary_is_the_mistake_that_it_says(monkeypatch):
    base = measurement().base
    found = integrity.shift_canary(POLICY, E, base, ONE)
    with torch.no_grad():
        logp = [(POLICY.model(row[None]).logits[0] / POLICY.temperature).log_softmax(-1) for row in E.tokens]
    right, wrong = [], []
    for row, (tokens, mask) in enumerate(zip(E.tokens, E.mask, strict=True)):
        for t in mask.nonzero().flatten().tolist():
            right.append(float(logp[row][t - 1, tokens[t]]))
            wrong.append(float(logp[row][t, tokens[t]]))
    assert found["logprob"] == pytest.approx(sum(right) / len(right), abs=1e-5)
    assert found["shifted_logprob"] == pytest.approx(sum(wrong) / len(wrong), abs=1e-5)
    assert found["logprob"] != pytest.approx(found["shifted_logprob"], abs=0.1)
    entropies = [-(table.exp() * table).sum(-1) for table in logp]
    positions = [(row, t) for row, mask in enumerate(E.mask) for t in mask.nonzero().flatten().tolist()]
    for name, at, scores in (("gap", -1, right), ("shifted_gap", 0, wrong)):
        expected = [score + float(entropies[row][t + at]) for score, (row, t) in zip(scores, positions, strict=True)]
        assert found[name] == pytest.approx(sum(expected) / len(expected), abs=1e-5)
        means = [
            sum(x - found[name] for x, (r, _) in zip(expected, positions, strict=True) if r == row)
            for row in range(len(E.mask))
        ]
        rows, tokens = len(means), len(positions)
        se = (sum(mean**2 for mean in means) * rows / (rows - 1)) ** 0.5 / tokens
        assert found[f"{name}_se"] == pytest.approx(se, rel=1e-3)


def test_the_first_rows_of_a_sample_may_be_shorter_than_the_others(monkeypatch):
    base = measurement().base
    order = E.lengths.argsort(stable=True)
    fields = ("tokens", "mask", "turns", "logprobs", "rewards", "episodes", "groups", "lengths")
    rows = attrs.evolve(E, **{name: getattr(E, name)[order] for name in fields})
    count = int((rows.lengths < rows.lengths.max()).sum())
    assert 1 < count < len(rows.tokens)
    monkeypatch.setattr(integrity, "ROWS", count)
    found = integrity.shift_canary(POLICY, rows, {name: table[order] for name, table in base.items()}, ONE)
    mask = rows.mask[:count]
    own = {name: table[order][:count][mask] for name, table in base.items()}
    assert found["logprob"] == pytest.approx(float(own["logprobs"].mean()))
    assert found["gap"] == pytest.approx(float((own["logprobs"] + own["entropies"]).mean()))


def test_temperature_is_in_log_probs_entropies_and_derivatives_alike():
    row = E.tokens[:1, :20]
    with torch.no_grad():
        logp = (POLICY.model(row).logits[0] / 0.8).double().log_softmax(-1)
    base = measurement().base
    at = E.mask[0].nonzero().flatten()
    at = at[at < 20]
    expected = -(logp.exp() * logp).sum(-1)[at - 1]
    torch.testing.assert_close(base["entropies"][0, at], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(base["logprobs"][0, at], logp[at - 1, row[0, at]], rtol=1e-5, atol=1e-5)
    # a colder policy has other derivatives, which are those of its own truth
    cold = Policy(POLICY.model, 0.5)
    measured = measurement(policy=cold)
    slope = predicted_change(measured.prediction_terms("per_sequence")).value / measured.eta
    plus, minus = (measured.truth(s * 3e-4, SNIS).change(measured.truth_terms("per_sequence"))[0] for s in (1, -1))
    assert (plus - minus) / 6e-4 == pytest.approx(slope, rel=2e-2)
