"""Environments of the package verifiers are found, loaded and refused."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import pkgutil
import re
import sys
import threading
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from .....core.errors import RequestError, UncollapseError, nearest
from .....core.paths import expanded
from ...common import Split, split_of
from .refusals import refuse_env, refuse_tasks, told

_OLD = "port it to verifiers.v1 (a Taskset in __all__); modules with load_environment are those of verifiers before 0.4"
_LOADING = threading.Lock()


@attrs.frozen
class Loaded:
    """An environment of the package with its tasks."""

    env: Any
    tasks: tuple[Any, ...]
    keys: tuple[str, ...]
    """Each task as text, without its number."""
    weights: dict[str, float]
    """Weight of each function and judge that gives a reward."""
    closed: bool
    """Whether nothing else gives one: the environment has no class ``Env`` of its own."""

    @property
    def shared(self) -> Any:
        """Function that makes the tools which all tasks share."""
        taskset = self.env.taskset
        return lambda: list(type(taskset).toolsets(taskset.config))

    @property
    def digest(self) -> str:
        """Hash of the tasks."""
        return hashlib.sha256("\n".join(self.keys).encode()).hexdigest()


@attrs.frozen
class Source:
    """Where an environment is, and how it is set."""

    env: str
    settings: str
    """Settings of the taskset, as JSON."""
    size: int | None
    max_turns: int | None
    split: Split
    stamp: str = ""
    """What changes when the file of the environment does."""

    @property
    def where(self) -> str:
        """Place for messages."""
        return f"environment: verifiers, env {self.env}"


def load(source: Source) -> Loaded:
    """Load an environment with its tasks, once.

    Raises:
        RequestError: there is no such environment, its settings are refused, or it cannot be played here.
    """
    with _LOADING:
        return _load(source)


@lru_cache(maxsize=32)
def _load(source: Source) -> Loaded:
    from verifiers.v1.envs.single_agent import SingleAgentEnv
    from verifiers.v1.utils.loaders import load_environment

    where, settings = source.where, json.loads(source.settings)
    name = _module(source)
    try:
        env = load_environment(_config(name, settings, source))
    except UncollapseError:
        raise
    except Exception as error:  # whatever the module's own classes raise
        raise RequestError(f"the environment cannot be made: {told(error)}", where) from error
    refuse_env(env, where)
    tasks = tuple(_tasks(env.taskset, source))
    refuse_tasks(env, tasks, where)
    keys = [task.data.model_dump_json(exclude={"idx"}) for task in tasks]
    kept = [number for number, key in enumerate(keys) if source.split in ("all", split_of(key))]
    if not kept:
        raise RequestError(f"none of its {len(tasks)} tasks is in the split {source.split}", where, "give more tasks")
    weights = {fn.__name__: float(getattr(fn, "_vf_weight", 1.0)) for fn in tasks[0].hooks("reward")}
    weights |= {judge.reward_name: float(judge.config.weight) for judge in tasks[0].plugged_judges()}
    closed = isinstance(env, SingleAgentEnv)
    return Loaded(env, tuple(tasks[n] for n in kept), tuple(keys[n] for n in kept), weights, closed)


def _module(source: Source) -> str:
    """Import the module of an environment, and return the name under which the package finds it."""
    from verifiers.v1.taskset import Taskset
    from verifiers.v1.utils.loaders import import_taskset, taskset_class

    name = source.env
    try:
        if _is_path(source.env):
            name = _from_path(expanded(source.env), source)
        module = import_taskset(name)
    except UncollapseError:
        raise
    except Exception as error:  # a module raises anything while it is imported
        tried = getattr(error, "name", None) or ""
        if f"{source.env!r} not found" in str(error) or tried.startswith("verifiers.v1.tasksets."):
            fix = f"install it; {nearest(source.env, installed())}"
            raise RequestError(f"there is no environment {source.env!r}", source.where, fix) from error
        raise RequestError(f"its module cannot be imported: {told(error)}", source.where) from error
    try:
        taskset_class(name)
    except (AttributeError, TypeError, ValueError) as error:
        old = hasattr(module, "load_environment") and not hasattr(module, "__all__")
        old = old or _exports_old(module, Taskset)
        fix = _OLD if old else "export one Taskset in __all__"
        raise RequestError(f"its module has no taskset: {told(error)}", source.where, fix) from error
    return name


def _exports_old(module: ModuleType, taskset: type) -> bool:
    exported = [getattr(module, name, None) for name in getattr(module, "__all__", ())]
    return hasattr(module, "load_environment") and not any(
        isinstance(each, type) and issubclass(each, taskset) for each in exported
    )


def _is_path(env: str) -> bool:
    return env.endswith(".py") or ("/" in env and expanded(env).is_dir())


def stamp(env: str) -> str:
    """Return what changes when the file of an environment does; an empty text for a package."""
    path = expanded(env)
    return f"{path.resolve()}:{path.stat().st_mtime_ns}" if env.endswith(".py") and path.is_file() else ""


def _from_path(path: Path, source: Source) -> str:
    """Import a file, or a folder that is a package, and return the name of its module."""
    path = path.resolve()
    if path.is_dir():
        if not (path / "__init__.py").is_file():
            raise RequestError("the folder is no package: it has no __init__.py", source.where, "give a .py file")
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        return path.name
    if not path.is_file():
        raise RequestError(f"there is no file {path}", source.where)
    # the package finds modules by names of small letters, and a changed file must not be the old module
    short = hashlib.sha256(source.stamp.encode()).hexdigest()[:12]
    name = f"verifiers_file_{re.sub('[^a-z0-9]', '_', path.stem.lower())}_{short}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return name


@lru_cache(maxsize=1)
def installed() -> tuple[str, ...]:
    """Return the names of environments that are installed: those of the package, and packages that need it."""
    from verifiers.v1 import tasksets

    own = {module.name for module in pkgutil.iter_modules(tasksets.__path__)}
    for distribution in importlib.metadata.distributions():
        needs = {re.split(r"[^A-Za-z0-9._-]", need)[0].lower() for need in distribution.requires or ()}
        if "verifiers" in needs and distribution.metadata["Name"] != "uncollapse":
            own.add(distribution.metadata["Name"].replace("-", "_").lower())
    return tuple(sorted(own))


def _config(name: str, settings: dict[str, Any], source: Source) -> Any:
    """Return the configuration of an environment whose agents need neither a program nor a sandbox."""
    from pydantic import ValidationError
    from verifiers.v1.configs.agent import agent_config_fields
    from verifiers.v1.utils.loaders import env_config_type, resolve_env_config, taskset_config_type

    try:
        agent = {"harness": {"id": "null"}, "runtime": {"type": "subprocess"}, "max_turns": source.max_turns}
        roles = agent_config_fields(env_config_type(name).model_construct())
        return resolve_env_config(
            {"taskset": {**settings, "id": name}, **{role: {**agent, "model": "policy"} for role in roles}}
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part != "taskset")
        fix = ""
        if first["type"] == "extra_forbidden" and "." not in key:
            known = set(taskset_config_type(name).model_fields) - {"id"}
            fix = nearest(key, known)
        reason = ": ".join(filter(None, (key, first["msg"])))
        raise RequestError(f"its settings are refused: {reason}", source.where, fix) from error


def _tasks(taskset: Any, source: Source) -> list[Any]:
    if not taskset.bounded and source.size is None:
        raise RequestError("its tasks have no end", source.where, "set size to the number of tasks, such as 1000")
    try:
        tasks = list(islice(iter(taskset), source.size))
    except Exception as error:  # loading runs the environment's own code
        raise RequestError(f"its tasks cannot be loaded: {told(error)}", source.where) from error
    if not tasks:
        raise RequestError("it has no tasks", source.where, "give it settings with some")
    return tasks
