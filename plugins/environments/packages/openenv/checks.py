"""Before anything is played, a server of OpenEnv is asked what it plays, and whether its seeds mean something."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, TypeVar

import attrs

from .....core.components import Tool
from .....core.errors import EpisodeLostError, RequestError
from ...common import Split
from .fields import OWN
from .play import Game
from .server import CAPACITY, RefusedError, Reply, Server, Session, hung_up, is_loopback

_SEEDS = 64
"""Number of seeds that are tried in search of two tasks."""
_START = "start the server, or mend url; uncollapse asks it whenever it composes the experiment"
_TOOL_TYPES = ("call_tool", "list_tools")

T = TypeVar("T")


@attrs.frozen
class Described:
    """What a server says of itself."""

    action: str
    """JSON schema of its actions, as JSON; ``{}`` where it tells none."""
    text: str
    """Its description of the task."""
    tools: tuple[Tool, ...]
    """Its tools; where there are some, actions are calls."""

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of its actions."""
        schema: dict[str, Any] = json.loads(self.action)
        return schema


@lru_cache(maxsize=64)
def described(server: Server) -> Described:
    """Ask a server for its schemas, its description and its tools.

    Raises:
        RequestError: it cannot be reached, does not speak OpenEnv, or takes calls of tools and has none.
    """
    from openenv.core.env_server.mcp_types import ListToolsAction

    action = _page(server, "schema").get("action", {})
    about = _page(server, "metadata")
    properties = action.get("properties", {})
    kind = properties.get("type", {})
    calls = action != {} and (not set(properties) - OWN or kind.get("const", kind.get("default")) in _TOOL_TYPES)
    tools: tuple[Tool, ...] = ()
    if calls:
        listing = ListToolsAction().model_dump()
        reply = _asked(server, lambda: _once(server, lambda session: session.step(listing)))
        tools = _tools(server, reply)
    elif not action:  # no page may mean no server
        _asked(server, lambda: _once(server, _nothing))
    text = str(about.get("description") or about.get("name") or "")
    return Described(json.dumps(action), text, tools)


def _page(server: Server, name: str) -> dict[str, Any]:
    """Read one of the pages with which a server describes itself; empty where it has no such page."""
    import requests

    scheme, _, rest = server.url.partition("://")
    address = f"{'https' if scheme in ('https', 'wss') else 'http'}://{rest}/{name}"
    session = requests.Session()
    session.trust_env = not is_loopback(server.url)
    try:
        with session, session.get(address, timeout=min(server.timeout, 10.0)) as response:
            if response.status_code == 404:
                return {}
            response.raise_for_status()
            page = response.json()
    except requests.JSONDecodeError as error:
        raise RequestError(f"no server of OpenEnv: {address} is no JSON", server.where, _START) from error
    except requests.RequestException as error:
        what = f"the server cannot be asked for {address}: {_reason(error)}"
        raise RequestError(what, server.where, _START) from error
    if not isinstance(page, dict):
        raise RequestError(f"no server of OpenEnv: {address} is no object", server.where, _START)
    return page


def _reason(error: BaseException) -> str:
    """Return the first of the exceptions that led to each other, without the words that each library adds."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error)


def _tools(server: Server, reply: Reply) -> tuple[Tool, ...]:
    from openenv.core.env_server.mcp_types import ListToolsObservation
    from pydantic import ValidationError

    try:
        listed = ListToolsObservation.model_validate(dict(reply.observation)).tools
    except ValidationError as error:
        raise RequestError(f"the server's list of tools cannot be read: {error}", server.where) from error
    if not listed:
        fix = "give its environment tools, or an action with a field for a text"
        raise RequestError("the server takes calls of tools alone, and has no tools", server.where, fix)
    tools = []
    for each in listed:
        parameters = {"type": "object", "properties": {}, **each.input_schema}
        function = {"name": each.name, "description": each.description, "parameters": parameters}
        tools.append(Tool(each.name, json.dumps(function, ensure_ascii=False)))
    return tuple(tools)


@lru_cache(maxsize=64)
def refuse_unplayable(game: Game, split: Split, ignored: tuple[str, ...]) -> None:
    """Raise RequestError for a server whose episodes do not start, start by chance, or cannot be split."""
    _asked(game.server, lambda: _unplayable(game, split, ignored))


async def _unplayable(game: Game, split: Split, ignored: tuple[str, ...]) -> None:
    one, other = [await _started(game) for _ in range(2)]
    fix = "let reset use its seed; the members of a group must start alike"
    if one[0] != other[0]:
        what = f"two sessions start differently with the same seed: {_short(one[0])} and {_short(other[0])}"
        raise RequestError(what, game.server.where, fix)
    names = sorted(name for name in {**one[1], **other[1]} if one[1].get(name) != other[1].get(name))
    if differing := [name for name in names if name not in ignored]:
        what = f"two sessions start differently with the same seed, in {', '.join(differing)}"
        more = f"if they only count or name sessions, set ignored: [{', '.join(names)}]"
        raise RequestError(what, game.server.where, f"{fix}; {more}")
    if split == "all":
        return
    session, reply = await game.begin(1)
    try:
        for seed in range(2, _SEEDS):
            if game.first(reply) != one[0]:
                return
            reply = await session.reset(seed, json.loads(game.reset))
    finally:
        await session.close()
    fix = "use split all: training and validation have the same start and different seeds"
    raise RequestError(f"all seeds start alike, so there is no split {split}", game.server.where, fix)


async def _started(game: Game) -> tuple[str, dict[str, Any]]:
    """Start the episode of seed 0; return its text, and what else the server tells of it."""
    session, reply = await game.begin(0)
    try:
        try:
            state = await session.state()
        except RefusedError:  # an environment may have none
            state = {}
        if reply.done:
            raise RequestError("the episode is over when it begins", game.server.where, "mend its environment")
        told = {name: value for name, value in {**state, **reply.observation}.items() if name != "episode_id"}
        return game.first(reply), told
    except ValueError as error:
        raise RequestError(str(error), game.server.where, "name fields of the observation in shown") from error
    finally:
        await session.close()


@lru_cache(maxsize=64)
def too_few_sessions(server: Server, sessions: int) -> str:
    """Open this number of sessions side by side; return the reason why there are fewer, or an empty text."""
    return _asked(server, lambda: _too_few(server, sessions))


async def _too_few(server: Server, sessions: int) -> str:
    opened: list[Session] = []

    async def enter() -> None:
        session = await server.connect()
        opened.append(session)
        await session.state()

    try:
        # each of them ends before the first error is raised, so that none is left open
        errors = await asyncio.gather(*(enter() for _ in range(sessions)), return_exceptions=True)
    finally:
        await asyncio.gather(*(session.close() for session in opened))
    for error in errors:
        if error is not None and not isinstance(error, RefusedError):
            raise error
        # one that is busy with others has the room later on
        room = re.search(r"\d+/(\d+)", error.reason) if error and error.code == CAPACITY else None
        if room and int(room[1]) < sessions:
            return f"the server takes {room[1]} sessions at a time"
    return ""


async def _nothing(session: Session) -> None:
    """Ask nothing: the session has been opened."""


async def _once(server: Server, ask: Callable[[Session], Awaitable[T]]) -> T:
    session, answer = await server.begin(ask)
    await session.close()
    return answer


def _asked(server: Server, asking: Callable[[], Any]) -> Any:
    """Wait for what is asked. Raises RequestError with the reason why there is no answer."""
    from openenv.core.utils import run_async_safely

    try:
        return run_async_safely(_to_its_end(asking))
    except EpisodeLostError as error:
        raise RequestError(error.what, error.where, _START if "reached" in error.what else error.fix) from error
    except RefusedError as error:
        fix = "mend its environment, or the arguments in reset"
        raise RequestError(f"the server answers with an error: {error.reason}", server.where, fix) from error


async def _to_its_end(asking: Callable[[], Awaitable[T]]) -> T:
    try:
        return await asking()
    finally:
        await hung_up()


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")
