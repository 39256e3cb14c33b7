"""The contracts: what each kind of component is given and gives back.

A component is a frozen attrs class. Its fields are its parameters, its methods are its behaviour, and its docstring is
what ``uncollapse show`` prints. It may declare ``needs``, a subset of :data:`NEEDS`: an experiment in which one of them
cannot be provided is refused, and the training loop runs only the forward passes that some component needs. A component
with state has ``start(context) -> session``; only sessions have ``state_dict()`` and ``load_state_dict()``.

Shape letters: ``P`` groups, ``E`` episodes, ``B`` rows (one per episode, or one per turn in turn-level context
windows), ``T`` tokens, ``V`` vocabulary. Log-probs, entropies and KL are in nats at the sampling temperature.
``x[b, t]`` always belongs to token ``t`` itself (its log-prob given the tokens before it, the value of the state
before it): nothing is stored shifted by one token.
"""

from .advantages import AdvantageEstimator, AdvantageEstimatorSession
from .component import Component
from .data import NEEDS, Advantages, Completion, Group, Rollouts, Sampling, Scores, Step, TokenScores, Verdict, Wanted
from .detector_memory import DetectorLoad, DetectorMemory
from .dialogue import Answer, Dialogue, Setting
from .engines import (
    CollapseDetector,
    CollapseSession,
    Dialect,
    Launcher,
    ModelBuilder,
    TokenHead,
    Tracker,
    TrainBackend,
    TrainEngine,
)
from .environment import Env, Environment
from .estimators import (
    EntropyController,
    EntropyControllerSession,
    EpisodeFilter,
    GroupMetric,
    KlController,
    KlControllerSession,
    KlVariant,
    LossAggregation,
    PolicyLoss,
    RewardShaping,
    RolloutFilter,
    SamplerCorrection,
    VarianceEstimator,
)
from .inputs import CreditInputs, LossInputs, LossOutput, ShapingInputs
from .rollout_engine import EngineMemory, RolloutEngine, RolloutEngineSession, SamplingLoad, Shortage
from .samplers import BatchSampler, BatchSamplerSession, GroupPool, TaskSampler, TaskSamplerSession
from .tools import Call, Tool
from .toolset import Toolset, ToolsetSession
from .verifier import Verifier

__all__ = [
    "NEEDS",
    "AdvantageEstimator",
    "AdvantageEstimatorSession",
    "Advantages",
    "Answer",
    "BatchSampler",
    "BatchSamplerSession",
    "Call",
    "CollapseDetector",
    "CollapseSession",
    "Completion",
    "Component",
    "CreditInputs",
    "DetectorLoad",
    "DetectorMemory",
    "Dialect",
    "Dialogue",
    "EngineMemory",
    "EntropyController",
    "EntropyControllerSession",
    "Env",
    "Environment",
    "EpisodeFilter",
    "Group",
    "GroupMetric",
    "GroupPool",
    "KlController",
    "KlControllerSession",
    "KlVariant",
    "Launcher",
    "LossAggregation",
    "LossInputs",
    "LossOutput",
    "ModelBuilder",
    "PolicyLoss",
    "RewardShaping",
    "RolloutEngine",
    "RolloutEngineSession",
    "RolloutFilter",
    "Rollouts",
    "SamplerCorrection",
    "Sampling",
    "SamplingLoad",
    "Scores",
    "Setting",
    "ShapingInputs",
    "Shortage",
    "Step",
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
    "VarianceEstimator",
    "Verdict",
    "Verifier",
    "Wanted",
]
