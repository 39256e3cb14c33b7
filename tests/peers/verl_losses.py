"""Policy losses as verl computes them: values and gradients, for :mod:`tests.estimators.policy_loss`.

python tests/peers/verl_losses.py        (in an environment that has verl; README.md says how it is made)
"""

from __future__ import annotations

from inputs import rows, write
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config.actor import ActorConfig, PolicyLossConfig

CASES = (
    # ours, verl's, verl's settings, aggregation
    ("ppo", "vanilla", {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 3.0}, "token-mean"),
    ("gpg", "gpg", {}, "token-mean"),
    ("cispo(clip_low=0.1, clip_high=0.3)", "cispo", {"clip_ratio_low": 0.1, "clip_ratio_high": 0.3}, "token-mean"),
    ("dro(beta=0.3)", "dro", {"dro_beta": 0.3}, "token-mean"),
    ("gspo", "gspo", {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}, "seq-mean-token-mean"),
    ("gspo(clip_low=0.2, clip_high=0.3)", "gspo", {"clip_ratio_low": 0.2, "clip_ratio_high": 0.3}, "token-mean"),
    ("gmpo", "geo_mean", {"clip_ratio_low": 0.4, "clip_ratio_high": 0.4}, "seq-mean-token-mean"),
    ("sapo", "sapo", {}, "seq-mean-token-mean"),
    ("dppo_tv", "dppo_tv", {"clip_ratio_low": 0.15, "clip_ratio_high": 0.15, "clip_ratio_c": 20.0}, "token-mean"),
    (
        "dppo_tv(clip_low=0.05, clip_high=0.1, max_ratio=1.2)",
        "dppo_tv",
        {"clip_ratio_low": 0.05, "clip_ratio_high": 0.1, "clip_ratio_c": 1.2},
        "token-mean",
    ),
    ("dppo_kl", "dppo_kl", {"clip_ratio_low": 0.05, "clip_ratio_high": 0.05, "clip_ratio_c": 20.0}, "token-mean"),
    (
        "dppo_kl(clip_low=0.01, clip_high=0.02, max_ratio=1.2)",
        "dppo_kl",
        {"clip_ratio_low": 0.01, "clip_ratio_high": 0.02, "clip_ratio_c": 1.2},
        "token-mean",
    ),
    ("kl_cov(ratio=0.1, coef=0.7)", "kl_cov", {"kl_cov_ratio": 0.1, "ppo_kl_coef": 0.7}, "token-mean"),
    (
        # every candidate is drawn, so that verl's draw, which has no seed, has no choice
        "clip_cov(clip_low=0.2, clip_high=0.28, ratio=1.0, cov_low=0.3, cov_high=3.0)",
        "clip_cov",
        {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_cov_ratio": 1.0, "clip_cov_lb": 0.3, "clip_cov_ub": 3.0},
        "token-mean",
    ),
)
INPUTS = {"tokens": rows(0), "rows": rows(1, one_per_row=True)}
OF_LOSS = {"dro_beta", "kl_cov_ratio", "ppo_kl_coef", "clip_cov_ratio", "clip_cov_lb", "clip_cov_ub"}
BY_SAMPLER = {"dppo_tv", "dppo_kl"}
"""Losses that compare the policy with what sampled: verl is given the sampler's log-probs as the old ones."""


def config(settings):
    of_loss = {key: value for key, value in settings.items() if key in OF_LOSS}
    others = {key: value for key, value in settings.items() if key not in OF_LOSS}
    return ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=PolicyLossConfig(**of_loss),
        **others,
    )


def cases():
    for ours, theirs, settings, aggregation in CASES:
        for name, inputs in INPUTS.items():
            logprobs = inputs["logprobs"].clone().requires_grad_()
            old = inputs["sampler_logprobs" if theirs in BY_SAMPLER else "old_logprobs"]
            mask = inputs["mask"].double()
            loss, _ = get_policy_loss_fn(theirs)(
                old, logprobs, inputs["advantages"], mask, aggregation, config(settings)
            )
            loss.backward()
            yield {
                "ours": ours,
                "theirs": theirs,
                "settings": settings,
                "aggregation": aggregation,
                "inputs": name,
                "loss": loss.item(),
                "gradient": logprobs.grad,
            }


if __name__ == "__main__":
    write("verl_losses", "verl", INPUTS, list(cases()))
