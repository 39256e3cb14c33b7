"""YAML 1.2 is read and written: ``no`` is text, ``1e-6`` is a number, a key that stands twice is an error.

A list in brackets is cut at every comma, within the parentheses of a component too: ``[top_p(0.9, smallest)]`` is
refused, with the advice to put the component in quotes, rather than read as two items.

Whatever a text holds, reading it is bounded: in size (aliases filled in), in depth, and whole numbers have 64 bits.
"""

from __future__ import annotations

import io
import itertools
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, Event
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

STR = "tag:yaml.org,2002:str"
FLOAT = "tag:yaml.org,2002:float"
NULL = "tag:yaml.org,2002:null"
LIMIT = 1 << 20
"""Characters of a text, and of its data with every alias filled in; a value counts as :data:`VALUE` more."""
VALUE = 8
DEPTH = 32
"""Levels of lists and mappings in each other."""
WHOLE = 64
"""Bits of a whole number."""

PIECES = 32
"""Values of a component that commas have cut, at most, for it to be seen."""

_SPELLING = re.compile(r"[A-Za-z_][A-Za-z0-9_.+/-]*\(")
"""The beginning of the spelling of a component with parameters."""
_FRACTION = re.compile(r"[-+]?\.[0-9]+[eE][-+]?[0-9]+$")


class SyntaxProblem(ValueError):  # noqa: N818 - it is a finding that composition collects, not a failure
    """A text is not YAML, or not YAML that we accept; ``line`` counts from 1, 0 where it is not known."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason, line)
        self.reason, self.line = reason, line

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}" if self.line else self.reason


class _Composer(Composer):
    """Keeps count of the depth and size of the data: what an alias stands for is counted wherever the alias is."""

    limit = LIMIT
    size = 0
    level = 0

    def compose_document(self) -> Any:
        self._sizes: dict[str, int] = {}
        return super().compose_document()

    def compose_node(self, parent: object, index: object) -> Any:
        event, before = self.parser.peek_event(), self.size
        anchor = event.anchor
        if isinstance(event, AliasEvent):
            if anchor in self.anchors and anchor not in self._sizes:
                raise SyntaxProblem(f"the alias *{anchor} refers to what it is a part of", event.start_mark.line + 1)
            self._grow(self._sizes.get(anchor, 0), event)
            return super().compose_node(parent, index)
        if anchor is not None:
            self._sizes.pop(anchor, None)  # an anchor may stand again, for something else
        self._grow(VALUE + len(getattr(event, "value", "")), event)
        if self.level >= DEPTH:
            raise SyntaxProblem(f"is nested more than {DEPTH} levels deep", event.start_mark.line + 1)
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        if anchor is not None:
            self._sizes[anchor] = self.size - before
        return node

    def _grow(self, size: int, event: Event) -> None:
        self.size += size
        if self.size > self.limit:
            raise SyntaxProblem(f"holds more than {self.limit} characters of data", event.start_mark.line + 1)


class _Constructor(SafeConstructor):
    """Plain data is all that is built; dates stay text, as YAML 1.2 has none."""

    def construct_yaml_int(self, node: Any) -> int:
        # A longer text is not even converted: Python refuses thousands of digits.
        value = super().construct_yaml_int(node) if len(node.value) <= 2 * WHOLE else 1 << WHOLE
        if value.bit_length() > WHOLE:
            raise SyntaxProblem(f"a whole number of more than {WHOLE} bits", node.start_mark.line + 1)
        return value

    def construct_sequence(self, node: object, deep: bool = False) -> Any:
        if isinstance(node, SequenceNode) and node.flow_style:
            _refuse_cut(node.value)
        return super().construct_sequence(node, deep)

    def construct_mapping(self, node: object, deep: bool = False) -> Any:
        if isinstance(node, MappingNode) and node.flow_style:
            _refuse_cut([key if _is_bare(value) else value for key, value in node.value])
        return super().construct_mapping(node, deep)


for _tag in ("timestamp", "value"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_tag}", _Constructor.construct_yaml_str)
_Constructor.add_constructor("tag:yaml.org,2002:int", _Constructor.construct_yaml_int)
for _tag in ("binary", "omap", "pairs", "set"):  # no file of ours holds such data
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_tag}", _Constructor.construct_undefined)


class _Representer(SafeRepresenter):
    """Sections are given a line per key; components, and lists of scalars, one line altogether."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_sequence(self, tag: object, sequence: object, flow_style: object = None) -> Any:
        node = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = all(isinstance(item, ScalarNode) for item in node.value)
        return node

    def represent_mapping(self, tag: object, mapping: Any, flow_style: object = None) -> Any:
        node = super().represent_mapping(tag, mapping, flow_style)
        children = [child for _, child in node.value]
        node.flow_style = not children or (
            "name" in mapping and all(isinstance(item, ScalarNode) or item.flow_style for item in children)
        )
        return node


def _represent_str(representer: _Representer, text: str) -> Any:
    # The emitter leaves unprintable characters bare, which do not read back, and ``f(`` before ``a)`` is refused.
    bare = text.isprintable() and not (_SPELLING.match(text) and text.count("(") != text.count(")"))
    return representer.represent_scalar(STR, text, style=None if bare else '"')


_Representer.add_representer(str, _represent_str)


def _yaml() -> Any:
    """A reader and writer that knows one spelling of numbers more than the library: ``.9e0``, as in YAML 1.2."""
    yaml: Any = YAML(typ="safe", pure=True)
    assert yaml.resolver.versioned_resolver  # the usual ones come first
    yaml.resolver.add_version_implicit_resolver((1, 2), FLOAT, _FRACTION, list("-+."))
    return yaml


def loads(text: str, limit: int = LIMIT) -> Any:
    """The data of one YAML document.

    Raises:
        SyntaxProblem: it is no such document, has more than ``limit`` characters (aliases filled in), is nested deeper
            than :data:`DEPTH`, refers to itself, or has a whole number of more than 64 bits.
    """
    if len(text) > limit:
        raise SyntaxProblem(f"is longer than {limit} characters")
    yaml = _yaml()
    yaml.Composer, yaml.Constructor = _Composer, _Constructor
    yaml.composer.limit, yaml.composer.warn_double_anchors = limit, False
    try:
        data = yaml.load(text)
        if yaml.resolver.processing_version != (1, 2):
            raise SyntaxProblem("is of another version of YAML than 1.2", 1)
        return data
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise SyntaxProblem(reason, mark.line + 1 if mark else 0) from error
    except YAMLError as error:
        raise SyntaxProblem(" ".join(str(error).split())) from error
    except (ValueError, LookupError) as error:
        if isinstance(error, SyntaxProblem):
            raise
        raise SyntaxProblem("a value is not what its tag says") from error


def dumps(data: object) -> str:
    """Write YAML that :func:`loads` reads back as equal data; keys keep their order, components take one line."""
    yaml = _yaml()
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 1 << 16
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _is_bare(node: Any) -> bool:
    """Whether nothing stands where a value could: ``b)`` of ``{k: f(a, b)}`` is such a key to YAML."""
    return bool(node.tag == NULL and node.value == "")


def _refuse_cut(nodes: list[Any]) -> None:
    """Raises SyntaxProblem where commas have cut ``f(a, b)`` into ``f(a`` and ``b)``."""
    for position, node in enumerate(nodes):
        pieces = itertools.takewhile(_is_plain, nodes[position : position + PIECES])
        whole = ""
        for piece in pieces:
            whole = f"{whole}, {piece.value}" if whole else piece.value
            opened = whole.count("(") - whole.count(")")
            if not _SPELLING.match(whole) or opened < 0 or (opened == 0 and piece is node):
                break
            if opened == 0:
                raise SyntaxProblem(
                    f"the commas in {whole} cut it into pieces: put it in quotes", node.start_mark.line + 1
                )


def _is_plain(node: object) -> bool:
    return isinstance(node, ScalarNode) and not node.style
