"""The rollout of the package verifiers, whose model is the policy that trains; nothing is started or connected to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from verifiers.v1 import graph
from verifiers.v1.agent import Agents, Interaction, resolve_rollout_timeouts
from verifiers.v1.clients import EvalClientConfig, ModelContext
from verifiers.v1.configs.agent import TimeoutConfig
from verifiers.v1.episode import EnvInfo, Episode
from verifiers.v1.errors import TaskError, boundary
from verifiers.v1.harnesses.utils.compaction import bound_tool_message
from verifiers.v1.rollout import Rollout, RolloutTimeouts
from verifiers.v1.runtimes import SubprocessConfig
from verifiers.v1.session import RolloutLimits
from verifiers.v1.trace import ModelCall, TraceTask
from verifiers.v1.types import AssistantMessage, Request, Response, SystemMessage, ToolMessage, UserMessage
from verifiers.v1.utils.decorators import invoke
from verifiers.v1.utils.loaders import load_harness

from .....core.errors import RunError
from .tools import Tools

MODEL = "policy"
"""Name of the model in traces."""
# an address and a name of a key, so that the package does not look for those of its service
_CLIENT = EvalClientConfig(base_url="http://127.0.0.1:9", api_key_var="NO_KEY")


class NoRuntime:
    """The place of a sandbox: whatever is asked of it raises RunError."""

    is_local = True

    async def stop(self) -> None:
        """Do nothing: nothing was started."""

    def __getattr__(self, name: str) -> Any:
        what = f"the task needs a sandbox (runtime.{name}), and here is none"
        raise RunError(what, "environment: verifiers", "choose an environment whose tasks do without one")


class Exchange:
    """What the policy is asked, and what it answers, one after the other."""

    def __init__(self) -> None:
        self.asked: list[Any] | None = None
        """Messages that the next response answers, the whole conversation at first; ``None`` while nobody asks."""
        self.changed = asyncio.Event()
        """Whether something is asked."""
        self._answer: asyncio.Future[AssistantMessage] | None = None

    async def ask(self, messages: list[Any]) -> AssistantMessage:
        """Wait for the policy's response."""
        self.asked, self._answer = messages, asyncio.get_running_loop().create_future()
        self.changed.set()
        return await self._answer

    def answer(self, message: AssistantMessage) -> None:
        """Give the response that is waited for."""
        assert self._answer is not None
        self.asked, answer, self._answer = None, self._answer, None
        self.changed.clear()
        answer.set_result(message)


class PolicyRollout(Rollout):
    """A rollout of the package, with its hooks, stops and scores, that asks an :class:`Exchange` for responses."""

    def __init__(self, task: Any, player: Player, has_user: bool) -> None:
        own = resolve_rollout_timeouts(TimeoutConfig(), task)
        spec = player.spec
        super().__init__(
            task=task,
            agent_config=spec,
            harness=load_harness(spec.harness),
            ctx=ModelContext(model=MODEL, client=_CLIENT),
            runtime_config=SubprocessConfig(),
            has_user=has_user,
            # the time in which a response is sampled is no affair of the task
            timeouts=RolloutTimeouts(setup=own.setup, finalize=own.finalize, scoring=own.scoring),
            limits=RolloutLimits(max_turns=spec.max_turns),
        )
        self.exchange, self.shared = player.exchange, player.shared
        self.runtime = NoRuntime()
        self.tools: Tools | None = None
        self.calls = 0

    async def open(self) -> bool:
        """Set the task and its tools up; a failure is written to the trace."""
        self._opened = True
        self.trace.timing.setup.start = time.time()
        try:
            async with asyncio.timeout(self._timeouts.setup), boundary(TaskError, "task setup"):
                await invoke(self.task.setup, {"trace": self.trace, "runtime": self.runtime})
            toolsets = [*self.shared(), *self.task.toolsets(self.task.config)]
            self.tools = await self._stack.enter_async_context(Tools.served(toolsets, self.trace))
        except TimeoutError:
            self.timeout("setup")
            return False
        except Exception as error:  # what a task raises, as the package's own rollout takes it
            self.fail(error)
            return False
        self._harness_session = self
        self.trace.timing.agent.start = time.time()
        return not self._session.stopped

    async def turn(self, messages: list[Any] | None = None) -> None:
        """Ask for responses until one calls no tool: what a harness does. ``None`` begins with the task's prompt."""
        waiting = self._opening(messages)
        while True:
            message = await self._respond(waiting)
            if message is None or not message.tool_calls:
                return
            waiting = [await self._result(call) for call in message.tool_calls]

    def _opening(self, messages: list[Any] | None) -> list[Any]:
        data = self.trace.task.data
        if self.trace.nodes:
            return list(messages or ())
        system = [] if data.system_prompt is None else [SystemMessage(content=data.system_prompt)]
        if messages is not None:
            return [*system, *messages]
        return [*system, *([UserMessage(content=data.prompt)] if isinstance(data.prompt, str) else data.prompt)]

    async def _respond(self, waiting: list[Any]) -> AssistantMessage | None:
        """Ask for the response to messages, and put both into the trace; ``None`` where the rollout stops before."""
        session, trace = self._session, self.trace
        if await session.refused() is not None:
            return None
        assert self.tools is not None
        branch = trace.messages
        request, rewrites, stop = await session.rewrite_request(
            Request(messages=[*branch, *waiting], tools=self.tools.listed or None)
        )
        trace.request_rewrites.extend(rewrites)
        turn = graph.prepare_turn(trace, request.messages, request.tools)
        if stop is not None:
            turn.commit_prompt()
            trace.stop(stop)
            return None
        started = time.time()
        message = await self.exchange.ask(request.messages[len(branch) :])
        reason = "tool_calls" if message.tool_calls else "stop"
        response = Response(id=f"r{trace.num_turns}", created=0, model=MODEL, message=message, finish_reason=reason)
        _, _, stop = await session.rewrite_response(response)
        node = turn.commit(response)
        session.consume_prepared(turn.tail)
        span = {"start": started, "end": time.time()}
        trace.calls.append(ModelCall(node=node, model=MODEL, finish_reason=reason, time=span))
        stop = stop or await session.gate_tool_calls(node)
        if stop is not None:
            trace.stop(stop)
            return None
        return message

    async def _result(self, call: Any) -> ToolMessage:
        """Call a tool, unless a hook of the task denies it."""
        verdict = await self._session.decide_tool(call.id)
        if verdict["action"] == "deny":
            return ToolMessage.model_validate(bound_tool_message(verdict["message"]))
        assert self.tools is not None
        text = await self.tools.call(call.name, call.arguments)
        message = {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": text}
        return ToolMessage.model_validate(bound_tool_message(message))


class Player:
    """The one agent of an environment: the policy. It plays one conversation in an episode."""

    trainable = True

    def __init__(self, spec: Any, exchange: Exchange, shared: Callable[[], list[Any]], where: str) -> None:
        self.spec, self.exchange, self.shared, self.where = spec, exchange, shared, where
        self.rollout: PolicyRollout | None = None
        """The conversation, once it has begun."""

    def _begin(self, task: Any, has_user: bool) -> PolicyRollout:
        if self.rollout is not None:
            fix = "choose an environment with one run, or one interaction, of its agent"
            raise RunError("the environment plays a second conversation in an episode", self.where, fix)
        self.rollout = PolicyRollout(task, self, has_user)
        return self.rollout

    async def run(self, task: Any, **options: Any) -> Any:
        """Play a task that nobody else speaks in, and return its trace."""
        self._refuse(options)
        rollout = self._begin(task, has_user=False)
        try:
            if await rollout.open():
                await rollout.step()
                if rollout.ok:
                    rollout.trace.stop("agent_completed")
            return await rollout.close()
        except BaseException:
            await rollout.abort()
            raise

    @asynccontextmanager
    async def interaction(self, task: Any, **options: Any) -> AsyncIterator[Interaction]:
        """Play a task in which the environment speaks as the user."""
        self._refuse(options)
        rollout = self._begin(task, has_user=True)
        interaction = Interaction(rollout)
        if not await rollout.open() and rollout.failure is not None:
            await rollout.close()
            raise rollout.failure
        try:
            yield interaction
        except Exception as error:
            rollout.fail(error)
            raise
        except BaseException:
            await rollout.abort()
            raise
        finally:
            if not rollout.closed:
                await interaction.close()

    def _refuse(self, options: dict[str, Any]) -> None:
        if given := [name for name in ("runtime", "tools") if options.get(name)]:
            raise RunError(f"the environment runs its agent with {given[0]}, which is not here", self.where)


async def play(env: Any, task: Any, player: Player) -> Any:
    """Play an episode of an environment of the package, and return its trace with all rewards."""
    agents = Agents(env.config, lambda name, spec: player)
    await env.setup(agents)
    await env.run(task, agents)
    rollout = player.rollout
    if rollout is None:
        raise RunError("the environment ends an episode without a run of its agent", player.where)
    if rollout.failure is None and not rollout.trace.is_timeout:
        data = TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
        episode = Episode(env=EnvInfo(id=env.config.env_id), task=data)
        episode.traces.append(rollout.trace)
        await env.finalize(task, episode)
    return rollout.trace
