"""Numbers computed by hand, and formulas written out a second time."""

import itertools
import math

import pytest
import torch
import uncollapse
from uncollapse.core.errors import RunError
from uncollapse.estimators.variance.products import VxVyUnbiased
from uncollapse.estimators.variance.repeats import chi2_quantile
from uncollapse.estimators.variance.sequences import Bootstrap
from uncollapse.estimators.variance.terms import Terms
from uncollapse.estimators.variance.ustat import UstatJackknife, projections

REGISTRY = uncollapse.registry()
S, T_ = [1.0, 2, 4, 5], [2.0, 5]


def estimate(name, **terms):
    return REGISTRY.create("variance", name).estimate(Terms(**terms))


def random_terms(seed=0, B=12, **options):
    generator = torch.Generator().manual_seed(seed)
    normal = {name: torch.randn(B, generator=generator, dtype=torch.float64) for name in ("jH", "S1", "Hj", "Tj", "h1")}
    T = torch.randint(1, 9, (B,), generator=generator)
    H = T * torch.rand(B, generator=generator, dtype=torch.float64)
    w = torch.rand(B, generator=generator, dtype=torch.float64) + 0.5
    z = torch.randn(B, 2, generator=generator, dtype=torch.float64)
    return {"eta": 0.7, "H": H, "T": T, "w": w, "z": z, **normal, **options}


class TestProducts:
    @pytest.mark.parametrize("name", ["conditional_E", "row_jackknife"])
    def test_given_the_update(self, name):
        result = estimate(name, eta=0.5, s_N=S)
        assert (result.value, result.n, result.status) == (1.5, 4, "ok")
        assert result.var == pytest.approx(0.25 * 10 / 12, rel=1e-12)
        assert result.se == pytest.approx(math.sqrt(result.var), rel=1e-15)

    @pytest.mark.parametrize("name", ["conditional_U", "column_jackknife"])
    def test_given_the_evaluation_batch(self, name):
        result = estimate(name, eta=2, t_M=T_)
        assert result.value == 7 and result.var == pytest.approx(4 * 4.5 / 2, rel=1e-12)

    @pytest.mark.parametrize("name", ["vx_vy", "two_way_jackknife"])
    def test_both(self, name):
        result = estimate(name, eta=2, s_N=[1.5, 5.5], t_M=T_)
        assert (result.value, result.n) == (7, 2)
        assert result.var == pytest.approx(4 * 6.25, rel=1e-12)

    def test_both_without_bias(self):
        result = estimate("vx_vy_unbiased", eta=2, s_N=[1.5, 5.5], t_M=T_, K_NM=[[1, 2], [3, 8]])
        assert dict(result.extra) == {"V_X": 4, "V_Y": 2.25, "V_XY": 1}
        assert result.var == 4 * 5.25

    def test_a_negative_variance_is_clipped_and_flagged(self):
        # rows and columns hardly differ, their interaction does
        K = torch.tensor([[1.0, -1], [-1, 1.2]])
        result = estimate("vx_vy_unbiased", eta=1, s_N=K.mean(1), t_M=K.mean(0), K_NM=K)
        assert result.extra["V_X"] + result.extra["V_Y"] < result.extra["V_XY"]
        assert result.status == "clipped" and result.var == pytest.approx(0.01 * result.extra["V_X"], rel=1e-12)

    def test_relative(self):
        for eta in (None, 3.0):
            result = estimate("frac_var", eta=eta, s_N=[1.5, 5.5], t_M=T_)
            assert result.var == pytest.approx(6.25 / 12.25, rel=1e-12)
        assert estimate("frac_var", s_N=[-1, 1], t_M=T_).status == "undefined"

    def test_a_large_mean_does_not_cancel(self):
        result = estimate("conditional_E", eta=1, s_N=torch.tensor(S, dtype=torch.float64) + 1e8)
        assert result.var == pytest.approx(10 / 12, rel=1e-9)


class TestOneBatch:
    K = torch.tensor([[9.0, 1, 2], [3, 9, 4], [5, 6, 9]])

    @pytest.mark.parametrize("name", ["ustat_block_plugin", "ustat_block_jackknife"])
    def test_blocks_are_compared_by_their_means(self, name):
        g = torch.Generator().manual_seed(4)
        K = torch.randn(6, 6, generator=g, dtype=torch.float64) + 3
        means = K.reshape(3, 2, 3, 2).mean((1, 3))
        r = torch.stack([(means[b].sum() + means[:, b].sum() - 2 * means[b, b]) / 4 for b in range(3)])
        result = REGISTRY.create("variance", name, blocks=3).estimate(Terms(eta=0.5, K_UU=K))
        assert result.value == pytest.approx(0.5 * float(r.mean()), rel=1e-12)
        if name == "ustat_block_plugin":
            assert result.var == pytest.approx(0.25 * 4 * float(r.var()) / 3, rel=1e-12)
        else:
            left_out = torch.stack([(3 * r.mean() - 2 * r[b]) / 1 for b in range(3)])
            assert result.var == pytest.approx(0.25 * 2 * float(left_out.var(correction=0)), rel=1e-12)

    def test_the_old_plug_in_does_not_shrink(self):
        r = torch.tensor([1.0, 2, 4, 5], dtype=torch.float64)
        old, new = estimate("legacy_ustat_plugin", eta=0.5, r_U=r), estimate("ustat_plugin", eta=0.5, r_U=r)
        assert old.var == pytest.approx(0.25 * 10 / 3, rel=1e-12)
        assert new.var == pytest.approx(old.var * 4 / 4, rel=1e-12)  # sqrt(4) / 2 is 1: four prompts
        assert (old.value, old.extra["zeta1"]) == (1.5, pytest.approx(10 / 3))

    def test_projections(self):
        torch.testing.assert_close(projections(self.K), torch.tensor([11 / 4, 14 / 4, 17 / 4]))

    def test_plugin_and_jackknife(self):
        r = projections(self.K.double())  # 2.75, 3.5, 4.25: variance 0.5625
        plugin, jackknife = (estimate(f"ustat_{name}", eta=2, r_U=r) for name in ("plugin", "jackknife"))
        assert plugin.value == jackknife.value == 7  # 2 * mean of 1, 2, 3, 4, 5, 6
        assert plugin.var == pytest.approx(4 * 4 * 0.5625 / 3, rel=1e-12)
        # without one unit: (3 * 3.5 - 2 r) / 1 = 5, 3.5, 2
        assert jackknife.var == pytest.approx(4 * 2 / 3 * 4.5, rel=1e-12)
        assert jackknife.extra["zeta1"] == pytest.approx(3 / 4 * 3, rel=1e-12)

    def test_the_coded_plugin_lacks_the_size_of_the_batch(self):
        r = torch.randn(40, generator=torch.Generator().manual_seed(0))
        right, wrong = (estimate(name, eta=1, r_U=r) for name in ("ustat_plugin", "legacy_ustat_plugin"))
        assert wrong.se == pytest.approx(right.se * math.sqrt(40) / 2, rel=1e-12)

    def test_blocks_of_one_prompt_are_prompts_and_the_diagonal_is_not_read(self):
        K = self.K.double().fill_diagonal_(math.nan)
        terms = Terms(eta=2, K_UU=K)
        for name in ("plugin", "jackknife"):
            blocks = REGISTRY.create("variance", f"ustat_block_{name}", blocks=3).estimate(terms)
            assert blocks.var == estimate(f"ustat_{name}", eta=2, r_U=projections(K)).var

    def test_blocks(self):
        K = torch.arange(36.0).reshape(6, 6)
        means = torch.tensor([[K[i : i + 2, j : j + 2].mean() for j in (0, 2, 4)] for i in (0, 2, 4)])
        blocks = REGISTRY.create("variance", "ustat_block_jackknife", blocks=3).estimate(Terms(eta=1, K_UU=K))
        assert blocks.n == 3 and blocks.var == pytest.approx(
            estimate("ustat_jackknife", eta=1, r_U=projections(means)).var
        )

    def test_two_terms(self):
        zeta1, zeta2, repeats, sizes = 3.0, 5.0, [], []
        for B in (2, 8, 32):
            a = math.sqrt((4 * zeta1 / B + 2 * zeta2 / (B * (B - 1))) / 2)
            repeats, sizes = [*repeats, 1 + a, 1 - a], [*sizes, B, B]
        result = estimate("ustat_two_term_fit", repeats_K=repeats, sizes_K=sizes)
        assert result.extra["zeta1"] == pytest.approx(zeta1, rel=1e-9)
        assert result.extra["zeta2"] == pytest.approx(zeta2, rel=1e-9)
        assert result.var == pytest.approx(12 / 32 + 10 / (32 * 31), rel=1e-9)
        at_100 = REGISTRY.create("variance", "ustat_two_term_fit", at=100)
        assert at_100.estimate(Terms(repeats_K=repeats, sizes_K=sizes)).var == pytest.approx(0.12 + 10 / 9900, rel=1e-9)

    def test_a_law_below_zero_is_undefined(self):
        assert estimate("ustat_two_term_fit", repeats_K=[1, -1, 9, -9], sizes_K=[2, 2, 9, 9]).status == "ok"
        low = REGISTRY.create("variance", "ustat_two_term_fit", at=2)
        falling = Terms(repeats_K=[0, 0.1, 9, -9, 30, -30], sizes_K=[3, 3, 9, 9, 90, 90])
        assert low.estimate(falling).status == "undefined"


class TestSequences:
    def test_measured_per_sequence(self):
        # influences 1 (2 - 3.5) / 2 - (1 - 2) and 3 (4 - 3.5) / 2 - (3 - 2)
        result = estimate("snis_delta", w=[1, 3], h1=[2, 4], H=[1, 3], T=[1, 2])
        assert (result.value, result.measured_in) == (1.5, "nats per sequence")
        assert result.se == pytest.approx(0.25, rel=1e-12) and result.var == pytest.approx(0.0625, rel=1e-12)

    def test_measured_per_token(self):
        result = estimate("snis_delta", w=[1, 3], h1=[2, 4], H=[1, 3], T=[1, 2], entropy_unit="per_token_ratio")
        assert result.value == pytest.approx(2 - 4 / 3, rel=1e-12)
        assert result.var == pytest.approx((2 / 9) ** 2, rel=1e-12)

    @pytest.mark.parametrize("unit", ["per_sequence", "per_token_ratio", "per_seq_token_mean"])
    @pytest.mark.parametrize("name", ["deriv_delta", "deriv_delta_reward_to_go", "snis_delta", "paired_difference"])
    def test_the_influence_written_out(self, unit, name):
        terms = Terms(**random_terms(entropy_unit=unit))
        H, T, jH, h1, w, S1, eta, B = terms.H, terms.T, terms.jH, terms.h1, terms.w, terms.S1, 0.7, 12
        a, c = jH + terms.Hj, terms.Tj
        if unit == "per_seq_token_mean":
            H, jH, h1 = H / T, jH / T, h1 / T
        if unit != "per_token_ratio":
            T, c = torch.ones(B, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)
        if name != "deriv_delta_reward_to_go":
            a, c = jH + H * S1, T * S1
        elif unit == "per_seq_token_mean":
            assert REGISTRY.create("variance", name).estimate(terms).status == "undefined"
            return
        h, C, mean_T = H.sum() / T.sum(), c.mean(), T.mean()
        D = (a.mean() - h * C) / mean_T
        predicted = eta * (a - h * c - C / mean_T * (H - h * T) - D * T) / mean_T
        R = (w * h1).sum() / (w * T).sum()
        measured = w * (h1 - R * T) / (w * T).mean() - (H - h * T) / mean_T
        IF, value = {"snis_delta": (measured, R - h), "paired_difference": (measured - predicted, R - h - eta * D)}.get(
            name, (predicted, eta * D)
        )
        result = REGISTRY.create("variance", name).estimate(terms)
        assert result.value == pytest.approx(float(value), rel=1e-10)
        assert result.var == pytest.approx(float(IF.square().sum()) / (B * (B - 1)), rel=1e-10)

    def test_mean_entropy(self):
        result = estimate("entropy_prompt_jackknife", H=[1, 2, 4, 5], T=[1, 1, 1, 1])
        assert result.value == 3 and result.var == pytest.approx(10 / 12, rel=1e-12)

    def test_prompts_are_units(self):
        result = estimate(
            "entropy_prompt_jackknife", H=[0, 2, 1, 3, 4, 4, 5, 5], T=[1] * 8, prompt=[7, 7, 3, 3, 1, 1, 0, 0]
        )
        assert result.n == 4 and result.var == pytest.approx(10 / 12, rel=1e-12)

    def test_ratios_are_computed_again_without_a_prompt(self):
        terms = Terms(**random_terms(entropy_unit="per_token_ratio"))
        left_out = torch.stack(
            [
                (terms.w * terms.h1)[keep].sum() / (terms.w * terms.T)[keep].sum()
                - terms.H[keep].sum() / terms.T[keep].sum()
                for keep in ~torch.eye(12, dtype=torch.bool)
            ]
        )
        expected = 11 * float(left_out.var(correction=0))
        assert REGISTRY.create("variance", "snis_jackknife").estimate(terms).var == pytest.approx(expected, rel=1e-10)

    def test_shards_of_one_size(self):
        # per sequence without score terms the prediction is eta * mean jH
        terms = {"eta": 2, "H": [1.0] * 6, "T": [1] * 6, "S1": [0.0] * 6, "jH": [1, 3, 2, 6, 3, 9]}
        shards = {**terms, "shard": [0, 0, 1, 1, 2, 2]}
        contributions = torch.tensor([4, 8, 12], dtype=torch.float64) / 6
        std = float(contributions.std())
        assert estimate("jvp_shard_se", **shards).se == pytest.approx(2 * math.sqrt(3) * std, rel=1e-12)
        assert estimate("legacy_jvp_shard_se", **shards).se == pytest.approx(2 * std / math.sqrt(3), rel=1e-12)

    def test_a_prompt_in_two_shards(self):
        result = estimate("jvp_shard_se", **random_terms(shard=[0, 1] * 6, prompt=[0] * 2 + [1] * 10))
        assert result.status == "undefined" and math.isnan(result.se)


class TestControls:
    def test_the_variance_ratio_is_that_of_the_uncontrolled_prediction(self):
        terms = random_terms()
        plain, controlled = estimate("deriv_delta", **terms), estimate("cv_batch_se", **terms)
        assert controlled.extra["variance_ratio"] == pytest.approx(controlled.var / plain.var, rel=1e-12)
        assert abs(controlled.extra["variance_ratio"] - 1) > 0.01

    def test_two_controls_need_four_prompts(self):
        assert estimate("cv_batch_se", **random_terms(B=4)).status == "ok"
        assert estimate("cv_batch_se", **random_terms(B=3)).status == "too_few_units"

    def test_the_old_regression_centres_the_controls_at_their_own_mean(self):
        terms = Terms(**random_terms())
        a = terms.jH + terms.H * terms.S1
        y = (a - terms.H.mean() * terms.S1) / 12
        centred = terms.z - terms.z.mean(0)
        beta = torch.linalg.lstsq(centred, y[:, None]).solution.flatten()
        residual = y - centred @ beta
        result = REGISTRY.create("variance", "legacy_cv_batch_se").estimate(terms)
        assert result.var == pytest.approx(0.49 * float(residual.var()) / 12, rel=1e-9)

    def test_the_coefficients_do_not_know_the_prompt_that_they_are_used_on(self):
        terms = Terms(**random_terms())
        a = terms.jH + terms.H * terms.S1
        h, C = terms.H.mean(), terms.S1.mean()
        D = a.mean() - h * C
        y = 0.7 * (a - h * terms.S1 - C * (terms.H - h) - D) / 12
        residuals = []
        for i in range(12):
            keep = torch.arange(12) != i
            beta = torch.linalg.lstsq(terms.z[keep], y[keep][:, None]).solution.flatten()
            residuals.append(y[i] - terms.z[i] @ beta)
        residuals = torch.stack(residuals)
        result = REGISTRY.create("variance", "cv_batch_se").estimate(terms)
        assert result.var == pytest.approx(12 * float(residuals.var()), rel=1e-9)
        assert result.value == pytest.approx(float(0.7 * D - (y - residuals).sum()), rel=1e-9)

    def test_a_control_that_explains_everything(self):
        z = torch.randn(50, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        noise = 1e-3 * torch.randn(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        zero = torch.zeros(50)
        result = estimate("cv_batch_se", eta=1, H=zero, S1=zero, T=zero + 1, jH=4 + 3 * z[:, 0] + noise, z=z)
        assert result.value == pytest.approx(4, abs=0.1)  # the plain mean is off by 3 * mean z
        assert result.extra["variance_ratio"] < 0.05

    def test_a_control_that_is_always_0_changes_nothing(self):
        terms = random_terms(z=torch.zeros(12, 1))
        plain, controlled = estimate("deriv_delta", **terms), estimate("cv_batch_se", **terms)
        assert controlled.value == plain.value and controlled.var == pytest.approx(plain.var, rel=1e-12)


class TestDiagnostics:
    def test_effective_sample_size(self):
        result = estimate("snis_ess", w=[1, 3])
        assert result.value == pytest.approx(16 / 10) and result.extra["ess_fraction"] == pytest.approx(0.8)
        assert (result.extra["mean_w"], result.var, result.se) == (2, 1, 1)

    def test_large_weights_do_not_overflow(self):
        result = estimate("snis_ess", w=[1e150, 3e150])
        assert result.value == pytest.approx(1.6)

    def test_equal_weights_are_worth_the_whole_sample(self):
        result = estimate("snis_ess", w=[1, 1, 1])
        assert result.value == 3 and result.status == "zero_variance" and math.isnan(result.se)

    def test_noise_scale(self):
        result = estimate("gns", grad_sq_R=[5, 2], grad_sizes_R=[1, 4])
        assert result.value == pytest.approx(4) and math.isnan(result.se)
        assert result.extra["norm_sq"] == pytest.approx(1)
        assert estimate("gns", grad_sq_R=[2, 5], grad_sizes_R=[1, 4]).status == "undefined"


class TestRepeats:
    def test_sizes_with_more_repetitions_weigh_more(self):
        # B * variance: 2 * 8 at 1 / (B - 1) = 1, 5 * 1 at 1/4, 3 * 2 at 1/2; degrees of freedom 1, 1 and 3
        repeats = [[-2.0, 2.0], [-(0.5**0.5), 0.5**0.5], [-(3**0.5), 0.0, 0.0, 3**0.5]]
        sizes = [2] * 2 + [5] * 2 + [3] * 4
        result = estimate("ustat_two_term_fit", repeats_K=list(itertools.chain(*repeats)), sizes_K=sizes)
        design = torch.tensor([[1.0, 1.0], [1, 0.25], [1, 0.5]], dtype=torch.float64)
        seen, weights = torch.tensor([16.0, 5.0, 6.0], dtype=torch.float64), torch.tensor([1.0, 1, 3]).double()
        normal = design.T @ (weights[:, None] * design)
        first, second = torch.linalg.solve(normal, design.T @ (weights * seen)).tolist()
        assert result.extra == pytest.approx({"zeta1": first / 4, "zeta2": second / 2})
        assert result.var == pytest.approx(first / 5 + second / 20)

    def test_a_law_that_falls_below_0_is_undefined(self):
        # 2 * 8 at 1 and 3 * 0.02 at 1/2: the law is -15.88 + 31.88 / (B - 1)
        repeats = {"repeats_K": [-2.0, 2.0, -0.1, 0.1], "sizes_K": [2, 2, 3, 3]}
        assert estimate("ustat_two_term_fit", **repeats).status == "ok"
        assert REGISTRY.create("variance", "ustat_two_term_fit", at=40).estimate(Terms(**repeats)).status == "undefined"

    def test_a_batch_of_one_has_no_pairs(self):
        repeats = {"repeats_K": [-9.0, 9.0, -2, 2, -1, 1], "sizes_K": [1, 1, 2, 2, 3, 3]}
        without = {"repeats_K": repeats["repeats_K"][2:], "sizes_K": repeats["sizes_K"][2:]}
        whole, left = estimate("ustat_two_term_fit", **repeats), estimate("ustat_two_term_fit", **without)
        assert whole.var == pytest.approx(left.var, rel=1e-9)

    def test_three_repetitions_say_little(self):
        result = estimate("repeat_std", repeats_K=[1, 2, 3])
        assert (result.value, result.se, result.n) == (2, 1, 3)
        assert result.extra["se_low"] == pytest.approx(0.5207, abs=1e-4)
        assert result.extra["se_high"] == pytest.approx(6.2847, abs=1e-4)

    def test_chi_square(self):
        assert chi2_quantile(0.95, 1) == pytest.approx(3.841459, abs=1e-6)
        assert chi2_quantile(0.05, 1) == pytest.approx(0.00393214, abs=1e-8)
        assert chi2_quantile(0.5, 10) == pytest.approx(9.341818, abs=1e-6)
        assert chi2_quantile(0.975, 100) == pytest.approx(129.561197, abs=1e-5)
        assert chi2_quantile(1 - 1e-9, 1) == pytest.approx(6.109410**2, abs=1e-4)  # a normal quantile, squared
        many = 100_000  # by the approximation of Wilson and Hilferty
        cube = 1 - 2 / (9 * many) + 1.959964 * math.sqrt(2 / (9 * many))
        assert chi2_quantile(0.975, many) == pytest.approx(many * cube**3, rel=1e-6)


class TestTerms:
    def test_a_python_number_keeps_its_digits(self):
        terms = Terms(eta=0.1, s_N=[0.1, 0.2])
        assert float(terms["eta"]) == 0.1 and terms.s_N.tolist() == [0.1, 0.2]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"H": [1, 2], "T": [1]},
            {"T": [0, 1]},
            {"w": [-1, 1]},
            {"s_N": [[1]]},
            {"K_NM": [[1, 2]], "s_N": [1, 2]},
            {"K_UU": [[1, 2]]},
            {"z": [[1]], "H": [1, 2]},
            {"repeats_K": [1], "sizes_K": [1, 2]},
        ],
        ids=str,
    )
    def test_wrong_terms_are_refused(self, wrong):
        with pytest.raises(RunError):
            Terms(**wrong)

    def test_a_missing_term_is_named(self):
        with pytest.raises(RunError, match="lacks K_NM, t_M"):
            estimate("vx_vy_unbiased", eta=1, s_N=[1, 2])


def test_parameters_are_checked():
    assert VxVyUnbiased(floor=0).floor == 0 and Bootstrap(seed=0, resamples=2).resamples == 2
    for create in (
        lambda: VxVyUnbiased(floor=-0.1),
        lambda: VxVyUnbiased(floor=1),
        lambda: Bootstrap(seed=-1),
        lambda: Bootstrap(resamples=1),
        lambda: Bootstrap(resamples=100_001),
    ):
        with pytest.raises(ValueError, match=r"must be (<|>)"):
            create()
    assert Bootstrap(resamples=100_000).resamples == 100_000
    assert Bootstrap() == Bootstrap(resamples=1000, seed=0)


def test_the_projections_of_two_prompts_do_not_read_their_own_products():
    K_UU = torch.tensor([[math.nan, 3.0], [5.0, math.nan]], dtype=torch.float64)
    assert projections(K_UU).tolist() == [4.0, 4.0]


def test_a_jackknife_over_prompts_needs_three():
    for n, status in ((2, "too_few_units"), (3, "ok")):
        assert UstatJackknife().estimate(Terms(eta=1, r_U=torch.arange(n, dtype=torch.float64))).status == status
