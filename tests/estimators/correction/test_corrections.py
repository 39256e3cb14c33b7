"""Weights by hand, and what no correction may depend on."""

import functools
import json
import math
from pathlib import Path

import pytest
import torch
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import pad
from uncollapse.core.errors import RequestError

NAMES = ["tis", "icepop", "sequence_tis", "sequence_mask", "sequence_divergence"]
MASK = [[False, True, True, True], [False, True, True, False], [False, False, False, False]]
RATIOS = [[9.0, 4.0, 1.0, 0.25], [9.0, 3.0, 0.9, 9.0], [9.0, 9.0, 9.0, 9.0]]
"""Products of the rows 1 and 2.7, geometric means 1 and 1.643; the last row sampled nothing."""
ALL = "none", "tis(.inf)", "tis(0.5)", "icepop(0.9, 1.1)", "sequence_tis(.inf)", "sequence_tis(1)"
ALL += "sequence_mask(low=0.8, high=1.2)", "sequence_mask(sum, weight=sequence)", "sequence_mask(weight=none)"
ALL += "sequence_divergence(high=0.03)", "sequence_divergence(k2, max, 0.1, token)", "sequence_divergence(k2, sum, 9)"


@functools.cache
def create(text):
    return uncollapse.compose(
        {"environment": "bandit", "model": {"path": "m"}, "correction": text}
    ).correction.component


def correct(text, ratios=RATIOS, mask=MASK, dtype=torch.float64):
    old = torch.tensor(ratios, dtype=torch.float64).log().to(dtype) - 3
    return create(text).correction(old, torch.full_like(old, -3), torch.tensor(mask))


def test_the_bounds_of_a_window_are_inside_it():
    one = [[1.0, 1.0, 1.0]]  # ratios of exactly 1
    mask = [[True, True, False]]
    for text in ("icepop(1, 2)", "icepop(0.5, 1)", "sequence_mask(low=1, high=2)", "sequence_mask(low=0.5, high=1)"):
        assert correct(text, one, mask)[0].tolist() == [[1, 1, 0]]


def test_the_bound_of_a_divergence_is_inside_it():
    """All numbers are exact: log r = 1/2 on both tokens, and 1/8 is the mean of their halved squares."""
    correction = create("sequence_divergence(k2, mean, 0.125)")
    old, sampler = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.5]])
    assert correction.correction(old, sampler, torch.tensor([[True, True]]))[0].tolist() == [[1, 1]]
    beyond = torch.tensor([[-1.5, -2.51]])
    assert correction.correction(old, beyond, torch.tensor([[True, True]]))[0].tolist() == [[0, 0]]


def test_the_mean_of_a_row_of_one_token_is_that_token():
    weights, _ = correct("sequence_mask(low=3.9, high=4.1)", [[9.0, 4.0], [9.0, 2.0]], [[False, True]] * 2)
    assert weights[:, 1].tolist() == pytest.approx([4, 0])


@pytest.mark.parametrize(
    ("text", "first", "second", "metrics"),
    [
        ("none", [1, 1, 1], [1, 1], {}),
        ("tis", [2, 1, 0.25], [2, 0.9], {"mean_weight": 6.15 / 5, "truncated": 2 / 5}),
        ("tis(cap=3.5)", [3.5, 1, 0.25], [3, 0.9], {"mean_weight": 8.65 / 5, "truncated": 1 / 5}),
        ("icepop", [4, 1, 0], [3, 0.9], {"mean_weight": 8.9 / 5, "masked": 1 / 5}),
        ("icepop(low=0.2, high=3.5)", [0, 1, 0.25], [3, 0.9], {"mean_weight": 5.15 / 5, "masked": 1 / 5}),
        ("sequence_tis", [1, 1, 1], [2, 2], {"mean_weight": 7 / 5, "truncated": 1 / 2}),
        ("sequence_tis(0.9)", [0.9] * 3, [0.9] * 2, {"mean_weight": 0.9, "truncated": 1}),
        ("sequence_mask", [4, 1, 0.25], [0, 0], {"mean_weight": 5.25 / 5, "masked": 1 / 2}),
        ("sequence_mask(low=1.1, high=1.7)", [0] * 3, [3, 0.9], {"mean_weight": 3.9 / 5, "masked": 1 / 2}),
        ("sequence_mask(sum)", [4, 1, 0.25], [0, 0], {"mean_weight": 5.25 / 5, "masked": 1 / 2}),
        ("sequence_mask(sum, 0, 3, sequence)", [1, 1, 1], [2.7, 2.7], {"mean_weight": 8.4 / 5, "masked": 0}),
        ("sequence_mask(high=1.7, weight=none)", [1, 1, 1], [1, 1], {"mean_weight": 1, "masked": 0}),
        # r - 1 - log r: 1.614, 0, 0.636 and 0.901, 0.005; (log r)^2 / 2: 0.961, 0, 0.961 and 0.603, 0.006
        ("sequence_divergence", [0] * 3, [0] * 2, {"mean_weight": 0, "masked": 1}),
        ("sequence_divergence(high=0.5)", [0] * 3, [1, 1], {"mean_weight": 2 / 5, "masked": 1 / 2}),
        ("sequence_divergence(high=0.751)", [1] * 3, [1, 1], {"mean_weight": 1, "masked": 0}),
        ("sequence_divergence(k3, max, 1.6)", [0] * 3, [1, 1], {"mean_weight": 2 / 5, "masked": 1 / 2}),
        ("sequence_divergence(k3, sum, 2.2, token)", [0] * 3, [3, 0.9], {"mean_weight": 3.9 / 5, "masked": 1 / 2}),
        ("sequence_divergence(k2, mean, 0.6, sequence)", [0] * 3, [2.7] * 2, {"mean_weight": 5.4 / 5, "masked": 1 / 2}),
        ("sequence_divergence(k2, max, 0.97, token)", [4, 1, 0.25], [3, 0.9], {"mean_weight": 9.15 / 5, "masked": 0}),
    ],
)
def test_by_hand(text, first, second, metrics):
    weights, own = correct(text)
    assert weights.tolist() == [
        pytest.approx([0, *first]),
        pytest.approx([0, *second, 0]),
        [0, 0, 0, 0],
    ]
    assert own == pytest.approx(metrics)


@pytest.mark.parametrize(("alias", "name"), [("seq_tis", "sequence_tis"), ("seq_mask_tis", "sequence_mask")])
def test_aliases(alias, name):
    registry = uncollapse.registry()
    assert registry.resolve("sampler_correction", alias) is registry.resolve("sampler_correction", name)


@pytest.mark.parametrize("text", ALL)
def test_weights_carry_no_gradient_and_nothing_off_the_mask_reaches_them(text):
    nan, inf = math.nan, math.inf
    old = torch.tensor([[nan, -1.0, inf, -1.0]], requires_grad=True)
    sampler = torch.tensor([[-1.0, -1.01, -inf, -1.01]])
    weights, metrics = create(text).correction(old, sampler, torch.tensor([[False, True, False, True]]))
    assert not weights.requires_grad
    assert weights.dtype == torch.float32
    assert weights[0, [0, 2]].tolist() == [0, 0]
    assert weights.isfinite().all()
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("text", ALL)
def test_extreme_ratios_stay_finite(text):
    old = torch.tensor([[-1e4, -1e4, 0.0], [0.0, 0.0, -1e4]])
    weights, metrics = create(text).correction(old, old.flip(1) - 1e3, torch.ones_like(old, dtype=torch.bool))
    assert weights.isfinite().all()
    assert weights.max() <= math.exp(20) * 1.0001
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("text", ALL)
def test_an_empty_mask(text):
    weights, metrics = correct(text, mask=[[False] * 4] * 3)
    assert not weights.any()
    assert not any(metrics.values())


@pytest.mark.parametrize("text", ALL)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 6), right=st.integers(0, 4), below=st.integers(0, 3))
def test_order_and_padding_change_nothing(text, seed, rows, right, below):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, 7, generator=generator) < 0.6
    sampler = -3 * torch.rand(rows, 7, generator=generator)
    old = sampler + 0.3 * torch.randn(rows, 7, generator=generator)
    correction = create(text)
    weights, metrics = correction.correction(old, sampler, mask)
    order = torch.randperm(rows, generator=generator)
    shuffled, of_shuffled = correction.correction(old[order], sampler[order], mask[order])
    assert torch.equal(shuffled, weights[order])
    assert of_shuffled == pytest.approx(metrics, rel=1e-12)

    def padded(tensor, value):
        return pad(tensor, (0, right, 0, below), value=value)

    more, of_more = correction.correction(padded(old, -7.0), padded(sampler, -1.0), padded(mask, False))
    assert torch.allclose(more, padded(weights, 0.0), rtol=1e-6, atol=0)
    assert of_more == pytest.approx(metrics, rel=1e-12)
    # a row's weights are its own business
    alone, _ = correction.correction(old[:1], sampler[:1], mask[:1])
    assert torch.allclose(alone, weights[:1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
@given(shift=st.floats(-5, 5), seed=st.integers(0, 2**32))
def test_only_the_difference_of_the_log_probs_counts(name, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    sampler, noise = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    mask = torch.ones(3, 5, dtype=torch.bool)
    weights = create(name).correction(sampler + noise, sampler, mask)[0]
    assert torch.allclose(create(name).correction(sampler + noise + shift, sampler + shift, mask)[0], weights)


@given(d=st.floats(-3, 3))
def test_a_shift_of_all_log_ratios_by_hand(d):
    mask = [[True, True, True]]
    weights, _ = correct("tis(2)", [[math.exp(d)] * 3], mask)
    assert weights[0].tolist() == pytest.approx([min(math.exp(d), 2)] * 3)
    weights, _ = correct("sequence_tis(2)", [[math.exp(d)] * 3], mask)
    assert weights[0].tolist() == pytest.approx([min(math.exp(3 * d), 2)] * 3)
    weights, _ = correct("sequence_mask(mean, 0.5, 2)", [[math.exp(d)] * 3], mask)
    assert weights[0].tolist() == pytest.approx([math.exp(d) if abs(d) <= math.log(2) else 0] * 3)
    weights, _ = correct("sequence_mask(sum, weight=none)", [[math.exp(d)] * 3], mask)
    assert weights[0].tolist() == pytest.approx([float(abs(3 * d) <= math.log(2))] * 3)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("tis(0)", "cap"),
        ("sequence_tis(0)", "cap"),
        ("icepop(-0.1)", "low"),
        ("icepop(2, 2)", "high = 2.0: must be more than low"),
        ("sequence_mask(low=-0.1)", "low"),
        ("sequence_mask(high=-0.5)", "> 0"),
        ("sequence_mask(low=1.01)", "high must be more than low"),
        ("sequence_mask(sum, high=0.5)", "high must be more than low"),
        ("sequence_mask(median)", "level"),
        ("sequence_divergence(k1)", "of"),
        ("sequence_divergence(level=median)", "level"),
        ("sequence_divergence(high=0)", "high"),
        ("sequence_divergence(weight=row)", "weight"),
    ],
)
def test_parameters_are_checked(text, field):
    with pytest.raises(RequestError, match=field):
        create(text)


def test_a_ratio_at_the_cap_is_not_truncated():
    weights, metrics = correct("tis(1.0)", [[1.0, 1.0, 3.0]], [[True, True, True]])
    assert metrics["truncated"] == pytest.approx(1 / 3)
    assert weights.tolist() == [[1.0, 1.0, 1.0]]


PEER = json.loads((Path(__file__).parents[2] / "peers" / "verl_rejections.json").read_text())


@pytest.mark.parametrize("case", PEER["cases"], ids=lambda case: f"{case['ours']}-{case['inputs']}")
def test_the_rows_that_are_dropped_are_those_that_verl_drops(case):
    given_ = {name: torch.tensor(value) for name, value in PEER["inputs"][case["inputs"]].items()}
    old, sampler = given_["old_logprobs"].double(), given_["sampler_logprobs"].double()
    weights, _ = create(case["ours"]).correction(old, sampler, given_["mask"])
    kept = (torch.tensor(case["kept"]) & given_["mask"]).any(1)
    assert weights.any(1).tolist() == kept.tolist()
    assert 0 < int(kept.sum()) < len(kept)


@pytest.mark.parametrize(
    ("text", "weighs"),
    [
        *(("none", "tokens"), ("tis", "tokens"), ("icepop", "tokens"), ("sequence_tis", "rows")),
        *(
            ("sequence_mask", "tokens"),
            ("sequence_mask(weight=none)", "rows"),
            ("sequence_mask(weight=sequence)", "rows"),
        ),
        *(("sequence_divergence", "rows"), ("sequence_divergence(weight=token)", "tokens")),
        ("sequence_divergence(weight=sequence)", "rows"),
    ],
)
def test_what_has_a_weight_of_its_own(text, weighs):
    assert create(text).weighs == weighs
