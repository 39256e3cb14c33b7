"""Every hook that a plugin can implement.

Two families. *Registration hooks* run when the registry is built: each is given ``register`` and calls it once per
name,

    @hookimpl
    def register_rollout_filters(register):
        register("top_p", "uncollapse.filters.top_p:TopP", summary="keep the groups that carry a share p of the mass")

where the target is an object or a ``"module:attribute"`` string (strings keep listing light: nothing is imported until
the name is used) and ``aliases=("other",)`` adds spellings. *Runtime hooks* run while an experiment trains, on rank 0
only unless their text says otherwise.

A plugin is a module or object with functions marked by :data:`hookimpl`, announced by the entry-point group
``uncollapse`` or by ``--plugin FILE.py``. Registration must not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from .runs.directory import RunDirectory

PROJECT = "uncollapse"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """What a registration hook is given."""

    def __call__(self, name: str, target: Any, *, summary: str = "", aliases: tuple[str, ...] = ()) -> None:
        """Give ``target`` a name. A name or alias that is taken is refused: the plugin is reported as broken."""


# --- registration: when the registry is built; on every rank; must not import torch ---------------------------------


@hookspec
def register_rollout_filters(register: Register) -> None:
    """Name rollout filters: scores of P groups -> which groups train (:class:`~.components.RolloutFilter`)."""


@hookspec
def register_group_metrics(register: Register) -> None:
    """Name group metrics: rollouts -> one score per group (:class:`~.components.GroupMetric`)."""


@hookspec
def register_kl_variants(register: Register) -> None:
    """Name per-token KL estimates (:class:`~.components.KlVariant`)."""


@hookspec
def register_kl_controllers(register: Register) -> None:
    """Name rules by which the KL coefficient moves (:class:`~.components.KlController`)."""


@hookspec
def register_advantage_estimators(register: Register) -> None:
    """Name advantage estimators (:class:`~.components.AdvantageEstimator`)."""


@hookspec
def register_policy_losses(register: Register) -> None:
    """Name per-token surrogate losses (:class:`~.components.PolicyLoss`)."""


@hookspec
def register_sampler_corrections(register: Register) -> None:
    """Name corrections of the sampler's log-probs towards the trainer's (:class:`~.components.SamplerCorrection`)."""


@hookspec
def register_collapse_detectors(register: Register) -> None:
    """Name detectors that watch a run and may stop it (:class:`~.components.CollapseDetector`)."""


@hookspec
def register_variance_estimators(register: Register) -> None:
    """Name standard errors of the entropy probe (:class:`~.components.VarianceEstimator`)."""


@hookspec
def register_environments(register: Register) -> None:
    """Name environments (:class:`~.components.Environment`)."""


@hookspec
def register_rollout_engines(register: Register) -> None:
    """Name engines that sample completions (:class:`~.components.RolloutEngine`)."""


@hookspec
def register_token_heads(register: Register) -> None:
    """Name token heads: hidden states -> log-probs and entropies of tokens (:class:`~.components.TokenHead`)."""


@hookspec
def register_train_backends(register: Register) -> None:
    """Name backends that own optimizer and communication (:class:`~.components.TrainBackend`)."""


@hookspec
def register_model_builders(register: Register) -> None:
    """Name builders of small local models (:class:`~.components.ModelBuilder`)."""


@hookspec
def register_launchers(register: Register) -> None:
    """Name launchers, which run the jobs of a sweep (:class:`~.components.Launcher`)."""


@hookspec
def register_trackers(register: Register) -> None:
    """Name trackers, which receive the metrics of a run (:class:`~.components.Tracker`)."""


@hookspec
def register_experiments(register: Register) -> None:
    """Name experiments: the target is ``"package:file.yaml"``, a mapping, or a function that returns a mapping."""


@hookspec
def register_sweeps(register: Register) -> None:
    """Name sweeps: the target is ``"package:file.yaml"``, a mapping, or what makes one.

    That is a function that returns it, or an attrs class with a method ``record()`` that does; their parameters are
    options of ``uncollapse sweep run NAME`` (``kl_values: str`` is ``--kl-values`` and ``--kl_values``).
    """


# --- runtime: while an experiment trains; on rank 0; may import torch -----------------------------------------------


@hookspec
def run_started(run: RunDirectory, experiment: Any, step: int) -> None:
    """Training begins; ``step`` steps are done already (more than 0 after a resume)."""


@hookspec
def step_finished(run: RunDirectory, step: int, metrics: Mapping[str, float]) -> None:
    """Step ``step`` (counted from 1; 0 is the validation before training) is complete, with all of its metrics.

    After a kill a step may come again, with the same numbers.
    """


@hookspec
def validation_finished(run: RunDirectory, step: int, metrics: Mapping[str, float]) -> None:
    """A validation after step ``step`` is complete (0: before training); its metrics are in ``step_finished`` too."""


@hookspec
def checkpoint_saved(run: RunDirectory, step: int, path: Path) -> None:
    """The checkpoint at ``path`` is complete on disk."""


@hookspec
def run_finished(run: RunDirectory, status: str, metrics: Mapping[str, float]) -> None:
    """The run ended: ``success``, ``stopped:<detector>``, ``failed``, ``interrupted``; ``metrics`` are the last."""


REGISTRATION: dict[str, str] = {
    "rollout_filter": "register_rollout_filters",
    "group_metric": "register_group_metrics",
    "kl": "register_kl_variants",
    "kl_controller": "register_kl_controllers",
    "advantage": "register_advantage_estimators",
    "policy_loss": "register_policy_losses",
    "sampler_correction": "register_sampler_corrections",
    "collapse": "register_collapse_detectors",
    "variance": "register_variance_estimators",
    "environment": "register_environments",
    "rollout_engine": "register_rollout_engines",
    "token_head": "register_token_heads",
    "train_backend": "register_train_backends",
    "model_builder": "register_model_builders",
    "launcher": "register_launchers",
    "tracker": "register_trackers",
    "experiment": "register_experiments",
    "sweep": "register_sweeps",
}
"""Kind -> the hook that registers its names."""
