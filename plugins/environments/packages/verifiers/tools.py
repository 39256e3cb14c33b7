"""Tool servers of the package verifiers are served in this process: the same descriptions, results and state."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import TypeAdapter
from verifiers.v1 import Tool as ListedTool
from verifiers.v1.configs.agent import AgentConfig
from verifiers.v1.harnesses.utils.mcp import mcp_content_to_chat_content
from verifiers.v1.runtimes import SubprocessConfig
from verifiers.v1.state import state_cls
from verifiers.v1.trace import AgentInfo, Trace, TraceTask

from .....core.components import Tool
from .....core.errors import RequestError
from .loop import Loop
from .refusals import told
from .tasks import Loaded


class Tools:
    """The tools of one episode."""

    def __init__(self) -> None:
        self.listed: list[ListedTool] = []
        """Descriptions, as the package writes them."""
        self._places: dict[str, tuple[MCPServer, str]] = {}

    @classmethod
    @asynccontextmanager
    async def served(cls, toolsets: Sequence[Any], trace: Any) -> AsyncIterator[Tools]:
        """Set tool servers up for the episode of a trace.

        Raises:
            ValueError: one runs elsewhere, or two tools have one name.
            Exception: whatever the setup of one raises.
        """
        tools = cls()
        async with AsyncExitStack() as stack:
            for toolset in toolsets:
                _refuse_elsewhere(toolset)
                await stack.enter_async_context(toolset._exit_stack)
                _share_state(toolset, trace)
                await toolset.setup()
                await toolset.setup_task(trace.task.data)
                server = _server(toolset.server_name or type(toolset).__name__)
                toolset.register(server)
                await tools._add(server, toolset.server_name)
            yield tools

    async def _add(self, server: MCPServer, prefix: str) -> None:
        for tool in await server.list_tools():
            name = f"{prefix}_{tool.name}" if prefix else tool.name
            if name in self._places:
                raise ValueError(f"two tools have the name {name!r}")
            self._places[name] = server, tool.name
            listed = ListedTool(name=name, description=tool.description or "", parameters=tool.input_schema)
            self.listed.append(listed)

    async def call(self, name: str, arguments: str) -> str:
        """Call a tool with arguments in JSON, and return what the model is told; what the tool raises is told, too.

        Raises:
            ValueError: the result is something else than text.
        """
        server, own = self._places[name]
        try:
            result = await server.call_tool(own, json.loads(arguments))
        except ToolError as error:
            return str(error)
        content = mcp_content_to_chat_content(result.content) if result.content else ""  # type: ignore[union-attr]
        if not isinstance(content, str):
            raise ValueError(f"the tool {name} gives something else than text")
        return content

    def tools(self) -> Iterator[Tool]:
        """Yield the tools, as dialogues know them."""
        for listed in self.listed:
            function = {"name": listed.name, "description": listed.description, "parameters": listed.parameters}
            yield Tool(listed.name, json.dumps(function, ensure_ascii=False))


def _server(name: str) -> MCPServer:
    """Make a server of tools, which would else write every log message of the process to the terminal."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return MCPServer(name)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _refuse_elsewhere(toolset: Any) -> None:
    config, name = toolset.config, type(toolset).__name__
    if getattr(config, "url", None):
        raise ValueError(f"the tools of {name} are on a server elsewhere ({config.url})")
    runtime = getattr(config, "runtime", None)
    if getattr(config, "colocated", False) or (runtime is not None and not isinstance(runtime, SubprocessConfig)):
        raise ValueError(f"the tools of {name} run in a sandbox")


def _share_state(toolset: Any, trace: Any) -> None:
    """Let the tools read and write the state of a trace, as JSON, as they do over the package's own connection."""
    theirs, ours = toolset._state_adapter, TypeAdapter(type(trace.state))

    async def pull() -> Any:
        return theirs.validate_json(ours.dump_json(trace.state))

    async def push(before: bytes) -> None:
        after = theirs.dump_json(toolset.state)
        if after != before:
            trace.state = ours.validate_json(after)

    toolset._pull_state, toolset._push_state = pull, push


def listed(loaded: Loaded, where: str) -> tuple[Tool, ...]:
    """Return the tools that the first task has. Raises RequestError if they cannot be served here."""
    task = loaded.tasks[0]
    toolsets = [*loaded.shared(), *task.toolsets(task.config)]
    if not toolsets:
        return ()
    trace: Any = Trace(
        task=TraceTask(type=type(task).__name__, data=task.data),
        state=state_cls(type(task))(),
        agent=AgentInfo(config=AgentConfig(runtime={"type": "subprocess"})),
    )

    async def tools() -> tuple[Tool, ...]:
        async with Tools.served(toolsets, trace) as served:
            return tuple(served.tools())

    try:
        return Loop.of_thread().run(tools())  # type: ignore[no-any-return]
    except Exception as error:  # the setup of tools runs the environment's own code
        raise RequestError(f"its tools cannot be served: {told(error)}", where) from error
