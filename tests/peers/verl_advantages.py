"""Advantages as verl computes them, for :mod:`tests.estimators.advantage`.

python tests/peers/verl_advantages.py        (in an environment that has verl; README.md says how it is made)
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from inputs import write
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.utils.torch_functional import masked_whiten

GROUPS = [4, 4, 4, 9, 9, 9, 9, 2, 2, 2]


def short(numbers: torch.Tensor) -> torch.Tensor:
    """Nine decimals, since the file is long and is read with a tolerance of 1e-6."""
    return numbers.round(decimals=9) + 0.0


def batch(seed: int, gaps: bool, binary: bool) -> dict:
    """Ten rows of three groups, [B, T] in float64: rewards of 0 and 1 on the last sampled token, or everywhere."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(GROUPS), 28

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    lengths = torch.randint(2, shape[1] + 1, (shape[0], 1), generator=generator)
    mask = torch.arange(shape[1])[None, :] < lengths
    if gaps:
        mask &= torch.rand(shape, generator=generator) > 0.3
        mask[:, 0] = True
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    scores = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 0, 0], dtype=torch.float64)
    logits = 2 * normal(*shape, 5)
    probs = logits.softmax(-1)
    made = {
        "rewards": last * scores[:, None] if binary else mask * normal(*shape),
        "values": normal(*shape),
        "mask": mask,
        "groups": torch.tensor(GROUPS),
        "logprobs": probs[..., 0].log(),
        "collision_probs": probs.square().sum(-1),
    }
    return {name: short(value) if value.is_floating_point() else value for name, value in made.items()}


INPUTS = {
    "turns": batch(0, gaps=True, binary=False),
    "one turn": batch(1, gaps=False, binary=False),
    "successes": batch(2, gaps=True, binary=True),
}
ALL, TWO = ("turns", "one turn", "successes"), ("turns", "successes")
CASES = (
    # ours, verl's, verl's settings, inputs
    ("gae", "gae", {"gamma": 1.0, "lam": 1.0}, TWO),
    ("gae(gamma=0.99, lam=0.95)", "gae", {"gamma": 0.99, "lam": 0.95}, TWO),
    ("gae(lam=0.9, critic_lam=0.97)", "gae", {"gamma": 1.0, "lam": 0.9, "critic_lam": 0.97}, TWO),
    ("gae(critic_lam=1.0, length_alpha=0.05)", "gae", {"gamma": 1.0, "critic_lam": 1.0, "alpha": 0.05}, ALL),
    ("gae(gamma=0.9, lam=0.8, length_alpha=0.5)", "gae", {"gamma": 0.9, "critic_lam": 0.8, "alpha": 0.5}, ("turns",)),
    ("pass_at_k", "grpo_passk", {"norm_adv_by_std_in_grpo": True}, TWO),
    ("pass_at_k(scale=false)", "grpo_passk", {"norm_adv_by_std_in_grpo": False}, TWO),
    ("gpg", "gpg", {}, TWO),
    ("gpg(f_norm=0.5)", "gpg", {"f_norm": 0.5}, ("turns",)),
    # it compares positions, so that only rows without gaps compare the same tokens
    ("otb", "optimal_token_baseline", {}, ("one turn",)),
    ("otb(zero_tail=false)", "optimal_token_baseline", {"handle_zero_tail": False}, ("one turn",)),
    ("otb", "tir_optimal_token_baseline", {}, ALL),
    ("otb(zero_tail=false)", "tir_optimal_token_baseline", {"handle_zero_tail": False}, ("turns",)),
)


def gae(inputs: dict, settings: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """verl's GAE for the policy's lambda and the critic's; with ``alpha`` it is asked row by row."""

    def of(rows: slice, lam: float) -> tuple[torch.Tensor, torch.Tensor]:
        rewards, values, mask = (inputs[name][rows] for name in ("rewards", "values", "mask"))
        return get_adv_estimator_fn("gae")(rewards, values, mask.double(), settings["gamma"], lam)

    every = slice(None)
    _, returns = of(every, settings.get("critic_lam", settings.get("lam")))
    if "alpha" not in settings:
        return of(every, settings["lam"])[0], returns
    rows = []
    for row, length in enumerate(inputs["mask"].sum(1).tolist()):
        own = slice(row, row + 1)
        # it whitens what it returns, and here all rows are whitened together
        rows.append(of(own, max(0.0, 1 - 1 / (settings["alpha"] * length)))[1] - inputs["values"][own])
    return masked_whiten(torch.cat(rows), inputs["mask"].double()), returns


def advantages(theirs: str, settings: dict, inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    mask, groups = inputs["mask"].double(), inputs["groups"].numpy()
    if theirs == "gae":
        found, returns = gae(inputs, settings)
        return found * mask, returns * mask
    config = SimpleNamespace(get=settings.get)
    others = {key: value for key, value in settings.items() if key != "norm_adv_by_std_in_grpo"}
    if "token_baseline" in theirs:
        others |= {"old_log_probs": inputs["logprobs"], "sum_pi_squared": inputs["collision_probs"]}
    found, _ = get_adv_estimator_fn(theirs)(inputs["rewards"].clone(), mask, groups, config=config, **others)
    # it calls the advantages of group estimators returns; ours are rewards to go
    returns = (inputs["rewards"] * mask).flip(1).cumsum(1).flip(1)
    return found * mask, returns * mask


def cases():
    for ours, theirs, settings, names in CASES:
        for name in names:
            found, returns = advantages(theirs, settings, INPUTS[name])
            case = {"ours": ours, "theirs": theirs, "settings": settings, "inputs": name}
            yield case | {"advantages": short(found), "returns": short(returns)}


if __name__ == "__main__":
    write("verl_advantages", "verl", INPUTS, list(cases()))
