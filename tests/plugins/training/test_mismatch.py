import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import pad
from uncollapse.plugins.training.step.mismatch import mismatch


def of(differences, mask=None):
    """The metrics for these values of trainer - sampler, without the prefix."""
    d = torch.tensor(differences, dtype=torch.float64)
    sampler = torch.linspace(-3, -1, d.numel(), dtype=torch.float64).view(d.shape)
    mask = torch.ones_like(d, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return {name.removeprefix("mismatch/"): value for name, value in mismatch(sampler + d, sampler, mask).items()}


def test_by_hand():
    found = of(
        [[9.0, math.log(2), 0.0], [9.0, 9.0, -0.5], [9.0, 9.0, 9.0]],
        [[False, True, True], [False] * 2 + [True], [False] * 3],
    )
    # rows 2 and e^-0.5; the last one sampled nothing
    assert found == pytest.approx(
        {
            "k1": (0.5 - math.log(2)) / 3,
            "k2": (math.log(2) ** 2 + 0.25) / 6,
            "abs": (math.log(2) + 0.5) / 3,
            "max_ratio": 2,
            "min_ratio": math.exp(-0.5),
            "seq_max_ratio": 2,
            "ess": (2 + math.exp(-0.5)) ** 2 / (2 * (4 + math.exp(-1))),
        }
    )


def test_a_sampler_that_is_the_trainer():
    zero = {"k1": 0, "k2": 0, "abs": 0}
    assert of([[0.0, 0.0], [0.0, 0.0]]) == zero | dict.fromkeys(["max_ratio", "min_ratio", "seq_max_ratio", "ess"], 1)


@pytest.mark.parametrize("size", [0.1, 1.0, 100.0, 1e5])
def test_the_extremes_of_the_effective_sample_size(size):
    assert of([[size], [size], [size], [size]])["ess"] == pytest.approx(1)
    assert of([[-size] * 3] * 5)["ess"] == pytest.approx(1)
    one = math.exp(-2 * size)
    assert of([[size], [-size], [-size], [-size]])["ess"] == pytest.approx((1 + 3 * one) ** 2 / (4 * (1 + 3 * one**2)))
    if size >= 100:
        assert of([[size], [-size], [-size], [-size]])["ess"] == pytest.approx(1 / 4)
        assert of([[-size], [size], [size], [-size]])["ess"] == pytest.approx(2 / 4)


def test_nothing_overflows_in_single_precision():
    old, sampler = torch.zeros(3, 400), torch.full((3, 400), -30.0)
    found = mismatch(old, sampler, torch.ones(3, 400, dtype=torch.bool))
    assert all(math.isfinite(value) for value in found.values())
    assert found["mismatch/max_ratio"] == found["mismatch/seq_max_ratio"] == pytest.approx(math.exp(20))
    assert found["mismatch/ess"] == pytest.approx(1)


def test_k1_and_k2_estimate_the_kl_of_the_sampler_to_the_trainer():
    q, p = torch.tensor([[0.5, 0.3, 0.2], [0.45, 0.32, 0.23]], dtype=torch.float64)
    drawn = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)  # the sampler's frequencies exactly
    found = mismatch(p.log()[drawn][None], q.log()[drawn][None], torch.ones(1, 100, dtype=torch.bool))
    kl = float((q * (q / p).log()).sum())
    assert found["mismatch/k1"] == pytest.approx(kl, rel=1e-12)
    assert found["mismatch/k2"] == pytest.approx(kl, rel=0.1)


def test_nothing_sampled_gives_no_metrics():
    assert of([[1.0, 2.0]], [[False, False]]) == {}


@given(
    differences=st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
    shift=st.floats(-2, 2),
    right=st.integers(0, 4),
    below=st.integers(0, 3),
)
def test_order_padding_and_shift(differences, seed, shift, right, below):
    generator = torch.Generator().manual_seed(seed)
    d = torch.tensor(differences, dtype=torch.float64)
    mask = torch.rand(d.shape, generator=generator) < 0.7
    mask[0, 0] = True
    sampler = torch.full_like(d, -2.0)
    found = mismatch(sampler + d, sampler, mask)
    order = torch.randperm(len(d), generator=generator)
    assert mismatch((sampler + d)[order], sampler[order], mask[order]) == pytest.approx(found, rel=1e-9, abs=1e-12)
    padded = [pad(x, (0, right, 0, below), value=v) for x, v in ((sampler + d, 5.0), (sampler, -5.0), (mask, False))]
    assert mismatch(*padded) == pytest.approx(found, rel=1e-9, abs=1e-12)
    rows = int(mask.any(1).sum())
    assert 1 / rows * (1 - 1e-9) <= found["mismatch/ess"] <= 1 + 1e-9
    # all log-ratios of the rows moved alike: the weights change by a factor
    whole = torch.ones_like(mask)
    moved = mismatch(sampler + d + shift, sampler, whole)
    fixed = mismatch(sampler + d, sampler, whole)
    assert moved["mismatch/ess"] == pytest.approx(fixed["mismatch/ess"])
    assert moved["mismatch/k1"] == pytest.approx(fixed["mismatch/k1"] - shift)
    assert moved["mismatch/max_ratio"] == pytest.approx(fixed["mismatch/max_ratio"] * math.exp(shift))
