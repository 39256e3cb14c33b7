"""The laws of advantage estimators, and of their sessions."""

from __future__ import annotations

import json

import attrs
import torch

from ...core.components import Advantages, CreditInputs
from ...core.compose.named import Named
from ...core.files import to_json
from ...plugins.training.step.borders import CheckedAdvantage, CheckedAdvantageSession
from .. import samples
from ..problems import laws, require
from .samplers import own_random

ORDER = torch.tensor([6, 0, 3, 5, 1, 7, 2, 4])
SCALES = ((1.0, 1.0), (-0.5, 0.25), (2.0, 3.0), (0.25, 0.5))
"""Factors of rewards and entropies, step by step."""


def _gives_credit(named: Named) -> None:
    """An estimator gives every token a finite advantage and return, which are zero off the mask."""
    result = _computed(named)
    expected = samples.rollouts().rewards.dtype
    for name in ("advantages", "returns"):
        dtype = getattr(result, name).dtype
        require(named, f"compute ({name})", dtype == expected, f"gave {dtype} for rewards of {expected}")


def _follows_the_rows(named: Named) -> None:
    """An estimator gives a row the same credit wherever in the batch it stands, also in later steps."""
    straight, moved = _started(named), _started(named)
    for number, batch in enumerate(_steps(named)):
        expected = straight.compute(batch).advantages[ORDER]
        same = torch.allclose(moved.compute(samples.rows_of(batch, ORDER)).advantages, expected, atol=1e-5)
        when = f" (in step {number})" if number else ""
        require(named, "compute", same, f"gave other advantages when the same rows came in another order{when}")


def _minds_no_padding(named: Named) -> None:
    """An estimator gives the same credit however far the batch is padded."""
    batch = samples.credit(named.needs)
    wide = CheckedAdvantage(named).compute(samples.padded(batch))
    same = torch.allclose(wide.advantages[:, : samples.TOKENS], _computed(named).advantages, atol=1e-5)
    require(named, "compute", same, "gave other advantages when the batch was padded further")


def _begins_alike(named: Named) -> None:
    """An estimator computes what a session of it computes in its first step, whatever other sessions have seen."""
    expected = _computed(named)
    other = _started(named)
    for batch in _steps(named):
        other.compute(batch)
    fresh = _started(named)
    apart = fresh.session is not other.session
    require(named, "start", apart, "gave the same session twice: each run has its own")
    same = _same(fresh.compute(samples.credit(named.needs)), expected)
    what = "gives other advantages than compute in its first step, or shares something with another run's session"
    require(named, "start", same, what)


def _goes_on(named: Named) -> None:
    """A session that goes on from its state computes as one that was never interrupted."""
    whole, started = _started(named), _started(named)
    for number, batch in enumerate(_steps(named)):
        resumed = _started(named)
        resumed.load_state_dict(json.loads(to_json(started.state_dict())))
        expected = whole.compute(batch)
        apart = _same(started.compute(batch), expected)
        require(named, "start", apart, "computes otherwise beside another run: they share something")
        same = _same(resumed.compute(batch), expected)
        require(named, "load_state_dict", same, f"gave other advantages in step {number} after a resume")
        resumed.metrics()


def _computes_alike(named: Named) -> None:
    """An estimator computes the same in every process: all ranks are given the same batch, and must agree."""
    runs = []
    for process in (1, 2):
        with own_random(process):
            session = _started(named)
            runs.append([session.compute(batch) for batch in _steps(named)])
    alike = all(_same(one, other) for one, other in zip(*runs, strict=True))
    require(named, "compute", alike, "gives other advantages in another process, whose random numbers are others")


def _computed(named: Named) -> Advantages:
    return CheckedAdvantage(named).compute(samples.credit(named.needs))


def _started(named: Named) -> CheckedAdvantageSession:
    return CheckedAdvantage(named).start()


def _steps(named: Named) -> list[CreditInputs]:
    """Return the batches of some steps, with rewards and entropies that change."""
    first = samples.credit(named.needs)
    batches = []
    for step, (rewards, entropies) in enumerate(SCALES):
        entropies_B_T = None if first.entropies is None else first.entropies * entropies
        batches.append(attrs.evolve(first, rewards=first.rewards * rewards, entropies=entropies_B_T, step=step))
    return batches


def _same(one: Advantages, other: Advantages) -> bool:
    return torch.equal(one.advantages, other.advantages) and torch.equal(one.returns, other.returns)


LAWS = {
    "advantage": laws(_gives_credit, _follows_the_rows, _minds_no_padding, _computes_alike, _begins_alike, _goes_on)
}
