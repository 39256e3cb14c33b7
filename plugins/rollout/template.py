"""From messages to token ids, by the tokenizer's own chat template, and never from sampled text back to ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import attrs
from jinja2.exceptions import TemplateError

from ...core.components import Completion
from ...core.errors import RequestError

_SYSTEM, _USER, _ANSWER, _NEXT = "SYSTEMTEXT", "USERTEXT", "ANSWERTEXT", "NEXTTEXT"
_CACHED = 4096  # members of a group share their first prompt; small worlds repeat their observations


@attrs.frozen(eq=False)
class Template:
    """Renders first prompts and bridges of a chat template that is probed once, so any model family works.

    A *bridge* is everything between the last sampled token of a turn and the first of the next one: the end of the
    assistant's message, the user's message, the generation prompt and the forced opening tag. Bridges are encoded on
    their own and appended, so that the prompt of a turn begins with exactly the tokens of the turns before it.

    A template without a system role gets the system text at the head of the first user message.

    Raises:
        RequestError: the tokenizer has no chat template, or its template changes or drops the text of a message.
    """

    tokenizer: Any
    think: bool = True
    _folds: bool = attrs.field(init=False)
    _around: tuple[str, str] = attrs.field(init=False)
    """The text between an answer and the next user message, and the text after that."""
    end_of_turn: int | None = attrs.field(init=False)
    """The special token that closes an assistant's message, if the template has one."""
    _encode: Callable[[str], tuple[int, ...]] = attrs.field(init=False)
    first: Callable[[str, str], tuple[int, ...]] = attrs.field(init=False)
    """``first(system, user)``: the prompt of a first turn."""

    @_folds.default
    def _probe_system_role(self) -> bool:
        if not getattr(self.tokenizer, "chat_template", None):
            raise RequestError(
                "the tokenizer has no chat template",
                str(getattr(self.tokenizer, "name_or_path", "") or "model.path"),
                "use an instruction-tuned model, or put a chat_template.jinja beside its tokenizer",
            )
        try:
            return _SYSTEM not in self._render(_messages(_SYSTEM, _USER))
        except TemplateError:
            return True

    @_around.default
    def _probe_bridge(self) -> tuple[str, str]:
        assistant = {"role": "assistant", "content": _ANSWER}
        user = {"role": "user", "content": _NEXT}
        text = self._render([*_messages(_SYSTEM, _USER, self._folds), assistant, user])
        _, answered, rest = text.partition(_ANSWER)
        before, asked, after = rest.partition(_NEXT)
        if not (answered and asked):
            raise RequestError(
                "the chat template drops or changes the messages of a conversation of several turns",
                str(getattr(self.tokenizer, "name_or_path", "") or "model.path"),
                "use a template that writes out every user and assistant message",
            )
        return before, after

    @end_of_turn.default
    def _find_end_of_turn(self) -> int | None:
        added = self.tokenizer.added_tokens_decoder
        special = {*self.tokenizer.all_special_ids, *(index for index, token in added.items() if token.special)}
        special.discard(self.tokenizer.unk_token_id)  # a word that a small vocabulary lacks ends nothing
        return next((token for token in _ids(self.tokenizer, self._around[0]) if token in special), None)

    @_encode.default
    def _cached_encode(self) -> Callable[[str], tuple[int, ...]]:
        return lru_cache(_CACHED)(lambda text: _ids(self.tokenizer, text))

    @first.default
    def _cached_first(self) -> Callable[[str, str], tuple[int, ...]]:
        def first(system: str, user: str) -> tuple[int, ...]:
            return self._open(self._render(_messages(system, user, self._folds)))

        return lru_cache(_CACHED)(first)

    @property
    def tag(self) -> str:
        """The opening tag that every response is made to begin with."""
        return "<think>" if self.think else "<answer>"

    def bridge(self, sampled: Sequence[int], user: str) -> tuple[int, ...]:
        """What stands between ``sampled`` and the next turn's tokens. An end of turn in ``sampled`` is not repeated."""
        before, after = self._around
        tokens = self._open(before + user + after)
        if self.end_of_turn is not None and sampled and sampled[-1] == self.end_of_turn:
            return tokens[tokens.index(self.end_of_turn) + 1 :]
        return tokens

    def decode(self, completion: Completion) -> str:
        """The response as text: the forced tag and what was sampled, without the token that ended it."""
        tokens = completion.tokens[:-1] if completion.stop_reason == "eos" else completion.tokens
        return self.tag + self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)

    def _open(self, text: str) -> tuple[int, ...]:
        """``text`` and the forced tag, unless the generation prompt already ends with it (as for reasoning models)."""
        opened = text.rstrip().endswith(self.tag)
        return self._encode(text) + (() if opened else self._encode(self.tag))

    def _render(self, messages: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _messages(system: str, user: str, fold: bool = False) -> list[dict[str, str]]:
    if fold:
        return [{"role": "user", "content": f"{system}\n\n{user}"}]
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a response: the model's, the tokenizer's and the chat template's."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [*configured] if isinstance(configured, list | tuple) else [configured]
    ids.append(tokenizer.eos_token_id)
    if getattr(tokenizer, "chat_template", None):
        ids.append(Template(tokenizer).end_of_turn)
    return sorted({index for index in ids if index is not None})
