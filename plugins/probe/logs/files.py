"""The log of a run has names that no other run has, and files that are whole; logs of old runs are deleted."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path

import attrs

from ....core.errors import RequestError
from ....core.files import encode, make_directory, replace_text
from ..log_settings import DetailedLogging

LABEL_BYTES = 100
"""Largest number of bytes of a checkpoint's name, so that names of files stay within the limits of file systems."""


@attrs.frozen
class LogFiles:
    """A run has these files, all in the folder of its day."""

    log: Path
    config: Path
    console: Path
    summary: Path
    """Summary, which is written last: a run with a summary is complete."""

    @classmethod
    def claim(cls, settings: DetailedLogging, checkpoint: str | Path, now: datetime) -> LogFiles:
        """Take names that no other run has, for a run that starts ``now``; make its configuration and log, empty.

        Runs that would share a name, as those of one second do, get ``_2``, ``_3`` and so on.

        Raises:
            RequestError: the files cannot be written.
        """
        folder = Path(settings.output_directory) / f"{now:%Y-%m-%d}"
        make_directory(folder)
        times = {"date": f"{now:%Y-%m-%d}", "time": f"{now:%H-%M-%S}"}
        base = settings.filename_template.format(**times, checkpoint=label(checkpoint))
        console = settings.filename_template.format(**times, checkpoint="console")
        ending = "json.gz" if settings.compress else "json"
        # another process may take a name between the look and the making: then the next number is tried
        for number in count(1):
            suffix = f"_{number}" if number > 1 else ""
            stem = folder / f"{base}{suffix}"
            files = cls(
                log=Path(f"{stem}.{ending}"),
                config=Path(f"{stem}_config.yaml"),
                console=folder / f"{console}{suffix}.log",
                summary=Path(f"{stem}_summary.json"),
            )
            if files._reserve():
                return files
        raise AssertionError

    def _reserve(self) -> bool:
        """Return whether no run has any of the names; if so, other processes see them taken from here on."""
        if any(path.exists() for path in attrs.astuple(self)):
            return False
        try:
            self.config.touch(exist_ok=False)
            self.console.touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError as error:
            raise RequestError(
                f"the detailed log cannot be written: {error.strerror}",
                str(self.config),
                "give another detailed_logging.output_directory",
            ) from error
        return True

    def names(self) -> dict[str, str]:
        """Return the names of the run's files, as the summary has them, the summary last."""
        return {name: path.name for name, path in attrs.asdict(self).items()}

    def write_log(self, text: str) -> None:
        """Write the main file, compressed if its name says so."""
        if self.log.suffix != ".gz":
            replace_text(self.log, text)
            return
        temporary = self.log.with_name(f"{self.log.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(gzip.compress(encode(text)))
            temporary.replace(self.log)
        finally:
            temporary.unlink(missing_ok=True)


def label(checkpoint: str | Path) -> str:
    """Return the last component of a checkpoint's path; for ``step_60/model`` the one above it, which says more."""
    path = Path(os.path.abspath(checkpoint))  # noqa: PTH100 - resolve() would follow a link called latest
    name = path.parent.name if path.name == "model" else path.name
    return name.encode()[:LABEL_BYTES].decode(errors="ignore") or "checkpoint"


def prune(directory: Path, keep: int) -> None:
    """Delete the files of the runs that ended first until ``keep`` runs are left; 0 keeps all.

    A run is what its summary says: no file is deleted that is not named there, and no summary that was renamed or moved
    elsewhere counts. Folders that this leaves empty go too, but for that of today.
    """
    runs = sorted(_complete_runs(directory), key=lambda run: run[0]) if keep else []
    for _, files in runs[: max(len(runs) - keep, 0)]:
        for file in files:
            with suppress(OSError):
                file.unlink()
        if files[0].parent.name != f"{datetime.now():%Y-%m-%d}":
            with suppress(OSError):
                files[0].parent.rmdir()


def _complete_runs(directory: Path) -> Iterator[tuple[float, list[Path]]]:
    """Yield when each run ended, and its files; whatever else lies in the directory is ignored."""
    for summary in directory.glob("????-??-??/*_summary.json"):
        try:
            metadata = json.loads(summary.read_bytes())["run_metadata"]
            names = [metadata["files"][field.name] for field in attrs.fields(LogFiles)]
            ended = datetime.fromisoformat(metadata["ended"]).timestamp()
            files = [summary.with_name(name) for name in names]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if files[-1] == summary:
            yield ended, files
