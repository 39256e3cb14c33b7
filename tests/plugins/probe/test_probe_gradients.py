"""Gradient norms by bucket: against autograd by hand, exact expectations, and draws whose mean is known."""

import csv
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
import uncollapse
from click.testing import CliRunner
from uncollapse.core.components import Scores
from uncollapse.core.errors import RequestError
from uncollapse.core.yaml import loads
from uncollapse.estimators.kl.variants import K3
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.filters.metrics import RewardVariance
from uncollapse.plugins.probe.commands.gradients import command
from uncollapse.plugins.probe.estimation.passes import Passes, inner, trained
from uncollapse.plugins.probe.estimation.passes import norm as length
from uncollapse.plugins.probe.gradients.buckets import by_edges, by_quantile, edges_problem, everything
from uncollapse.plugins.probe.gradients.measure import Gradients
from uncollapse.plugins.probe.gradients.norms import Norm, norm_of
from uncollapse.plugins.probe.gradients.run import _notes
from uncollapse.plugins.probe.read_config import read_config
from uncollapse.plugins.probe.session import Session
from uncollapse.plugins.training.step.losses import PolicyObjective

sys.path.insert(0, str(Path(__file__).parent))
from exact_model import ONE, SEQUENCES, Exact, ExactPolicy, reward, rollouts_of, sample, update_of
from probe_ranks_script import rewarded

WEIGHTINGS = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "dr_grpo", "per_token_avg"]
FAST = ["token-mean", "dr_grpo"]
COEFFICIENTS = {"task": 1.0, "entropy": 0.3, "kl": 0.7}


def objective(entropy=COEFFICIENTS["entropy"], kl=COEFFICIENTS["kl"]):
    return PolicyObjective(Ppo(), entropy, K3() if kl else None, kl)


def setting(rollouts, weighting="token-mean", size=3, of=None, policy=None):
    ref = -1.0 - 0.1 * (torch.arange(rollouts.mask.numel()).reshape(rollouts.mask.shape) % 7)
    of = of or objective()
    update = update_of(rollouts, of, weighting=weighting, ref_logprobs=ref.double() if of.kl is not None else None)
    return Gradients(policy or ExactPolicy(), update, weighting, None, ONE, size)


def drawn(prompts=7, responses=3, seed=0):
    return sample(ExactPolicy(), prompts, responses, torch.Generator().manual_seed(seed))


def by_hand(policy, update, weighting, groups, term):
    """The gradient of a term on some groups in one pass of autograd, written out for these losses."""
    rollouts = update.rollouts
    rows = torch.isin(rollouts.groups, rollouts.group_ids_P[list(groups)])
    mask = rollouts.mask & rows[:, None]
    lengths = mask.sum(1, keepdim=True).clamp(min=1)
    count = int(rows.sum())
    longest = torch.ones(len(rows), 1)
    for group in rollouts.groups.unique():
        longest[rollouts.groups == group] = float(rollouts.mask[rollouts.groups == group].sum(1).max())
    weights = {
        "token-mean": mask / mask.sum(),
        "token-sum": mask.double(),
        "seq-mean-token-sum": mask / count,
        "seq-mean-token-mean": mask / (count * lengths),
        "dr_grpo": mask / (count * longest),
        "per_token_avg": mask / (count * lengths),
    }[weighting].double()
    scores = policy(update.batch, entropy="gradient")
    x = update.batch.ref_logprobs - scores["logprobs"]
    loss = {
        "task": -update.batch.advantages * scores["logprobs"],
        "entropy": -COEFFICIENTS["entropy"] * scores["entropies"],
        "kl": COEFFICIENTS["kl"] * (x.exp() - 1 - x),
    }[term]
    value = torch.where(mask, weights * loss, 0.0).sum()
    return dict(zip(trained(policy), torch.autograd.grad(value, list(trained(policy).values())), strict=True))


@pytest.mark.parametrize(
    "weighting", [*FAST, *(pytest.param(each, marks=pytest.mark.slow) for each in WEIGHTINGS if each not in FAST)]
)
def test_norms_are_those_of_a_batch_of_the_bucket_by_autograd(weighting):
    found = setting(drawn(), weighting)
    policy, update = found.policy, found.update
    for groups in ((0, 2, 3, 6), tuple(range(6))):
        measured = found.on(groups)
        assert list(measured.norms) == ["task", "entropy", "kl"]
        for term, norm in measured.norms.items():
            whole = by_hand(policy, update, weighting, groups, term)
            assert norm.norm == pytest.approx(inner(whole, whole) ** 0.5, rel=1e-6)
            # the part of a group has the weights of the bucket, and parts add up
            others = {n: tuple(g for g in groups if g != n) for n in groups}
            parts = [_difference(policy, update, weighting, groups, n, others[n], term) for n in groups]
            pairs = sum(inner(a, b) for a, b in itertools.permutations(parts, 2))
            n = len(groups)
            assert norm.square == pytest.approx(n / (n - 1) * pairs, rel=1e-5)
            sizes = torch.tensor([n * inner(part, part) ** 0.5 for part in parts])
            torch.testing.assert_close(measured.parts[term], sizes.double(), rtol=1e-5, atol=1e-6)
            # the jackknife leaves a group out of the bucket, with the weights of what is left
            without = [by_hand(policy, update, weighting, others[n], term) for n in groups]
            lengths = torch.tensor([inner(one, one) ** 0.5 for one in without], dtype=torch.float64)
            if weighting == "token-sum":
                lengths *= n / (n - 1)
            se = math.sqrt((n - 1) * float(lengths.var(correction=0)))
            t = {4: 3.182446, 6: 2.570582}[n] / 1.959964
            assert norm.norm_se == pytest.approx(t * se, rel=1e-4)
    assert (measured.sequences, measured.tokens) == (18, int(update.rollouts.mask[:18].sum()))


def _difference(policy, update, weighting, groups, group, others, term):
    """The part of a group: what of the whole remains without the others at the weights of the whole."""
    whole = by_hand(policy, update, weighting, groups, term)
    rest = by_hand(policy, update, weighting, others, term)
    mask, rows = update.rollouts.mask, update.rollouts.groups
    tokens, left = (int(mask[torch.isin(rows, torch.tensor(which))].sum()) for which in (groups, others))
    share = {"token-mean": left / tokens, "token-sum": 1.0}.get(weighting, len(others) / len(groups))
    return {name: whole[name] - share * rest[name] for name in whole}


def test_micro_batches_and_the_order_of_rows_change_nothing():
    rollouts = drawn()
    shuffled = torch.randperm(21, generator=torch.Generator().manual_seed(1))
    per_row = ("tokens", "mask", "turns", "logprobs", "rewards", "episodes", "groups", "lengths")
    other = attrs.evolve(rollouts, **{name: getattr(rollouts, name)[shuffled] for name in per_row})
    of = objective(kl=0.0)
    norms = [
        setting(r, size=size, of=of).on((1, 4, 5)).norms for r, size in ((rollouts, 1), (rollouts, 21), (other, 5))
    ]
    for norm in norms[1:]:
        for term in ("task", "entropy"):
            assert attrs.astuple(norm[term]) == pytest.approx(attrs.astuple(norms[0][term]), rel=1e-6)


# --- expectations ---------------------------------------------------------------------------------------------------


def exact_gradients(policy, low, high):
    """E of the step's gradient on pairs of responses to one prompt whose rewards deviate by [low, high), enumerated.

    The weights are a mean over rows of sums over tokens, the advantage is the reward less the mean of the pair.
    """
    rows, groups, shares = [], [], []
    with torch.no_grad():
        p = Exact(policy).tables()[0].exp()[0]
    number = 0
    for (a, first), (b, second) in itertools.product(enumerate(SEQUENCES), repeat=2):
        if low <= abs(reward(first) - reward(second)) / math.sqrt(2) < high:
            rows += [(0, first), (0, second)]
            groups += [number, number]
            shares += [float(p[a] * p[b])] * 2
            number += 1
    update = update_of(rollouts_of(rows, groups), objective(kl=0.0), weighting="token-sum")
    share_B = torch.tensor(shares, dtype=torch.float64)
    share_B = share_B / share_B.sum()  # of both rows of a pair: together a half each
    scores = policy(update.batch, entropy="gradient")
    found = {}
    for term in ("task", "entropy"):
        values = update.objective.term(term, Scores(**scores), update.batch)
        value = (share_B[:, None] * values).sum()
        gradients = torch.autograd.grad(value, list(trained(policy).values()), retain_graph=True)
        found[term] = dict(zip(trained(policy), gradients, strict=True))
    return found


@pytest.mark.slow
def test_batches_of_sampled_groups_have_the_expected_squares_in_every_bucket():
    """Against the enumerated expectation of each bucket, over many batches of few groups."""
    policy, edges = ExactPolicy(), (0.1, 1.0)
    bounds = list(itertools.pairwise((-1.0, *edges, 9.0)))
    exact = [exact_gradients(policy, *bound) for bound in bounds]
    squares, norms = {}, {}
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        p = Exact(policy).tables()[0].exp()[0]
    for _ in range(60):
        which = torch.multinomial(p, 24, replacement=True, generator=generator).tolist()
        rollouts = rollouts_of([(0, SEQUENCES[w]) for w in which], [n // 2 for n in range(24)])
        found = setting(rollouts, "seq-mean-token-sum", size=24, of=objective(kl=0.0), policy=policy)
        for number, bucket in enumerate(by_edges(RewardVariance().score(rollouts), edges)):
            if len(bucket.groups) >= 2:
                for term, norm in found.on(bucket.groups).norms.items():
                    squares.setdefault((number, term), []).append(norm.square)
                    norms.setdefault((number, term), []).append(norm.norm**2)
    assert {number for number, _ in squares} == {0, 1, 2}
    for (number, term), values in squares.items():
        true = inner(exact[number][term], exact[number][term])
        found = torch.tensor(values)
        if (number, term) == (0, "task"):  # equal rewards teach nothing, exactly
            assert true == 0 and not found.any()
            continue
        se = float(found.std()) / len(values) ** 0.5
        assert abs(float(found.mean()) - true) < 3.5 * se
        assert float(torch.tensor(norms[number, term]).mean()) - true > 3.5 * se


@pytest.mark.slow
def test_the_squared_norm_is_unbiased_in_every_bucket_and_the_norm_is_not():
    """The same expectations, over many more draws: gradients of pairs are put together from those of sequences."""
    policy, bounds = ExactPolicy(), ((-1.0, 0.1), (0.1, 1.0), (1.0, 9.0))
    exact = [exact_gradients(policy, *bound) for bound in bounds]
    logp, entropies, _ = Exact(policy).tables()
    rewards = torch.tensor([reward(sequence) for sequence in SEQUENCES], dtype=torch.float64)
    of_logp, of_entropy = _rows(policy, logp[0]), _rows(policy, entropies[0])
    generator = torch.Generator().manual_seed(6)
    for number, (low, high) in enumerate(bounds):
        found = {"task": [], "entropy": []}
        while len(found["task"]) < 400:
            pairs = torch.multinomial(logp[0].exp().detach(), 40, replacement=True, generator=generator).reshape(20, 2)
            spread = rewards[pairs].std(1)
            pairs = pairs[(spread >= low) & (spread < high)][:5]
            if (n := len(pairs)) < 3:
                continue
            advantages = rewards[pairs] - rewards[pairs].mean(1, keepdim=True)
            task = -(advantages[..., None] * of_logp[pairs]).mean(1) / n
            entropy = -COEFFICIENTS["entropy"] * of_entropy[pairs].mean(1) / n
            for term, g in (("task", task), ("entropy", entropy)):
                rescaled = torch.full((n,), n / (n - 1), dtype=torch.float64)
                found[term].append(norm_of(g.square().sum(1), g @ g.sum(0), rescaled))
        for term, norms in found.items():
            true = inner(exact[number][term], exact[number][term])
            square, plain = (torch.tensor(x) for x in zip(*((x.square, x.norm**2) for x in norms), strict=True))
            if (number, term) == (0, "task"):  # equal rewards teach nothing, exactly
                assert true == 0 and not square.any() and not plain.any()
                continue
            se = float(square.std()) / len(square) ** 0.5
            assert abs(float(square.mean()) - true) < 3.5 * se
            assert float(plain.mean()) - true > 5 * se
            z = (square - true) / torch.tensor([x.square_se for x in norms])
            assert float((z.abs() < 1.959964).double().mean()) > 0.88


def _rows(policy, values):
    """The gradient of each value: [N, D]."""
    rows = [
        torch.autograd.grad(x, list(trained(policy).values()), retain_graph=True, allow_unused=True) for x in values
    ]
    shapes = list(trained(policy).values())
    filled = [[torch.zeros_like(p) if g is None else g for g, p in zip(row, shapes, strict=True)] for row in rows]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in filled])


def test_jackknife_errors_are_the_spread_over_draws():
    """Gaussian gradients of groups with a mean of 2 in one of 5 directions, 12 at a time."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for _ in range(800):
        g = torch.randn(12, 5, generator=generator, dtype=torch.float64) / 12
        g[:, 0] += 2 / 12
        found.append(norm_of(g.square().sum(1), g @ g.sum(0), torch.full((12,), 12 / 11, dtype=torch.float64)))
    square = torch.tensor([one.square for one in found])
    z = (square - 4) / torch.tensor([one.square_se for one in found])
    assert abs(float(square.mean()) - 4) < 4 * float(square.std()) / 800**0.5
    assert 0.93 < float((z.abs() < 1.959964).double().mean()) < 0.985
    norm = torch.tensor([one.norm for one in found])
    # widened by t(0.975, 11) / 1.96 = 1.123
    assert float(torch.tensor([one.norm_se for one in found]).mean()) / 1.123 == pytest.approx(
        float(norm.std()), rel=0.06
    )


def test_noise_alone_is_called_so():
    generator = torch.Generator().manual_seed(3)
    clear = []
    for _ in range(300):
        g = torch.randn(8, 40, generator=generator, dtype=torch.float64)
        clear.append(norm_of(g.square().sum(1), g @ g.sum(0), torch.full((8,), 8 / 7)).clear)
    assert sum(clear) <= 0.05 * 300


def test_few_groups_give_what_they_can():
    one = torch.tensor([4.0], dtype=torch.float64)
    assert norm_of(one[:0], one[:0], one[:0]) == Norm(None, None, None, None)
    assert norm_of(one, one, one) == Norm(2.0, None, None, None)
    # g_1 = (1, 0), g_2 = (2, 1): S = (3, 1), |S|^2 = 10, and 2 / 1 * (10 - 6) = 2 * 2 * g_1 . g_2 = 8
    two = norm_of(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 7.0]), torch.tensor([2.0, 2.0]))
    assert two.norm == pytest.approx(10**0.5) and two.square == pytest.approx(8.0)
    assert (two.norm_se, two.square_se, two.clear) == (None, None, None)
    rollouts = drawn(3)
    found = setting(rollouts)
    for groups in ((), (1,), (0, 2)):
        measured = found.on(groups)
        assert {norm.norm is None for norm in measured.norms.values()} == {not groups}
        assert {norm.square is None for norm in measured.norms.values()} == {len(groups) < 2}
        assert {norm.square_se for norm in measured.norms.values()} == {None}
        assert measured.sequences == 3 * len(groups)


def test_a_term_without_a_coefficient_is_not_there():
    for entropy, kl, terms in ((0.0, 0.0, ("task",)), (0.1, 0.0, ("task", "entropy")), (0.0, 0.5, ("task", "kl"))):
        of = objective(entropy, kl)
        assert of.terms == terms
        assert tuple(setting(drawn(3), of=of).on((0, 1, 2)).norms) == terms


def test_terms_add_up_to_the_loss():
    found = setting(drawn(), of=attrs.evolve(objective(), kl_weight="differentiable"))
    batch = found.update.batch
    scores = Scores(**found.policy(batch, entropy="gradient"))
    together = sum(found.update.objective.term(name, scores, batch) for name in ("task", "entropy", "kl"))
    torch.testing.assert_close(together, found.update.objective.tokens(scores, batch)[0], rtol=1e-6, atol=1e-12)


# --- buckets --------------------------------------------------------------------------------------------------------


def test_buckets_of_one_size_are_sorted_and_the_last_has_the_remainder():
    scores = torch.tensor([5.0, 1.0, 4.0, 0.0, 3.0, 0.0, 2.0, 6.0])
    assert [bucket.groups for bucket in by_quantile(scores, 3)] == [(3, 5), (1, 6), (0, 2, 4, 7)]
    assert [bucket.name for bucket in by_quantile(scores)] == [f"bucket_{n}" for n in range(1, 7)]
    assert [len(bucket.groups) for bucket in by_quantile(scores)] == [1, 1, 1, 1, 1, 3]
    assert [bucket.groups for bucket in by_quantile(scores[:2])] == [(1,), (0,)]
    assert by_quantile(scores[:0]) == []
    assert everything(scores).groups == tuple(range(8))


def test_edges_belong_to_the_bucket_above_them():
    found = by_edges(torch.tensor([0.0, 0.99, 1.0, 4.9, 5.0, 70.0]), (1.0, 2.0, 3.0, 4.0, 5.0))
    assert [bucket.groups for bucket in found] == [(0, 1), (2,), (), (), (3,), (4, 5)]
    assert [(bucket.low, bucket.high) for bucket in found][::5] == [(None, 1.0), (5.0, None)]


@pytest.mark.parametrize(
    ("edges", "problem"),
    [
        ((), "there is no edge"),
        ((1.0, 1.0), "edges must rise"),
        ((2.0, 1.0), "edges must rise"),
        ((math.nan,), "an edge is not a finite number"),
        ((1.0, math.inf), "an edge is not a finite number"),
    ],
)
def test_edges_that_part_nothing(edges, problem):
    assert edges_problem(edges) == problem
    assert edges_problem((-1.0, 0.0, 2.5)) == ""


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(bandit, tmp_path_factory):
    directory = tmp_path_factory.mktemp("gradients") / "run"
    changes = ["trainer.steps=2", "validation.every=0", "model.lora={rank: 2}", "collapse=[]", "trainer.save_every=1"]
    changes += ["kl.coef=0.1", "kl.estimator=low_var_kl", "advantage=grpo"]
    uncollapse.train(uncollapse.compose(bandit, changes), directory)
    return directory


def invoke(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_command(checkpoint, tmp_path):
    small = ("--results", tmp_path, "--set", "batch_config.G=2")
    given = (checkpoint, "--bu", 7, "--buckets", 2, *small)
    outcome = invoke(*given, "--label", "mine")
    assert outcome.exit_code == 0, outcome.output
    (directory,) = (tmp_path / "gradients").iterdir()
    assert directory.name.startswith("mine_")
    found = json.loads((directory / "gradients.json").read_text())
    assert [record["bucket"] for record in found["buckets"]] == ["all", "bucket_1", "bucket_2"]
    assert [record["groups"] for record in found["buckets"]] == [7, 3, 4]
    assert (found["by"], found["mode"], found["run_step"], found["G"]) == ("reward_variance", "quantile", 2, 2)
    assert found["terms"] == {
        "task": {"coefficient": 1.0}, "entropy": {"coefficient": 0.01}, "kl": {"coefficient": 0.1}
    }  # fmt: skip
    scores = sorted(group["score"] for group in found["groups"])
    assert found["buckets"][1]["score"]["max"] == scores[2]
    assert all(record["gradients"]["entropy"]["norm"] > 0 for record in found["buckets"])
    assert all(record["gradients"]["kl"]["square_se"] is not None for record in found["buckets"])
    rows = list(csv.DictReader((directory / "gradients.csv").open()))
    assert len(rows) == 9
    assert float(rows[0]["norm"]) == found["buckets"][0]["gradients"]["task"]["norm"]
    assert (directory / "gradients.png").read_bytes().startswith(b"\x89PNG")
    assert "B_U: 7" in (directory / "config.yaml").read_text()
    for text in ("7 x 2 sequences of U, groups by reward_variance", "task gradient", "kl gradient, coefficient 0.1"):
        assert text in outcome.output

    again = invoke(*given, "--json", "--step", 1, "--by", "entropy", "--edges", "0.001,900")
    assert "exclude each other" in again.output and again.exit_code == 2
    again = invoke(checkpoint, "--bu", 4, *small, "--json", "--step", 1, "--by", "entropy", "--edges", "900")
    assert again.exit_code == 0, again.output
    data = json.loads(again.output)
    assert (data["by"], data["run_step"], data["edges"]) == ("entropy", 1, [900.0])
    assert [record["groups"] for record in data["buckets"]] == [4, 4, 0]
    assert data["buckets"][2]["gradients"]["task"]["norm"] is None
    assert data["warnings"] == ["no group has a score in bucket_2: nothing is measured there"]


def test_a_bucket_of_one_group_and_terms_that_are_not_there(checkpoint, tmp_path):
    without = ("--set", "policy_gradient.kl_coef=0", "--set", "policy_gradient.entropy_coeff=0")
    outcome = invoke(checkpoint, "--bu", 2, "--results", tmp_path, "--set", "batch_config.G=2", *without)
    assert outcome.exit_code == 0, outcome.output
    for text in (
        "there are 2 buckets and not 6",
        "no standard errors with fewer than 3 groups: bucket_1 (1), bucket_2 (1)",
        "note  no KL term: the run's coefficient is 0",
        "note  no entropy bonus",
    ):
        assert text in outcome.output
    assert "kl gradient" not in outcome.output and "±" not in outcome.output


def test_all_groups_together_have_the_gradient_of_the_step_and_equal_rewards_teach_nothing(checkpoint):
    sizes = {"batch_config.B_U": 4, "batch_config.G": 3}
    config = read_config({}, {"checkpoint.checkpoint_path": str(checkpoint), **sizes}).config
    session = Session(config, ranks=ONE)
    U = rewarded(session.draw_U())
    still = U.rollouts.group_ids_P[1]
    equal = torch.where(U.rollouts.groups_of_episodes() == still, 2.0, U.rollouts.raw_rewards_E)
    last = U.rollouts.rewards != 0
    last[U.rollouts.groups == still] = False
    rewards = torch.where(last, U.rollouts.rewards, 0.0)
    U = attrs.evolve(U, rollouts=attrs.evolve(U.rollouts, raw_rewards_E=equal, rewards=rewards))
    sizes = config.memory_config.sizes
    found = Gradients(session.policy, session.update(U), session.weighting, session.rollout.max_context, ONE, **sizes)
    measured, step = found.on(range(4)), session.step(U)
    assert list(measured.norms) == ["task", "entropy", "kl"]
    assert measured.norms["task"].norm > 0 and measured.parts["task"][1] == 0
    assert (measured.parts["entropy"] > 0).all()
    # three gradients that add up to that of the step: the triangle holds, and the sum is the same by products
    together = length(step.gradient)
    sides = [one.norm for one in measured.norms.values()]
    assert abs(sides[0] - sides[1] - sides[2]) <= together * (1 + 1e-6) <= sum(sides) * (1 + 1e-5)
    alone = PolicyObjective(session.update(U).objective.policy_loss)
    update = attrs.evolve(session.update(U), objective=alone)
    task = Gradients(session.policy, update, session.weighting, session.rollout.max_context, ONE, **sizes)
    passes = Passes(session.policy, update.batch, ranks=ONE, **sizes)
    assert task.on(range(4)).norms["task"].norm == pytest.approx(length(passes.loss_gradient(update.loss)), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        (("kl_placement=reward", "entropy_coeff=0"), ["a part of the task's", "no entropy bonus"]),
        (("kl_coef=0",), ["no KL term: the run's coefficient is 0"]),
        ((), []),
    ],
)
def test_terms_that_have_no_gradient_of_their_own_are_noted(checkpoint, changes, notes):
    changed = dict(change.split("=") for change in changes)
    values = {f"policy_gradient.{key}": loads(value) for key, value in changed.items()}
    config = read_config({}, {"checkpoint.checkpoint_path": str(checkpoint), **values}).config
    found = list(_notes(Session(config, ranks=ONE)))
    assert len(found) == len(notes)
    assert all(note in line for note, line in zip(notes, found, strict=True))


@pytest.mark.slow
def test_two_ranks_find_what_one_does(checkpoint, tmp_path):
    found = []
    for ranks in ("1", "2"):
        command = [sys.executable, "-m", "uncollapse.cli.main", "probe", "gradients", str(checkpoint), "--bu", "4"]
        command += ["--ranks", ranks, "--edges", "900", "--json", "--results", str(tmp_path)]
        command += ["--trust"]  # other tests' plugin files may stand in the run's configuration
        done = subprocess.run(command, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
        found.append(json.loads((max((tmp_path / "gradients").iterdir()) / "gradients.json").read_text()))
    for one, two in zip(found[0]["buckets"], found[1]["buckets"], strict=True):
        assert (one["groups"], one["score"]) == (two["groups"], two["score"])
        for term, norms in one["gradients"].items():
            known = {name: value for name, value in norms.items() if value is not None}
            other = {name: value for name, value in two["gradients"][term].items() if value is not None}
            assert other == pytest.approx(known, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--step", 9), "choose a step that is saved: 1, 2"),
        (("--by", "reward_varianse"), "reward_variance"),
        (("--by", "reward_variance(ddof=3)"), "--by"),
        (("--set", "batch_config.G=1"), "compares the responses to one prompt"),
        (("--set", "batch_config.H=1"), "batch_config.H"),
        (("--label", "a/b"), "is no name of a directory"),
    ],
)
def test_wrong_requests(checkpoint, arguments, message, tmp_path):
    outcome = invoke(checkpoint, *arguments, "--results", tmp_path)
    assert isinstance(outcome.exception, RequestError), outcome.output
    assert message in str(outcome.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("edges", ["a,b", "2,1", "", "nan"])
def test_edges_are_rising_numbers(checkpoint, edges):
    outcome = invoke(checkpoint, "--edges", edges)
    assert outcome.exit_code == 2 and "write 1,2,3,4,5" in outcome.output


def test_what_is_no_checkpoint(tmp_path):
    outcome = invoke(tmp_path / "nowhere")
    assert isinstance(outcome.exception, RequestError)
    assert "there is no such checkpoint directory" in str(outcome.exception)
