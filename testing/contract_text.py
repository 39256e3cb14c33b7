"""A contract as lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from .contract import Class, Contract


def lines(contract: Contract) -> Iterator[str]:
    """What ``uncollapse show KIND`` prints."""
    yield f"{contract.kind}: {contract.does}"
    yield f"registered by the hook {contract.hook}(register)"
    if contract.contract is not None:
        yield from _class(contract.contract)
    for each in contract.objects:
        yield from _class(each)
    if contract.laws:
        yield "\nwhat uncollapse.testing checks"
        for law in contract.laws:
            yield f"  {law}"
    yield f"\nnames: {', '.join(contract.names) or 'none'}"
    yield f"uncollapse show {contract.kind} NAME says more of one"


def _class(each: Class) -> Iterator[str]:
    yield f"\n{each.name}"
    yield from _indented(each.doc, 2)
    for field in each.fields:
        yield f"  {field.name}: {field.type}" + ("" if field.required else f" = {field.default!r}")
        yield from _indented(field.doc, 6)
    for method in each.methods:
        yield f"  {method.name}{method.signature}"
        yield from _indented(method.doc, 6)


def _indented(text: str, columns: int) -> Iterator[str]:
    if text:
        yield textwrap.indent(text, " " * columns)
