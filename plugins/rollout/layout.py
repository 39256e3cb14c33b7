"""A layout renders conversations by a chat template, after it has tried the template once with random words."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from textwrap import shorten
from typing import Any

import attrs

from ...core.errors import RequestError, RunError
from .call_layout import CallForm, Trial, UnusableError
from .messages import Said, messages

OPENS, CLOSES = "<think>", "</think>"
_TEXT = 'aB c\n  <b>[1]</b> &amp; "d"\te\\n ' + "long " * 4000 + "é#"
"""A text that a template must write unchanged: case, blanks, lines, tags, quotes, length."""
_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*")


@attrs.frozen
class Layout:
    """A layout renders conversations by a chat template, in the first of four forms that the template can use.

    A form has two choices: message texts are plain strings, or (for multimodal models) lists of parts; the system text
    is a message of its own, or the beginning of the first user message. A form can be used if the template writes every
    message unchanged (except for blanks around it), and if the text up to an answer does not depend on later messages,
    so that prompts only grow. Mistral 7B v0.3, for example, writes the system text into the *last* user message, so it
    is given none. A template that cuts or rewrites texts would hide what an environment shows, and could turn parts of
    them into control tokens.

    The switches ``enable_thinking`` and ``thinking`` that some templates read are set to ``think``. Where a
    template writes a date, it is that of ``clock``.

    Raises:
        RequestError: there is no chat template, or none of the forms can be used; the message says why.
    """

    tokenizer: Any
    """The tokenizer with the chat template."""
    think: bool
    """Whether the model is asked to think before it answers."""
    tag: str = ""
    """The text that every answer begins with; a template may write it at the end of a prompt."""
    clock: datetime = attrs.field(factory=datetime.now)
    """The date that templates may write."""
    calls: bool = False
    """Whether answers may call tools."""
    _mark: str = attrs.field(init=False, factory=lambda: secrets.token_hex(12))
    """A random text in the place of each sampled answer, which no message can contain."""
    _form: _Form = attrs.field(init=False)
    call_form: CallForm | None = attrs.field(init=False)
    """How the template writes calls and their results; ``None`` where it cannot, or need not."""

    @property
    def between(self) -> str:
        """The text that the template writes between an answer and the next user's text."""
        return self._form.between

    @property
    def source(self) -> str:
        """The template itself, and two turns as it writes them, which together hold all the markup that it uses."""
        return f"{self.template}\n{self._form.example}"

    @property
    def template(self) -> str:
        """The text of the template; of several, that for tools where there are some."""
        return str(self.tokenizer.get_chat_template(tools=[{}] if self.call_form else None))

    @_form.default
    def _try_forms(self) -> _Form:
        """Return the first form that the template can use. Raises RequestError if there is none."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise RequestError(
                "the tokenizer has no chat template",
                place(self.tokenizer),
                "use an instruction-tuned model, or put a chat_template.jinja beside its tokenizer",
            )
        reasons = []
        for parts in (False, True):
            for folds in (False, True):
                try:
                    return self._examine(parts, folds)
                except UnusableError as reason:
                    reasons.append(str(reason))
        raise RequestError(
            f"the chat template cannot be used: {reasons[1]}",  # the form that asks least of a template of plain texts
            place(self.tokenizer),
            "mend the template (chat_template.jinja beside the tokenizer), or use another model",
        )

    @call_form.default
    def _try_calls(self) -> CallForm | None:
        if not self.calls:
            return None
        form = self._form

        def write(system: str, said: Sequence[Said], tools: Sequence[dict[str, Any]], calls: CallForm) -> str:
            return self._write(form, system, said, tools, in_calls=calls.in_calls)

        return Trial(write, self._answer, form.generation, form.history, form.between, _TEXT).form()

    def _examine(self, parts: bool, folds: bool) -> _Form:
        """Render one, two and three turns in one form, and learn the form from them.

        Raises:
            UnusableError: the template cannot use the form.
        """
        system, *users = (secrets.token_hex(8) for _ in range(4))
        form = _Form(parts, folds)
        one, two, three = (self._write(form, system, users[:turns]) for turns in (1, 2, 3))
        first, *rest = two.split(self._answer(0))
        first_again, *answers = re.split(f"{self._answer(0)}|{self._answer(1)}", three)
        if len(rest) != 1 or len(answers) != 2:
            raise UnusableError("it drops or changes the answers of a conversation of several turns")
        (second,) = rest
        in_place = (system in first, users[0] in first, users[1] in second, users[2] in answers[1])
        if not all(in_place):
            raise UnusableError("it drops or moves the messages of a conversation of several turns")
        if "{'type'" in first:
            raise UnusableError("it writes lists of parts as they are")
        self._require_verbatim(form)
        # a prompt ends in the generation prompt; once the answer is there, another text may stand in its place
        generation, history = _differ(one, first)
        grown = second.removesuffix(generation) + history
        if first_again != first or answers[0] != grown or not second.endswith(generation):
            raise UnusableError("it writes the earlier turns of a conversation anew, so prompts cannot grow")
        between, _, _ = second.partition(users[1])
        return _Form(parts, folds, generation, history, between, two.replace(self._answer(0), ""))

    def _require_verbatim(self, form: _Form) -> None:
        """Check that the template writes texts unchanged. One that refuses long texts raises later, when it gets one.

        Raises:
            UnusableError: it changes texts.
        """
        system, user = (f"{secrets.token_hex(8)} {_TEXT}" for _ in range(2))
        try:
            written = self._write(form, system, [user])
        except UnusableError:
            return
        if system not in written or user not in written:
            raise UnusableError("it changes or cuts the texts of messages (their case, blanks, lines, signs or length)")

    def first(
        self,
        system: str,
        user: str,
        tools: Sequence[dict[str, Any]] = (),
        earlier: Sequence[tuple[str, str]] = (),
    ) -> str:
        """Return the first prompt, up to the answer, with ``earlier`` texts of the user and answers to them.

        Raises:
            RunError: the template cannot write these texts.
        """
        text = self._rendered(system, [*(asked for asked, _ in earlier), user], tools)
        for turn, (_, answer) in enumerate(earlier):
            text = text.replace(self._answer(turn), answer)
        return self._open(text)

    def after(self, system: str, said: Sequence[Said], tools: Sequence[dict[str, Any]] = ()) -> str:
        """Return the text between the last answer and the next one. ``said`` has one item more than there are answers.

        Raises:
            RunError: the template cannot write these texts.
        """
        return self._open(self._rendered(system, said, tools, later=True))

    def _rendered(
        self, system: str, said: Sequence[Said], tools: Sequence[dict[str, Any]], *, later: bool = False
    ) -> str:
        """Return the whole conversation, or in a ``later`` turn what comes after the last answer."""
        form = self.call_form
        try:
            given = () if later and form and not form.again else tools
            text = self._write(self._form, system, said, given, in_calls=bool(form and form.in_calls))
            if any(self._answer(turn) not in text for turn in range(len(said) - 1)):
                raise UnusableError("it drops an answer")
            if later:
                text = text.rpartition(self._answer(len(said) - 2))[2]
            return form.rest(text, said[-1]) if later and form else text
        except UnusableError as reason:
            raise RunError(
                f"the chat template fails on turn {len(said)} of a conversation: {reason}",
                place(self.tokenizer),
                "mend the template, or leave out the texts that it cannot write"
                + (" (of tools: with dialogue.listing: system)" if tools else ""),
            ) from reason

    def _open(self, prompt: str) -> str:
        """Return ``prompt`` with the beginning of an answer that fits ``think``."""
        generation = self._form.generation
        return prompt.removesuffix(generation) + self.opening if prompt.endswith(generation) else prompt

    @property
    def opening(self) -> str:
        """The end of a prompt, which replaces :attr:`_Form.generation`.

        Raises:
            RequestError: the template begins an answer in a way that does not fit ``think``, or in two ways.
        """
        generation, history = self._form.generation, self._form.history
        thoughts = _is_thought(generation) and _is_thought(history)
        if self.think:
            history = _EMPTY_THOUGHT.sub("", history)  # a thought stands in its place
        elif thoughts and generation.rstrip().endswith(OPENS):
            return history
        if history.startswith(generation):
            return history
        if thoughts or generation == f"{history}{self.tag}":
            return generation
        raise RequestError(
            f"the chat template begins a new answer by {generation!r} and writes an earlier one after {history!r}",
            place(self.tokenizer),
            "use a template that begins both alike",
        )

    def _answer(self, turn: int) -> str:
        return f"{self._mark}x{turn}x"

    def _write(
        self,
        form: _Form,
        system: str,
        said: Sequence[Said],
        tools: Sequence[dict[str, Any]] = (),
        *,
        in_calls: bool = False,
    ) -> str:
        """Render the conversation of these turns, up to the answer to the last; marks stand for earlier answers."""
        answers = [self._answer(turn) for turn in range(len(said) - 1)]
        given = messages(system, said, answers, folds=form.folds, parts=form.parts, in_calls=in_calls)
        try:
            return self.tokenizer.apply_chat_template(
                given,
                tools=[*tools] or None,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=self.think,
                thinking=self.think,
                strftime_now=self.clock.strftime,
            )
        except Exception as error:  # a template is a program of somebody else's: it may raise anything
            raise UnusableError(shorten(f"{type(error).__name__}: {error}", 300)) from error


@attrs.frozen
class _Form:
    """A form of messages, and what the template writes around them."""

    parts: bool
    """Whether a text is a list of parts."""
    folds: bool
    """Whether the system text stands in the first user message."""
    generation: str = ""
    """The end of a prompt, as far as ``history`` differs from it."""
    history: str = ""
    """The text that the template writes in place of ``generation`` once the answer is there."""
    between: str = ""
    """The text between an answer and the next user's text."""
    example: str = ""
    """Two turns as the template writes them, without answers."""


def _is_thought(text: str) -> bool:
    """Return whether a text is empty, or the beginning, the end or the whole of an empty thought."""
    return not text or bool(re.fullmatch(r"\s*(<think>\s*(</think>\s*)?|</think>\s*)", text))


def _differ(one: str, first: str) -> tuple[str, str]:
    """Return the ends in which two texts differ. They include a whole tag, or an opened thought."""
    shorter = min(len(one), len(first))
    same = next((index for index in range(shorter) if one[index] != first[index]), shorter)
    if one != first and (cut := re.search(r"(<think>\s*|<[^<>\s]*)$", one[:same])):
        same = cut.start()
    return one[same:], first[same:]


def place(tokenizer: Any) -> str:
    """Return the place that a tokenizer and its template come from, for a message."""
    return str(getattr(tokenizer, "name_or_path", "") or "model.path")
