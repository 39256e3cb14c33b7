"""What installed distributions announce under the entry-point group ``uncollapse``, and what they announce wrongly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, EntryPoint, distributions

import attrs

GROUP = "uncollapse"
_HEADER = re.compile(rf"\s*\[?\s*{GROUP}\s*\]?\s*")
_ENTRY = re.compile(r"\s*[^=\s][^=]*=\s*[\w.]+\s*(:\s*[\w.]+\s*)?(\[.*\]\s*)?")


@attrs.frozen
class Announcement:
    """An announcement is one entry point of a distribution, or the reason why its announcement cannot be read."""

    distribution: str
    version: str
    entry: EntryPoint | None = None
    problem: str = ""


def announcements() -> Iterator[Announcement]:
    """Every installed distribution is asked; of one that is installed twice, the one that Python imports counts.

    What an installation has written counts before an ``egg-info`` folder, which builds leave beside the source and
    nothing keeps up to date.
    """
    announcing = [
        (each, text) for each in distributions() if GROUP in (text := each.read_text("entry_points.txt") or "")
    ]
    seen = set()
    for distribution, text in sorted(announcing, key=lambda pair: pair[0].read_text("METADATA") is None):
        name, version = distribution.metadata["Name"] or "unnamed", distribution.metadata["Version"] or ""
        if name not in seen:
            seen.add(name)
            yield from _of(distribution, name, version, text)


def _of(distribution: Distribution, name: str, version: str, text: str) -> Iterator[Announcement]:
    if problem := _problem(text):
        yield Announcement(name, version, problem=problem)
        return
    for entry in distribution.entry_points:
        if entry.group == GROUP:
            yield Announcement(name, version, entry)


def _problem(text: str) -> str:
    """What is wrong with the first bad line of the file that matters to us; empty if nothing is."""
    ours = False
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.startswith("[") or _HEADER.fullmatch(line):
            ours = stripped == f"[{GROUP}]"
            if not ours and _HEADER.fullmatch(line):
                return f"line {number} of entry_points.txt must be [{GROUP}], not {stripped}"
            if not stripped.endswith("]"):
                return f"line {number} of entry_points.txt is no section: {stripped}"
        elif "=" not in line or (ours and not _ENTRY.fullmatch(line)):
            return f"line {number} of entry_points.txt is no entry (name = module): {stripped}"
    return ""
