"""The Python functions that an environment offers as tools become JSON schemas."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import lru_cache
from types import MethodType
from typing import Any

from ...core.components import Environment, Tool
from ...core.errors import RequestError
from .borders import name_of


def tools_of(environment: Environment) -> tuple[Tool, ...]:
    """Return the tools of an environment, with the schemas that their types and docstrings make.

    Raises:
        RequestError: one has no schema, since a type or a description is missing, or two have one name.
    """
    offered = environment.tools
    if not offered:
        return ()
    where = f"environment {name_of(environment)}"
    tools = tuple(each if isinstance(each, Tool) else _tool(each, where) for each in offered)
    names = [tool.name for tool in tools]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RequestError(f"two tools have the name {twice[0]!r}", where, "rename one of them")
    return tools


@lru_cache
def _tool(function: Callable[..., Any], where: str) -> Tool:
    from transformers.utils import get_json_schema

    first = next(iter(inspect.signature(function).parameters), None)
    bound = MethodType(function, object()) if first == "self" else function
    try:
        schema = get_json_schema(bound)["function"]
    except Exception as error:  # the library has an error class for each thing that is missing, and no common one
        name = getattr(function, "__name__", repr(function))
        reason = str(error).partition("\n")[0]
        fix = "give each parameter a type, and a line of its own under Args: in the docstring"
        raise RequestError(f"the tool {name} has no schema: {reason}", where, fix) from error
    kept = {key: schema[key] for key in ("name", "description", "parameters")}
    return Tool(kept["name"], json.dumps(kept, ensure_ascii=False))
