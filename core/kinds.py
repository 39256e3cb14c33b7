"""The kinds of things that have names: one table, from which hooks, contracts and listings derive."""

from __future__ import annotations

import attrs


@attrs.frozen
class Kind:
    """What plugins can register under one hook."""

    name: str
    """The name on the command line and in the registry."""
    hook: str
    """The registration hook, which is given ``register``."""
    does: str
    """What such a component does, in one line."""
    contract: str = ""
    """The class in :mod:`.components` that its components follow; empty where they are no components."""

    @property
    def is_mapping(self) -> bool:
        """Whether its names stand for mappings (YAML files, mappings, or what makes one) rather than for components."""
        return self.name in ("experiment", "sweep")

    @property
    def is_component(self) -> bool:
        """Whether its names stand for components, which are made with parameters."""
        return bool(self.contract)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "rollout_filter",
            "register_rollout_filters",
            "rollout filters: scores of P groups -> which groups train",
            "RolloutFilter",
        ),
        Kind(
            "episode_filter",
            "register_episode_filters",
            "episode filters: rollouts of the groups that are kept -> which of their episodes train",
            "EpisodeFilter",
        ),
        Kind("group_metric", "register_group_metrics", "group metrics: rollouts -> one score per group", "GroupMetric"),
        Kind(
            "reward_shaping",
            "register_reward_shapings",
            "reward shaping: rewards of episodes -> the rewards that advantages see",
            "RewardShaping",
        ),
        Kind("kl", "register_kl_variants", "per-token KL estimates", "KlVariant"),
        Kind("kl_controller", "register_kl_controllers", "rules by which the KL coefficient moves", "KlController"),
        Kind(
            "entropy_controller",
            "register_entropy_controllers",
            "rules by which the entropy coefficient moves",
            "EntropyController",
        ),
        Kind(
            "advantage",
            "register_advantage_estimators",
            "advantage estimators: rewards -> credit of each token",
            "AdvantageEstimator",
        ),
        Kind("policy_loss", "register_policy_losses", "per-token surrogate losses of the policy", "PolicyLoss"),
        Kind(
            "sampler_correction",
            "register_sampler_corrections",
            "corrections of the sampler's log-probs towards the trainer's",
            "SamplerCorrection",
        ),
        Kind(
            "loss_aggregation",
            "register_loss_aggregations",
            "weights of tokens: the losses of an optimizer step -> one number",
            "LossAggregation",
        ),
        Kind(
            "collapse",
            "register_collapse_detectors",
            "detectors that watch a run and may stop it",
            "CollapseDetector",
        ),
        Kind("variance", "register_variance_estimators", "standard errors of the entropy probe", "VarianceEstimator"),
        Kind("environment", "register_environments", "environments, which make tasks and play them", "Environment"),
        Kind("toolset", "register_toolsets", "tool sets: tools that any environment can offer", "Toolset"),
        Kind("task_sampler", "register_task_samplers", "task samplers: which tasks come next", "TaskSampler"),
        Kind(
            "batch_sampler",
            "register_batch_samplers",
            "batch samplers: which groups make a training step",
            "BatchSampler",
        ),
        Kind("verifier", "register_verifiers", "verifiers: is an answer right, and how good", "Verifier"),
        Kind(
            "dialogue",
            "register_dialogues",
            "dialogues: a task -> messages, a response -> actions",
            "Dialogue",
        ),
        Kind("rollout_engine", "register_rollout_engines", "engines that sample completions", "RolloutEngine"),
        Kind(
            "token_head",
            "register_token_heads",
            "token heads: hidden states -> log-probs and entropies of tokens",
            "TokenHead",
        ),
        Kind(
            "train_backend",
            "register_train_backends",
            "backends that own optimizer and communication",
            "TrainBackend",
        ),
        Kind("model_builder", "register_model_builders", "builders of small local models", "ModelBuilder"),
        Kind("launcher", "register_launchers", "launchers, which run the jobs of a sweep", "Launcher"),
        Kind("tracker", "register_trackers", "trackers, which receive the metrics of a run", "Tracker"),
        Kind(
            "experiment",
            "register_experiments",
            'experiments: a "package:file.yaml", a mapping, or a function that returns one',
        ),
        Kind(
            "sweep",
            "register_sweeps",
            'sweeps: a "package:file.yaml", a mapping, a function that returns one, or an attrs class with a method '
            "record() that does; parameters of the last two are options of `uncollapse sweep run NAME` "
            "(kl_values: str is --kl-values and --kl_values)",
        ),
        Kind("dialect", "register_dialects", "dialects: a point of a sweep in another program's words", "Dialect"),
        Kind("command", "register_commands", "commands of `uncollapse`: click commands or groups"),
    )
}
"""Name of the kind -> the kind."""

TAKEN = {"command": frozenset({"list", "show", "plugins", "check", "doctor"})}
"""Kind -> names that no plugin can register: commands that say what is wrong with the plugins."""
