"""The status of one run is read from its ``status.json`` alone: a small file, which is replaced as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import attrs

from ...core.errors import UncollapseError
from ...core.runs.directory import RunDirectory
from ...core.runs.records import has_ended
from ...core.runs.status import seconds

DIED = "died without a word; run the sweep again to resume it"
ANOTHER = "its directory holds a run of another configuration"


@attrs.frozen
class RunStatus:
    """A run's status, with the reason and the record that belong to it."""

    status: str
    """Status as in status.json, or ``not started``, ``killed`` (``running``, but no process holds it), ``damaged``."""
    reason: str = ""
    """Reason in a line: the verdict of the detector that stopped it, the error it failed with, the damage."""
    record: Mapping[str, Any] = attrs.field(factory=dict)
    """Content of status.json."""

    @property
    def failed_regime(self) -> bool:
        """Whether a detector stopped it: by the protocol of the sweeps the setting failed, the run did not."""
        return self.status.startswith("stopped:")

    @property
    def detector(self) -> str:
        """The name of the detector that stopped it; empty if none did."""
        return self.status.partition(":")[2]

    @property
    def status_text(self) -> str:
        """The status in words."""
        return f"failed regime ({self.detector})" if self.failed_regime else self.status

    @property
    def verdicts(self) -> Sequence[Mapping[str, Any]]:
        """The first verdict of each detector, whether that stopped the run or not."""
        return self.record.get("verdicts", [])

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds by ``train``, ``eval``, ``collapse``, ``total``, ``wall``, ...; what was not timed is not there."""
        return self.record.get("timings", {})

    def lasted(self, now: datetime | None = None) -> float | None:
        """Seconds in the processes of the run, up to ``now`` or to its last sign of life; see :func:`seconds`."""
        return seconds(self.record, now)


def read_run_status(run: RunDirectory, digest: str = "", records: bool = True) -> RunStatus:
    """Say how ``run`` stands.

    Args:
        digest: the hash of the configuration that it should have, empty if not known.
        records: whether the metrics of a run that has ended are looked at; where they are damaged, so is the run.
    """
    try:
        record = run.status()
    except (UncollapseError, OSError) as error:
        return RunStatus("damaged", _line(error))
    if "status" not in record:
        return RunStatus("damaged", "it has no status.json") if run.config_file.exists() else RunStatus("not started")
    if digest and record.get("hash", digest) != digest:
        return RunStatus("not started", ANOTHER)
    status = record["status"]
    if status == "running" and not run.locked():
        return RunStatus("killed", DIED, record)
    if records and has_ended(record) and (damage := _damage(run, _stamp(run))):
        return RunStatus("damaged", damage, record)
    verdict = record.get("verdict", {})
    reason = verdict.get("reason", "") if status.startswith("stopped:") else _line(record.get("error") or "")
    return RunStatus(status, reason, record)


def damaged(error: Exception) -> RunStatus:
    """Return the status of a run of which a file cannot be read."""
    return RunStatus("damaged", _damage_line(error))


def _damage_line(error: Exception) -> str:
    fix = getattr(error, "fix", "")
    return f"{_line(error)}; {fix}" if fix else _line(error)


def _stamp(run: RunDirectory) -> tuple[int, ...]:
    """Return numbers that change when the records or the status do, so that a table kept current reads them once."""
    stats = [file.stat() for file in (run.metrics_file, run.status_file) if file.exists()]
    return tuple(number for stat in stats for number in (stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=4096)
def _damage(run: RunDirectory, stamp: tuple[int, ...]) -> str:
    try:
        error: Exception | None = run.damaged_records()
    except (UncollapseError, OSError) as unreadable:
        error = unreadable
    return _damage_line(error) if error else ""


def _line(message: Any) -> str:
    where = getattr(message, "where", "")
    text = f"{message.what} ({where})" if where else str(message)
    return text.strip().partition("\n")[0]
