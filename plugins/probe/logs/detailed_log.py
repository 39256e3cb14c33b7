"""The detailed log of a run of the probe has results, batches, sequences, tokens and tensors, as its level says."""

from __future__ import annotations

import json
import logging
import math
import platform
import subprocess
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
import torch
from torch import Tensor

from ....core.compose.plain_data import plain
from ....core.errors import RunError
from ....core.files import replace_text, to_json
from ....core.yaml import dumps
from ..log_settings import LEVELS, DetailedLogging
from ..messages import heard, messages
from . import batch as log_batch
from .batch import LoggedBatch
from .files import LogFiles, prune

__all__ = ["DetailedLogger", "LoggedBatch"]

SECTIONS = (
    "run_metadata", "core_results", "timing", "ground_truth", "batch_statistics", "sequences", "token_data",
    "raw_tensors", "debug_info",
)  # fmt: skip
"""Sections of the main file, which always has all of them, possibly empty."""
CORE_RESULTS = (
    "bars_dot", "deltaH1", "deltaH_true", "learning_rate", "B_E", "B_U", "G", "mb_size_prompts", "weighting_mode",
)  # fmt: skip
GROUND_TRUTH = ("H_orig", "H_upd", "deltaH_true", "diagnostics", "H_orig_tok", "H_upd_tok", "deltaH_true_tok")
RAW_ELEMENTS = 10_000
"""Number of elements below which a tensor is logged as it is; of larger ones the shape is logged, in ``debug_info``."""


@attrs.define(eq=False)
class DetailedLogger:
    """A detailed logger writes the log of one run, whatever ends it; as a context manager also of a run that raises.

    The status in ``run_metadata`` is success, failed or interrupted, or unfinished where the block was left without
    :meth:`finalize_log`. While it is not enabled, no method does anything. Messages of the package's logger go to the
    console log as well. One logger serves one run; with several processes, that of rank 0 is enabled.
    """

    settings: DetailedLogging
    config_directory: Path | None = None
    """Directory of the configuration; its commit is noted if it is in a git repository."""
    _files: LogFiles | None = attrs.field(default=None, init=False)
    _log: dict[str, dict[str, Any]] = attrs.field(factory=lambda: {name: {} for name in SECTIONS}, init=False)
    _started: float = attrs.field(default=math.nan, init=False)
    _phases: dict[str, float] = attrs.field(factory=dict, init=False)
    """Starting times, in seconds, of phases that have not ended, by name."""
    _console: ExitStack = attrs.field(factory=ExitStack, init=False)

    # --- the run ---

    def log_run_start(self, checkpoint_path: str | Path, config: Mapping[str, Any]) -> Path | None:
        """Take file names and write the configuration; return the future main file, or ``None`` if not enabled.

        Raises:
            RequestError: the output directory cannot be written.
        """
        if not self.settings.enabled:
            return None
        now = datetime.now().astimezone()
        self._started = time.perf_counter()
        self._files = LogFiles.claim(self.settings, checkpoint_path, now)
        replace_text(self._files.config, dumps(plain(config)))
        self._log["run_metadata"] = {
            "timestamp": now.isoformat(),
            "checkpoint_path": str(checkpoint_path),
            "probe_version": version("uncollapse"),
            "config_hash": sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()[:16],
            "git_commit": _git_commit(self.config_directory) if self.config_directory is not None else None,
            "logging_level": self.settings.level,
            "status": "running",
            "error": None,
            "failed_phase": None,
            "environment": _environment(),
            "files": self._files.names(),
        }
        # without a level of its own the logger would have that of the root, which drops information
        level = logging.INFO if messages.level == logging.NOTSET else None
        self._console.enter_context(heard(self._files.console, "%(asctime)s %(levelname)s %(message)s", level))
        messages.info("probing %s", checkpoint_path)
        return self._files.log

    def finalize_log(self, results: Mapping[str, Any] | None = None) -> Path | None:
        """Write the log of a run that succeeded; return the main file, or ``None`` if not enabled.

        ``results``: what the probe returns; what was not computed is null. Then the logs of the oldest runs are
        deleted, see :func:`~.files.prune`.

        Raises:
            RunError: the files cannot be written.
        """
        return self._finish("success", results)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish("unfinished")
            return
        phase = next(reversed(self._phases), None)
        self._log["run_metadata"] |= {"error": f"{type(error).__name__}: {error}", "failed_phase": phase}
        if self._wants("detailed"):
            self._log["debug_info"]["traceback"] = traceback.format_exception(error)
        try:
            self._finish("failed" if isinstance(error, Exception) else "interrupted")
        except RunError as problem:
            error.add_note(str(problem))

    # --- what it did ---

    def log_phase_start(self, name: str) -> None:
        """Start the clock of a phase."""
        if self._files is not None:
            self._phases[name] = time.perf_counter()
            messages.info("%s: started", name)

    def log_phase_end(self, name: str) -> None:
        """Stop the clock of a phase; the times of a phase that runs several times add up."""
        if self._files is None:
            return
        elapsed = time.perf_counter() - self._phases.pop(name)
        timing = self._log["timing"]
        timing[f"{name}_time"] = timing.get(f"{name}_time", 0.0) + elapsed
        messages.info("%s: %.3f s", name, elapsed)

    def log_batch_data(self, batch: LoggedBatch) -> None:
        """Keep what the level has of a batch; a batch that is logged again, with more of it known, replaces itself."""
        if self._wants("standard"):
            self._log["batch_statistics"][batch.name] = log_batch.statistics(batch)
        if self._wants("detailed") and self.settings.log_sequences:
            self._log["sequences"][batch.name] = log_batch.sequences(batch)
        if self._wants("debug") and self.settings.log_tokens:
            self._log["token_data"][batch.name] = log_batch.tokens(batch)
        self._keep_tensors(batch.name, batch.tensors())

    def log_importance_sampling_details(self, S_orig: Any, S_upd: Any, RB_orig: Any, RB_upd: Any) -> None:
        """Keep what the weights of E were made of, from ``detailed`` on.

        Each is [S]: log-probs of sequences (``S_``) and sums of their token entropies (``RB_``) before and after the
        update, in nats. The weights exp(S_upd - S_orig) are neither shifted nor normalised: their true mean is 1.
        """
        if not self._wants("detailed"):
            return
        named = {"S_orig": S_orig, "S_upd": S_upd, "RB_orig": RB_orig, "RB_upd": RB_upd}
        tensors = {name: torch.as_tensor(value).detach().cpu().double() for name, value in named.items()}
        logw = tensors["S_upd"] - tensors["S_orig"]
        self._log["ground_truth"]["importance_sampling_details"] = {
            "logw_stats": log_batch.spread(logw),
            "weight_stats": log_batch.spread(logw.exp()),
            **{f"{name}_stats": log_batch.spread(x) | {"shape": list(x.shape)} for name, x in tensors.items()},
        }
        self._keep_tensors("importance_sampling", tensors | {"logw": logw, "importance_weights": logw.exp()})

    def _keep_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        if not (self._wants("debug") and self.settings.log_raw_tensors):
            return
        self._log["raw_tensors"][name] = {key: x for key, x in tensors.items() if x.numel() < RAW_ELEMENTS}
        large = {f"{name}.{key}": list(x.shape) for key, x in tensors.items() if x.numel() >= RAW_ELEMENTS}
        self._log["debug_info"].setdefault("omitted_tensors", {}).update(large)

    def _wants(self, level: str) -> bool:
        return self._files is not None and LEVELS.index(self.settings.level) >= LEVELS.index(level)

    # --- writing ---

    def _finish(self, status: str, results: Mapping[str, Any] | None = None) -> Path | None:
        files = self._files
        if files is None:
            return None
        for phase in list(self._phases):
            self.log_phase_end(phase)
        timing = self._log["timing"]
        timing["total_time"] = time.perf_counter() - self._started
        metadata = self._log["run_metadata"]
        if results is not None:
            self._log["core_results"] = {key: results.get(key) for key in CORE_RESULTS}
            timing |= results.get("timing") or {}
            metadata["step"] = results.get("step")
            if self._wants("standard") and "H_orig" in results:
                self._log["ground_truth"] |= {key: results[key] for key in GROUND_TRUTH if key in results}
        metadata |= {"status": status, "ended": datetime.now().astimezone().isoformat()}
        messages.info("%s after %.3f s: %s", status, timing["total_time"], metadata["error"] or files.log)
        # closed before anything can fail, so that the console log has ended whatever happens
        self._console.close()
        self._files = None
        non_finite: dict[str, None] = {}
        log = {name: _readable(plain(self._log[name]), name, non_finite) for name in SECTIONS}
        log["run_metadata"]["non_finite"] = list(non_finite)
        try:
            files.write_log(to_json(log))
            replace_text(files.summary, to_json(_summary(log), indent=1))
        except OSError as error:
            reason = f"the detailed log cannot be written: {error.strerror}"
            raise RunError(reason, str(files.log), "make room, or choose a lower level") from error
        prune(Path(self.settings.output_directory), self.settings.max_files)
        return files.log


def _summary(log: Mapping[str, Any]) -> dict[str, Any]:
    truth = log["ground_truth"]
    short = {key: truth.get(key) for key in ("H_orig", "H_upd", "deltaH_true")}
    short["ESS"] = (truth.get("diagnostics") or {}).get("ESS")
    return {
        "run_metadata": log["run_metadata"],
        "core_results": log["core_results"],
        "timing": log["timing"],
        "ground_truth": short if truth else {},
        "batch_statistics": log["batch_statistics"],
    }


def _readable(value: Any, key: str, non_finite: dict[str, None]) -> Any:
    """Return lists for tensors, text for what JSON has no form of, and null for NaN and infinities.

    The keys of these go to ``non_finite``; members of a list of numbers have the key of the list.
    """
    if isinstance(value, Mapping):
        return {str(name): _readable(item, f"{key}.{name}", non_finite) for name, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        nested = any(isinstance(item, Mapping | list) for item in value)
        keys = (f"{key}.{index}" if nested else key for index in range(len(value)))
        return [_readable(item, name, non_finite) for item, name in zip(value, keys, strict=True)]
    if isinstance(value, float) and not math.isfinite(value):
        non_finite[key] = None
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _environment() -> dict[str, Any]:
    """Return versions and GPUs, with the name and the memory (10^9 bytes) of the first GPU, or null without one."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "python_version": platform.python_version(),
        "torch_version": torch.__version__,
        "cuda_available": torch.cuda.is_available(),
        "gpu_count": torch.cuda.device_count(),
        "gpu_name": gpu.name if gpu else None,
        "gpu_memory_gb": gpu.total_memory / 1e9 if gpu else None,
    }


def _git_commit(directory: Path) -> str | None:
    command = ["git", "-C", str(directory), "rev-parse", "--verify", "HEAD"]
    try:
        process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
