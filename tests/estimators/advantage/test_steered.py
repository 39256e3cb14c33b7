"""Hand-computed numbers of the estimators that change another one's advantages to hold the entropy."""

from __future__ import annotations

import attrs
import pytest
import torch
from credit_help import close, rows
from uncollapse.core.components import CreditInputs
from uncollapse.core.compose.inner import named_of
from uncollapse.estimators.advantage.steered import Entropic, Repo


def batch_of(entropy, logprob=-2.0):
    """A group of a success and a failure (dr_grpo: 1 and -1), and one of two equal scores."""
    batch = rows([1.0, -1.0, 0.5, 0.5], lengths=[2, 3, 1, 2])
    entropies = torch.where(batch["mask"], entropy, 100.0)
    entropies[0, 0], entropies[1, 0] = entropy - 0.01, entropy + 0.01
    logprobs = torch.where(batch["mask"], logprob, torch.nan)
    return CreditInputs(**batch, groups=torch.tensor([4, 4, 9, 9]), entropies=entropies, logprobs=logprobs)


def seen(session, entropy, **others):
    """[B]: the advantages of the rows."""
    advantages = session.compute(batch_of(entropy, **others)).advantages
    assert not advantages[0, 2]
    return advantages[:, 0]


class TestEntropic:
    def test_failures_weigh_more_while_the_entropy_is_low(self):
        session = Entropic(0.5, of="dr_grpo").start()
        close(seen(session, 0.3), [0.8, -1.2, 0, 0])
        # 0.1 now, and a hundredth of the error before
        close(seen(session, 0.6), [1.098, -0.902, 0, 0])
        assert session.metrics() == {"alpha": pytest.approx(0.098, abs=1e-6)}

    def test_alpha_is_that_of_the_published_recursion(self):
        session = Entropic(0.5).start()
        entropies = torch.rand(30, generator=torch.Generator().manual_seed(5)).tolist()
        last = 0.0
        for entropy in entropies:
            seen(session, entropy)
            alpha = last + 1.0 * (entropy - 0.5)
            last = alpha - 0.99 * (entropy - 0.5)
            assert session.alpha == pytest.approx(alpha, abs=1e-6)

    def test_no_weight_is_negative_and_the_sum_does_not_wind_up(self):
        session = Entropic(0.5, of="dr_grpo").start()
        for _ in range(100):
            close(seen(session, 4.5), [2.0, 0.0, 0, 0])
        close(seen(session, 0.5), [1.0, -1.0, 0, 0])
        narrow = Entropic(0.5, limit=0.25, of="dr_grpo").start()
        close(seen(narrow, 0.0), [0.75, -1.25, 0, 0])

    def test_returns_and_an_entropy_at_the_target_change_nothing(self):
        batch, inner = batch_of(0.5), named_of("advantage", "dr_grpo", "of").component
        result = Entropic(0.5, of="dr_grpo").start().compute(attrs.evolve(batch, entropies=batch.entropies + 0.2))
        assert torch.equal(result.returns, inner.compute(batch).returns)
        close(seen(Entropic(0.5, of="dr_grpo").start(), 0.5), [1.0, -1.0, 0, 0])

    def test_it_goes_on_from_its_state(self):
        session = Entropic(0.5, ki=0.5, of="dr_grpo").start()
        seen(session, 0.3)
        resumed = Entropic(0.5, ki=0.5, of="dr_grpo").start()
        resumed.load_state_dict(session.state_dict())
        close(seen(resumed, 0.5), [0.9, -1.1, 0, 0])

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"target": 0.0}, "target"),
            ({"target": 0.5, "limit": 1.5}, "limit"),
            ({"target": 0.5, "kp": 0.0, "ki": 0.0}, "both 0"),
            ({"target": 0.5, "kp": -1.0}, "kp"),
        ],
    )
    def test_parameters_without_a_meaning_are_refused(self, given, says):
        with pytest.raises(ValueError, match=says):
            Entropic(**given)


class TestRepo:
    def test_rare_good_tokens_gain_and_rare_bad_ones_are_spared(self):
        session = Repo(0.05, adapt=False, of="dr_grpo").start()
        close(seen(session, 0.5), [1.1, -0.9, 0, 0])
        close(seen(session, 0.5, logprob=0.0), [1.0, -1.0, 0, 0])
        close(seen(Repo(-0.05, adapt=False, of="dr_grpo").start(), 0.5), [0.9, -1.1, 0, 0])

    def test_no_token_changes_its_sign_however_rare_it_is(self):
        session = Repo(0.1, adapt=False, of="dr_grpo").start()
        close(seen(session, 0.5, logprob=-15.0), [2.5, 0.0, 0, 0])
        close(seen(session, 0.5, logprob=-500.0), [3.0, 0.0, 0, 0])

    @pytest.mark.parametrize(
        ("zeta", "entropy", "expected"),
        [
            (1e-3, 0.4, 2e-3),
            (0.03, 0.4, 0.05),
            (1e-3, 0.6, 5e-4),
            (2e-4, 0.6, 1e-4),
            (1.5e-4, 0.6, -1e-4),
            (-1e-4, 0.6, -2e-4),
            (-0.03, 0.6, -0.05),
            (-4e-4, 0.4, -2e-4),
            (-1.5e-4, 0.4, 1e-4),
            (1e-3, 0.5, 1e-3),
        ],
    )
    def test_zeta_doubles_halves_and_turns_as_published(self, zeta, entropy, expected):
        assert Repo().moved(zeta, entropy, 0.5) == pytest.approx(expected, abs=1e-12)

    def test_the_target_is_the_entropy_of_the_first_step(self):
        session = Repo(0.01, of="dr_grpo").start()
        close(seen(session, 0.5), [1.02, -0.98, 0, 0])
        close(seen(session, 0.4), [1.04, -0.96, 0, 0])
        close(seen(session, 0.6), [1.02, -0.98, 0, 0])
        assert session.metrics() == {"zeta": pytest.approx(0.01)}
        close(seen(Repo(0.01, target=0.6, of="dr_grpo").start(), 0.5), [1.04, -0.96, 0, 0])

    def test_it_goes_on_from_its_state(self):
        rule = Repo(0.01, of="dr_grpo")
        session, resumed, unused = (rule.start() for _ in range(3))
        seen(session, 0.5)
        resumed.load_state_dict(session.state_dict())
        close(seen(resumed, 0.4), [1.04, -0.96, 0, 0])
        unused.load_state_dict(rule.start().state_dict())
        close(seen(unused, 0.4), [1.02, -0.98, 0, 0])

    def test_a_batch_without_tokens_moves_nothing(self):
        batch = batch_of(0.5)
        nothing = attrs.evolve(batch, mask=torch.zeros_like(batch.mask))
        for rule in (Repo(), Entropic(0.3)):
            session = rule.start()
            before = session.state_dict()
            assert not session.compute(nothing).advantages.any()
            assert session.state_dict() == before

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"zeta": 0.0}, "must not be 0"),
            ({"zeta": 0.1}, "between low and high"),
            ({"low": 0.05, "high": 0.01, "zeta": 0.02}, "between low and high"),
            ({"target": -1.0}, "target"),
        ],
    )
    def test_parameters_without_a_meaning_are_refused(self, given, says):
        with pytest.raises(ValueError, match=says):
            Repo(**given)
