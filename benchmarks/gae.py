"""Masked token-level GAE is timed against the loop over tokens of verl 0.6.1 and RAGEN-2, in one process.

    OMP_NUM_THREADS=2 python benchmarks/gae.py

The peer is that loop's recursion, written anew: one step per position from the last to the first, observation tokens
leave both carries as they were, then whitening over the mask. Both compute the same numbers, which is checked.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from uncollapse.core.components import CreditInputs
from uncollapse.estimators.advantage.gae import Gae


def peer(rewards: Tensor, mask: Tensor, values: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """[B, T] whitened advantages and returns; positions off the mask hold the carried advantage."""
    mask = mask.float()
    advantage = next_value = torch.zeros(len(rewards))
    columns = []
    for t in reversed(range(rewards.shape[1])):
        sampled = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_value = values[:, t] * sampled + next_value * (1 - sampled)
        advantage = (delta + gamma * lam * advantage) * sampled + advantage * (1 - sampled)
        columns.append(advantage)
    advantages = torch.stack(columns[::-1], dim=1)
    returns = advantages + values
    n = mask.sum()
    mean = (advantages * mask).sum() / n
    variance = ((advantages - mean).square() * mask).sum() / (n - 1)
    return (advantages - mean) * torch.rsqrt(variance + 1e-8), returns


def batch(B: int, T: int, sampled: float) -> dict[str, Tensor]:
    """Turns of 128 tokens, a share of each sampled, the reward of the episode on the last sampled token."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(T) % 128 >= 128 * (1 - sampled)).expand(B, T)
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    return {
        "rewards": torch.where(last, torch.randn(B, 1, generator=generator), 0.0),
        "mask": mask.contiguous(),
        "values": torch.randn(B, T, generator=generator),
    }


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """The fastest of some runs, after a warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    print(f"{options.rows} rows, float32, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'T':>6} {'sampled':>8} {'gamma':>6} {'lam':>5} {'loop ms':>9} {'ours ms':>9} {'ratio':>7} {'max diff':>9}")
    for T in options.tokens:
        for sampled in (0.5, 1.0):
            for gamma, lam in ((1.0, 1.0), (0.99, 0.95)):
                data = batch(options.rows, T, sampled)
                groups = torch.zeros(options.rows, dtype=torch.long)
                ours = Gae(gamma, lam)
                expected, _ = peer(**data, gamma=gamma, lam=lam)
                difference = (
                    (ours.compute(CreditInputs(**data, groups=groups)).advantages - expected)[data["mask"]].abs().max()
                )
                if difference > 1e-3:
                    raise SystemExit(f"the two disagree by {difference:.1e}")
                loop_ms = milliseconds(lambda: peer(**data, gamma=gamma, lam=lam), options.repeats)  # noqa: B023
                ours_ms = milliseconds(lambda: ours.compute(CreditInputs(**data, groups=groups)), options.repeats)  # noqa: B023
                print(
                    f"{T:>6} {sampled:>8} {gamma:>6} {lam:>5} {loop_ms:>9.1f} {ours_ms:>9.1f} "
                    f"{loop_ms / ours_ms:>7.1f} {difference:>9.1e}"
                )


if __name__ == "__main__":
    main()
