"""The rows of the study: every run that has ended, whole, in a file that only grows.

A row is one line of JSON in an xz stream of its own; streams follow each other in ``NAME.jsonl.xz``. What a kill
leaves of the last one is not read. A row has the files of a run directory as texts: configuration, status, manifest,
metrics, and the transcripts of its first and its last step. It has no checkpoint and no log.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import plan
from uncollapse.core.compose.config import compose
from uncollapse.core.compose.identity import config_hash
from uncollapse.core.errors import UncollapseError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import loads

ENDING = ".jsonl.xz"
FILES = ("config.yaml", "status.json", "manifest.json", "metrics.jsonl")
LARGEST = 12 * 2**20
"""Bytes of a file, about, after which the next one begins."""


def packed(label: str, values: Mapping[str, str], run: Path, **about: Any) -> dict[str, Any]:
    """Return the row of a run that has ended."""
    transcripts = sorted((run / "rollouts").glob("step_*.jsonl"), key=lambda file: int(file.stem[5:]))
    chosen = [file for file in [*transcripts[:1], *transcripts[1:][-1:]] if file.exists()]
    files = [run / name for name in FILES] + chosen
    return {
        "label": label,
        "hash": RunDirectory(run).status()["hash"],
        "values": dict(values),
        **about,
        "files": {str(file.relative_to(run)): file.read_text(encoding="utf-8") for file in files},
    }


def unpack(row: Mapping[str, Any], run: Path) -> None:
    """Write the files of a row as a run directory; what is there stays."""
    for name, text in row["files"].items():
        file = run / name
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")


def append(row: Mapping[str, Any], directory: Path, name: str) -> Path:
    """Add a row at the end of the archive ``name``, which goes on in another file once one is large."""
    number = 0
    while (file := directory / f"{name}-{number}{ENDING}").exists() and file.stat().st_size > LARGEST:
        number += 1
    with file.open("ab") as archive:
        archive.write(lzma.compress((json.dumps(row) + "\n").encode()))
    return file


def read(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of all archives in a directory, the oldest file first."""
    for file in sorted(directory.glob(f"*{ENDING}")):
        data = file.read_bytes()
        while data:
            decoder = lzma.LZMADecompressor()
            try:
                text = decoder.decompress(data)
            except lzma.LZMAError:
                break
            if not decoder.eof:  # cut off by a kill
                break
            data = decoder.unused_data
            yield json.loads(text)


def by_hash(rows: Iterable[Mapping[str, Any]], planned: Container[str]) -> dict[str, dict[str, Any]]:
    """Return the rows by the hash of their experiment; of two with one hash, the first.

    An experiment that an older version of the project has written is what today's version reads of it: settings that
    are new have their defaults. So rows stay, and only those whose experiment is no longer the planned one are stale.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        digest = row["hash"] if row["hash"] in planned else _hash_today(row)
        found.setdefault(digest, dict(row))
    return found


def _hash_today(row: Mapping[str, Any]) -> str:
    """Return the hash of the experiment as it is read now; that of the row if it cannot be read any more.

    When checkpoints are kept changes no figure, so that it is as in the plan.
    """
    config = row.get("config") or loads(row["files"]["config.yaml"])
    try:
        return config_hash(compose(config, {} if row.get("quick") else plan.SAVING))
    except UncollapseError:
        return str(row["hash"])
