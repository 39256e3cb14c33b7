"""The probe's error bars are calibrated: 200 predictions against 200 truths on independent samples.

    python benchmarks/probe_calibration.py [--checkpoint DIR] [--repetitions 200] [--size 64]

A LoRA checkpoint of tiny-sokoban, one update U held fixed. Each repetition predicts the change of the entropy from one
sample of E and measures it on another, independent one: z = (deltaH1 - deltaH_true) / sqrt(se1^2 + se2^2) must have
mean 0 and standard deviation 1. The learning rate of the step is chosen such that its curvature, 1/2 eta^2 |H''|, is
under 5 % of a standard error; H'' is measured by symmetric differences. On one and the same sample the prediction is
the exact derivative of the truth, so there the difference is curvature, and is reported as that.

All prompts of E are drawn at once, independently and with replacement, and cut into samples of ``--size``; that a cut
has the numbers of its own passes is checked on the first. Every +- is one standard error of the table's number.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import attrs
import probe_checkpoint
import torch
from torch import Tensor
from uncollapse.core.registry import registry
from uncollapse.estimators.variance.entropy_change import (
    curvature,
    delta_variance,
    predicted_change,
    predicted_change_reward_to_go,
    true_change,
)
from uncollapse.estimators.variance.terms import MEASURED_IN, Terms
from uncollapse.plugins.probe import OfflineEntropyProbe
from uncollapse.plugins.probe.estimation.measured_change import Weighting, with_error
from uncollapse.plugins.probe.estimation.measurement import Measurement
from uncollapse.plugins.probe.estimation.sequences import per_prompt
from uncollapse.plugins.probe.integrity import score_identity
from uncollapse.plugins.probe.sampling.samples import Sample
from uncollapse.plugins.probe.session import Session

UNITS = ("per_sequence", "per_token_ratio")
DIRECTIONS = ("adamw", "preconditioned_gradient")
FORMS = {"snis_derivative": predicted_change, "reward_to_go": predicted_change_reward_to_go}
OF_PREDICTION = ("deriv_delta", "deriv_delta_reward_to_go", "conditional_E", "bootstrap")
MULTIPLES = (0.1, 1, 3, 10, 30, 100, 300, 1000)
"""Of the calibrated learning rate, in the table that shows where linearity ends."""
SNIS = Weighting()
failures: list[str] = []


def check(holds: bool, what: str) -> str:
    if not holds:
        failures.append(what)
    return "pass" if holds else "FAIL"


# --- what is measured -------------------------------------------------------------------------------------------------


def session(checkpoint: Path, direction: str, options: argparse.Namespace) -> Session:
    config = {
        "batch_config": {"B_E": options.size, "B_U": 32, "G": 8},
        "importance": {"enabled": True},
        "probe_rework": {"master_seed": options.seed},
        "memory_config": {"microbatch_size": options.rows},
        "learning_rate": 1.0,
        "direction": direction,
    }
    return OfflineEntropyProbe(config).session(checkpoint)


def first_units(sample: Sample, count: int) -> Sample:
    keep = torch.arange(len(sample.rollouts.group_ids_P)) < count
    return attrs.evolve(sample, rollouts=sample.rollouts.select(keep), episodes=sample.episodes[:count])


def cut(terms: Terms, start: int, size: int) -> Terms:
    """The terms of ``size`` sequences. One episode for each prompt, so that sequences are units."""
    fields = {name: getattr(terms, name) for name in ("H", "T", "jH", "S1", "Hj", "Tj", "w", "h1", "prompt")}
    return attrs.evolve(terms, **{name: x[start : start + size] for name, x in fields.items() if x is not None})


def cuts(terms: Terms, size: int) -> list[Terms]:
    return [cut(terms, start, size) for start in range(0, len(terms["H"]), size)]


def with_truth(measurement: Measurement, eta: float, unit: str) -> Terms:
    measured = measurement.truth(eta, SNIS)
    return attrs.evolve(measurement.truth_terms(unit), eta=eta, w=measured.w, h1=measured.h1)


def estimates(name: str, samples: list[Terms]) -> tuple[Tensor, Tensor]:
    """Values and squared standard errors of one estimator over the repetitions."""
    estimator = registry().create("variance", name)
    found = []
    for terms in samples:
        given = attrs.evolve(terms, s_N=per_prompt(terms)) if "s_N" in estimator.needs else terms
        estimate = estimator.estimate(given)
        found.append((estimate.value, estimate.var))
    values, variances = torch.tensor(found, dtype=torch.float64).unbind(1)
    return values, variances


def trial_eta(measurement: Measurement) -> float:
    """Large enough for differences to be seen, small enough for the weights: log-weights have a deviation of 0.2."""
    return 0.2 / float(measurement.predicted_sums["S1"].std())


def second_derivative(measurement: Measurement, eta: float, unit: str) -> tuple[float, float]:
    """H'' along the step by a symmetric difference, and its standard error by the delta method."""
    plus, minus = (true_change(with_truth(measurement, at, unit)) for at in (eta, -eta))
    error = delta_variance(plus.influence_C() + minus.influence_C()) ** 0.5
    return (plus.value + minus.value) / eta**2, error / eta**2


def slope(measurement: Measurement, eta: float, unit: str) -> tuple[float, float]:
    """The symmetric slope of the measured entropy, and its standard error."""
    plus, minus = (true_change(with_truth(measurement, at, unit)) for at in (eta, -eta))
    error = delta_variance(plus.influence_C() - minus.influence_C()) ** 0.5
    return (plus.value - minus.value) / (2 * eta), error / (2 * eta)


def resampled(function: Callable[..., Tensor], *columns: Tensor, resamples: int = 2000) -> tuple[float, float]:
    """A function of columns over the repetitions, and its bootstrap standard error."""
    draws = torch.randint(len(columns[0]), (resamples, len(columns[0])), generator=torch.Generator().manual_seed(0))
    spread = torch.stack([function(*(column[draw] for column in columns)) for draw in draws]).std()
    return float(function(*columns)), float(spread)


# --- what is printed --------------------------------------------------------------------------------------------------


def check_cut(own: Session, whole: Measurement, sample: Sample, size: int) -> None:
    """A sample of its own, through the passes of its own, has the numbers that are cut from the whole."""
    alone, of_all = (
        measurement.prediction_terms("per_token_ratio")
        for measurement in (own.measurement(first_units(sample, size), whole.step), whole)
    )
    one, other = (predicted_change(terms).value for terms in (alone, cut(of_all, 0, size)))
    print(f"the first sample by passes of its own: dH/deta {one:.8g}, cut from the whole {other:.8g}: ", end="")
    print(check(math.isclose(one, other, rel_tol=1e-4), "a cut has the numbers of its own passes"))


def learning_rate(predicting: Measurement, measuring: Measurement, options: argparse.Namespace) -> float:
    """The largest eta, to one digit, whose curvature is under 5 % of a standard error in every unit and form."""
    trial = trial_eta(predicting)
    print(f"H'' is measured by a symmetric difference at +-{trial:.2g}")
    errors, bends, bounds = {}, {}, []
    for unit in UNITS:
        bends[unit] = second_derivative(measuring, trial, unit)
        for form in ("deriv_delta", "deriv_delta_reward_to_go"):
            _, variances = estimates(form, cuts(attrs.evolve(predicting.prediction_terms(unit), eta=1.0), options.size))
            errors[unit, form] = float(variances.mean()) ** 0.5
            bend, bend_error = bends[unit]
            bounds.append(2 * 0.05 * errors[unit, form] / (abs(bend) + 2 * bend_error))
    eta = min(*bounds, trial)
    digit = 10 ** math.floor(math.log10(eta))
    eta = math.floor(eta / digit) * digit
    floor = predicting.predicted_sums["H"] - predicting.base_sums["H"]
    T = predicting.predicted_sums["T"].mean()
    print(f"eta = {eta:.0e}")
    print(f"{'unit':<16} {'2nd derivative':>20} {'SE at eta':>10} {'curvature/SE':>13} {'rounding/SE':>12}")
    for unit in UNITS:
        (bend, bend_error), error = bends[unit], eta * min(e for (u, _), e in errors.items() if u == unit)
        share = 0.5 * eta**2 * (abs(bend) + 2 * bend_error) / error
        # rounding of a mean over the sample: its mean, and the noise of that
        rounding = float(floor.mean().abs() + floor.std() / options.size**0.5) / (1 if unit == "per_sequence" else T)
        print(
            f"{unit:<16} {bend:>11.4g} +- {bend_error:<6.2g} {error:>9.3g} {share:>13.4f} {rounding / error:>12.1e}  "
            + check(share < 0.05 and rounding / error < 0.05, f"{unit}: eta is in the window")
        )
    return eta


def calibrate(predicting: Measurement, measuring: Measurement, options: argparse.Namespace) -> float:
    eta = learning_rate(predicting, measuring, options)
    predicted = {u: cuts(attrs.evolve(predicting.prediction_terms(u), eta=eta), options.size) for u in UNITS}
    true = {u: cuts(with_truth(measuring, eta, u), options.size) for u in UNITS}

    print(f"\nz over {options.repetitions} repetitions: mean 0 +- 0.2, standard deviation 0.85 to 1.15")
    print(f"{'unit':<16} {'form':<16} {'mean deltaH1':>13} {'deltaH_true':>12} {'z mean':>15} {'z sd':>14}")
    for unit in UNITS:
        measured, measured_var = estimates("snis_delta", true[unit])
        for form, name in zip(FORMS, OF_PREDICTION[:2], strict=True):
            value, var = estimates(name, predicted[unit])
            z = (value - measured) / (var + measured_var).sqrt()
            (mean, mean_error), (sd, sd_error) = resampled(torch.mean, z), resampled(torch.std, z)
            print(
                f"{unit:<16} {form:<16} {float(value.mean()):>13.4e} {float(measured.mean()):>12.4e} "
                f"{mean:>+6.3f} +- {mean_error:.3f} {sd:>5.3f} +- {sd_error:.3f}  "
                + check(abs(mean) <= 0.2 and 0.85 <= sd <= 1.15, f"{unit}, {form}: z")
            )

    print("\nmean of the squared standard error over the variance of the estimates")
    for unit in UNITS:
        for name in (*OF_PREDICTION, "snis_delta"):
            value, var = estimates(name, (true if name == "snis_delta" else predicted)[unit])
            ratio, error = resampled(lambda x, v: v.mean() / x.var(), value, var)
            print(f"{unit:<16} {name:<26} {ratio:>6.3f} +- {error:.3f}")

    identity = score_identity(attrs.evolve(predicting.prediction_terms("per_sequence"), eta=eta))
    quality = measuring.truth(eta, SNIS).weights_of(measuring.truth_terms("per_sequence"))
    scores = abs(identity["value"]) <= 4 * identity["se"]
    weights = abs(quality["mean_w"] - 1) <= 4 * quality["se_mean_w"]
    print(f"\nover all {len(measuring.truth_terms('per_sequence')['H'])} episodes (true values 0 and 1; 4 errors pass)")
    print(f"mean S1         {identity['value']:>12.4g} +- {identity['se']:.2g}  {check(scores, 'mean S1')}")
    print(f"mean weight - 1 {quality['mean_w'] - 1:>12.4g} +- {quality['se_mean_w']:.2g}  {check(weights, 'mean w')}")
    for unit in UNITS:
        at = attrs.evolve(predicting.prediction_terms(unit), eta=1.0)
        one, other = with_error(predicted_change(at)), slope(measuring, trial_eta(predicting), unit)
        z = (one[0] - other[0]) / math.hypot(one[1], other[1])
        print(
            f"{unit:<16} dH/deta predicted {one[0]:.5g} +- {one[1]:.2g}, symmetric slope of the independent truth "
            f"{other[0]:.5g} +- {other[1]:.2g}: z = {z:+.2f}"
        )
    return eta


def linearity(whole: Measurement, part: Measurement, measuring: Measurement, eta: float) -> None:
    """Prediction and truth on one sample, over decades of eta."""
    count = len(part.rollouts.raw_rewards_E)
    trial = trial_eta(whole)
    bends = {unit: second_derivative(measuring, trial, unit)[0] for unit in UNITS}
    print(f"\nwhere linearity ends: {count} episodes; prediction and truth on the same ones, so their")
    print("difference is curvature and higher orders, no test of the error bars; H'' is from the independent sample")
    for unit in UNITS:
        print(f"{unit}, {MEASURED_IN[unit]}")
        print(
            f"{'eta':>9} {'predicted':>12} {'measured':>12} {'SE':>9} {'measured - predicted':>24} "
            f"{'eta^2 H/2':>12} {'ESS/N':>7}"
        )
        sums = cut(whole.prediction_terms(unit), 0, count)
        for multiple in MULTIPLES:
            at = multiple * eta
            terms = with_truth(part, at, unit)
            both = attrs.evolve(terms, jH=sums["jH"], S1=sums["S1"])
            (change, error), (bend, bend_error) = with_error(true_change(both)), with_error(curvature(both))
            ess = float(both["w"].sum() ** 2 / both["w"].square().sum()) / count
            print(
                f"{at:>9.0e} {predicted_change(both).value:>12.4e} {change:>12.4e} {error:>9.1e} "
                f"{bend:>13.3e} +- {bend_error:.1e} {at**2 * bends[unit] / 2:>12.3e} {ess:>7.4f}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="of a run; by default one is trained")
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--size", type=int, default=64, help="prompts of each sample of E")
    parser.add_argument("--rows", type=int, default=16, help="per pass")
    parser.add_argument("--linearity", type=int, default=4096, help="prompts of E for the table over eta")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()

    started = time.perf_counter()
    checkpoint = options.checkpoint or probe_checkpoint.train(Path(tempfile.mkdtemp(prefix="probe-")) / "lora")
    sessions = {direction: session(checkpoint, direction, options) for direction in DIRECTIONS}
    first = sessions["adamw"]
    count = options.repetitions * options.size
    U = first.draw_U()
    samples = {name: first.draw_E(count, name) for name in ("prediction", "truth")}
    E = samples["prediction"]
    print(f"{date.today()}; torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    print(
        f"{options.repetitions} repetitions of B_E = {options.size}: 2 x {count} episodes of E, {E.mean_length:.1f} "
        f"sampled tokens each; U: {len(U.rollouts.group_ids_P)} prompts x {first.config.batch_config.G}, mean reward "
        f"{U.mean_reward:.2f}"
    )
    for direction, own in sessions.items():
        step = own.step(U)
        predicting, measuring = (own.measurement(samples[name], step) for name in ("prediction", "truth"))
        print(f"\n=== {direction}")
        check_cut(own, predicting, E, options.size)
        eta = calibrate(predicting, measuring, options)
        linearity(predicting, own.measurement(first_units(E, options.linearity), step), measuring, eta)
    print(f"\n{time.perf_counter() - started:.0f} s in all; load average {probe_checkpoint.load()}")
    for failure in failures:
        print(f"FAIL: {failure}")
    print("all criteria hold" if not failures else f"{len(failures)} criteria fail")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
