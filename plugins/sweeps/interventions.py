"""The sweep ``interventions`` compares every registered remedy with the same baseline."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ...core import describe
from ...core.components import Component
from ...core.compose.config import compose
from ...core.compose.experiment import keys
from ...core.compose.identity import config_hash
from ...core.compose.overrides import settings
from ...core.compose.problems import CompositionError
from ...core.compose.spec import Spec, read_spec, split_list
from ...core.errors import MissingExtraError, RequestError, in_python, nearest
from ...core.registry import registry
from .information import measuring
from .variation import Case

BESIDE: dict[str, dict[str, Any]] = {
    "rollout_filter": {},
    "episode_filter": {},
    "task_sampler": {},
    "batch_sampler": {},
    "reward_shaping": {},
    "advantage": {},
    "policy_loss": {},
    "sampler_correction": {},
    "loss_aggregation": {},
    "kl": {"kl.coef": 0.01},
    "kl_controller": {"kl.coef": 0.01},
    "entropy_controller": {"entropy.coef": 0.01},
}
"""Kinds whose components are remedies -> what the experiment sets beside one, unless the component says more."""

OFF: dict[str, Any] = {
    "filter.select": "nofilter",
    "filter.episodes": "all",
    "reward.shaping": "none",
    "kl.controller": "fixed",
    "kl.coef": 0.0,
    "entropy.controller": "fixed",
    "entropy.coef": 0.0,
}
"""Remedies that an experiment may have, switched off in the baseline."""

BASELINE = "baseline"
AXIS = "remedy"


@attrs.frozen(kw_only=True)
class Interventions:
    """Compare every remedy with one baseline: the experiment without filter, shaping, KL and entropy bonus.

    A remedy is any registered component of the kinds that change what a run learns, names of plugins included. It runs
    with its defaults and with what its class says in ``in_comparison``. KL has the coefficient 0.01, and so has an
    entropy bonus. What the experiment already has, such as its own loss, is the baseline. A remedy that the experiment
    cannot have is left out with the reason, and refused where --only names it. Give several ``--seeds``: the report
    compares run by run.
    """

    experiment: str = "tiny-sokoban"
    """Registered experiment or YAML file."""
    kind: str = ""
    """Kinds of remedies to compare, with commas; all by default."""
    only: str = ""
    """Names of remedies to compare, with commas, such as gspo,top_p(0.8); all by default."""
    baseline: str = ""
    """Settings of the baseline and of every remedy, with semicolons: advantage=grpo; trainer.lr=1e-5."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping.

        Raises:
            RequestError: there is no such kind or name, or nothing to compare is left.
        """
        off = {**OFF, **self._settings()}
        base = compose(self.experiment, off)
        measured, notices = measuring(base)
        off |= measured
        cases = {config_hash(base): Case(BASELINE, {}, {AXIS: BASELINE})}
        for case in self._candidates():
            try:
                digest = config_hash(compose(base, case.overrides))
            except (CompositionError, MissingExtraError) as error:
                if self.only:  # who names it wants it, or wants to know
                    raise
                reason = error.problems[0].reason if isinstance(error, CompositionError) else error
                notices.append(f"left out: {case.values[AXIS]}: {reason}")
            else:
                # the component that the experiment has anyway, or one that another kind gives as well
                cases.setdefault(digest, case)
        if len(cases) == 1:
            fix = f"name other remedies: {in_python('--only, --kind', 'only=..., kind=...')}"
            raise RequestError("there is nothing to compare", "; ".join(notices), fix)
        return {
            "name": "interventions",
            "experiment": self.experiment,
            "set": off,
            "cases": [attrs.asdict(case) for case in cases.values()],
            "ranked": True,
            "notices": notices,
        }

    def _settings(self) -> dict[str, Any]:
        return settings([word.strip() for word in self.baseline.split(";") if word.strip()], registry())

    def _candidates(self) -> Iterator[Case]:
        """Yield a case for each remedy that is asked for. Raises RequestError for what does not exist."""
        kinds = [word.strip() for word in self.kind.split(",") if word.strip()] or list(BESIDE)
        for kind in kinds:
            if kind not in BESIDE:
                raise RequestError(f"no remedy is of the kind {kind!r}", fix=nearest(kind, BESIDE))
        specs = [read_spec(word) for word in split_list(self.only)] if self.only else []
        for spec in specs:
            if not any(registry().has(kind, spec.name) for kind in kinds):
                known = [entry.name for kind in kinds for entry in registry().entries(kind)]
                raise RequestError(f"there is no remedy {spec.name!r}", fix=nearest(spec.name, known))
        for kind in kinds:
            for entry in registry().entries(kind):
                asked = [spec for spec in specs if spec.name in (entry.name, *entry.aliases)]
                for spec in asked if specs else [Spec(entry.name)]:
                    yield from _case(kind, entry.name, spec)


def _case(kind: str, name: str, spec: Spec) -> Iterator[Case]:
    """Yield the case of a remedy; of one that would need parameters that nobody gives, none."""
    target = registry().resolve(kind, name)
    parameters = describe.parameters(target)
    names = {parameter.name for parameter in parameters}
    beside = dict(target.in_comparison) if isinstance(target, type) and issubclass(target, Component) else {}
    with_it = {key: value for key, value in beside.items() if key not in names}
    if not spec.args and not spec.params:
        spec = _spelled(name, parameters, beside)
    given = {*spec.params, *(parameter.name for parameter in parameters[: len(spec.args)])}
    if any(parameter.required and parameter.name not in given for parameter in parameters):
        return
    yield Case(f"{kind}-{spec}", {**BESIDE[kind], **with_it, _key(kind): str(spec)}, {AXIS: f"{kind} {spec}"})


def _spelled(name: str, parameters: Sequence[describe.Parameter], values: Mapping[str, Any]) -> Spec:
    """Return the component with those values that are parameters of it; required ones come first, without a name."""
    params = {parameter.name: values[parameter.name] for parameter in parameters if parameter.name in values}
    first = itertools.takewhile(lambda parameter: parameter.required and parameter.name in params, parameters)
    return Spec(name, tuple(params.pop(parameter.name) for parameter in first), params)


def _key(kind: str) -> str:
    """Return the key of an experiment that holds a component of the kind."""
    return next(key for key, field in keys().items() if field.metadata.get("kind") == kind)
