"""A contract is printed as lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from .contract import Class, Contract


def lines(contract: Contract) -> Iterator[str]:
    """Yield the lines that ``uncollapse show KIND`` prints."""
    yield f"{contract.kind}: {contract.does}"
    yield f"registered by the hook {contract.hook}(register)"
    if contract.contract is not None:
        yield from _class(contract.contract)
    for cls in contract.objects:
        yield from _class(cls)
    if contract.laws:
        yield "\nwhat uncollapse.testing checks"
        for law in contract.laws:
            yield f"  {law}"
    yield f"\nnames: {', '.join(contract.names) or 'none'}"
    yield f"uncollapse show {contract.kind} NAME says more of one"


def _class(cls: Class) -> Iterator[str]:
    yield f"\n{cls.name}"
    yield from _indented(cls.doc, 2)
    for field in cls.fields:
        yield f"  {field.name}: {field.type}" + ("" if field.required else f" = {field.default!r}")
        yield from _indented(field.doc, 6)
    for method in cls.methods:
        yield f"  {method.name}{method.signature}"
        yield from _indented(method.doc, 6)


def _indented(text: str, columns: int) -> Iterator[str]:
    if text:
        yield textwrap.indent(text, " " * columns)
