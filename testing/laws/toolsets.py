"""The laws of tool sets."""

from __future__ import annotations

import pickle

from ...core.components import Env, Environment
from ...core.compose.blame import told
from ...core.compose.named import Named
from ...core.errors import RunError
from ...plugins.rollout.borders import CheckedToolset
from ...plugins.rollout.tools import tools_of
from ..problems import laws, require


class _Offering(Environment):
    """An environment that offers the tools of a tool set, and nothing else."""

    instruction, actions = "Use the tools.", None

    def __init__(self, named: Named) -> None:
        self.named, self.tools = named, CheckedToolset(named).tools

    def make(self, seed: int, member: int = 0) -> Env:
        raise NotImplementedError


def _has_schemas(named: Named) -> None:
    """A tool set offers at least one tool; each has a schema, and the same when it is asked again."""
    offered = tools_of(_Offering(named))
    require(named, "tools", bool(offered), "is empty: a tool set offers at least one tool")
    require(named, "tools", offered == tools_of(_Offering(named)), "gave other tools when it was asked again")
    for tool in offered:
        function = tool.function
        keys = {"name", "description", "parameters"}
        require(named, f"the tool {tool.name}", keys <= set(function), f"has a schema without {keys - set(function)}")
        require(named, f"the tool {tool.name}", function["name"] == tool.name, "has another name in its schema")
        parameters = function["parameters"]
        is_object = isinstance(parameters, dict) and parameters.get("type") == "object"
        require(named, f"the tool {tool.name}", is_object, 'has parameters that are no JSON schema of type "object"')


def _begins_and_ends(named: Named) -> None:
    """A tool set begins sessions of several episodes at the same time, and each can be closed."""
    toolset = CheckedToolset(named)
    sessions = [toolset.start(seed, member) for seed in (0, 1) for member in (0, 1)]
    for session in sessions:
        session.close()


def _works_after_a_pickle(named: Named) -> None:
    """A tool set that was sent to another process offers the same tools."""
    if "<locals>" in type(named.component).__qualname__:
        return
    try:
        copy = pickle.loads(pickle.dumps(named.component))
    except Exception as error:
        raise RunError(f"{named.described} cannot be pickled: {told(error)}") from error
    same = tools_of(_Offering(Named(named.kind, named.name, named.params, copy))) == tools_of(_Offering(named))
    require(named, "pickle", same, "offers other tools after it was pickled")


LAWS = {"toolset": laws(_has_schemas, _begins_and_ends, _works_after_a_pickle)}
