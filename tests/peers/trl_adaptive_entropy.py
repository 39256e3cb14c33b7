"""The entropy coefficients that TRL's adaptive control applies, for :mod:`tests.estimators.entropy`.

    python tests/peers/trl_adaptive_entropy.py        (in an environment that has trl; README.md says how it is made)

The trainer's own ``_compute_loss`` runs with given entropies; the coefficient that it has applied is read from the
gradient.
"""

from __future__ import annotations

from inputs import rows, write
from torch import tensor, zeros_like
from trl_losses import trainer

ENTROPIES = [0.5, 0.3, 0.21, 0.1, 0.15, 0.1, 0.05, 0.3, 0.19, 0.25, 0.4, 0.6, 0.5, 0.5, 0.1, 0.1, 0.1, 0.1]
CASES = (
    # ours, entropy.coef, TRL's settings
    ("adaptive", 0.0, {"target": 0.2, "delta": 0.005, "min": 0.0, "max": 1.0}),
    ("adaptive(delta=0.02, low=0.01, high=0.05)", 0.03, {"target": 0.2, "delta": 0.02, "min": 0.01, "max": 0.05}),
    ("adaptive(target=0.25)", 0.1, {"target": 0.25, "delta": 0.005, "min": 0.0, "max": 1.0}),
)


def applied(coef: float, settings: dict) -> list[float]:
    """The coefficient of each step's loss; the first one, before anything is measured, is left out."""
    inputs = rows(1, one_per_row=True)
    mask = inputs["mask"].long()
    made = trainer(inputs, inputs["logprobs"], {"loss_type": "bnpo"})
    names = {"target": "entropy_target", "delta": "entropy_coef_delta"}
    for name, value in settings.items():
        setattr(made.args, names.get(name, f"entropy_coef_{name}"), value)
    made.__dict__ |= {"_entropy_bonus_enabled": True, "use_adaptive_entropy": True, "entropy_coef": coef}
    made.__dict__ |= {"_last_world_entropy": float("inf"), "_entropy_window_stats": None}
    found = []
    for entropy in (*ENTROPIES, 0.0):
        entropies = (zeros_like(inputs["logprobs"]) + tensor(entropy).double()).requires_grad_()
        made._get_per_token_logps_and_entropies = lambda *a, _now=entropies, **k: (inputs["logprobs"], _now, None)
        ids = zeros_like(mask)
        given = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1, "completion_ids": ids}
        given |= {"completion_mask": mask, "advantages": inputs["advantages"][:, 0]}
        given |= {"old_per_token_logps": inputs["old_logprobs"], "num_items_in_batch": mask.sum()}
        loss = made._compute_loss(None, given | {"sampling_per_token_logps": inputs["sampler_logprobs"]})
        if loss.requires_grad:
            loss.backward()
        found.append(0.0 if entropies.grad is None else -float(entropies.grad.sum()))
    return found[1:]


if __name__ == "__main__":
    cases = [{"ours": ours, "coef": coef, "applied": applied(coef, settings)} for ours, coef, settings in CASES]
    write("trl_adaptive_entropy", "trl", {"entropies": ENTROPIES}, cases)
