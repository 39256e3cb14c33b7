"""The runs of an experiment probe one checkpoint, which is loaded once; each has its own directory and record."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs

from ....core.errors import RequestError, RunError
from ....core.files import replace_text
from ...training.processes.ranks import Ranks
from ..config import ProbeConfig
from ..estimation.clock import Clock
from ..estimation.step import Step
from ..integrity import state_digest
from ..messages import messages
from ..probe import OfflineEntropyProbe
from ..probed import Probed
from ..read_config import Read, to_yaml
from ..sampling.samples import Sample
from ..session import Session
from . import gradients
from .files import CONFIG, ERROR, LOG, RESULTS, begin, logged, write_error, write_json, write_samples

KEPT = ("deltaH1", "SE_conditional", "se_over_deltaH1", "deltaH_true", "B_E", "B_U", "bars_dot", "peak_memory_bytes")
"""Keys of the results that a record has on top."""


@attrs.frozen
class Run:
    """A run is one probe of an experiment."""

    name: str
    """Name of its directory."""
    B_E: int
    stream: tuple[object, ...] = ()
    """Names of the random stream of E; no two runs of an experiment have the same."""
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    """Entries of its record beside those of every record."""


class Runner:
    """A runner makes probes one after another; a probe that fails is recorded.

    Messages from ``output.log_level`` on go to ``probe_log.txt``; at DEBUG, norms of the gradients are among them.

    Args:
        read: the configuration, with the checkpoint in it.
        place: where the directories of the runs are made; ``None`` on ranks that write nothing.
        shares_update: draw one batch U, and compute its step once, for all runs.
        save_gradients: keep the gradients of each run.
    """

    def __init__(
        self,
        read: Read,
        place: Path | None,
        ranks: Ranks,
        *,
        shares_update: bool,
        save_gradients: bool = False,
    ) -> None:
        self.read = read
        self.place = place
        self.ranks = ranks
        self.shares_update = shares_update
        self.save_gradients = save_gradients
        self._succeeded = False

    def run(self, run: Run) -> dict[str, Any]:
        """Make one probe, write the run's directory, and return its record.

        Raises:
            RequestError: a run has failed before any succeeded: then it is the request that is wrong.
            RunError: a run failed and there are several processes, of which the others may wait for this one.
        """
        started = time.perf_counter()
        directory = self.place / run.name if self.place is not None else None
        if directory is not None:
            begin(directory, self._config(run, self.read.config))
        with logged(directory, self.read.config.output.log_level, self.ranks.rank):
            messages.info("%s: B_E = %d, B_U = %d", run.name, run.B_E, self.read.config.batch_config.B_U)
            try:
                result, probed = self._probe(run, directory)
                self._keep(directory, result, probed)
            except Exception as error:  # one run that fails must not cost the others
                self._refuse(error, run, directory)
                return {
                    "success": False,
                    "runtime": time.perf_counter() - started,
                    **run.facts,
                    "error": str(error) or type(error).__name__,
                    "files": _files(directory, error=ERROR),
                }
            messages.info("%s: done in %.1f s", run.name, time.perf_counter() - started)
        self._succeeded = True
        return {
            "success": True,
            "runtime": time.perf_counter() - started,
            **{key: result.get(key) for key in KEPT},
            **run.facts,
            "stream": list(run.stream),
            "full_results": result,
            "files": _files(directory, config=CONFIG, log=LOG, results=RESULTS),
        }

    def _refuse(self, error: Exception, run: Run, directory: Path | None) -> None:
        """Write down why a run failed, and raise the error if the experiment cannot go on."""
        messages.error("%s failed: %s", run.name, error)
        if directory is not None:
            write_error(directory, error)
        if isinstance(error, RequestError) and not self._succeeded:
            raise error
        if self.ranks.size > 1:
            what = f"{run.name} failed, and other processes may wait for it: {error}"
            raise RunError(what, str(directory or ""), f"see its {ERROR}") from error

    def _probe(self, run: Run, directory: Path | None) -> tuple[dict[str, Any], Probed]:
        if directory is not None:  # from here on the configuration has what the checkpoint and its run fill in
            replace_text(directory / CONFIG, to_yaml(self._config(run, self._session.config)))
        U, step = self._update if self.shares_update else (None, None)
        result, probed = self._probing.probe(self._session, run.B_E, *run.stream, step=step, U=U)
        messages.info("seconds: %s", _seconds(result["timing"]))
        messages.info("results: %s", ", ".join(f"{key} {result.get(key)}" for key in KEPT))
        for warning in result["warnings"]:
            messages.warning(warning)
        return result, probed

    def _keep(self, directory: Path | None, result: dict[str, Any], probed: Probed) -> None:
        """Write all files of a run that succeeded; every rank takes part in the passes that they need."""
        detailed = messages.isEnabledFor(logging.DEBUG) and probed.predicts
        if self.save_gradients or detailed:
            made = gradients.gradients(probed)
            for line in gradients.describe(probed, made):
                messages.debug(line)
            if self.save_gradients and directory is not None:
                gradients.save(directory, probed, made)
        if directory is None:
            return
        if probed.config.output.save_samples:
            write_samples(directory, {"E": probed.E, "U": probed.U}, probed.session.loaded.tokenizer)
        write_json(directory / RESULTS, result)

    @cached_property
    def _probing(self) -> OfflineEntropyProbe:
        return OfflineEntropyProbe(self.read, self.ranks)

    @cached_property
    def _session(self) -> Session:
        started = time.perf_counter()
        messages.info("loading %s", self.read.config.checkpoint.checkpoint_path)
        session = self._probing.session()
        loaded, coverage = session.loaded, session.adam.coverage
        messages.info("loaded in %.1f s: %s", time.perf_counter() - started, loaded.model_path)
        messages.info("optimizer state of %d of %d tensors that train", coverage.matched, coverage.trainable)
        for note in loaded.notes:
            messages.info("note: %s", note)
        if self.read.config.probe_rework.checks != "none":
            session.digest = state_digest(session.policy, session.adam)  # before the shared update's passes
        return session

    @cached_property
    def _update(self) -> tuple[Sample, Step]:
        clock = Clock()
        U = self._session.draw_U("U", clock=clock)
        step = self._session.step(U, clock)
        messages.info("update of all runs, seconds: %s", _seconds(clock.seconds))
        return U, step

    def _config(self, run: Run, config: ProbeConfig) -> ProbeConfig:
        """Return the configuration of this run alone."""
        batches = attrs.evolve(config.batch_config, B_E=run.B_E, B_E_values=(run.B_E,))
        return attrs.evolve(config, batch_config=batches)


def _seconds(phases: Mapping[str, float]) -> str:
    return ", ".join(f"{phase} {seconds:.3f}" for phase, seconds in phases.items())


def _files(directory: Path | None, **names: str) -> dict[str, str]:
    return {kind: str(directory / name) for kind, name in names.items()} if directory is not None else {}
