"""Hand-computed numbers of the estimators that treat good and bad outcomes differently."""

from __future__ import annotations

import attrs
import pytest
import torch
from credit_help import close, per_row, rows
from uncollapse.core.components import CreditInputs
from uncollapse.core.compose.inner import named_of
from uncollapse.core.errors import UncollapseError
from uncollapse.estimators.advantage.signs import Entrocraft, Nsr, WReinforce


class TestWeightedReinforce:
    def test_a_good_score_weighs_a_tenth(self):
        close(per_row(WReinforce(), [1.0, -1.0, 2.0], [1, 1, 2]), [0.1, -1, 0.2])
        close(per_row(WReinforce(positive=0.5), [1.0, -1.0, 0.0], [1, 1, 2]), [0.5, -1, 0])

    def test_negative_sample_reinforcement_learns_from_failures_only(self):
        close(per_row(Nsr(), [1.0, -1.0, -0.25], [1, 1, 2]), [0, -1, -0.25])
        close(per_row(WReinforce(positive=0.0), [1.0, -1.0, -0.25], [1, 1, 2]), [0, -1, -0.25])

    def test_the_threshold_says_what_is_bad(self):
        close(per_row(Nsr(threshold=0.5), [1.0, 0.0], [1, 1]), [0, -0.5])
        close(per_row(WReinforce(threshold=0.5), [1.0, 0.0], [1, 1]), [0.05, -0.5])

    def test_a_group_of_equal_failures_trains(self):
        close(per_row(Nsr(), [-1.0, -1.0], [1, 1]), [-1.0, -1])

    def test_the_weight_of_nsr_is_no_parameter(self):
        assert [field.name for field in attrs.fields(Nsr)] == ["threshold"]


def entropies_of(entropy, step=0, steps=1):
    """Two groups: one of a success and a failure, one of two failures; entropies of mean ``entropy`` on the mask."""
    batch = rows([1.0, -1.0, -1.0, -1.0], lengths=[2, 3, 1, 2])
    entropies = torch.where(batch["mask"], entropy, 100.0)
    entropies[0, 0], entropies[1, 0] = entropy - 0.01, entropy + 0.01
    groups = torch.tensor([4, 4, 9, 9])
    return CreditInputs(**batch, groups=groups, entropies=entropies, step=step, steps=steps)


BAND = {"low": 0.6, "high": 0.7, "low_end": 0.6, "high_end": 0.7, "of": "dr_grpo"}


class TestEntrocraft:
    @pytest.mark.parametrize(
        ("entropy", "expected"), [(0.5, [0, -1.0, 0, 0]), (0.65, [1.0, -1, 0, 0]), (0.8, [1.0, 0, 0, 0])]
    )
    def test_one_sign_trains_while_entropy_is_out_of_the_band(self, entropy, expected):
        result = Entrocraft(**BAND).compute(entropies_of(entropy))
        close(result.advantages[:, 0], expected)
        close(result.returns[:, 0], [1.0, -1, -1, -1])
        assert not result.advantages[2, 1:].any()

    @pytest.mark.parametrize(
        ("step", "anneal", "band"),
        [
            (0, "linear", (0.55, 0.65)),
            (1, "linear", (0.5, 0.6)),
            (3, "linear", (0.4, 0.5)),
            (9, "linear", (0.4, 0.5)),
            (0, "cosine", (0.570711, 0.670711)),
            (1, "cosine", (0.5, 0.6)),
            (3, "cosine", (0.4, 0.5)),
        ],
    )
    def test_the_band_moves_over_the_run(self, step, anneal, band):
        assert Entrocraft(anneal=anneal).band(step, 4) == pytest.approx(band, abs=1e-6)

    def test_what_trained_in_the_beginning_does_not_at_the_end(self):
        estimator = Entrocraft(of="dr_grpo")
        close(estimator.compute(entropies_of(0.52, step=0, steps=4)).advantages[:, 0], [0, -1.0, 0, 0])
        close(estimator.compute(entropies_of(0.52, step=1, steps=4)).advantages[:, 0], [1.0, -1.0, 0, 0])
        close(estimator.compute(entropies_of(0.52, step=3, steps=4)).advantages[:, 0], [1.0, 0, 0, 0])

    def test_it_needs_what_the_estimator_inside_needs(self):
        named = named_of("advantage", "entrocraft(of=gae)", "advantage")
        assert named.needs == {"entropies", "values"}

    def test_a_batch_without_tokens_has_no_entropy(self):
        batch = entropies_of(0.5)
        nothing = attrs.evolve(batch, mask=torch.zeros_like(batch.mask))
        assert not Entrocraft().compute(nothing).advantages.any()

    def test_a_band_upside_down_is_refused(self):
        with pytest.raises((ValueError, UncollapseError), match="low must be at most high"):
            Entrocraft(low=0.8, high=0.7)
        with pytest.raises((ValueError, UncollapseError), match="low_end must be at most high_end"):
            named_of("advantage", "entrocraft(low_end=0.6)", "advantage")
