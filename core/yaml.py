"""YAML 1.2 in and out: ``no`` is text, ``1e-6`` is a number, a key that stands twice is an error.

One addition: in a flow collection, too, a component spelled in one word may have commas inside its parentheses, as in
``[top_p(0.9, type=smallest), nofilter]``, which plain YAML would cut at every comma.
"""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

STR = "tag:yaml.org,2002:str"
NULL = "tag:yaml.org,2002:null"


class SyntaxProblem(ValueError):  # noqa: N818 - it is a finding that composition collects, not a failure
    """A text is not YAML, or not YAML that we accept; ``line`` counts from 1, 0 where it is not known."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason, line)
        self.reason, self.line = reason, line

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}" if self.line else self.reason


class _Constructor(SafeConstructor):
    """Plain data only; dates stay text, as YAML 1.2 has none."""

    def construct_sequence(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, SequenceNode) and node.flow_style:
            node.value = _rejoin_items(node.value)
        return super().construct_sequence(node, deep)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, MappingNode) and node.flow_style:
            node.value = _rejoin_pairs(node.value)
        return super().construct_mapping(node, deep)


for _tag in ("timestamp", "value"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_tag}", _Constructor.construct_yaml_str)


class _Representer(SafeRepresenter):
    """Sections take a line per key; components, and lists of scalars, one line altogether."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: Any, sequence: Any, flow_style: Any = None) -> Any:
        node = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = all(isinstance(item, ScalarNode) for item in node.value)
        return node

    def represent_mapping(self, tag: Any, mapping: Any, flow_style: Any = None) -> Any:
        node = super().represent_mapping(tag, mapping, flow_style)
        children = [child for _, child in node.value]
        node.flow_style = not children or (
            "name" in mapping and all(isinstance(item, ScalarNode) or item.flow_style for item in children)
        )
        return node


def _represent_str(representer: _Representer, text: str) -> Any:
    # The emitter leaves some unprintable characters bare, and they do not read back.
    return representer.represent_scalar(STR, text, style=None if text.isprintable() else '"')


_Representer.add_representer(str, _represent_str)


def loads(text: str) -> Any:
    """The data of one YAML document. Raises SyntaxProblem."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise SyntaxProblem(reason, mark.line + 1 if mark else 0) from error
    except YAMLError as error:
        raise SyntaxProblem(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise SyntaxProblem("nested too deeply") from error


def dumps(data: Any) -> str:
    """YAML that :func:`loads` reads back to equal data; keys keep their order, components and lists take one line."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 1 << 16
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _is_plain(node: Any) -> bool:
    return isinstance(node, ScalarNode) and not node.style


def _open(text: str) -> bool:
    return text.count("(") > text.count(")")


def _rejoin_items(nodes: list[Any]) -> list[Any]:
    """``f(a`` and ``b)`` become ``f(a, b)``; what never closes is left as it is."""
    joined: list[Any] = []
    for position, node in enumerate(nodes):
        opener = joined[-1] if joined else None
        if opener is not None and _is_plain(opener) and _open(opener.value) and _closes(opener.value, nodes[position:]):
            opener.value, opener.tag = f"{opener.value}, {node.value}", STR
        else:
            joined.append(node)
    return joined


def _rejoin_pairs(pairs: list[Any]) -> list[Any]:
    """``{k: f(a, b)}`` is read by YAML as ``k: f(a`` and a key ``b)`` without a value."""
    joined: list[Any] = []
    for position, (key, value) in enumerate(pairs):
        opener = joined[-1][1] if joined else None
        rest = [key if value.tag == NULL and value.value == "" else value for key, value in pairs[position:]]
        bare = rest[0] is key
        if bare and opener is not None and _is_plain(opener) and _open(opener.value) and _closes(opener.value, rest):
            opener.value, opener.tag = f"{opener.value}, {key.value}", STR
        else:
            joined.append((key, value))
    return joined


def _closes(text: str, nodes: list[Any]) -> bool:
    """Whether the parentheses of ``text`` close within the plain scalars that follow it directly."""
    for node in nodes:
        if not _is_plain(node):
            return False
        text += node.value
        if not _open(text):
            return True
    return False
