"""Composition: a file, a registered name or a mapping, and overrides -> an :class:`~.experiment.Experiment`.

Everything is read strictly, and all problems are found before any is reported. Later things win: the defaults of the
schema, the experiment that ``extends`` names, the experiment itself, ``--set`` overrides. Sections merge key by key. A
component given with its name replaces the one that was there; a mapping without a name changes its parameters. Plugin
files add up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import MissingExtraError, RequestError, nearest
from ..paths import expanded, is_there, read_text, shown_path
from ..yaml import SyntaxProblem, dumps, loads
from .combinations import combination_problems
from .converter import make_converter, structure_component
from .experiment import Experiment, keys
from .instances import with_names
from .merging import merge, merge_component
from .overrides import Overrides, read_overrides
from .plain_data import plain, plain_problems
from .problems import UNKNOWN_KEY, CompositionError, Invalid, Problem, unique
from .spellings import SHORT, as_written, given_twice, written_out

if TYPE_CHECKING:
    from ..registry import Registry

Source = str | Path | Mapping[str, Any] | Experiment
SUFFIXES = (".yaml", ".yml")
LARGEST_FILE = 1 << 16
"""Bytes of an experiment file."""
LONGEST_CHAIN = 32
"""Experiments that extend each other."""


def compose(source: Source, overrides: Overrides = (), registry: Registry | None = None) -> Experiment:
    """The experiment that ``source`` describes, with every default filled in and every component made.

    Args:
        source: the path of a YAML file, the name of a registered experiment, a mapping, or a composed experiment.
        overrides: ``"kl.coef=0.01"`` texts whose values are YAML, or a mapping of dotted keys to plain data. In
            mappings a component may stand itself where its name could: ``{"advantage": Grpo(eps=1e-4)}``.
        registry: where names come from; by default the registry of this process.

    Raises:
        CompositionError: with every problem that was found.
        MissingExtraError: a component needs a library of an extra that is not installed.
    """
    experiment, faults = _compose(source, overrides, registry)
    if faults or experiment is None:
        raise CompositionError(faults, _label(source))
    return experiment


def problems(source: Source, overrides: Overrides = (), registry: Registry | None = None) -> list[Problem]:
    """Everything that is wrong with an experiment; empty when :func:`compose` would return it."""
    return _compose(source, overrides, registry)[1]


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain data with all defaults written out; composing it gives an equal experiment."""
    data: dict[str, Any] = plain(experiment)
    return data


def dump_yaml(experiment: Experiment) -> str:
    """:func:`to_dict` as a YAML file."""
    return dumps(to_dict(experiment))


def validation_environment(experiment: Experiment, registry: Registry | None = None) -> Any:
    """The environment of validation: that of training with the parameters of ``validation.environment`` over its own.

    Raises:
        Invalid: one of them is no parameter of the environment, or has a wrong value.
    """
    registry = registry or _registry()
    named = experiment.environment
    spelled = merge_component(registry, "environment", plain(named), experiment.validation.environment)
    return structure_component(make_converter(registry), registry, "environment", spelled).component


def _registry() -> Registry:
    from ..registry import registry

    return registry()


def _label(source: Source) -> str:
    return shown_path(source) if isinstance(source, str | Path) else ""


def _compose(
    source: Source, overrides: Overrides, registry: Registry | None
) -> tuple[Experiment | None, list[Problem]]:
    registry = registry or _registry()
    faults: list[Problem] = []
    layers: list[dict[str, Any]] = []
    try:
        layers = _layers(source, registry, ())
    except Invalid as error:
        faults += error.problems
    changes, malformed = read_overrides(overrides, registry)
    malformed += [problem for change in changes for problem in plain_problems(change)]
    if faults or malformed:
        return None, [*faults, *malformed]
    twice = [problem for given in (*([layer] for layer in layers), changes) for problem in given_twice(given)]
    layers += changes
    experiment, faults = _structured(layers, registry, twice)
    return experiment, unique(as_written(faults, layers))


def _structured(
    layers: list[dict[str, Any]], registry: Registry, twice: list[Problem]
) -> tuple[Experiment | None, list[Problem]]:
    """What layers of plain data say together, each laid over those before it; ``twice``: what they say in two ways."""
    data, problems = merged(registry, [written_out(layer) for layer in layers])
    faults = [*twice, *problems]
    data["plugins"] = list(registry.files())
    faults += _model_problems(data.get("model"))
    converter = make_converter(registry)
    try:
        experiment = converter.structure(data, Experiment)
    except Invalid as error:
        return None, [*map(_elsewhere, error.problems), *faults]
    if twice:
        return None, faults
    return experiment, [*faults, *combination_problems(experiment), *validation_problems(experiment, registry)]


def validation_problems(experiment: Experiment, registry: Registry) -> list[Problem]:
    """What is wrong with the environment of validation."""
    try:
        validation_environment(experiment, registry)
    except Invalid as error:
        return [_of_validation(problem) for problem in error.problems]
    return []


def _of_validation(problem: Problem) -> Problem:
    """With the way out where a base experiment has left parameters of another environment."""
    clear = "(validation.environment=null takes all of them away)"
    return attrs.evolve(problem, fix=f"{problem.fix} {clear}".strip()).under("validation.environment")


def _elsewhere(problem: Problem) -> Problem:
    """An unknown key that is the end of a known one (``lr`` is ``trainer.lr`` or ``critic.lr``), or close to one."""
    last = problem.key.rpartition(".")[2]
    homes = [key for key in keys() if key == last or key.endswith(f".{last}")]
    if problem.reason != UNKNOWN_KEY:
        return problem
    if not homes:
        top = [*(key for key in keys() if "." not in key), *SHORT]
        return problem if "." in problem.key else attrs.evolve(problem, fix=nearest(problem.key, top))
    return attrs.evolve(problem, fix=f"did you mean {' or '.join(homes)}?")


# --- sources --------------------------------------------------------------------------------------------------------


def _layers(source: Source, registry: Registry, seen: tuple[str, ...]) -> list[dict[str, Any]]:
    """The plain data of a source, after that of the experiments that it extends. Raises Invalid."""
    if isinstance(source, Experiment):
        return [plain(source)]
    data, directory = _read(source, registry)
    if not isinstance(data, Mapping):
        raise Invalid(Problem("an experiment is a mapping of keys to values", value=data))
    if faults := plain_problems(data):
        raise Invalid(*faults)
    layer = plain(with_names(data, registry))
    if isinstance(layer.get("plugins"), list):
        layer["plugins"] = [_from(directory, item, "plugins") for item in layer["plugins"]]
    if "extends" not in layer:
        return [layer]
    base = layer.pop("extends")
    if not isinstance(base, str):
        raise Invalid(Problem("must be the name or the path of one experiment", "extends", base))
    if base.endswith(SUFFIXES):
        base = _from(directory, base, "extends")
    if len(seen) >= LONGEST_CHAIN:
        raise Invalid(Problem(f"more than {LONGEST_CHAIN} experiments extend each other", "extends", base))
    if base in seen:
        raise Invalid(Problem(f"experiments extend each other in a circle: {' -> '.join([*seen, base])}", "extends"))
    try:
        return [*_layers(base, registry, (*seen, base)), layer]
    except Invalid as error:
        raise Invalid(
            *(problem.under("extends") if not problem.key else problem for problem in error.problems)
        ) from error


def _read(source: str | Path | Mapping[str, Any], registry: Registry) -> tuple[Any, Path]:
    """The raw data of a source and the directory that its relative paths start from."""
    if isinstance(source, Mapping):
        return source, Path()
    if not isinstance(source, str | Path):
        raise Invalid(Problem("an experiment is a name, the path of a file or a mapping", value=source))
    if isinstance(source, Path) or source.endswith(SUFFIXES):
        return read_file(source)
    try:
        return registry.resolve("experiment", source), Path()
    except MissingExtraError:
        raise
    except RequestError as error:
        if is_there(source):
            return read_file(source)
        raise Invalid(Problem(error.what, fix=f"{error.fix}, or give the path of a YAML file")) from error


def read_file(path: str | Path) -> tuple[Any, Path]:
    """The raw data of a YAML file and the directory that it is in. Raises Invalid."""
    try:
        return loads(read_text(path, LARGEST_FILE)), expanded(path).parent
    except SyntaxProblem as error:
        reason = f"the file {shown_path(path)} is not valid YAML: {error}"
        raise Invalid(Problem(reason, fix="put text with special characters in quotes")) from error
    except RequestError as error:
        config = Path(path) / "config.yaml"
        fix = f"did you mean {config}?" if is_there(str(config)) else error.fix
        raise Invalid(Problem(error.what, fix=fix)) from error


def _from(directory: Path, path: object, key: str) -> object:
    """A path of a file as an absolute one; what is no text stays, for structuring to find."""
    if not isinstance(path, str):
        return path
    try:
        return os.path.realpath(directory / expanded(path))
    except RequestError as error:
        raise Invalid(Problem(error.what, key, path, error.fix)) from error


def _load_plugins(layers: list[dict[str, Any]], registry: Registry) -> list[Problem]:
    """Load the plugin files of every layer. All loaded files take part in a run, and so stand in its config."""
    faults = []
    for layer in layers:
        files = layer.get("plugins", [])
        if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
            faults.append(Problem("must be a list of files", "plugins", files))
            continue
        for file in files:
            try:
                registry.load_file(file)
            except MissingExtraError:
                raise
            except RequestError as error:
                reason = f"{error.what} ({error.where})" if error.where else error.what
                faults.append(Problem(reason, "plugins", file, error.fix))
    return faults


def _model_problems(model: object) -> list[Problem]:
    """Found in the plain data, so that it is reported together with the mistakes of spelling."""
    if not isinstance(model, Mapping | None):
        return []
    given = [key for key in ("path", "build") if model and model.get(key) is not None]
    if len(given) == 1:
        return []
    fix = "set model.path=null or model.build=null" if given else "model.path is a Hugging Face name or a directory"
    return [Problem(f"needs exactly one of path and build, and has {'both' if given else 'neither'}", "model", fix=fix)]


# --- merging --------------------------------------------------------------------------------------------------------


def merged(
    registry: Registry, layers: list[dict[str, Any]], cls: type = Experiment
) -> tuple[dict[str, Any], list[Problem]]:
    """Layers of plain data laid over each other, with their plugin files loaded, and what was wrong with them."""
    data: dict[str, Any] = {}
    faults = _load_plugins(layers, registry)
    for layer in layers:
        try:
            data = merge(registry, data, layer, cls)
        except Invalid as error:
            faults += error.problems
    return data, faults
