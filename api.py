"""The public interface: what plugins and programs may rely on; whatever is not listed here may change at any time.

Importing this module imports no torch and reads no plugin. The contracts are here at once, and everything else is
imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .core.components import (
    NEEDS,
    AdvantageEstimator,
    AdvantageEstimatorSession,
    Advantages,
    Answer,
    BatchSampler,
    BatchSamplerSession,
    Call,
    CollapseDetector,
    CollapseSession,
    Completion,
    Component,
    CreditInputs,
    DetectorLoad,
    DetectorMemory,
    Dialect,
    Dialogue,
    EngineMemory,
    EntropyController,
    EntropyControllerSession,
    Env,
    Environment,
    EpisodeFilter,
    Group,
    GroupMetric,
    GroupPool,
    KlController,
    KlControllerSession,
    KlVariant,
    Launcher,
    LossAggregation,
    LossInputs,
    LossOutput,
    ModelBuilder,
    PolicyLoss,
    RewardShaping,
    RolloutEngine,
    RolloutEngineSession,
    RolloutFilter,
    Rollouts,
    SamplerCorrection,
    Sampling,
    SamplingLoad,
    Scores,
    Setting,
    ShapingInputs,
    Shortage,
    Step,
    TaskSampler,
    TaskSamplerSession,
    TokenHead,
    TokenScores,
    Tool,
    Toolset,
    ToolsetSession,
    Tracker,
    TrainBackend,
    TrainEngine,
    VarianceEstimator,
    Verdict,
    Verifier,
    Wanted,
)
from .core.errors import EpisodeLostError, MissingExtraError, RequestError, RunError, UncollapseError

if TYPE_CHECKING:
    from .core.compose.config import compose, problems, to_dict
    from .core.compose.experiment import Experiment
    from .core.compose.fields import component, components
    from .core.compose.named import Named
    from .core.compose.problems import CompositionError, Problem
    from .core.describe import Description
    from .core.entry import Entry
    from .core.hookspecs import Register, hookimpl
    from .core.plugins import Plugin, PluginLoadError, SignatureError, UnknownHookError
    from .core.registry import DuplicateNameError, Registry, UnknownNameError, registry
    from .core.runs.directory import RunDirectory
    from .plugins.launch.job import Job
    from .plugins.sweeps.layout import Layout
    from .plugins.sweeps.result import Result as SweepResult
    from .plugins.sweeps.run import Options as SweepOptions
    from .plugins.sweeps.sweep import Sweep
    from .plugins.sweeps.sweep import load as load_sweep
    from .plugins.sweeps.variation import Case
    from .plugins.training.session import Outcome
    from .plugins.training.train import train

__all__ = [
    "NEEDS",
    "AdvantageEstimator",
    "AdvantageEstimatorSession",
    "Advantages",
    "Answer",
    "BatchSampler",
    "BatchSamplerSession",
    "Call",
    "Case",
    "CollapseDetector",
    "CollapseSession",
    "Completion",
    "Component",
    "CompositionError",
    "CreditInputs",
    "Description",
    "DetectorLoad",
    "DetectorMemory",
    "Dialect",
    "Dialogue",
    "DuplicateNameError",
    "EngineMemory",
    "EntropyController",
    "EntropyControllerSession",
    "Entry",
    "Env",
    "Environment",
    "EpisodeFilter",
    "EpisodeLostError",
    "Experiment",
    "Group",
    "GroupMetric",
    "GroupPool",
    "Job",
    "KlController",
    "KlControllerSession",
    "KlVariant",
    "Launcher",
    "Layout",
    "LossAggregation",
    "LossInputs",
    "LossOutput",
    "MissingExtraError",
    "ModelBuilder",
    "Named",
    "Outcome",
    "Plugin",
    "PluginLoadError",
    "PolicyLoss",
    "Problem",
    "Register",
    "Registry",
    "RequestError",
    "RewardShaping",
    "RolloutEngine",
    "RolloutEngineSession",
    "RolloutFilter",
    "Rollouts",
    "RunDirectory",
    "RunError",
    "SamplerCorrection",
    "Sampling",
    "SamplingLoad",
    "Scores",
    "Setting",
    "ShapingInputs",
    "Shortage",
    "SignatureError",
    "Step",
    "Sweep",
    "SweepOptions",
    "SweepResult",
    "TaskSampler",
    "TaskSamplerSession",
    "TokenHead",
    "TokenScores",
    "Tool",
    "Toolset",
    "ToolsetSession",
    "Tracker",
    "TrainBackend",
    "TrainEngine",
    "UncollapseError",
    "UnknownHookError",
    "UnknownNameError",
    "VarianceEstimator",
    "Verdict",
    "Verifier",
    "Wanted",
    "component",
    "components",
    "compose",
    "hookimpl",
    "load_sweep",
    "problems",
    "registry",
    "to_dict",
    "train",
]

HOMES = {
    "Case": ".plugins.sweeps.variation:Case",
    "CompositionError": ".core.compose.problems:CompositionError",
    "Description": ".core.describe:Description",
    "DuplicateNameError": ".core.registry:DuplicateNameError",
    "Entry": ".core.entry:Entry",
    "Experiment": ".core.compose.experiment:Experiment",
    "Job": ".plugins.launch.job:Job",
    "Layout": ".plugins.sweeps.layout:Layout",
    "Named": ".core.compose.named:Named",
    "Outcome": ".plugins.training.session:Outcome",
    "Plugin": ".core.plugins:Plugin",
    "PluginLoadError": ".core.plugins:PluginLoadError",
    "Problem": ".core.compose.problems:Problem",
    "Register": ".core.hookspecs:Register",
    "Registry": ".core.registry:Registry",
    "RunDirectory": ".core.runs.directory:RunDirectory",
    "SignatureError": ".core.plugins:SignatureError",
    "Sweep": ".plugins.sweeps.sweep:Sweep",
    "SweepOptions": ".plugins.sweeps.run:Options",
    "SweepResult": ".plugins.sweeps.result:Result",
    "UnknownHookError": ".core.plugins:UnknownHookError",
    "UnknownNameError": ".core.registry:UnknownNameError",
    "component": ".core.compose.fields:component",
    "components": ".core.compose.fields:components",
    "compose": ".core.compose.config:compose",
    "hookimpl": ".core.hookspecs:hookimpl",
    "load_sweep": ".plugins.sweeps.sweep:load",
    "problems": ".core.compose.config:problems",
    "registry": ".core.registry:registry",
    "to_dict": ".core.compose.config:to_dict",
    "train": ".plugins.training.train:train",
}
"""Public name -> where it is, of those that are imported when they are used; ``uncollapse`` itself has some of them."""


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name not in HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, attribute = HOMES[name].partition(":")
        value = globals()[name] = getattr(import_module(module, __package__), attribute)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
