"""Episodes of an OpenEnv server: started by their seeds, and played with texts or with calls of the server's tools."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from .....core.components import Env, Step
from .....core.errors import RunError
from ...common import Split, refuse_after_end, seeded, split_of
from ...metrics import ACCEPTED
from .fields import ActionForm, UnreadableError, shown_text
from .server import FAILED, INVALID, RefusedError, Reply, Server, Session

_DRAWS = 200
"""Largest number of starts that are tried in search of one that belongs to a split."""
_BEGIN = "Begin."
"""Text of a first observation that the server leaves empty."""
_CALL = "Nothing happens. Call a tool."


@attrs.frozen
class Game:
    """A game is what a server plays, and how it is shown."""

    server: Server
    shown: tuple[str, ...]
    """Fields of observations that are shown; empty for all."""
    opening: str
    """Text before the first observation."""
    reset: str
    """Arguments of ``reset``, as JSON."""
    form: ActionForm | None
    """How texts become actions; ``None`` where tools are called instead."""
    threshold: float
    """Smallest reward of the last step that is a success."""
    failures: Literal["lost", "told"]
    """What becomes of an action on which the server's environment raises an exception."""

    def first(self, reply: Reply) -> str:
        """Write the first observation. Raises ValueError if it lacks a field that is shown."""
        return "\n".join(filter(None, (self.opening, shown_text(reply.observation, self.shown)))) or _BEGIN

    async def begin(self, seed: int) -> tuple[Session, Reply]:
        """Open a session, and start the episode of a seed there.

        Raises:
            EpisodeLostError: the server cannot be reached, is full, or gives no answer that can be read.
            RefusedError: it answers with an error.
        """
        return await self.server.begin(lambda session: session.reset(seed, json.loads(self.reset)))

    async def start(self, seed: int, split: Split) -> OpenEnvEnv:
        """Start the episode of a seed, or of the first further seed whose first observation belongs to a split.

        Raises:
            EpisodeLostError: the server does not start it.
            RunError: no start belongs to the split.
        """
        try:
            session, reply = await self.begin(seed)
        except RefusedError as error:
            raise self.server.lost(f"the server fails in reset: {error.reason}", "mend its environment") from error
        rng, arguments = seeded("openenv split", seed), json.loads(self.reset)
        try:
            for number in itertools.count():
                if number:
                    reply = await session.reset(rng.randrange(2**31), arguments)
                first = self.first(reply)
                if split in ("all", split_of(first)):
                    break
                if number == _DRAWS:
                    fix = "use split all, and other seeds for validation"
                    raise RunError(f"no start of {_DRAWS} belongs to split {split}", self.server.where, fix)
            if reply.done:
                raise self.server.lost("the episode is over when it begins", "mend the server's environment")
        except BaseException as error:
            session.hang_up()
            if isinstance(error, ValueError | RefusedError):
                raise self.server.lost(f"the server fails in reset: {error}", "mend its environment") from error
            raise
        return OpenEnvEnv(self, session, first)


@attrs.define(slots=False, eq=False)
class OpenEnvEnv(Env):
    """An episode of an OpenEnv server."""

    game: Game
    """What is played."""
    session: Session
    """Session with the server, in which the episode has begun."""
    first: str
    """Text of the first observation."""
    done: bool = False
    """Whether the episode is over."""

    @property
    def key(self) -> str:
        """First observation: equal for tasks that look alike at the start."""
        return self.first

    def initial_observation(self) -> str:
        return self.first

    async def step(self, action: str) -> Step:  # type: ignore[override]
        """Play a text.

        Raises:
            EpisodeLostError: the server is gone, hangs, or its answer cannot be read.
            RunError: the episode is over.
            ValueError: the text is none of the names of the actions.
        """
        refuse_after_end(self.done)
        if self.game.form is None:
            return Step(_CALL, metrics={ACCEPTED: 0.0})
        try:
            fields = self.game.form.action(action)
        except UnreadableError as error:
            return Step(str(error), metrics={ACCEPTED: 0.0})
        reply = await self._played(fields)
        if isinstance(reply, str):
            return Step(reply, metrics={ACCEPTED: 0.0})
        try:
            text = shown_text(reply.observation, self.game.shown)
        except ValueError as error:
            raise self._lost(str(error)) from error
        return self._step(text, reply, {ACCEPTED: 1.0})

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Step:  # type: ignore[override]
        """Call a tool of the server; raises as :meth:`step`."""
        from openenv.core.env_server.mcp_types import CallToolAction

        refuse_after_end(self.done)
        called = CallToolAction(tool_name=name, arguments=dict(arguments)).model_dump()
        reply = await self._played(called)
        if isinstance(reply, str):
            return Step(reply)
        error = reply.observation.get("error")
        if error and not isinstance(error, Mapping):
            raise self._lost(f"the result of the tool {name} cannot be read")
        if error and error.get("error_type") == "transport_error":
            raise self._lost(f"the server has lost the tool {name}: {error.get('message')}")
        text = f"Error: {error.get('message')}" if error else result_text(reply.observation, self.game.shown)
        return self._step(text, reply, {})

    async def close(self) -> None:
        """Close the session with the server. It may be closed already."""
        await self.session.close()

    def __del__(self) -> None:
        # an episode that runs out of turns may not be told so
        self.session.hang_up()

    async def _played(self, fields: Mapping[str, Any]) -> Reply | str:
        """Play an action; return what the model is told where the server refuses it."""
        try:
            return await self.session.step(fields)
        except RefusedError as error:
            if error.code == INVALID:
                return "This cannot be played: it is too long, or has another form than the server takes."
            if error.code == FAILED and self.game.failures == "told":
                return f"Error: {error.reason}"
            fix = "mend its environment; or set failures: told, if it raises an exception on actions that are wrong"
            raise self._lost(f"the server fails in step: {error.reason}", fix) from error

    def _step(self, text: str, reply: Reply, metrics: Mapping[str, float]) -> Step:
        self.done = reply.done
        if self.done:
            self.session.hang_up()
        won = reply.done and reply.reward >= self.game.threshold
        return Step(text, reply.reward, done=reply.done, success=won, metrics=metrics)

    def _lost(self, what: str, fix: str = "mend the server's environment") -> Exception:
        self.session.hang_up()
        return self.game.server.lost(what, fix)


def result_text(observation: Mapping[str, Any], shown: tuple[str, ...]) -> str:
    """Write the result of a tool: its texts, or as JSON what it gives in place of texts."""
    if "tool_name" not in observation:  # the environment answers with an observation of its own
        return shown_text(observation, tuple(name for name in shown if name in observation))
    result = observation.get("result")
    content = result.get("content") if isinstance(result, Mapping) else None
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
    if texts:
        return "\n".join(texts)
    given = result.get("data", result) if isinstance(result, Mapping) else result
    return shown_text({"result": given}, ())
