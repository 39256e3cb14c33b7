"""Shares of sequences: on a tiny policy in float64 whose sequences can all be enumerated, and by the command."""

import csv
import itertools
import json
import math

import attrs
import pytest
import torch
import uncollapse
from click.testing import CliRunner
from torch import nn
from uncollapse.core.components import Rollouts
from uncollapse.core.errors import RequestError
from uncollapse.estimators.advantage.outcome import DrGrpo
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.estimators.variance.entropy_change import delta_variance, predicted_change
from uncollapse.plugins.probe.checkpoint.adam_state import AdamSettings, AdamState, Coverage
from uncollapse.plugins.probe.commands.influence import command
from uncollapse.plugins.probe.estimation.directions import AdamW, PreconditionedGradient
from uncollapse.plugins.probe.estimation.measured_change import with_error
from uncollapse.plugins.probe.estimation.measurement import Measurement
from uncollapse.plugins.probe.estimation.passes import trained
from uncollapse.plugins.probe.estimation.step import Step
from uncollapse.plugins.probe.estimation.update import make_update
from uncollapse.plugins.probe.influence.influence import alone, check, choose, sequence_table, shares
from uncollapse.plugins.probe.influence.summary import correlations, groups, spearman
from uncollapse.plugins.training.processes.ranks import Ranks
from uncollapse.plugins.training.step.losses import PolicyObjective

ONE = Ranks(0, 1, torch.device("cpu"))
WORDS, PROMPTS, END = 4, 3, 0
UNITS = ("per_sequence", "per_token_ratio", "per_seq_token_mean")
ETA = 1e-3


class Walk(nn.Module):
    """The next word depends on the last one and on the position; ``END`` or the third word ends a sequence."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.words = nn.Parameter(torch.randn(WORDS + PROMPTS, 5, generator=generator, dtype=torch.float64))
        self.places = nn.Parameter(torch.randn(4, 5, generator=generator, dtype=torch.float64))
        self.out = nn.Parameter(torch.randn(5, WORDS, generator=generator, dtype=torch.float64))

    def distributions(self, tokens):
        hidden = torch.tanh(self.words[tokens[:, :-1]] + self.places[: tokens.shape[1] - 1])
        return (hidden @ self.out).log_softmax(-1)

    def forward(self, batch, entropy="value"):
        logs = self.distributions(batch.tokens)
        targets = torch.where(batch.mask, batch.tokens, 0)[:, 1:]
        chosen = logs.gather(-1, targets[..., None]).squeeze(-1)
        spread = -(logs.exp() * logs).sum(-1)
        return {
            name: nn.functional.pad(torch.where(batch.mask[:, 1:], x, 0.0), (1, 0))
            for name, x in (("logprobs", chosen), ("entropies", spread))
        }


def rollouts(sequences, prompts, rewards):
    """Rows of a prompt's word and the words after it."""
    lengths = torch.tensor([1 + len(words) for words in sequences])
    tokens = torch.zeros(len(sequences), 4, dtype=torch.long)
    for row, (prompt, words) in enumerate(zip(prompts, sequences, strict=True)):
        tokens[row, : 1 + len(words)] = torch.tensor([WORDS + prompt % PROMPTS, *words])
    mask = (torch.arange(4) > 0) & (torch.arange(4) < lengths[:, None])
    rewards = torch.tensor(rewards, dtype=torch.float32)
    placed = torch.where(torch.arange(4) == lengths[:, None] - 1, rewards[:, None], 0.0)
    groups = torch.tensor(prompts)
    return Rollouts(
        tokens=tokens,
        mask=mask,
        turns=torch.where(mask, 0, -1),
        logprobs=torch.zeros(tokens.shape),
        rewards=placed,
        episodes=torch.arange(len(sequences)),
        groups=groups,
        raw_rewards_E=rewards,
        group_ids_P=groups.unique(),
        lengths=lengths,
    )


def every_sequence():
    for words in itertools.product(range(WORDS), repeat=3):
        end = words.index(END) + 1 if END in words else 3
        yield words[:end]


SEQUENCES = sorted(set(every_sequence()))


def everything():
    """Every sequence after every prompt."""
    pairs = list(itertools.product(range(PROMPTS), SEQUENCES))
    return rollouts([words for _, words in pairs], [prompt for prompt, _ in pairs], [0.0] * len(pairs))


def draw(policy, prompts, seed):
    """A sequence for each prompt, by its exact probability."""
    with torch.no_grad():
        chances = policy(everything())["logprobs"].sum(1).exp().reshape(PROMPTS, -1)
    torch.testing.assert_close(chances.sum(1), torch.ones(PROMPTS, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    return [SEQUENCES[int(torch.multinomial(chances[p % PROMPTS], 1, generator=generator))] for p in prompts]


def exact_entropy(policy, unit):
    """Of sequences of a uniform prompt, in nats per sequence or per token."""
    table = everything()
    with torch.no_grad():
        found = policy(table)
    chances = found["logprobs"].sum(1).exp() / PROMPTS
    H, T = found["entropies"].sum(1), table.mask.sum(1).double()
    return float((chances * H).sum() / ((chances * T).sum() if unit == "per_token_ratio" else 1.0))


def setting(rule="adamw", size=60, seed=1):
    policy = Walk()
    generator = torch.Generator().manual_seed(9)

    def like(scale):
        return {n: scale * torch.rand(p.shape, generator=generator).double() for n, p in trained(policy).items()}

    names = list(trained(policy))
    state = AdamState(
        step=dict.fromkeys(names, 3.0),
        exp_avg=like(1e-2),
        exp_avg_sq=like(1e-2),
        max_exp_avg_sq=None,
        settings=dict.fromkeys(names, AdamSettings((0.9, 0.99), 1e-8, 0.01)),
        base_lr=ETA,
        coverage=Coverage(3, 3, 3, "names"),
    )
    prompts = [p for p in range(4) for _ in range(4)]
    rewards = torch.randint(0, 3, (16,), generator=generator).tolist()
    rewards[8:12] = [1.0] * 4  # a prompt without signal
    U = rollouts(draw(policy, prompts, 2), prompts, rewards)
    update = make_update(U, advantage=DrGrpo(), objective=PolicyObjective(Ppo()))
    rules = {"adamw": AdamW(state, trained(policy), 0.1), "proxy": PreconditionedGradient(state)}
    step = Step(policy, update, rules[rule], size=5, ranks=ONE)
    of_E = list(range(size))
    E = rollouts(draw(policy, of_E, seed), of_E, [0.0] * size)
    return Measurement(policy, E, step, size=7, ranks=ONE, eta=ETA)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("rule", ["adamw", "proxy"])
def test_shares_and_the_carried_part_are_the_prediction(rule, unit):
    measurement = setting(rule)
    predicted = predicted_change(measurement.prediction_terms(unit)).value
    for blocks in (0, 8):
        found = shares(measurement, unit, blocks)
        assert found.total == pytest.approx(predicted, rel=1e-10)
        assert (found.carried == 0) is (rule == "proxy")


@pytest.mark.parametrize("rule", ["adamw", "proxy"])
def test_each_share_is_that_of_its_own_gradient(rule):
    measurement = setting(rule)
    policy, step = measurement.passes.policy, measurement.step
    found = shares(measurement, "per_token_ratio")
    E = policy(measurement.passes.batch)
    H, T = E["entropies"].sum(1), measurement.rollouts.mask.sum(1).double()
    score = (H - H.sum() / T.sum() * T).detach()
    parameters = list(trained(policy).values())
    X = torch.autograd.grad((score * E["logprobs"].sum(1) + H).sum() / T.sum(), parameters)
    _, scale = step.rule.split(step.gradient)
    batch = step.update.batch
    for sequence in range(16):
        scores = policy(batch)
        loss = -(batch.weights.double() * batch.advantages * scores["logprobs"])[sequence].sum()
        g = torch.autograd.grad(loss, parameters)
        own = -ETA * sum((x * scale[n] * y).sum() for x, n, y in zip(X, trained(policy), g, strict=True))
        assert float(found.of_sequences[sequence]) == pytest.approx(float(own), rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("rule", ["adamw", "proxy"])
def test_a_sequence_without_advantage_has_no_share(rule):
    measurement = setting(rule)
    found = shares(measurement, "per_sequence")
    nothing = (measurement.step.update.batch.advantages == 0).all(1)
    assert int(nothing.sum()) >= 4
    assert not found.of_sequences[nothing].any()
    assert found.of_sequences[~nothing].all()
    assert found.errors[8] == 0


@pytest.mark.parametrize("unit", UNITS)
def test_block_errors_are_those_of_the_prediction_in_blocks(unit):
    measurement = setting()
    found = shares(measurement, unit, 6)
    assert found.influence_K.shape == (6, 17)
    torch.testing.assert_close(found.influence_K.sum(0), torch.zeros(17, dtype=torch.float64), atol=1e-15, rtol=0)
    statistic = predicted_change(measurement.prediction_terms(unit)).regroup(torch.arange(60) % 6)
    torch.testing.assert_close(found.influence_K.sum(1), statistic.influence_C())
    sequences = torch.ones(16, dtype=torch.bool)
    together = delta_variance(found.influence_K[:, :-1].sum(1)) ** 0.5
    wider = 2.571 / 1.960  # Student's t of 5 degrees of freedom
    assert found.widened_by == pytest.approx(wider, rel=1e-3)
    assert found.of(sequences) == pytest.approx((float(found.of_sequences.sum()), wider * together), rel=1e-3)
    assert found.errors[3] == pytest.approx(wider * delta_variance(found.influence_K[:, 3]) ** 0.5, rel=1e-3)
    assert shares(measurement, unit, 0).errors == [None] * 16


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "blocks"), [(8, 8), (40, 2)])
def test_two_errors_of_a_share_hold_its_mean_in_most_samples_of_few_units(prompts, blocks):
    found = [shares(setting(size=prompts, seed=seed), "per_sequence", blocks) for seed in range(60)]
    values = torch.tensor([[*one.of_sequences.tolist(), one.carried] for one in found])
    errors = torch.tensor([[*one.errors, one.carried_error] for one in found])
    mean = torch.tensor(
        [*(whole := shares(setting(size=4000, seed=99), "per_sequence", 0)).of_sequences, whole.carried]
    )
    inside = ((values - mean).abs() <= 1.96 * errors).double().mean(0)
    assert inside.mean() > 0.92  # as they came: 0.90 of 8 prompts, 0.70 of two blocks
    assert inside[-1] > 0.88


@pytest.mark.parametrize("unit", ["per_sequence", "per_token_ratio"])
def test_shares_are_true(unit):
    measurement = setting(size=3000)
    found = shares(measurement, unit)
    sequences = choose(found.of_sequences, 3, seed=5)
    assert len(set(sequences)) == 6
    assert found.of_sequences[sequences[0]].abs() == found.of_sequences.abs().max()
    checked = check(measurement, unit, found, sequences)
    assert [item.sequence for item in checked] == [None, *sequences]
    policy = measurement.passes.policy
    for item in checked:
        # on the same sample: nothing is left but the third order
        assert item.measured == pytest.approx(item.predicted, rel=1e-3, abs=1e-12)
        # and enumerated: the sampling error of E
        direction = measurement.step.direction if item.sequence is None else alone(measurement.step, item.sequence)
        changes = [exact_entropy(moved(policy, direction, eta), unit) for eta in (ETA, -ETA)]
        error = found.carried_error + 3 * found.of(torch.ones(16, dtype=torch.bool))[1]
        error = error if item.sequence is None else 5 * found.errors[item.sequence] + 1e-12
        assert abs((changes[0] - changes[1]) / 2 - item.predicted) < error


def moved(policy, direction, eta):
    other = Walk()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(dict(policy.named_parameters())[name] + eta * direction[name])
    return other


def test_sums_over_like_sequences_add_up():
    measurement = setting()
    noise = shares(measurement, "per_sequence")
    found = attrs.evolve(noise, total_error=abs(noise.total) / 3)
    update = measurement.step.update
    U = attrs.evolve(update.rollouts, logprobs=torch.where(update.rollouts.mask, -0.5, 0.0))
    U.logprobs[3, 1] = -2.0
    records = sequence_table(U, update.batch.advantages, [70, 71, 72, 73], found)
    assert [record["task"] for record in records[::4]] == [70, 71, 72, 73]
    assert [record["member"] for record in records[:5]] == [0, 1, 2, 3, 0]
    assert records[3]["surprisal_max"] == 2.0
    assert records[0]["surprisal_mean"] == records[0]["surprisal_max"] == 0.5
    assert records[5]["tokens"] == int(U.mask[5].sum())
    assert records[5]["advantage"] == pytest.approx(float(update.batch.advantages[5, 1]))
    sums = groups(records, found)
    assert sums["prompt"][-1] == {
        "prompt": 2, "task": 72, "sequences": 4, "share": 0.0, "se": 0.0, "share_of_total": 0.0
    }  # fmt: skip
    for kind in sums.values():
        assert sum(group["sequences"] for group in kind) == 16
        assert sum(group["share"] for group in kind) == pytest.approx(float(found.of_sequences.sum()))
    parts_of_total = [record["share_of_total"] for record in records]
    assert parts_of_total == pytest.approx([share / found.total for share in found.of_sequences.tolist()])
    assert set(correlations(records)) == {"reward", "advantage", "tokens", "surprisal_mean", "surprisal_max"}


def test_parts_of_a_total_that_is_noise_are_not_given():
    """Within two standard errors of 0, or without an error, a total has no parts that say anything."""
    whole = shares(setting(), "per_sequence")
    _, se = with_error(predicted_change(setting().prediction_terms("per_sequence")))
    assert whole.total_error == pytest.approx(se) == shares(setting(), "per_sequence", blocks=0).total_error
    for error, clear in ((0.49, True), (0.51, False), (math.nan, False), (0.0, True)):
        found = attrs.evolve(whole, total_error=error * abs(whole.total))
        assert found.clear == clear
        assert found.share_of_total(whole.total / 4) == (pytest.approx(0.25) if clear else None)
    assert attrs.evolve(whole, of_sequences=torch.zeros(16), carried=0.0, total_error=0.0).clear is False


def test_rank_correlation():
    x = torch.tensor([1.0, 2.0, 2.0, 9.0])
    assert spearman(x, x**3) == pytest.approx(1.0)
    assert spearman(x, torch.tensor([4.0, 3.0, 3.0, -8.0])) == pytest.approx(-1.0)
    # ranks 1, 2.5, 2.5, 4 and 2, 1, 4, 3: covariance 1.5 over the root of 4.5 times 5
    assert spearman(x, torch.tensor([2.0, 1.0, 4.0, 3.0])) == pytest.approx(1.5 / 22.5**0.5)
    assert spearman(x, torch.ones(4)) is None


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(bandit, tmp_path_factory):
    directory = tmp_path_factory.mktemp("influence") / "run"
    changes = ["trainer.steps=2", "validation.every=0", "model.lora={rank: 2}", "collapse=[]"]
    uncollapse.train(uncollapse.compose(bandit, changes), directory)
    return directory


def invoke(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_command(checkpoint, tmp_path):
    given = ("--checkpoint", checkpoint, "--be", 6, "--bu", 3, "--check", 1, "--results", tmp_path)
    given += ("--set", "learning_rate=1e-4", "--set", "batch_config.G=3", "--set", "entropy_unit=per_token_ratio")
    outcome = invoke(*given, "--label", "mine")
    assert outcome.exit_code == 0, outcome.output
    (directory,) = (tmp_path / "influence").iterdir()
    assert directory.name.startswith("mine_")
    found = json.loads((directory / "influence.json").read_text())
    assert (found["B_E"], found["B_U"], found["G"], found["blocks"]) == (6, 3, 3, 6)
    shares_of = [record["share"] for record in found["sequences"]]
    assert len(shares_of) == 9
    assert sum(shares_of) + found["carried"]["share"] == pytest.approx(found["prediction"]["deltaH1"], rel=1e-3)
    assert [item["sequence"] is None for item in found["check"]] == [True, False, False]
    rows = list(csv.DictReader((directory / "influence.csv").open()))
    assert [float(row["share"]) for row in rows] == shares_of
    assert (directory / "influence.png").read_bytes().startswith(b"\x89PNG")
    assert "learning_rate: 0.0001" in (directory / "config.yaml").read_text()
    for text in ("3 x 3 sequences of U", "by prompt", "whole update", "nats per token"):
        assert text in outcome.output

    again = invoke(*given, "--json", "--blocks", 0)
    assert again.exit_code == 0, again.output
    data = json.loads(again.output)
    assert [record["share"] for record in data["sequences"]] == pytest.approx(shares_of, rel=1e-2, abs=1e-9)
    assert {record["se"] for record in data["sequences"]} == {None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no checkpoint is given"),
        (("--checkpoint", "/nowhere"), "/nowhere"),
        (("--set", "learning_rate"), "'learning_rate' has no value; write KEY=VALUE"),
        (("--set", "batch_config.B=4"), "batch_config.B"),
        (("--label", "a/b"), "is no name of a directory"),
    ],
)
def test_wrong_requests(arguments, message, tmp_path):
    outcome = invoke(*arguments, "--results", tmp_path)
    assert isinstance(outcome.exception, RequestError)
    assert message in str(outcome.exception)
    assert list(tmp_path.iterdir()) == []
