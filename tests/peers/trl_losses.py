"""Policy losses as TRL computes them: values and gradients, for :mod:`tests.estimators.policy_loss`.

    python tests/peers/trl_losses.py        (in an environment that has trl; README.md says how it is made)

The trainer's own ``_compute_loss`` runs, with its forward pass replaced by given log-probs and entropies.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import torch
from inputs import rows, write
from trl import GRPOTrainer

INPUTS = {"rows": rows(1, one_per_row=True), "far": rows(2, one_per_row=True, spread=1.5)}
ROW = {"importance_sampling_level": "sequence"}
CASES = (
    # ours, settings of the trainer, aggregation that its loss type stands for
    ("ppo(clip_low=0.2, clip_high=0.28, dual_clip=null)", {"loss_type": "bnpo"}, "token-mean"),
    ("cispo(clip_high=0.28)", {"loss_type": "cispo", "epsilon_high": 1.28}, "token-mean"),
    ("cispo", {"loss_type": "cispo", "epsilon_high": 5.0}, "token-mean"),
    ("sapo", {"loss_type": "sapo"}, "seq-mean-token-mean"),
    ("vespo", {"loss_type": "vespo"}, "token-mean"),
    (
        "vespo(k_pos=1, lambda_pos=0.5, k_neg=2, lambda_neg=1)",
        {"loss_type": "vespo", "k_pos": 1.0, "lambda_pos": 0.5, "k_neg": 2.0, "lambda_neg": 1.0},
        "token-mean",
    ),
    ("gspo(clip_low=0.2, clip_high=0.28)", {"loss_type": "grpo", **ROW}, "seq-mean-token-mean"),
    ("luspo(clip_low=0.2, clip_high=0.28)", {"loss_type": "luspo", **ROW}, "seq-mean-token-mean"),
    (
        "top_entropy(share=0.3, of=ppo(dual_clip=null))",
        {"loss_type": "bnpo", "top_entropy_quantile": 0.3},
        "token-mean",
    ),
    (
        "off_policy_mask(threshold=0.05, of=ppo(dual_clip=null))",
        {"loss_type": "bnpo", "off_policy_mask_threshold": 0.05},
        "token-mean",
    ),
)


class Alone:
    """What the trainer asks of accelerate, in a single process."""

    num_processes, sync_gradients = 1, True

    @staticmethod
    def gather(tensor):
        return tensor

    @staticmethod
    def reduce(tensor, **options):
        return tensor

    @staticmethod
    def pad_across_processes(tensor, **options):
        return tensor


def trainer(inputs, logprobs, settings):
    args = SimpleNamespace(
        delta=None,
        use_bias_correction_kl=False,
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05,
        vespo_k_pos=settings.get("k_pos", 2.0),
        vespo_lambda_pos=settings.get("lambda_pos", 3.0),
        vespo_k_neg=settings.get("k_neg", 3.0),
        vespo_lambda_neg=settings.get("lambda_neg", 2.0),
        steps_per_generation=1,
    )
    made = GRPOTrainer.__new__(GRPOTrainer)
    made.__dict__ |= dict(  # noqa: C408 - they read as attributes
        args=args,
        accelerator=Alone(),
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        top_entropy_quantile=settings.get("top_entropy_quantile", 1.0),
        off_policy_mask_threshold=settings.get("off_policy_mask_threshold"),
        importance_sampling_level=settings.get("importance_sampling_level", "token"),
        loss_type=settings["loss_type"],
        epsilon_low=0.2,
        epsilon_high=settings.get("epsilon_high", 0.28),
        beta=0.0,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        use_adaptive_entropy=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    made._get_per_token_logps_and_entropies = lambda *a, **k: (logprobs, inputs["entropies"], None)
    return made


def cases():
    for ours, settings, aggregation in CASES:
        for name, inputs in INPUTS.items():
            logprobs = inputs["logprobs"].clone().requires_grad_()
            mask = inputs["mask"].long()
            ids = torch.zeros_like(mask)
            loss = trainer(inputs, logprobs, settings)._compute_loss(
                None,
                {
                    "prompt_ids": ids[:, :1],
                    "prompt_mask": ids[:, :1] + 1,
                    "completion_ids": ids,
                    "completion_mask": mask,
                    # its advantages are one for each row, also for a row whose first token is not trained
                    "advantages": inputs["advantages"][:, 0],
                    "old_per_token_logps": inputs["old_logprobs"],
                    "sampling_per_token_logps": inputs["sampler_logprobs"],
                    "num_items_in_batch": mask.sum(),
                },
            )
            loss.backward()
            yield {
                "ours": ours,
                "theirs": settings["loss_type"],
                "settings": settings,
                "aggregation": aggregation,
                "inputs": name,
                "loss": loss.item(),
                "gradient": logprobs.grad,
            }


if __name__ == "__main__":
    write("trl_losses", "trl", INPUTS, list(cases()))
