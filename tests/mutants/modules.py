"""The numeric modules, each with the tests that must notice when it computes something else (below ``tests/``)."""

ADVANTAGE = "estimators/advantage"
PROBE = "plugins/probe"
TRAINING = "plugins/training"
_VARIANCE = tuple(
    f"estimators/variance/test_{name}.py" for name in ("vectors", "properties", "calibration", "enumeration")
)
_FORECAST = tuple(
    f"{PROBE}/test_probe_forecast.py::test_{name}"
    for name in (
        "a_fold_left_out_is_as_if_it_had_never_been_there",
        "without_a_fold_the_others_weigh_as_much_as_all_did_also_where_weights_are_no_shares",
        "rows_that_move_nothing_need_no_pass",
        "the_plan_is_where_the_trainer_goes",
        "a_group_alone_in_an_optimizer_step_is_not_looked_at",
        "a_group_that_the_filter_left_out_is_held_against_the_whole_update",
        "half_precision_differentiates_at_the_policy_that_sampled",
        "the_forecast_follows_the_update_that_was_made_less_that_of_the_own_fold",
    )
)

MODULES: dict[str, tuple[str, ...]] = {
    "filters/episodes.py": ("filters",),
    "filters/metrics.py": ("filters",),
    "filters/min_p.py": ("filters",),
    "filters/quantile.py": ("filters",),
    "filters/ranking.py": ("filters",),
    "filters/report.py": ("filters/test_report.py",),
    "filters/top_k.py": ("filters",),
    "filters/top_p.py": ("filters",),
    "estimators/groups.py": ("estimators/test_groups.py", ADVANTAGE),
    "estimators/advantage/bi_level_gae.py": (ADVANTAGE,),
    "estimators/advantage/gae.py": (ADVANTAGE,),
    "estimators/advantage/outcome.py": (ADVANTAGE,),
    "estimators/advantage/reinforce.py": (ADVANTAGE,),
    "estimators/advantage/remax.py": (ADVANTAGE,),
    "estimators/advantage/reweight.py": (ADVANTAGE,),
    "estimators/advantage/sampled_tokens.py": (ADVANTAGE,),
    "estimators/correction/divergence.py": ("estimators/correction",),
    "estimators/correction/ratios.py": ("estimators/correction",),
    "estimators/correction/sequence.py": ("estimators/correction",),
    "estimators/correction/token.py": ("estimators/correction",),
    "estimators/entropy/feedback.py": ("estimators/entropy",),
    "estimators/entropy/schedule.py": ("estimators/entropy",),
    "estimators/kl/controllers.py": ("estimators/kl",),
    "estimators/kl/variants.py": ("estimators/kl",),
    "estimators/kl/weights.py": ("estimators/kl",),
    "estimators/reward/lengths.py": ("estimators/reward",),
    "estimators/variance/controls.py": _VARIANCE,
    "estimators/variance/diagnostics.py": _VARIANCE,
    "estimators/variance/legacy.py": _VARIANCE,
    "estimators/variance/products.py": _VARIANCE,
    "estimators/variance/repeats.py": _VARIANCE,
    "estimators/variance/sequences.py": _VARIANCE,
    "estimators/variance/entropy_change.py": _VARIANCE,
    "estimators/variance/terms.py": _VARIANCE,
    "estimators/variance/ustat.py": _VARIANCE,
    "plugins/collapse/entropy.py": ("plugins/collapse",),
    "plugins/collapse/format.py": ("plugins/collapse",),
    "plugins/collapse/gradient.py": ("plugins/collapse/test_gradient_and_length.py",),
    "plugins/collapse/kl.py": ("plugins/collapse",),
    "plugins/collapse/length.py": ("plugins/collapse/test_gradient_and_length.py",),
    "plugins/collapse/mismatch.py": ("plugins/collapse",),
    "plugins/collapse/signal.py": ("plugins/collapse",),
    "plugins/collapse/stopping.py": ("plugins/collapse",),
    "plugins/collapse/template.py": ("plugins/collapse/test_template.py",),
    "plugins/collapse/mutual_information_estimates.py": ("plugins/collapse/test_mutual_information_estimates.py",),
    "plugins/probe/estimation/directions.py": (f"{PROBE}/test_probe_directions.py",),
    "plugins/probe/estimation/measurement.py": tuple(
        f"{PROBE}/test_probe_{name}.py" for name in ("terms", "directions", "exact")
    ),
    "plugins/probe/estimation/passes.py": tuple(
        f"{PROBE}/test_probe_{name}.py" for name in ("passes", "update", "directions", "exact")
    ),
    "plugins/probe/estimation/psis.py": (f"{PROBE}/test_probe_psis.py",),
    "plugins/probe/estimation/sequences.py": tuple(f"{PROBE}/test_probe_{name}.py" for name in ("sequences", "exact")),
    "plugins/probe/estimation/step.py": (f"{PROBE}/test_probe_update.py", f"{PROBE}/test_probe_directions.py"),
    "plugins/probe/estimation/measured_change.py": tuple(
        f"{PROBE}/test_probe_{name}.py" for name in ("weights", "passes", "psis", "measurement", "exact")
    ),
    "plugins/probe/estimation/update.py": (f"{PROBE}/test_probe_update.py",),
    "plugins/probe/experiments/criteria.py": (f"{PROBE}/test_probe_criteria.py",),
    "plugins/probe/experiments/scaling.py": (f"{PROBE}/test_probe_scaling.py",),
    "plugins/probe/forecast/change.py": tuple(
        f"{PROBE}/test_probe_{name}.py" for name in ("forecast_change", "forecast_exact")
    ),
    "plugins/probe/forecast/folds.py": (f"{PROBE}/test_probe_forecast_folds.py", *_FORECAST),
    "plugins/probe/forecast/response.py": _FORECAST,
    "plugins/probe/small_samples.py": tuple(
        f"{PROBE}/test_probe_small_samples.py::test_{name}"
        for name in (
            "students_quantiles",
            "quantiles_of_one_degree_of_freedom_are_tangents",
            "an_error_as_it_came_is_without_its_widening",
        )
    ),
    "plugins/report/correlation.py": ("plugins/report/test_correlation.py",),
    "plugins/report/following.py": ("plugins/report/test_following.py",),
    "plugins/report/multiple.py": ("plugins/report/test_multiple.py",),
    "plugins/report/correlation_estimate.py": ("plugins/report/test_correlation.py",),
    "plugins/report/likeness.py": ("plugins/report/test_likeness.py",),
    "plugins/report/rank_correlation.py": ("plugins/report/test_rank_correlation.py",),
    "plugins/report/side_by_side.py": ("plugins/report/test_side_by_side.py",),
    "plugins/report/stratified.py": ("plugins/report/test_rank_correlation.py",),
    "plugins/report/statistics.py": ("plugins/report/test_statistics.py",),
    "plugins/rollout/rows.py": ("plugins/rollout/test_rows.py",),
    "estimators/aggregation.py": (f"{TRAINING}/test_aggregation.py",),
    "plugins/training/step/batch.py": (f"{TRAINING}/test_batch.py", f"{TRAINING}/test_losses.py"),
    "plugins/training/step/budget.py": (f"{TRAINING}/test_budget.py",),
    "plugins/training/step/losses.py": (f"{TRAINING}/test_losses.py", f"{TRAINING}/test_loss_contract.py"),
    "plugins/training/step/mismatch.py": (f"{TRAINING}/test_mismatch.py",),
    "plugins/training/networks/packing.py": tuple(
        f"{TRAINING}/test_packing.py::test_{name}"
        for name in (
            "rows_are_laid_end_to_end",
            "the_first_of_several_layers_that_cannot_be_packed_is_named",
            "a_model_that_drops_the_boundaries_is_refused",
            "what_cannot_be_packed_is_refused",
            "changing_a_row_changes_no_other_row_by_a_bit",
            "scores_and_gradients_equal_those_of_padded_rows",
            "passes_that_are_not_packed_stay_as_they_are",
        )
    ),
    "estimators/policy_loss/clipped.py": (f"{TRAINING}/test_policy_losses.py",),
    "plugins/training/step/rewards.py": (f"{TRAINING}/test_rewards.py",),
    "plugins/training/step/stages.py": (f"{TRAINING}/test_stages.py", f"{TRAINING}/test_loss_contract.py"),
}
