"""Calls of tools are read and written in the formats of public model families."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import attrs

PYTHON_TAG = "<|python_tag|>"
_TOO_DEEP = "it is nested too deeply"
_DEEPEST = 64
"""The largest number of lists and objects inside of each other; what checks arguments goes down to each of them."""
_TRIES = 20
"""The number of braces at which a text is tried as JSON, since each try may read it to its end."""


class BrokenError(Exception):
    """A call cannot be read; the text says why."""


@attrs.frozen
class Written:
    """A call as it stands in a response: name and arguments, or why they cannot be read."""

    name: str = ""
    """The name of the tool."""
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    """The arguments by their names."""
    broken: str = ""
    """The reason why the call cannot be read; empty where it can."""


Reading = tuple[str, list[Written]]
"""The text before the first call, and the calls."""


class Format(ABC):
    """A format says how calls are spelled."""

    tags: tuple[str, ...] = ()
    """The texts that may be tokens of their own."""
    manual: str = ""
    """The words that explain the format, for models whose chat template does not."""

    @abstractmethod
    def read(self, text: str) -> Reading:
        """Return the text before the first call, and all calls. It accepts any text."""

    @abstractmethod
    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Return the text that makes these calls."""


class Hermes(Format):
    """``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, once for each call (Hermes, Qwen 2.5 and 3)."""

    tags = ("<tool_call>", "</tool_call>")
    manual = (
        'To call a tool, write <tool_call>{"name": "its name", "arguments": {"parameter": "value"}}</tool_call>. '
        "You may make several calls, one after the other. Then stop: you will be told their results."
    )

    def read(self, text: str) -> Reading:
        before, *parts = text.split("<tool_call>")
        return before, [call for part in parts for call in _objects(part.partition("</tool_call>")[0])]

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        return "\n".join(f"<tool_call>\n{_object(*call)}\n</tool_call>" for call in calls)


class Llama(Format):
    """``{"name": ..., "parameters": {...}}``, parted by semicolons, with or without ``<|python_tag|>`` (Llama 3)."""

    tags = (PYTHON_TAG,)
    manual = (
        'To call a tool, write {"name": "its name", "parameters": {"parameter": "value"}} and nothing else. '
        "Several calls are separated by semicolons. You will be told their results."
    )
    _BEGINS = re.compile(r"\{\s*\"")

    def read(self, text: str) -> Reading:
        before, tagged, rest = text.partition(PYTHON_TAG)
        if not tagged:
            before, rest = "", text
        calls: list[Written] = []
        position = failed = 0
        # without the tag an object is a call if it has a name: an answer may be JSON, too
        while failed < _TRIES and (match := self._BEGINS.search(rest, position)):
            if not calls and not tagged:
                before = rest[: match.start()]
            try:
                value, position = _decoded(rest, match.start())
            except BrokenError as error:
                if tagged or (not before.strip() and re.match(r'\{\s*"name"', rest[match.start() :])):
                    calls.append(Written(broken=str(error)))
                    break
                position, failed = match.end(), failed + 1
                continue
            if tagged or "name" in value:
                calls.append(_written(value, ("arguments", "parameters")))
        if tagged and not calls:
            calls.append(Written(broken="no JSON object follows"))
        return (before, calls) if calls else (text, [])

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        return "; ".join(_object(*call, key="parameters") for call in calls)


class Listed(Format):
    """A list of calls after a mark, ``[{"name": ..., "arguments": {...}}]``."""

    mark: str

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        return f"{self.mark}[{', '.join(_object(*call) for call in calls)}]"


class Granite(Listed):
    """``<|tool_call|>[{"name": ..., "arguments": {...}}]`` (Granite 3, Phi 4 mini); ``<tool_call>`` in Granite 3.1."""

    mark = "<|tool_call|>"
    tags = ("<|tool_call|>",)
    manual = (
        'To call tools, write <|tool_call|>[{"name": "its name", "arguments": {"parameter": "value"}}], '
        "with an object for each call, and nothing else. You will be told their results."
    )

    def read(self, text: str) -> Reading:
        before, *parts = re.split(r"<\|?tool_call\|?>", text)
        return before, [call for part in parts for call in _objects(re.split(r"<\|?/tool_call\|?>", part)[0])]


class Mistral(Listed):
    """``[TOOL_CALLS][{"name": ..., "arguments": {...}}]``, or ``[TOOL_CALLS]name[ARGS]{...}`` for each call."""

    mark = "[TOOL_CALLS]"
    tags = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
    manual = (
        'To call tools, write [TOOL_CALLS][{"name": "its name", "arguments": {"parameter": "value"}}], '
        "with an object for each call, and nothing else. You will be told their results."
    )
    # nothing is tried twice, since the time would grow with the square of the text's length
    _NAMED = re.compile(r"[\s,;]*+([\w.-]++)\s*+(?:\[CALL_ID\]\s*+\w++\s*+)?+(?:\[ARGS\]\s*+)?+(?=\{)")

    def read(self, text: str) -> Reading:
        before, *parts = text.split(self.mark)
        return before, [call for part in parts for call in self._part(part)]

    def _part(self, part: str) -> list[Written]:
        calls: list[Written] = []
        position = 0
        while match := self._NAMED.match(part, position):
            try:
                arguments, position = _decoded(part, match.end())
            except BrokenError as error:
                return [*calls, Written(broken=str(error))]
            calls.append(Written(match[1], arguments))
        return calls or _objects(part)


class Pythonic(Format):
    """``[f(a=1), g()]``: calls of functions with literals as arguments, read and never run (Llama 3.2, ToolACE)."""

    tags = (PYTHON_TAG,)
    manual = (
        "To call tools, write [name(parameter=value), name(parameter=value)], with Python literals as values, and "
        "nothing else. You will be told their results."
    )
    _BEGINS = re.compile(r"\[\s*[A-Za-z_][\w.]*\s*\(")

    def read(self, text: str) -> Reading:
        code = text.strip().removeprefix(PYTHON_TAG).strip()
        if not self._BEGINS.match(code):
            return text, []
        try:
            with warnings.catch_warnings():  # Python warns of odd escapes in texts
                warnings.simplefilter("ignore")
                body = ast.parse(code, mode="eval").body
        except SyntaxError as error:
            return "", [Written(broken=f"it is no Python: {error.msg}")]
        except (ValueError, RecursionError, MemoryError):
            return "", [Written(broken=_TOO_DEEP)]
        calls = body.elts if isinstance(body, ast.List) else []
        if not calls:
            return "", [Written(broken="it is no list of calls")]
        return "", [_function(call) for call in calls]

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        spelled = (f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})" for name, given in calls)
        return f"[{', '.join(spelled)}]"


FORMATS: dict[str, Format] = {
    "hermes": Hermes(),
    "llama": Llama(),
    "mistral": Mistral(),
    "granite": Granite(),
    "pythonic": Pythonic(),
}
"""The formats by their names."""


def format_of(chat_template: str) -> str | None:
    """Return the name of the format that a chat template shows its model, or ``None`` if it is none of these."""
    if "<arg_key>" in chat_template or "<function=" in chat_template:
        return None
    for mark, name in (("[TOOL_CALLS]", "mistral"), ("<tool_call>", "hermes"), ("<|tool_call|>", "granite")):
        if mark in chat_template:
            return name
    if re.search(r"\[\w*func\w*\(\w+=", chat_template):
        return "pythonic"
    return "llama" if "parameters" in chat_template and re.search(r"python_tag|ipython", chat_template) else None


# --- JSON -----------------------------------------------------------------------------------------------------------


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _refuse(text)


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False)


def _decoded(text: str, start: int) -> tuple[Any, int]:
    """Return the JSON value that begins at ``start``, and where it ends. Raises BrokenError if there is none."""
    try:
        value, end = _DECODER.raw_decode(text, start)
        if _is_too_deep(value):
            raise BrokenError(_TOO_DEEP)
        _ENCODER.encode(value).encode()
    except json.JSONDecodeError as error:
        raise BrokenError(f"it is no JSON: {error.msg}") from error
    except UnicodeEncodeError as error:
        raise BrokenError("it holds half of a surrogate pair") from error
    except ValueError as error:
        raise BrokenError(f"it is no JSON: {error}") from error
    except RecursionError as error:
        raise BrokenError(_TOO_DEEP) from error
    return value, end


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST + 1):
        nested = [each for each in level if isinstance(each, dict | list)]
        if not nested:
            return False
        level = [inner for each in nested for inner in (each.values() if isinstance(each, dict) else each)]
    return True


def _objects(text: str) -> list[Written]:
    """Read an object, or a list of them; there is always at least one call, which may be broken."""
    begins = len(text) - len(text.lstrip())
    try:
        value, _ = _decoded(text, begins)
    except BrokenError as error:
        return [Written(broken=str(error))]
    values = value if isinstance(value, list) else [value]
    return [_written(value, ("arguments",)) for value in values] or [Written(broken="it is an empty list")]


def _written(value: Any, keys: tuple[str, ...]) -> Written:
    """Read a call from a JSON value, whose arguments have one of these keys."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return Written(broken='it is no JSON object with a "name"')
    arguments = next((value[key] for key in keys if key in value), None)
    if isinstance(arguments, str):  # written twice, as in the API of OpenAI
        try:
            arguments, _ = _decoded(arguments.strip(), 0)
        except BrokenError as error:
            return Written(broken=str(error))
    if not isinstance(arguments, dict):
        return Written(broken=f'it has no JSON object "{keys[-1]}"')
    return Written(value["name"], arguments)


def _object(name: str, arguments: Mapping[str, Any], key: str = "arguments") -> str:
    return json.dumps({"name": name, key: arguments}, ensure_ascii=False)


# --- Python ---------------------------------------------------------------------------------------------------------


def _function(node: ast.expr) -> Written:
    if not isinstance(node, ast.Call):
        return Written(broken="it is no list of calls")
    name = _dotted(node.func)
    if not name:
        return Written(broken="a call has no plain name")
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        return Written(broken=f"the arguments of {name} have no names")
    try:
        arguments = {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
        arguments, _ = _decoded(json.dumps(arguments, allow_nan=False), 0)
    except (BrokenError, ValueError, TypeError, RecursionError):
        return Written(broken=f"the arguments of {name} are no literals")
    return Written(name, arguments)


def _dotted(node: ast.expr) -> str:
    """Return a name such as ``shop.buy``; an empty text for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


_CONSTANTS = {"true": True, "false": False, "null": None}


class _JsonNames(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_CONSTANTS[node.id]) if node.id in _CONSTANTS else node


def _literal(node: ast.expr) -> Any:
    """Return the value of a literal; ``true``, ``false`` and ``null`` are read as in JSON."""
    return ast.literal_eval(_JsonNames().visit(node))
