"""The probe's Python interface configures, loads and runs a probe, and returns one mapping of results."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from ...core.compose.plain_data import plain
from ...core.files import make_directory, replace_text, to_json
from ..training.processes.ranks import Ranks
from .config import ProbeConfig
from .estimation.clock import Clock
from .estimation.step import Step
from .integrity import state_digest
from .logs.detailed_log import DetailedLogger
from .logs.logged import log_probe
from .messages import messages
from .next_step import step_lines
from .own_run import read_for_checkpoint
from .probed import Probed
from .read_config import Read, read_config
from .results import results
from .sampling.samples import Sample
from .session import Session


class OfflineEntropyProbe:
    """Predict the entropy change of a checkpoint's next update, measure the true one, and state the errors of both.

    Args:
        config: sections and keys as in :class:`~.config.ProbeConfig`, as plain data, as that class or as it was read.

    Raises:
        ConfigError: not all of the configuration makes sense; it has every reason.
    """

    def __init__(self, config: Mapping[str, Any] | ProbeConfig | Read, ranks: Ranks | None = None) -> None:
        read = Read(config) if isinstance(config, ProbeConfig) else config
        self._read = read if isinstance(read, Read) else read_config(read)
        self._ranks = ranks
        self._sessions: dict[str, Session] = {}
        self._ignored: dict[str, tuple[str, ...]] = {}
        """Lines about keys that nothing reads, by the key of the session."""
        self._read_for: Callable[[str], Read] = lambda checkpoint: self._read
        self._directory: Path | None = None

    @classmethod
    def from_config_file(
        cls, path: str | Path, overrides: Mapping[str, Any] | None = None, ranks: Ranks | None = None
    ) -> OfflineEntropyProbe:
        """Make the probe of a YAML file or a template (``configs/NAME.yaml``).

        What a template says gives way to what each checkpoint that is probed says: see :mod:`.own_run`.

        Args:
            overrides: values of dotted keys.
        """
        values = dict(overrides or {})
        probe = cls(read_for_checkpoint(path, values), ranks)
        probe._read_for = lambda checkpoint: read_for_checkpoint(path, values, checkpoint)
        probe._directory = Path(path).expanduser().resolve().parent
        return probe

    def session(self, checkpoint_path: str | Path | None = None) -> Session:
        """Return the loaded checkpoint, which is loaded once, however often it is probed."""
        key = str(checkpoint_path or self.config.checkpoint.checkpoint_path)
        if key not in self._sessions:
            # a checkpoint that the configuration names itself keeps the optimizer state that it names
            read = self._read_for(key) if key != self.config.checkpoint.checkpoint_path else self._read
            for line in read.ignored:
                messages.warning("ignored: %s", line)
            session = Session(read.config, key, self._ranks, spare_rate=read.spare_rate)
            for line in step_lines(session.predicted_step()):
                messages.info("step: %s", line)
            self._sessions[key] = session
            self._ignored[key] = read.ignored
        return self._sessions[key]

    @property
    def config(self) -> ProbeConfig:
        """Configuration as it was read; ``session().config`` has what a checkpoint and its run have added."""
        return self._read.config

    @property
    def ignored(self) -> tuple[str, ...]:
        """Lines ``key: why nothing reads it``."""
        return self._read.ignored

    def run_mixed_probe(self, checkpoint_path: str | Path | None = None) -> dict[str, Any]:
        """Sample E and U, predict and measure: the results of :mod:`.results`, with times, memory and what was ignored.

        Raises:
            RequestError: the checkpoint cannot be probed with this configuration.
        """
        session = self.session(checkpoint_path)
        sizes = session.config.sizes
        if len(sizes) > 1:
            messages.warning("B_E_values has %d sizes; one probe takes the first, %d", len(sizes), sizes[0])
        record = self.run(session, sizes[0])
        output = session.config.output
        if output.save_samples:
            messages.warning("output.save_samples: samples are written by the experiments, not by this one probe")
        if output.save_results and output.results_path and session.ranks.first:
            path = Path(output.results_path).expanduser()
            make_directory(path.parent)
            replace_text(path, to_json(record, indent=2))
        return record

    def run(
        self, session: Session, B_E: int, *names: object, step: Step | None = None, U: Sample | None = None
    ) -> dict[str, Any]:
        """Return the results of one probe; see :meth:`probe`."""
        return self.probe(session, B_E, *names, step=step, U=U)[0]

    def probe(
        self, session: Session, B_E: int, *names: object, step: Step | None = None, U: Sample | None = None
    ) -> tuple[dict[str, Any], Probed]:
        """Make one probe with ``B_E`` prompts of E: return its results, and what they were made of.

        Args:
            names: names of the random streams, so that repetitions differ.
            step: an update that is used again, with its sample ``U``.
        """
        started = time.perf_counter()
        with DetailedLogger(self._logging(session), self._directory) as log:
            log.log_run_start(session.loaded.directory, plain(of_size(session.config, B_E)))
            clock = Clock(on_start=log.log_phase_start, on_end=log.log_phase_end)
            before = session.digest or self._digest(session, clock)
            U = session.draw_U(*names, clock=clock) if U is None else U
            E = session.draw_E(B_E, *names, clock=clock)
            step = session.step(U, clock) if step is None else step
            measurement = session.measurement(E, step, clock)
            truth = measurement
            # only on a sample of its own is the measured change independent of the prediction
            if session.config.measures_truth and session.config.importance.independent_E:
                truth = session.measurement(session.draw_E(B_E, "truth", *names, clock=clock, kept=False), step, clock)
            probed = Probed(session, U, E, measurement, truth)
            record = results(probed)
            if record["integrity"] is not None:
                record["integrity"] |= {"param_hash_before": before, "param_hash_after": self._digest(session, clock)}
            record["ignored"] = list(self._ignored_of(session))
            record["timing"] = {**clock.seconds, "total_time": time.perf_counter() - started}
            record |= _memory()
            log_probe(log, probed)
            log_file = log.finalize_log(record)
            record["log_file"] = str(log_file) if log_file else None
        return record, probed

    def _ignored_of(self, session: Session) -> tuple[str, ...]:
        lines = (self._ignored[key] for key, other in self._sessions.items() if other is session)
        return next(lines, self.ignored)

    def _logging(self, session: Session) -> Any:
        settings = session.config.detailed_logging
        return settings if session.ranks.first else attrs.evolve(settings, enabled=False)

    def _digest(self, session: Session, clock: Clock) -> str | None:
        if session.config.probe_rework.checks == "none":
            return None
        with clock("hashing"):
            session.digest = state_digest(session.policy, session.adam)
        return session.digest


def of_size(config: ProbeConfig, B_E: int) -> ProbeConfig:
    """Return the configuration of one probe with ``B_E`` prompts of E."""
    return attrs.evolve(config, batch_config=attrs.evolve(config.batch_config, B_E=B_E, B_E_values=None))


def _memory() -> dict[str, Any]:
    """Return ``peak_memory_bytes`` of this process so far: on its GPU, or without one in the machine's memory."""
    if torch.cuda.is_available():
        return {
            "peak_memory_bytes": torch.cuda.max_memory_allocated(),
            "peak_memory_of": "gpu, since the process began",
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "peak_memory_bytes": peak if sys.platform == "darwin" else peak * 1024,
        "peak_memory_of": "process, since it began",
    }
