"""The tracker ``wandb`` logs to Weights & Biases, offline unless asked otherwise."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ...core.components import Tracker
from ...core.errors import MissingExtraError
from ...core.files import replace_text
from ...core.hookspecs import hookimpl
from ...core.runs.status import Status

if TYPE_CHECKING:
    from ...core.runs.directory import RunDirectory


ID = re.compile(r"[\w-]{1,64}")
RECORDED = re.compile(r"(?:offline-)?run-\d+_\d+-([\w-]+)")


def own_id(run: RunDirectory) -> str:
    """Return the id of a run at W&B, the same for all of its processes; a lost one is read from W&B's own files."""
    file = run.path / "wandb" / "id"
    run_id = file.read_text("utf-8", errors="replace").strip() if file.is_file() else ""
    if not ID.fullmatch(run_id):
        file.parent.mkdir(exist_ok=True)
        names = (RECORDED.fullmatch(path.name) for path in sorted(file.parent.iterdir()))
        recorded = [match[1] for match in names if match]
        run_id = recorded[-1] if recorded else secrets.token_hex(4)
        replace_text(file, run_id)
    return run_id


@attrs.frozen
class Wandb(Tracker):
    """Log to Weights & Biases; by default offline, into ``<run>/wandb``, without an account or a network.

    ``wandb sync <run>/wandb/offline-*`` uploads such a run later. A resumed run continues under its own id. The x axis
    is ``step``, a metric of its own, so that steps which a resumed run repeats are not dropped.
    """

    project: str = "uncollapse"
    mode: Literal["offline", "online", "disabled"] = attrs.field(
        default="offline", validator=attrs.validators.in_(("offline", "online", "disabled"))
    )
    entity: str | None = None
    """The user or team that owns the project; ``None`` is the account's default."""
    run_name: str | None = None
    """Name of the run; ``None``: that of its directory."""
    group: str | None = None
    """Group of the run; runs of one group are shown together, e.g. the points of a sweep."""
    tags: tuple[str, ...] = attrs.field(default=(), converter=tuple)

    def start(self, run: RunDirectory) -> WandbSession:
        """Start the session of a run. Raises MissingExtraError without wandb."""
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError(
                "the tracker wandb needs the library wandb", str(error), "pip install 'uncollapse[train]'"
            ) from error
        return WandbSession(self, wandb)


class WandbSession:
    """One run at Weights & Biases."""

    def __init__(self, settings: Wandb, wandb: Any) -> None:
        self.settings, self.wandb = settings, wandb
        self.run: Any = None

    @hookimpl
    def run_started(self, run: RunDirectory, experiment: Any, step: int) -> None:
        self.run = self.wandb.init(
            project=self.settings.project,
            entity=self.settings.entity,
            group=self.settings.group,
            tags=self.settings.tags,
            mode=self.settings.mode,
            dir=str(run.path),
            id=own_id(run),
            name=self.settings.run_name or run.path.name,
            resume="allow",
            config=run.read_config(),
            settings=self.wandb.Settings(console="off", silent=True),
        )
        self.run.define_metric("*", step_metric="step")
        entry = {"id": self.run.id, "project": self.settings.project, "mode": self.settings.mode, "url": self.run.url}
        run.annotate(wandb={key: value for key, value in entry.items() if value})

    @hookimpl
    def step_finished(self, run: RunDirectory, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log({**metrics, "step": step})

    @hookimpl
    def run_finished(self, run: RunDirectory, status: str, metrics: Mapping[str, float]) -> None:
        if self.run is None:
            return
        self.run.summary["status"] = status
        self.run.finish(exit_code=1 if status in (Status.FAILED, Status.INTERRUPTED) else 0)
