"""Peak memory of the probe's passes, beyond the model and the batch, against passes that do not differentiate so much.

    OMP_NUM_THREADS=1 python benchmarks/probe_memory.py [--rows 8]

The forward-mode pass against a forward pass without gradients of the same micro-batch (target: at most 3 times), with
the fused attention of that pass and with the one of the forward-mode pass; the gradient of U against a plain forward
and backward pass (at most 1.1 times); and both while the number of sampled tokens grows under a vocabulary of 131,072,
where only a chunk of the logits may exist at once. Without a GPU, the bytes of all live tensor storages are counted at
each operation; what a kernel uses inside itself is not.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any

import torch
from probe_speed import Task, measurement_of, random_model, random_rollouts
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from uncollapse.plugins.probe.estimation.attention import DifferentiableAttention
from uncollapse.plugins.probe.estimation.clock import Clock
from uncollapse.plugins.probe.estimation.measurement import Measurement
from uncollapse.plugins.training.networks.token_head import CHUNK_ELEMENTS

MIB = 2**20


class LiveBytes(TorchDispatchMode):
    """The bytes of the storages that operations made in this context, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._storages: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and (key := x.untyped_storage()._cdata) not in given | self._storages.keys():
                storage = x.untyped_storage()
                self.now += storage.nbytes()
                self._storages[key] = weakref.finalize(storage, self._freed, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _freed(self, key: int, count: int) -> None:
        self.now -= count
        del self._storages[key]


def peak(run: Callable[[], object]) -> float:
    """MiB that a call needs at most, beyond what was there before it."""
    if torch.cuda.is_available():
        run()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    with LiveBytes() as live:
        run()
    return live.peak / MIB


def forward(measurement: Measurement) -> object:
    return measurement.passes.forward()


def forward_in_blocks(measurement: Measurement) -> object:
    with DifferentiableAttention():
        return measurement.passes.forward()


def forward_mode(measurement: Measurement) -> object:
    return measurement.passes.forward_mode(measurement.step.direction)


def gradient(measurement: Measurement) -> object:
    return measurement.step.passes.loss_gradient(measurement.step.update.loss)


def plain_gradient(measurement: Measurement) -> None:
    """Forward and backward over U, as a training step does it."""
    policy, update = measurement.step.passes.policy, measurement.step.update
    batch = update.batch.to(next(policy.parameters()).device)
    update.loss(policy(batch), batch).sum().backward()
    for parameter in policy.parameters():
        parameter.grad = None


def one_micro_batch(rows: int, vocabulary: int, **model: int) -> Measurement:
    """An E of that many rows, and a U of one prompt with as many responses."""
    torch.manual_seed(0)
    E, U = random_rollouts(rows, 1, vocabulary), random_rollouts(1, rows, vocabulary)
    return measurement_of(Task(*random_model(vocabulary, **model), E, U), rows, Clock())


def peaks(measurement: Measurement, *passes: Callable[[Measurement], object]) -> list[float]:
    return [peak(partial(run, measurement)) for run in passes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8, help="of the micro-batch")
    options = parser.parse_args()
    print(f"{date.today()}; torch {torch.__version__}; {'cuda' if torch.cuda.is_available() else 'cpu'}; MiB")

    print(f"one micro-batch of {options.rows} rows of 200 to 400 tokens, 6 layers, hidden 256")
    print(
        f"{'vocabulary':>10} {'forward':>8} {'in blocks':>10} {'forward-mode':>13} {'/ forward':>10} "
        f"{'/ in blocks':>12} {'plain gradient':>15} {'of U':>8} {'/ plain':>8}"
    )
    for vocabulary in (1024, 16384):
        measurement = one_micro_batch(options.rows, vocabulary, layers=6, hidden=256)
        fused, blocks, dual, plain, own = peaks(
            measurement, forward, forward_in_blocks, forward_mode, plain_gradient, gradient
        )
        print(
            f"{vocabulary:>10,} {fused:>8.1f} {blocks:>10.1f} {dual:>13.1f} {dual / fused:>10.2f} "
            f"{dual / blocks:>12.2f} {plain:>15.1f} {own:>8.1f} {own / plain:>8.2f}"
        )

    vocabulary = 2**17
    print(f"vocabulary {vocabulary:,}, 1 layer, hidden 64; one chunk of logits is {CHUNK_ELEMENTS * 4 / MIB:.0f}")
    print(f"{'sampled tokens':>14} {'[T, V] in fp32':>15} {'forward':>8} {'forward-mode':>13} {'gradient of U':>14}")
    for rows in (2, 4, 8, 16):
        measurement = one_micro_batch(rows, vocabulary, layers=1, hidden=64)
        sampled = int(measurement.rollouts.mask.sum())
        fused, dual, own = peaks(measurement, forward, forward_mode, gradient)
        print(f"{sampled:>14,} {sampled * vocabulary * 4 / MIB:>15.0f} {fused:>8.0f} {dual:>13.0f} {own:>14.0f}")


if __name__ == "__main__":
    main()
