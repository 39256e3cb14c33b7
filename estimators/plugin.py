"""Names of the built-in estimators."""

from __future__ import annotations

from ..core.hookspecs import Register, hookimpl


@hookimpl
def register_kl_variants(register: Register) -> None:
    module = "uncollapse.estimators.kl.variants"
    register("kl", f"{module}:K1", summary="log-ratio d: right value, no gradient as a loss", aliases=("k1",))
    register("kl+", f"{module}:K1Plus", summary="d with the gradient of mse: both right as a loss", aliases=("k1+",))
    register("abs", f"{module}:Abs", summary="|d|: neither value nor gradient of a KL")
    register("abs+", f"{module}:AbsPlus", summary="|d| with the gradient of mse: right gradient as a loss")
    register("mse", f"{module}:K2", summary="d^2 / 2: biased value, right gradient as a loss", aliases=("k2",))
    register("mse+", f"{module}:K2", summary="the same as mse, which is its own + form", aliases=("k2+",))
    register(
        "low_var_kl",
        f"{module}:K3",
        summary="exp(-d) - 1 + d: right value, gradient of the forward KL as a loss",
        aliases=("k3",),
    )
    register(
        "low_var_kl+",
        f"{module}:K3Plus",
        summary="exp(-d) - 1 + d with the gradient of mse: both right as a loss",
        aliases=("k3+",),
    )


@hookimpl
def register_kl_controllers(register: Register) -> None:
    module = "uncollapse.estimators.kl.controllers"
    register("fixed", f"{module}:Fixed", summary="the coefficient stays")
    register("adaptive", f"{module}:Adaptive", summary="the coefficient follows the KL to a target")
    register("refresh", f"{module}:Refresh", summary="the reference moves towards the policy every n steps")


@hookimpl
def register_entropy_controllers(register: Register) -> None:
    package = "uncollapse.estimators.entropy"
    register("fixed", f"{package}.controllers:Fixed", summary="the coefficient stays")
    register("schedule", f"{package}.schedule:Schedule", summary="the coefficient moves by the clock")
    register("adaptive", f"{package}.feedback:Adaptive", summary="up while the entropy is low; applied only then")
    register("pi", f"{package}.feedback:Pi", summary="a proportional and an integral part hold a target entropy")
    register("epo", f"{package}.feedback:Epo", summary="the entropy is kept in a band around its own history")


@hookimpl
def register_reward_shapings(register: Register) -> None:
    package = "uncollapse.estimators.reward"
    register("none", f"{package}.shaping:NoShaping", summary="every episode keeps its reward")
    register("overlong", f"{package}.lengths:Overlong", summary="a penalty that grows towards the limit of tokens")
    register("length", f"{package}.lengths:Length", summary="each sampled token costs the same")
    register("clip", f"{package}.shaping:Clip", summary="rewards are held between two bounds")


@hookimpl
def register_sampler_corrections(register: Register) -> None:
    package = "uncollapse.estimators.correction"
    register("none", f"{package}.token:NoCorrection", summary="every token weighs 1")
    register("tis", f"{package}.token:Tis", summary="token ratio trainer / sampler, truncated from above")
    register("icepop", f"{package}.token:IcePop", summary="token ratio within a window, 0 outside")
    register(
        "sequence_tis",
        f"{package}.sequence:SequenceTis",
        summary="product of the row's ratios, truncated from above",
        aliases=("seq_tis",),
    )
    register(
        "sequence_mask",
        f"{package}.sequence:SequenceMask",
        summary="rows whose mean or product ratio leaves a window are dropped",
        aliases=("seq_mask_tis",),
    )
    register(
        "sequence_divergence",
        f"{package}.divergence:SequenceDivergence",
        summary="rows whose mean, summed or largest token divergence is too large are dropped",
    )


@hookimpl
def register_loss_aggregations(register: Register) -> None:
    module = "uncollapse.estimators.aggregation"
    register("token-mean", f"{module}:TokenMean", summary="1 / N: mean over all tokens of the optimizer step")
    register("token-sum", f"{module}:TokenSum", summary="1: sum over all tokens")
    register("seq-mean-token-sum", f"{module}:SeqMeanTokenSum", summary="1 / R: mean over rows of sums over tokens")
    register(
        "seq-mean-token-mean", f"{module}:SeqMeanTokenMean", summary="1 / (R n_b): mean over rows of means over tokens"
    )
    register(
        "seq-mean-token-sum-norm",
        f"{module}:SeqMeanTokenSumNorm",
        summary="1 / max_context: sum over all tokens over a constant length",
    )


@hookimpl
def register_advantage_estimators(register: Register) -> None:
    package = "uncollapse.estimators.advantage"
    register("gae", f"{package}.gae:Gae", summary="generalised advantage estimation over the sampled tokens")
    register(
        "bi_level_gae",
        f"{package}.bi_level_gae:BiLevelGae",
        summary="generalised advantage estimation over turns, then over the tokens of each turn",
    )
    register("grpo", f"{package}.outcome:Grpo", summary="episode score, standardised within its group")
    register("dr_grpo", f"{package}.outcome:DrGrpo", summary="episode score above the mean of its group")
    register(
        "gdpo", f"{package}.gdpo:Gdpo", summary="several rewards, each standardised within its group, summed, whitened"
    )
    register("rloo", f"{package}.outcome:Rloo", summary="episode score above the mean of the others in its group")
    register("opo", f"{package}.outcome:Opo", summary="episode score above the length-weighted mean of its group")
    register("maxrl", f"{package}.sparse:MaxRl", summary="episode score above the mean of its group, over that mean")
    register(
        "pass_at_k",
        f"{package}.sparse:PassAtK",
        summary="lead of the best episode of a group over the second best, 0 for the others",
        aliases=("grpo_passk",),
    )
    register(
        "gpg", f"{package}.sparse:Gpg", summary="episode score above the mean of its group, more where few are rewarded"
    )
    register(
        "otb",
        f"{package}.token_baseline:Otb",
        summary="rewards to go above a baseline of least variance for each token",
        aliases=("tir_otb", "optimal_token_baseline"),
    )
    register(
        "gigpo",
        f"{package}.states:GiGpo",
        summary="grpo, plus the return of each turn compared with those of turns in the same state",
    )
    register("nsr", f"{package}.signs:Nsr", summary="episode score where it is bad, 0 where it is good")
    register(
        "w_reinforce", f"{package}.signs:WReinforce", summary="episode score; a good one weighs a tenth of a bad one"
    )
    register(
        "entrocraft",
        f"{package}.signs:Entrocraft",
        summary="another estimator's advantages of one sign while entropy is out of a moving band",
    )
    register(
        "entropic",
        f"{package}.steered:Entropic",
        summary="another estimator's advantages, good and bad ones weighed to hold the entropy",
    )
    register(
        "repo",
        f"{package}.steered:Repo",
        summary="another estimator's advantages, larger for rare good tokens and smaller for rare bad ones",
        aliases=("repo_r",),
    )
    register("rae", f"{package}.rae:Rae", summary="episode score above a moving average of all scores before it")
    register(
        "reinforce_plus_plus",
        f"{package}.reinforce:ReinforcePlusPlus",
        summary="discounted rewards to go, whitened over the batch",
    )
    register(
        "reinforce_plus_plus_baseline",
        f"{package}.reinforce:ReinforcePlusPlusBaseline",
        summary="episode score above the mean of its group, whitened over the batch",
    )
    register("remax", f"{package}.remax:Remax", summary="rewards to go above the reward of a greedy rollout")


@hookimpl
def register_variance_estimators(register: Register) -> None:
    package = "uncollapse.estimators.variance"
    register("conditional_E", f"{package}.products:ConditionalE", summary="deltaH1 over draws of E, given the update")
    register("conditional_U", f"{package}.products:ConditionalU", summary="deltaH1 over draws of U, given E")
    register("row_jackknife", f"{package}.products:RowJackknife", summary="conditional_E by leaving prompts out")
    register("column_jackknife", f"{package}.products:ColumnJackknife", summary="conditional_U by leaving prompts out")
    register("two_way_jackknife", f"{package}.products:TwoWayJackknife", summary="vx_vy by leaving prompts out")
    register("vx_vy", f"{package}.products:VxVy", summary="deltaH1 over draws of E and U; one trace term too large")
    register("vx_vy_unbiased", f"{package}.products:VxVyUnbiased", summary="deltaH1 over draws of E and U, unbiased")
    register("frac_var", f"{package}.products:FracVar", summary="vx_vy relative to deltaH1 squared: to report only")

    register("deriv_delta", f"{package}.sequences:DerivDelta", summary="predicted change, delta method: the default")
    register(
        "deriv_delta_reward_to_go",
        f"{package}.sequences:DerivDeltaRewardToGo",
        summary="change predicted with rewards to go, delta method",
    )
    register("deriv_jackknife", f"{package}.sequences:DerivJackknife", summary="predicted change, prompts left out")
    register("bootstrap", f"{package}.sequences:Bootstrap", summary="predicted change, prompts drawn again")
    register("jvp_shard_se", f"{package}.sequences:JvpShardSe", summary="predicted change, spread between shards")
    register("cv_batch_se", f"{package}.controls:CvBatchSe", summary="predicted change less control variates of mean 0")

    register("snis_delta", f"{package}.sequences:SnisDelta", summary="measured change, delta method")
    register("snis_jackknife", f"{package}.sequences:SnisJackknife", summary="measured change, prompts left out")
    register("snis_bootstrap", f"{package}.sequences:SnisBootstrap", summary="measured change, prompts drawn again")
    register("snis_ess", f"{package}.diagnostics:SnisEss", summary="effective sample size and error of the mean weight")
    register(
        "paired_difference",
        f"{package}.sequences:PairedDifference",
        summary="measured minus predicted change on one sample: the curvature",
    )
    register(
        "entropy_prompt_jackknife",
        f"{package}.sequences:EntropyPromptJackknife",
        summary="mean entropy before the step, prompts left out",
    )

    register("ustat_plugin", f"{package}.ustat:UstatPlugin", summary="one-batch U-statistic, plug-in")
    register("ustat_jackknife", f"{package}.ustat:UstatJackknife", summary="one-batch U-statistic, prompts left out")
    register("ustat_block_plugin", f"{package}.ustat:UstatBlockPlugin", summary="ustat_plugin with blocks as units")
    register("ustat_block_jackknife", f"{package}.ustat:UstatBlockJackknife", summary="ustat_jackknife of blocks")
    register(
        "ustat_two_term_fit",
        f"{package}.repeats:UstatTwoTermFit",
        summary="one-batch U-statistic, law of the batch size from repetitions",
    )
    register("repeat_std", f"{package}.repeats:RepeatStd", summary="standard deviation of repetitions of the probe")
    register("gns", f"{package}.diagnostics:Gns", summary="gradient noise scale; no standard error")

    register("legacy_ustat_plugin", f"{package}.legacy:LegacyUstatPlugin", summary="as once coded: sqrt(U)/2 too large")
    register(
        "legacy_jvp_shard_se", f"{package}.legacy:LegacyJvpShardSe", summary="as reported: too small by the shards"
    )
    register("legacy_cv_batch_se", f"{package}.legacy:LegacyCvBatchSe", summary="as reported: too small by the units")


@hookimpl
def register_policy_losses(register: Register) -> None:
    package = "uncollapse.estimators.policy_loss"
    clipped, weighted = f"{package}.clipped", f"{package}.score_function"
    register("ppo", f"{clipped}:Ppo", summary="clipped surrogate with separate bounds and a dual clip")
    register("reinforce", f"{weighted}:Reinforce", summary="plain policy gradient, without a ratio")
    register("gpg", f"{weighted}:Gpg", summary="plain policy gradient, the loss of group policy gradient")
    register("cispo", f"{weighted}:Cispo", summary="policy gradient weighed by a clipped ratio; no token loses its own")
    register("topr", f"{weighted}:Topr", summary="ratio tapered to 1 for bad tokens, none for good ones")
    register("dro", f"{weighted}:Dro", summary="policy gradient with a quadratic penalty on the log-ratio")
    register("gspo", f"{package}.rows:Gspo", summary="clipped geometric mean of the row's ratios")
    register("luspo", f"{package}.rows:Luspo", summary="gspo times the row's length")
    register(
        "gmpo", f"{package}.rows:Gmpo", summary="geometric mean of the row's clipped ratios", aliases=("geo_mean",)
    )
    register("vespo", f"{package}.rows:Vespo", summary="policy gradient weighed smoothly by the row's whole ratio")
    register("sapo", f"{package}.gates:Sapo", summary="soft gate on the ratio in place of the clip")
    register("dppo_tv", f"{package}.gates:DppoTv", summary="a token stops where its probability has moved too far")
    register("dppo_kl", f"{package}.gates:DppoKl", summary="a token stops where its binary KL has grown too large")
    register("m2po", f"{package}.gates:M2po", summary="ppo without the stalest tokens")
    register("clip_cov", f"{package}.covariance:ClipCov", summary="ppo; a few tokens of high covariance are held back")
    register("kl_cov", f"{package}.covariance:KlCov", summary="the tokens of highest covariance pay for moving")
    register("top_entropy", f"{package}.wrappers:TopEntropy", summary="another loss on the most uncertain tokens")
    register(
        "off_policy_mask", f"{package}.wrappers:OffPolicyMask", summary="another loss without bad rows that are stale"
    )
