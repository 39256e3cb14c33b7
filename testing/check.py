"""``check`` finds everything that can be said of one component without a run."""

from __future__ import annotations

import pickle
from importlib import import_module
from typing import Any

import attrs

from ..core.components import NEEDS
from ..core.compose.blame import told
from ..core.compose.combinations import GIVEN
from ..core.compose.named import Named
from ..core.compose.spec import Spec, parse_spec
from ..core.entry import Entry
from ..core.errors import MissingExtraError, RequestError, RunError
from ..core.kinds import KINDS
from ..core.registry import registry
from ..core.targets import breach, missing_extra
from .problems import Law, NotExercisedError, Problem, broken, laws, require

ROOMS = {
    "rollout_filter": "groups",
    "episode_filter": "groups",
    "group_metric": "groups",
    "reward_shaping": "shaping",
    "kl": "kl",
    "kl_controller": "kl",
    "entropy_controller": "entropy",
    "advantage": "credit",
    "policy_loss": "losses",
    "sampler_correction": "corrections",
    "loss_aggregation": "aggregations",
    "collapse": "detectors",
    "variance": "standard_errors",
    "environment": "environments",
    "toolset": "toolsets",
    "task_sampler": "samplers",
    "batch_sampler": "samplers",
    "verifier": "verifiers",
    "dialogue": "dialogues",
    "rollout_engine": "engines",
    "token_head": "heads",
    "model_builder": "builders",
    "launcher": "launchers",
    "tracker": "trackers",
    "dialect": "sweeps",
    "experiment": "files",
    "sweep": "files",
    "command": "commands",
}
"""Module of :mod:`.laws` with the laws of a kind. For other kinds only the laws of all components are checked."""


def check(kind: str, component: Any, reach_out: bool = True) -> list[Problem]:
    """List the ways in which a component breaks the contract of its kind; the list is empty if it is sound.

    Args:
        kind: ``rollout_filter``, ``policy_loss``, ...: ``uncollapse show KIND`` prints the contract.
        component: a registered name, with parameters if it needs some (``"top_p(0.9)"``), or an instance, which need
            not be registered.
        reach_out: whether laws may be tried that start processes or talk to other machines: those of launchers,
            trackers and model builders.

    Raises:
        NotExercisedError: it needs parameters that were not given, or something that this machine does not have.
        MissingExtraError: it needs a library of an extra that is not installed.
        UnknownNameError: there is no such kind or name.
    """
    registry().entries(kind)
    try:
        if isinstance(component, str):
            return _check_name(kind, parse_spec(component), reach_out)
        return _check_component(Named(kind, type(component).__name__, {}, component), reach_out)
    except ImportError as error:
        missing = missing_extra(error, f"the laws of {kind}")
        if missing is None:
            raise
        raise missing from error


def _check_name(kind: str, spec: Spec, reach_out: bool) -> list[Problem]:
    entry = registry().entry(kind, spec.name)
    if not KINDS[kind].is_component:
        return broken(Named(kind, entry.name, {}, None, str(entry.plugin)), _laws(kind, reach_out))
    try:
        parameters = registry().describe(kind, spec.name).parameters
        missing = [parameter.name for parameter in parameters if parameter.required]
        if missing and not spec.args and not spec.params:
            what, fix = f"{entry} needs {', '.join(missing)}", f'check("{kind}", "{entry.name}(VALUE)")'
            raise NotExercisedError(what, str(entry.plugin), fix)
        component = registry().create(kind, spec.name, *spec.args, **spec.params)
    except (NotExercisedError, MissingExtraError):
        raise
    except RequestError as error:
        return [Problem.of(error)]
    except BaseException as error:
        # the author's code may even exit: that is a problem of the component, not of this process
        if isinstance(error, KeyboardInterrupt | MemoryError):
            raise
        return [Problem(f"{entry} of {entry.plugin} cannot be made: {told(error)}", entry.target_string)]
    return _check_component(Named(kind, entry.name, spec.params, component, str(entry.plugin)), reach_out)


def _check_component(named: Named, reach_out: bool) -> list[Problem]:
    if breach(named.kind, type(named.component)):
        return broken(named, OF_CLASSES)
    problems = broken(named, OF_CLASSES + OF_COMPONENTS)
    if not KINDS[named.kind].is_component:
        return problems
    return list(dict.fromkeys([*problems, *broken(named, _laws(named.kind, reach_out))]))


def _laws(kind: str, reach_out: bool) -> list[Law]:
    laws = import_module(f".laws.{ROOMS[kind]}", __package__).LAWS[kind] if kind in ROOMS else ()
    return [law for law in laws if reach_out or not law.reaches_out]


def entries_of(distribution: str) -> list[Entry]:
    """List all that a distribution, an entry point or a plugin file registers. Raises RequestError if it is nothing."""
    names = registry()
    entries = [entry for kind in names.kinds() for entry in names.entries(kind) if _is_from(entry, distribution)]
    if not entries:
        distributions = sorted({plugin.distribution or plugin.name for plugin in names.plugins})
        fix = f"install it; there are {', '.join(distributions)}"
        raise RequestError(f"{distribution!r} registers nothing", fix=fix)
    return entries


def _is_from(entry: Entry, distribution: str) -> bool:
    wanted = distribution.lower().replace("_", "-")
    return wanted in {name.lower().replace("_", "-") for name in (entry.distribution, entry.plugin.name)}


# --- the laws of components of every kind ---------------------------------------------------------------------------


def _is_of_its_kind(named: Named) -> None:
    """It derives from the base class of its kind, and has the methods that this class asks for."""
    what, fix = breach(named.kind, type(named.component)) or ("", "")
    require(named, type(named.component).__name__, not what, what, fix)


def _is_a_value(named: Named) -> None:
    """It is a frozen attrs class, so that its fields are its parameters."""
    cls = type(named.component)
    require(named, cls.__name__, attrs.has(cls), "is no attrs class: put @attrs.frozen above it", "@attrs.frozen")
    frozen = cls.__setattr__ is not object.__setattr__
    # a class with its own __setattr__ may still allow changes, so one is tried
    if frozen and attrs.fields(cls):
        name = attrs.fields(cls)[0].name
        try:
            setattr(named.component, name, getattr(named.component, name))
        except attrs.exceptions.FrozenInstanceError:
            return
        frozen = False
    require(
        named, cls.__name__, frozen, "can be changed after it was made: state belongs in a session", "@attrs.frozen"
    )


def _needs_what_there_is(named: Named) -> None:
    """It declares no needs but those that exist."""
    needs: Any = named.component.needs
    require(named, "needs", isinstance(needs, frozenset | set), f"is {needs!r}, not a frozenset of words")
    possible = GIVEN.get(named.kind, NEEDS)
    unknown = sorted(map(str, needs - possible)) if named.kind != "variance" else []
    require(named, "needs", not unknown, f"holds {', '.join(unknown)}; there are {', '.join(sorted(possible))}")


def _survives_a_pickle(named: Named) -> None:
    """It can be sent to another process, as a class of a module can."""
    cls = type(named.component)
    if "<locals>" in cls.__qualname__ or getattr(import_module(cls.__module__), cls.__name__, None) is not cls:
        # it was made inside a function, as components of tests are, and no other process could import it
        return
    try:
        pickle.loads(pickle.dumps(named.component))
    except Exception as error:
        raise RunError(
            f"{named.described} cannot be pickled: {told(error)}", f"{cls.__module__}:{cls.__name__}"
        ) from error


OF_CLASSES = laws(_is_of_its_kind, _is_a_value)
OF_COMPONENTS = laws(_needs_what_there_is, _survives_a_pickle)
