"""How a planned update is cut and clipped, by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from uncollapse.plugins.probe.checkpoint.adam_state import AdamSettings, AdamState, Coverage
from uncollapse.plugins.probe.forecast.folds import Walk, passes_over
from uncollapse.plugins.training.processes.ranks import Ranks
from uncollapse.plugins.training.step.batch import Batch


@pytest.mark.parametrize(
    ("rows", "ranks", "size", "expected"),
    [
        (6, 1, None, [[0, 1, 2], [3, 4, 5]]),  # micro-batches of 4 at most
        (3, 2, None, [[0]]),  # the other rank has the two others
        (5, 2, None, [[0, 1]]),
        (6, 2, 2, [[0, 1], [4, 5]]),
        (3, 1, 8, [[0, 1, 2]]),
    ],
)
def test_every_rank_has_a_share_of_the_rows(rows, ranks, size, expected):
    update = SimpleNamespace(
        ranks=Ranks(0, ranks, torch.device("cpu")),
        experiment=SimpleNamespace(
            trainer=SimpleNamespace(micro_batch=4, token_budget=0), model=SimpleNamespace(gradient_checkpointing=False)
        ),
        policy=SimpleNamespace(module=nn.Linear(1, 1)),
    )
    ones = torch.ones(rows, 2, dtype=torch.long)
    passes = passes_over(update, Batch(tokens=ones, mask=ones > 0, lengths=ones.sum(1)), size)
    assert [list(part) for part in passes._cuts.forward] == expected


@pytest.mark.parametrize(("max_norm", "factor"), [(1.0, 1 / (5 + 1e-6)), (6.0, 1.0), (0.0, 1.0)])
def test_two_steps_by_hand(max_norm, factor):
    """A gradient of norm 5, then one of 10, on a weight without decay: AdamW's formulas, by plain numbers."""
    b1, b2, eps, lr = 0.8, 0.9, 1e-3, 0.1
    start = {"w": torch.tensor([0.3, -0.2], dtype=torch.float64)}
    second = {"w": torch.tensor([0.5, 0.1], dtype=torch.float64)}
    state = AdamState(
        step={"w": 3.0},
        exp_avg=start,
        exp_avg_sq=second,
        max_exp_avg_sq=None,
        settings={"w": AdamSettings((b1, b2), eps, 0.0)},
        base_lr=None,
        coverage=Coverage(1, 1, 1, "names"),
    )
    update = SimpleNamespace(lr=lr, experiment=SimpleNamespace(trainer=SimpleNamespace(grad_clip=max_norm)))
    walk = Walk(update, state, {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)})
    m, s, moved = [0.3, -0.2], [0.5, 0.1], [0.0, 0.0]
    for step, gradient in ((4, [3.0, -4.0]), (5, [6.0, 8.0])):
        walk.step({"w": torch.tensor(gradient, dtype=torch.float64)})
        length = math.hypot(*gradient)
        factor_now = min(1.0, max_norm / (length + 1e-6)) if max_norm else 1.0
        if step == 4:
            assert factor_now == pytest.approx(factor)
        for i, g in enumerate(gradient):
            m[i] = b1 * m[i] + (1 - b1) * factor_now * g
            s[i] = b2 * s[i] + (1 - b2) * (factor_now * g) ** 2
            moved[i] -= lr * m[i] / (1 - b1**step) / (math.sqrt(s[i] / (1 - b2**step)) + eps)
    assert walk.moved["w"].tolist() == pytest.approx(moved, rel=1e-12)
