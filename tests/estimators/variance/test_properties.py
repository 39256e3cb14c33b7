"""What holds for every estimator and all terms."""

import math

import attrs
import pytest
import torch
import uncollapse
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.estimators.variance.sequences import DerivDelta, JvpShardSe
from uncollapse.estimators.variance.terms import Terms
from uncollapse.estimators.variance.ustat import projections

REGISTRY = uncollapse.registry()
NAMES = REGISTRY.names("variance")
SEQUENCE = ("H", "T", "jH", "S1", "Hj", "Tj", "z", "w", "h1", "prompt", "shard")
RESAMPLES = {"bootstrap", "snis_bootstrap"}
BLOCKS = {"ustat_block_plugin", "ustat_block_jackknife"}
WITHOUT_ETA = {"frac_var", "repeat_std", "ustat_two_term_fit", "gns", "snis_ess", "entropy_prompt_jackknife"}
MEASURED = {"snis_delta", "snis_jackknife", "snis_bootstrap", "paired_difference"}


def create(name):
    return REGISTRY.create("variance", name, **({"resamples": 50} if name in RESAMPLES else {}))


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def make(seed, prompts=9, unit="per_token_ratio", eta=0.3):
    """Everything: ``prompts`` prompts of two sequences, in shards of three prompts."""
    g = torch.Generator().manual_seed(seed)
    B = 2 * prompts
    T = torch.randint(1, 9, (B,), generator=g).double()
    K_NM, K_UU = normal(g, prompts, 5) + 1, normal(g, 16, 16) + 1
    prompt = torch.arange(prompts).repeat_interleave(2)
    return Terms(
        eta=eta,
        entropy_unit=unit,
        s_N=K_NM.mean(1),
        t_M=K_NM.mean(0),
        K_NM=K_NM,
        r_U=projections(K_UU),
        K_UU=K_UU,
        H=T * torch.rand(B, generator=g),
        T=T,
        w=torch.rand(B, generator=g) + 0.5,
        z=normal(g, B, 2),
        prompt=prompt,
        shard=prompt // 3,
        repeats_K=normal(g, 12) / torch.tensor([1.0, 2.0, 3.0]).repeat_interleave(4),
        sizes_K=torch.tensor([4, 16, 36]).repeat_interleave(4),
        grad_sq_R=[9.0, 3.0, 1.5],
        grad_sizes_R=[1, 4, 16],
        **{name: normal(g, B) for name in ("jH", "S1", "Hj", "Tj", "h1")},
    )


def permuted(terms, seed):
    """The same terms with prompts of E, prompts of U, sequences, repetitions and norms in another order."""
    g = torch.Generator().manual_seed(seed)
    order = {n: torch.randperm(n, generator=g) for n in {len(terms.s_N), len(terms.t_M), len(terms.H), 16, 12, 3}}
    rows = {name: getattr(terms, name)[order[len(terms.H)]] for name in SEQUENCE}
    N, M, U = order[len(terms.s_N)], order[len(terms.t_M)], order[16]
    return attrs.evolve(
        terms,
        **rows,
        s_N=terms.s_N[N],
        t_M=terms.t_M[M],
        K_NM=terms.K_NM[N][:, M],
        r_U=terms.r_U[U],
        K_UU=terms.K_UU[U][:, U],
        repeats_K=terms.repeats_K[order[12]],
        sizes_K=terms.sizes_K[order[12]],
        grad_sq_R=terms.grad_sq_R[order[3]],
        grad_sizes_R=terms.grad_sizes_R[order[3]],
    )


def same(a, b, rel=1e-8):
    assert (a.status, a.n, a.estimand) == (b.status, b.n, b.estimand)
    assert a.se == pytest.approx(b.se, rel=rel, nan_ok=True)
    assert a.value == pytest.approx(b.value, rel=rel, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_estimator_states_what_it_needs_and_gives_a_finite_number(name):
    estimator = create(name)
    assert estimator.needs <= {field.name for field in attrs.fields(Terms)}
    everything = make(1)
    only_needed = Terms(entropy_unit=everything.entropy_unit, **{n: getattr(everything, n) for n in estimator.needs})
    estimate = estimator.estimate(only_needed)
    assert estimate.status == "ok", estimate.reason
    assert estimate.estimand == type(estimator).estimand
    assert math.isfinite(estimate.value) and estimate.n >= 2
    assert (estimate.se > 0 and estimate.var == pytest.approx(estimate.se**2)) or name == "gns"


@pytest.mark.parametrize("name", NAMES)
def test_what_the_command_line_shows(name):
    description = REGISTRY.describe("variance", name)
    assert description.summary and description.doc and description.needs
    assert description.facts["estimand"]
    assert all(parameter.doc for parameter in description.parameters)


@pytest.mark.parametrize("name", sorted(RESAMPLES))
def test_resampling_draws_a_thousand_times_unless_told_otherwise(name):
    assert REGISTRY.create("variance", name).resamples == 1000


def test_names():
    listed = """ustat_plugin ustat_jackknife ustat_block_plugin ustat_block_jackknife ustat_two_term_fit vx_vy
    vx_vy_unbiased row_jackknife column_jackknife two_way_jackknife frac_var conditional_E conditional_U repeat_std
    entropy_prompt_jackknife bootstrap jvp_shard_se cv_batch_se snis_ess snis_delta deriv_delta gns"""
    assert set(listed.split()) <= set(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in RESAMPLES | BLOCKS])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.integers(0, 10**6))
def test_the_order_does_not_matter(name, seed, order):
    terms = make(seed)
    same(create(name).estimate(terms), create(name).estimate(permuted(terms, order)))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_ETA | MEASURED])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), c=st.floats(-100, 100).filter(lambda c: abs(c) > 1e-3))
def test_a_learning_rate_c_times_as_large_gives_c_times_the_error(name, seed, c):
    one, other = (create(name).estimate(make(seed, eta=eta)) for eta in (0.3, 0.3 * c))
    assert other.se == pytest.approx(abs(c) * one.se, rel=1e-8)
    assert other.value == pytest.approx(c * one.value, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"jvp_shard_se", "legacy_jvp_shard_se"}])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), shards=st.integers(1, 9))
def test_how_sequences_were_split_over_shards_does_not_matter(name, seed, shards):
    terms = make(seed)
    same(create(name).estimate(terms), create(name).estimate(attrs.evolve(terms, shard=terms.prompt % shards)), rel=0)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), unit=st.sampled_from(["per_sequence", "per_token_ratio", "per_seq_token_mean"]))
def test_a_shard_for_every_prompt_is_the_delta_method(seed, unit):
    terms = make(seed, unit=unit)
    by_prompt = JvpShardSe().estimate(attrs.evolve(terms, shard=terms.prompt))
    assert by_prompt.se == pytest.approx(DerivDelta().estimate(terms).se, rel=1e-10)


def test_more_shards_do_not_make_the_error_smaller():
    terms = make(4, prompts=2048)
    errors = [JvpShardSe().estimate(attrs.evolve(terms, shard=terms.prompt % S)).se for S in (256, 512, 1024, 2048)]
    assert max(errors) < 1.15 * min(errors)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_jackknives_are_what_they_are_said_to_equal(seed):
    terms = make(seed)
    for jackknife, formula in (
        ("row_jackknife", "conditional_E"),
        ("column_jackknife", "conditional_U"),
        ("two_way_jackknife", "vx_vy"),
    ):
        assert create(jackknife).estimate(terms).var == pytest.approx(create(formula).estimate(terms).var, rel=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6))
def test_weights_are_normalised(seed, scale):
    terms = make(seed)
    for name in ("snis_delta", "snis_jackknife"):
        same(create(name).estimate(terms), create(name).estimate(attrs.evolve(terms, w=terms.w * scale)))


def one_unit(terms):
    names = (*SEQUENCE, "s_N", "t_M", "r_U", "repeats_K", "sizes_K", "grad_sq_R", "grad_sizes_R")
    first = {name: getattr(terms, name)[:1] for name in names}
    return attrs.evolve(terms, **first, K_NM=terms.K_NM[:1, :1], K_UU=terms.K_UU[:1, :1])


def no_spread(terms):
    first = {name: getattr(terms, name)[:1].expand_as(getattr(terms, name)) for name in SEQUENCE[:9]}
    inner = {name: torch.full_like(getattr(terms, name), 0.1) for name in ("s_N", "t_M", "K_NM", "r_U", "K_UU")}
    return attrs.evolve(terms, **first, **inner, repeats_K=torch.full((12,), 0.1))


@pytest.mark.parametrize("name", NAMES)
def test_one_unit_gives_no_number(name):
    estimate = create(name).estimate(one_unit(make(2)))
    assert estimate.status == "too_few_units"
    assert math.isnan(estimate.se) and math.isnan(estimate.var)
    assert estimate.reason


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gns"])
def test_equal_terms_give_no_number(name):
    estimate = create(name).estimate(no_spread(make(3)))
    assert estimate.status == "zero_variance", estimate
    assert math.isnan(estimate.se)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_a_non_finite_term_gives_no_number(name, bad):
    estimator = create(name)
    for term in estimator.needs - {"eta", "shard", "sizes_K", "grad_sizes_R"}:
        terms = make(5)
        value = getattr(terms, term).clone()
        value[(0, 1) if value.ndim == 2 else 0] = bad
        estimate = estimator.estimate(attrs.evolve(terms, **{term: value}))
        assert estimate.status == "non_finite" and math.isnan(estimate.se)
        assert f"terms.{term}" in estimate.reason


def test_no_step_is_no_change_and_no_error():
    terms = make(6, eta=0.0)
    terms = attrs.evolve(terms, w=torch.ones_like(terms.w), h1=terms.H)
    for name in ("deriv_delta", "snis_delta", "paired_difference"):
        assert create(name).estimate(terms).status == "zero_variance"


def test_weights_that_are_all_0_are_undefined():
    terms = attrs.evolve(make(7), w=torch.zeros(18))
    for name in ("snis_delta", "snis_jackknife", "snis_bootstrap", "snis_ess"):
        assert create(name).estimate(terms).status == "undefined"


def test_one_sequence_with_all_the_weight_cannot_be_left_out():
    w = torch.zeros(18, dtype=torch.float64)
    w[0] = 1
    estimate = create("snis_jackknife").estimate(attrs.evolve(make(8), w=w))
    assert estimate.status == "non_finite" and math.isnan(estimate.se)
