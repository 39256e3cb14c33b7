"""The report of a probe reads an experiment directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ....core.errors import RequestError
from ....estimators.variance.terms import MEASURED_IN

SUMMARIES = {
    "convergence_analysis.json": "batch-scaling",
    "validation_summary.json": "sanity-check",
    "single_test_results.json": "single",
    "debug_report.json": "debug",
}
"""Names of the tests that write a summary, by its file."""

Result = Mapping[str, Any]
"""Content of ``results.json`` of a run."""


@attrs.frozen(eq=False)
class Run:
    """A run is one run directory."""

    name: str
    result: Result | None
    """Results of the run; ``None`` if it failed."""
    error: str = ""
    """First line of ``error.txt``."""


@attrs.frozen(eq=False)
class Experiment:
    """An experiment is read as it lies on the disk, finished or not."""

    root: Path
    test: str
    """Name of the experiment; ``probe`` where there is no summary."""
    config: Mapping[str, Any]
    """Mapping ``test_config`` of the summary; empty without one."""
    analysis: Mapping[str, Any]
    """Mapping ``analysis`` of the summary; empty without one."""
    runs: Sequence[Run]

    @classmethod
    def read(cls, root: Path) -> Experiment:
        """Read a directory: its summary, and every directory in it, or itself, that holds a run.

        Raises:
            RequestError: there is neither a summary nor a run.
        """
        file = next((root / name for name in SUMMARIES if (root / name).is_file()), None)
        directories = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        runs = [run for path in (root, *directories) if (run := _run(path))]
        if not (file or runs):
            raise RequestError(
                "there are no results of a probe",
                str(root),
                f"give an experiment directory: one with {', '.join(SUMMARIES)} or results.json",
            )
        summary = _mapping(file) if file else {}
        test = SUMMARIES[file.name] if file else "probe"
        return cls(root, test, summary.get("test_config") or {}, summary.get("analysis") or {}, runs)

    @property
    def results(self) -> list[Result]:
        """Results of the runs that succeeded."""
        return [run.result for run in self.runs if run.result is not None]

    @property
    def largest(self) -> list[Result]:
        """Results with the most prompts in E."""
        most = max((result.get("B_E") or 0 for result in self.results), default=0)
        return [result for result in self.results if (result.get("B_E") or 0) == most]

    def said(self, key: str) -> Any:
        """Return the value of a key in the summary's configuration, or else in the first result that has it."""
        values = (self.config.get(key), *(result.get(key) for result in self.results))
        return next((value for value in values if value is not None), None)

    @property
    def unit(self) -> str:
        """Unit of the entropies, in words."""
        return MEASURED_IN.get(self.said("entropy_unit"), "nats")


def at_learning_rate(result: Result) -> Mapping[str, Any]:
    """Return the step of the truth whose change is deltaH_true; empty if it was not measured."""
    steps, rate = result.get("truth") or (), result.get("learning_rate")
    return next((step for step in steps if step["eta"] == rate), {})


def _run(path: Path) -> Run | None:
    if (path / "results.json").is_file():
        result = _mapping(path / "results.json")
        return Run(path.name, result or None, "" if result else "results.json cannot be read")
    if (path / "error.txt").is_file():
        lines = (path / "error.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return Run(path.name, None, lines[0] if lines else "failed")
    return None


def _mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; empty if the file is damaged."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
