"""A chat in a terminal: each message begins with who says it, and its lines are indented."""

from __future__ import annotations

from collections.abc import Iterator

from ...core.terminal import escaped
from .page import Episode, Message


def chat_text(episode: Episode) -> str:
    """Return an episode as lines that any terminal can show; what is folded in a page is left out."""
    lines = [" | ".join([episode.facts or "episode", *(chip.text for chip in episode.chips)])]
    for message in episode.messages:
        lines += _lines(message)
    if episode.left_out:
        lines.append(f"  ({episode.left_out} more characters are in the run's file)")
    return escaped("\n".join(lines))


def _lines(message: Message) -> Iterator[str]:
    if message.folded:
        return
    notes = ", ".join(filter(None, [message.note, *(chip.text for chip in message.chips)]))
    yield f"  {message.who}" + (f" ({notes})" if notes else "")
    if message.text:
        yield from (f"    {line}" for line in message.text.expandtabs().split("\n"))
    if message.rest:
        yield f"    ({len(message.rest)} more characters)"
