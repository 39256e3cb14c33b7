"""A template turns messages into token ids by the tokenizer's chat template; sampled text is never encoded again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import attrs

from ...core.components import Completion, Dialogue, Tool
from ...core.control_tokens import TextEncoder
from ...core.errors import RequestError
from .layout import CLOSES, OPENS, Layout, place
from .messages import Result, Said

_CACHED = 4096  # members of a group share their first prompt; small worlds repeat their observations
_ANCHOR = "a"  # the end of an answer, as far as the encoding of what comes after it depends on it


@attrs.frozen(eq=False)
class Template:
    """A template writes the prompts of conversations as the tokenizer's chat template does, token for token.

    A *bridge* is everything between the last sampled token of a turn and the first one of the next turn: the end of the
    assistant's message, the user's message, the generation prompt and the dialogue's opening. It is the text that the
    chat template writes there for the whole conversation so far. Bridges are encoded on their own and appended, so that
    the prompt of a turn begins with exactly the tokens of the turns before it.

    System and user texts are foreign: control tokens that are spelled in them stay plain text.

    Raises:
        RequestError: the tokenizer has no chat template, or :class:`Layout` cannot use it; or it always opens a
            thought, while ``think`` is false or the dialogue has another opening; or it always closes one, while
            ``think`` is true.
    """

    tokenizer: Any
    """The tokenizer with the chat template."""
    given: Dialogue = attrs.field(alias="dialogue")
    """The dialogue of the experiment, whose opening and tags may be tokens."""
    think: bool = True
    """Whether the model is asked to think before it answers."""
    layout: Layout = attrs.field(init=False)
    """The chat template, as it is used."""
    dialogue: Dialogue = attrs.field(init=False)
    """The dialogue, as it is spoken with the chat template."""
    tag: str = attrs.field(init=False)
    """The text that every response begins with: the dialogue's opening, or a thought that the chat template opens."""
    encoder: TextEncoder = attrs.field(init=False)
    """What turns texts into tokens."""
    _closing: tuple[int, ...] = attrs.field(init=False)
    """The tokens that the template writes between an answer and the next user's text."""
    first: Callable[..., tuple[int, ...]] = attrs.field(init=False)
    """A function ``first(system, user, own="", tools=(), earlier=())`` that gives the prompt of a first turn. With an
    empty ``system`` there is no system message. ``own`` is a part of it that is not foreign: its last occurrence keeps
    its control tokens. ``tools`` are those that the chat template describes. ``earlier`` holds texts of the user, each
    with the answer to it, that come before ``user``."""
    _after: Callable[..., tuple[int, ...]] = attrs.field(init=False)

    @layout.default
    def _make_layout(self) -> Layout:
        layout = Layout(self.tokenizer, self.think, self.given.opening(self.think), calls=self.given.calls_tools)
        prompt = layout.first("system", "user").rstrip()
        if not self.think and prompt.endswith(OPENS):
            raise RequestError(
                "the chat template opens a thought in every answer",
                place(self.tokenizer),
                "set rollout.think: true, or use a template that can do without",
            )
        if self.think and prompt.endswith(CLOSES):
            raise RequestError(
                "the chat template closes the thought before an answer begins",
                place(self.tokenizer),
                "set rollout.think: false, or use a template that lets the model think",
            )
        return layout

    @dialogue.default
    def _adapt(self) -> Dialogue:
        if not self.given.calls_tools:
            return self.given
        return self.given.adapted(self.layout.template, self.layout.call_form is not None)

    @tag.default
    def _find_tag(self) -> str:
        opening = self.layout.tag
        thinks = self.layout.first("system", "user").rstrip().endswith(OPENS)
        if thinks and opening not in ("", OPENS):
            raise RequestError(
                f"the chat template opens a thought in every answer, which the dialogue begins with {opening!r}",
                place(self.tokenizer),
                "choose another dialogue, or use a template that does not",
            )
        return OPENS if thinks else opening

    @encoder.default
    def _make_encoder(self) -> TextEncoder:
        return TextEncoder(self.tokenizer, f"{self.layout.source}\n{''.join(self.dialogue.tags)}")

    @_closing.default
    def _encode_closing(self) -> tuple[int, ...]:
        return _after_answer(self.encoder, self.layout.between)

    @first.default
    def _cached_first(self) -> Callable[..., tuple[int, ...]]:
        def first(
            system: str,
            user: str,
            own: str = "",
            tools: tuple[Tool, ...] = (),
            earlier: tuple[tuple[str, str], ...] = (),
        ) -> tuple[int, ...]:
            quote = self.encoder.quote
            before = [(quote(asked), quote(answer)) for asked, answer in earlier]
            prompt = self.layout.first(self._quoted(system, own), quote(user), self._tools(tools), before)
            return self.encoder.encode(self._tagged(prompt))

        return lru_cache(_CACHED)(first)

    @_after.default
    def _cached_after(self) -> Callable[..., tuple[int, ...]]:
        def after(system: str, said: tuple[Said, ...], own: str, tools: tuple[Tool, ...]) -> tuple[int, ...]:
            quoted = [self._quoted_said(each) for each in said]
            prompt = self.layout.after(self._quoted(system, own), quoted, self._tools(tools))
            return _after_answer(self.encoder, self._tagged(prompt))

        return lru_cache(_CACHED)(after)

    @property
    def end_of_turn(self) -> int | None:
        """The first control token that the template writes after an answer, if there is one."""
        return next(iter(self.encoder.controls_in(self.layout.between)), None)

    def bridge(
        self,
        system: str,
        said: Sequence[Said],
        sampled: Sequence[int],
        own: str = "",
        tools: tuple[Tool, ...] = (),
    ) -> tuple[int, ...]:
        """Return the tokens between ``sampled`` and the next turn's sampled tokens.

        Args:
            system: the system text, which some templates repeat in every turn.
            said: the user texts, or results of calls, of the conversation so far; the last of them follows ``sampled``.
            sampled: the tokens of the last turn. If they end with the end of a turn, it is not repeated.
            own: the part of the system text that is not foreign, as for :attr:`first`.
            tools: the tools that the chat template describes.
        """
        tokens = self._after(system, tuple(said), own, tools)
        last = sampled[-1] if sampled else None
        if last in self._closing and last in (self.end_of_turn, self.tokenizer.eos_token_id):
            return tokens[tokens.index(last) + 1 :]
        return tokens

    def decode(self, completion: Completion) -> str:
        """Return the response as text: the tag and what was sampled, without the token that ended it."""
        tokens = completion.tokens[:-1] if completion.stop_reason == "eos" else completion.tokens
        return self.tag + self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)

    def _quoted(self, system: str, own: str) -> str:
        if not own:
            return self.encoder.quote(system)
        before, kept, after = system.rpartition(own)
        return self.encoder.quote(before) + kept + self.encoder.quote(after)

    def _quoted_said(self, said: Said) -> Said:
        if isinstance(said, str):
            return self.encoder.quote(said)
        return tuple(Result(self.encoder.quote(each.name), self.encoder.quote(each.text)) for each in said)

    def _tools(self, tools: tuple[Tool, ...]) -> list[dict[str, Any]]:
        """Return tools as the chat template takes them; what they say is foreign."""
        return [_each_text(tool.spelled, self.encoder.quote) for tool in tools]

    def _tagged(self, prompt: str) -> str:
        """Return ``prompt`` with the tag, unless it already ends with it (as for reasoning models)."""
        return prompt if prompt.rstrip().endswith(self.tag) else prompt + self.tag


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Return plain data with each of its texts changed; keys stay as they are."""
    if isinstance(value, dict):
        return {key: _each_text(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_each_text(each, change) for each in value]
    return change(value) if isinstance(value, str) else value


def _after_answer(encoder: TextEncoder, text: str) -> tuple[int, ...]:
    """Encode a text that follows an answer, since a tokenizer may treat the start of a text differently."""
    anchor = encoder.encode(_ANCHOR)
    tokens = encoder.encode(_ANCHOR + text)
    return tokens[len(anchor) :] if tokens[: len(anchor)] == anchor else encoder.encode(text)


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Return every token that ends a response: the model's, the tokenizer's and, if it can be used, the template's."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [*configured] if isinstance(configured, list | tuple) else [configured]
    ids.append(tokenizer.eos_token_id)
    with suppress(RequestError):  # whoever needs the template says so
        layout = Layout(tokenizer, think=True)
        ids += TextEncoder(tokenizer, layout.source).controls_in(layout.between)[:1]
    return sorted({index for index in ids if index is not None})
