"""From a file, a template or a mapping to a :class:`ProbeConfig`: strict, with every problem reported at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ...core.compose.config import merged, read_file
from ...core.compose.converter import make_converter
from ...core.compose.instances import with_names
from ...core.compose.overrides import read_overrides
from ...core.compose.plain_data import plain, plain_problems
from ...core.compose.problems import CompositionError, Invalid, Problem, unique
from ...core.registry import registry
from ...core.yaml import dumps
from . import legacy_keys
from .config import ProbeConfig

PREDICTION = frozenset({"s_N", "t_M", "K_NM", "jH", "S1", "Hj", "Tj", "z"})
TRUTH = frozenset({"w", "h1"})
REPEATS = frozenset({"repeats_K", "sizes_K"})
ONE_BATCH = frozenset({"r_U", "K_UU"})
"""Terms of variance estimators, by what measures them."""

MOST_SEQUENCES = 10_000_000
MOST_RUNS = 100_000
"""Beyond these a request is a slip of the hand."""

ALTERNATIVES = (
    ("batch_config.B_E", "batch_config.B_E_values"),
    ("batch_config.dataset_name", "batch_config.environment"),
)
"""Keys of which one is given: a change of one takes back the other."""

TEMPLATES = Path(__file__).parent / "configs"


class ConfigError(CompositionError):
    """A probe cannot be configured; ``problems`` has every reason."""

    subject = "the probe configuration"


@attrs.frozen
class Read:
    """A configuration and what was passed over in it."""

    config: ProbeConfig
    ignored: tuple[str, ...] = ()
    """``key: why nothing reads it``."""
    spare_rate: bool = attrs.field(default=False, eq=False)
    """Whether the learning rate is a template's, which gives way to the one that the checkpoint has recorded."""


def read_config(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Read:
    """The configuration of a file, a template or a mapping, with values of dotted keys put over it.

    Raises:
        ConfigError: it cannot be read, or not all of it makes sense.
    """
    found: list[Problem] = []
    try:
        changes, found = read_overrides(with_alternatives(overrides or {}), registry())
        layers = [legacy_keys.renamed(layer) for layer in (load(source), *changes)]
        data, problems = merged(registry(), layers, ProbeConfig)
        ignored, refused = legacy_keys.take_out(data)
        found += [*problems, *refused]
        config = make_converter(registry()).structure(data, ProbeConfig)
        found += _combinations(config)
    except Invalid as error:
        found += error.problems
    if found:
        raise ConfigError(unique(found), "" if isinstance(source, Mapping) else str(source))
    return Read(config, ignored)


def with_alternatives(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Add to values of dotted keys a null for the alternative of each; a section may be given as a mapping."""
    changes = dict(overrides)
    given = {key: value for section, value in overrides.items() for key, value in _dotted(section, value)}
    for one, other in (*ALTERNATIVES, *(pair[::-1] for pair in ALTERNATIVES)):
        if given.get(one) is not None and other not in given:
            changes[other] = None
    return changes


def _dotted(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a key with its value and, where that is a mapping, the keys below it."""
    yield key, value
    for name, below in value.items() if isinstance(value, Mapping) else ():
        yield from _dotted(f"{key}.{name}", below)


def load(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The plain data of a file or template. Raises Invalid."""
    data: Any = source
    if not isinstance(source, Mapping):
        path = find_template(Path(source))
        try:
            data = read_file(path)[0]
        except Invalid as error:
            if path.exists():
                raise
            fix = f"templates: {', '.join(templates())}"
            raise Invalid(attrs.evolve(error.problems[0], fix=fix)) from error
    if not isinstance(data, Mapping):
        raise Invalid(Problem("a configuration is a mapping of keys to values", value=data))
    if faults := plain_problems(data):
        raise Invalid(*faults)
    return dict(plain(with_names(data, registry())))


def templates() -> list[str]:
    """``configs/NAME.yaml`` of every template."""
    return sorted(f"configs/{path.name}" for path in TEMPLATES.glob("*.yaml"))


def find_template(path: Path) -> Path:
    """The file, or where there is none, the template of that name: ``.../configs/NAME.yaml`` or ``NAME.yaml``."""
    path = path.expanduser()
    template = TEMPLATES / path.name
    named = path.parent.name == "configs" or not path.parent.name
    return template if not path.exists() and named and template.is_file() else path


def to_yaml(config: ProbeConfig) -> str:
    """The configuration as YAML that reads back to an equal one."""
    return dumps(plain(config))


def _combinations(config: ProbeConfig) -> Iterator[Problem]:
    """What cannot be had together."""
    batches, gradient = config.batch_config, config.policy_gradient
    if batches.B_E is not None and batches.B_E_values is not None and batches.B_E_values != (batches.B_E,):
        yield Problem("both are given", "batch_config.B_E and batch_config.B_E_values", fix="keep one of them")
    if batches.dataset_name is not None and batches.environment is not None:
        yield Problem(
            "both are given", "batch_config.dataset_name and batch_config.environment", fix="keep one of them"
        )
    if not config.probe_rework.compute_delta_h1 and not config.measures_truth:
        yield Problem(
            "neither the prediction nor the truth is to be computed",
            "probe_rework.compute_delta_h1 and importance.enabled",
            fix="set one of them to true",
        )
    yield from _amounts(config)
    yield from _estimators(config)
    if gradient.kl is not None and gradient.kl_coef == 0:
        yield Problem("a KL term has an estimator and a coefficient", "policy_gradient.kl and policy_gradient.kl_coef")
    if gradient.max_grad_norm and config.direction != "adamw":
        yield Problem("clipping is part of the adamw direction only", "policy_gradient.max_grad_norm")


def _amounts(config: ProbeConfig) -> Iterator[Problem]:
    """What no machine holds: refused at once, rather than after hours or by the system's memory."""
    batches = config.batch_config
    for key, count in (("B_E", max(config.sizes) * batches.G_E), ("B_U", batches.B_U * batches.G)):
        if count > MOST_SEQUENCES:
            reason = f"asks for more than {MOST_SEQUENCES:,} sequences, and a batch is held in memory as a whole"
            yield Problem(reason, f"batch_config.{key}", fix="ask for fewer")
    if len(config.sizes) * batches.runs_per_batch > MOST_RUNS:
        yield Problem(f"asks for more than {MOST_RUNS:,} runs", "batch_config.runs_per_batch", fix="ask for fewer")


def _estimators(config: ProbeConfig) -> Iterator[Problem]:
    batches, work = config.batch_config, config.probe_rework
    flags = {
        "probe_rework.compute_conditional_variance": work.compute_conditional_variance,
        "probe_rework.compute_vx_vy_variance": work.compute_vx_vy_variance,
    }
    asked = [key for key, flag in flags.items() if flag and work.compute_delta_h1]
    asked += ["variance"] if config.variance else []
    if 1 in config.sizes and asked:
        key = "batch_config.B_E" if batches.B_E is not None else "batch_config.B_E_values"
        yield Problem(f"one prompt has no spread, and {asked[0]} asks for an error", key, 1, "use 2 prompts or more")
    if batches.B_U == 1 and work.compute_vx_vy_variance and work.compute_delta_h1:
        yield Problem("one prompt has no spread, and probe_rework.compute_vx_vy_variance asks for an error",
                      "batch_config.B_U", 1, "use 2 prompts or more")  # fmt: skip
    for named in config.variance:
        needs = named.needs
        if unknown := sorted(needs & ONE_BATCH):
            reason = f"{named.name} needs {', '.join(unknown)}, which belongs to one batch that is both E and U"
            yield Problem(reason, "variance", named.name, "choose an estimator of separate batches")
        if needs & REPEATS:
            reason = f"{named.name} speaks of several probes, not of one"
            yield Problem(reason, "variance", named.name, "run batch-scaling or sanity-check, which use it")
        if needs & TRUTH and config.importance.is_mode not in ("snis", "snis_rb"):
            reason = f"{named.name} speaks of self-normalised weights, not of {config.importance.is_mode}"
            yield Problem(reason, "variance", named.name, "each point of truth has its own standard error")
        if needs & TRUTH and not config.measures_truth:
            yield Problem(f"{named.name} needs the truth", "variance", named.name, "set importance.enabled: true")
        if needs & PREDICTION and not work.compute_delta_h1:
            fix = "set probe_rework.compute_delta_h1: true"
            yield Problem(f"{named.name} needs the prediction", "variance", named.name, fix)
