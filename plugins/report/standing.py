"""How one run stands, from its ``status.json`` alone: a small file, and whole at any moment unless the disk was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from ...core.errors import UncollapseError
from ...core.runs import RunDirectory
from ...core.status import seconds

KINDS = (("status", str), ("step", int), ("metrics", dict), ("timings", dict), ("verdict", dict), ("verdicts", list))
TIMES = {"started", "ended", "updated"}

DIED = "died without a word; run the sweep again to resume it"
ANOTHER = "its directory holds a run of another configuration"


@attrs.frozen
class Standing:
    """A run's status and what is known beside it."""

    status: str
    """As in status.json, or ``not started``, ``killed`` (``running``, but no process holds it) or ``damaged``."""
    reason: str = ""
    """Why, in a line: the verdict of the detector that stopped it, the error it failed with, the damage."""
    record: Mapping[str, Any] = attrs.field(factory=dict)
    """What status.json says."""

    @property
    def failed_regime(self) -> bool:
        """A detector stopped it: by the protocol of the sweeps the setting failed, the run did not."""
        return self.status.startswith("stopped:")

    @property
    def detector(self) -> str:
        """The name of the detector that stopped it; empty if none did."""
        return self.status.partition(":")[2]

    @property
    def outcome(self) -> str:
        """The status in words."""
        return f"failed regime ({self.detector})" if self.failed_regime else self.status

    @property
    def verdicts(self) -> Sequence[Mapping[str, Any]]:
        """What each detector said first, whether that stopped the run or not."""
        return [verdict for verdict in self.record.get("verdicts", []) if isinstance(verdict, Mapping)]

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds by ``train``, ``eval``, ``collapse``, ``total``, ``wall``, ...; what was not timed is not there."""
        return self.record.get("timings", {})

    def lasted(self, now: datetime | None = None) -> float | None:
        """Seconds of work, as :func:`~uncollapse.core.status.seconds` counts them."""
        return seconds(self.record, now)


def read_standing(run: RunDirectory, digest: str = "") -> Standing:
    """How ``run`` stands; ``digest``: the hash of the configuration that it should have, empty if not known."""
    try:
        record = run.status()
    except (UncollapseError, OSError) as error:
        return Standing("damaged", _line(error))
    if not _is_record(record):
        return Standing("damaged", f"no status record ({run.path / 'status.json'})")
    if "status" not in record:
        return Standing("damaged", "it has no status.json") if run.config_file.exists() else Standing("not started")
    if digest and record.get("hash", digest) != digest:
        return Standing("not started", ANOTHER)
    status = record["status"]
    if status == "running" and not run.locked():
        return Standing("killed", DIED, record)
    verdict = record.get("verdict", {})
    reason = verdict.get("reason", "") if status.startswith("stopped:") else _line(record.get("error") or "")
    return Standing(status, reason, record)


def damaged(error: Exception) -> Standing:
    """The standing of a run of which a file cannot be read."""
    return Standing("damaged", _line(error))


def _is_record(record: Any) -> bool:
    """Whether what is read of it is of the right kind, where it is there."""
    try:
        for key in TIMES & record.keys():
            datetime.fromisoformat(record[key])
        return all(isinstance(record.get(key, kind()), kind) for key, kind in KINDS)
    except (AttributeError, TypeError, ValueError):
        return False


def _line(message: Any) -> str:
    where = getattr(message, "where", "")
    text = f"{message.what} ({where})" if where else str(message)
    return text.strip().partition("\n")[0]
