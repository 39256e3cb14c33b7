"""The schema of a probe's configuration says what every key means, its type, its unit and its default.

The sections and keys are those of the research code that the probe replaces, so that its files run, and each class
bears the name of its section; what else older files may say is in :mod:`.legacy_keys`. :mod:`.read_config` turns a file
into a :class:`ProbeConfig`.
"""

# ruff: noqa: RUF009 - the calls in the class bodies make attrs fields

from __future__ import annotations

import math
from typing import Any, Literal

import attrs

from ...core.compose.experiment import Reward, Rollout
from ...core.compose.fields import component, components, number, section
from ...core.compose.named import Named
from .log_settings import DetailedLogging

EntropyUnit = Literal["per_sequence", "per_token_ratio", "per_seq_token_mean"]
OWN_WEIGHTINGS = ("dr_grpo", "per_token_avg")
"""Weightings of tokens that belong to the probe alone: they depend on prompts and responses."""


def _is(expected: Any, fix: str) -> Any:
    def check(instance: Any, attribute: Any, value: Any) -> None:
        if value != expected:
            raise ValueError(f"must be {str(expected).lower()}: {fix}")

    return attrs.field(default=expected, validator=check)


def _steps(instance: Any, attribute: Any, values: tuple[float, ...] | None) -> None:
    if not all(value and math.isfinite(value) for value in values or ()):
        raise ValueError("must be finite numbers other than 0: without a step there is no change to measure")


@attrs.frozen
class Checkpoint:
    """The section ``checkpoint`` says what is probed."""

    checkpoint_path: str = ""
    """Checkpoint directory, its ``model`` directory, or a run directory (then its last checkpoint)."""
    optimizer_path: str = ""
    """Optimizer state; by default ``optimizer.pt`` in the checkpoint or beside ``model``."""
    backbone: str | None = None
    """Base model of an adapter: a short name such as ``qwen2_5_15``, a Hugging Face name or a directory. By default it
    is the one that the checkpoint itself names."""
    model_config_path: str = ""
    """Base model, for files that have no ``backbone``."""
    use_qlora: bool = False
    """Whether the base is loaded in 4 bits (needs a GPU and bitsandbytes)."""


def _sizes(instance: Any, attribute: Any, values: tuple[int, ...] | None) -> None:
    if values is not None and (not values or min(values) < 1):
        raise ValueError("must be at least one size, each at least 1")


@attrs.frozen
class BatchConfig:
    """The batch E is the one on which the entropy is measured; the batch U makes the step."""

    dataset_name: str | None = None
    """Data set whose prompts are given as they are: ``arithmetic``, ``gsm8k_r1_template``, a JSONL or Parquet file,
    or a hub name. With neither this nor ``environment``, that of the run which wrote the checkpoint is played."""
    environment: Named | None = component("environment")
    """Registered environment, played as in training."""
    split: str = "train"
    """Split of the data set or environment."""
    E_split: str | None = None
    """Split of E; by default ``split``."""
    U_split: str | None = None
    """Split of U; by default ``split``."""
    B_E: int | None = number(None, 1)
    """Prompts of E, drawn uniformly with replacement."""
    B_E_values: tuple[int, ...] | None = attrs.field(default=None, validator=_sizes)
    """Sizes of E in prompts, several for ``batch-scaling`` and ``debug``."""
    B_U: int = number(32, 1)
    """Prompts of U, distinct."""
    G: int = number(8, 1)
    """Responses to each prompt of U."""
    G_E: int = number(1, 1)
    """Responses to each prompt of E."""
    runs_per_batch: int = number(3, 1)
    """Runs of each size of E, in ``batch-scaling`` and ``sanity-check``."""
    rollout_batch_size: int = number(128, 1)
    """Sequences that are sampled together."""
    max_prompt_tokens: int = number(200, 1)
    """Largest length of a data set's prompt, in tokens; longer prompts are left out."""


@attrs.frozen
class Generation:
    """E and U are sampled so; nothing is cut off the distribution, since importance weights need all of it."""

    temperature: float | None = number(None, 0, above=True)
    """Divisor of the logits in sampling, in log-probs, in entropies and in the gradient alike; by default that of the
    run whose environment is played, else 1."""
    top_p: float = _is(1.0, "a token outside the nucleus would have the weight 0 or infinity")
    top_k: int | None = attrs.field(default=None)
    do_sample: bool = _is(True, "the estimates are means over samples of the policy")
    max_new_tokens: int | None = number(None, 1)
    """Largest number of tokens of one turn; by default that of the run whose environment is played, else 256."""

    @top_k.validator
    def _no_top_k(self, attribute: Any, value: int | None) -> None:
        if value not in (None, 0):
            raise ValueError("must be null: a token outside the top k would have the weight 0 or infinity")


@attrs.frozen
class ProbeRework:
    """The section says what is computed (``computation_options`` in newer files of the research code)."""

    compute_delta_h1: bool = True
    """Whether the predicted change, deltaH1, is computed."""
    compute_importance_sampling: bool = False
    """Whether the true change is measured, as ``importance.enabled``."""
    compute_conditional_variance: bool = True
    """Whether ``conditional_E`` is added to ``variance``."""
    compute_vx_vy_variance: bool = False
    """Whether ``conditional_U``, ``vx_vy`` and ``vx_vy_unbiased`` are added to ``variance``: the last takes one more
    pass over E for each prompt of U."""
    master_seed: int | None = 42
    """Root of all random streams; ``null`` draws one anew."""
    checks: Literal["none", "standard", "full"] = "standard"
    """Checks that are made. ``standard``: hashes of parameters and optimizer state, the score identity, a deliberately
    wrong shift. ``full`` also negates the advantages and sets them to 0, which costs two more gradients of U."""
    weighting_mode: str | None = None
    """Weights of the tokens of U in the policy gradient: over the longest response to the same prompt (``dr_grpo``),
    over the length of the response itself (``per_token_avg``), or as by a ``loss_aggregation``, such as ``token-mean``.
    By default they are those of the run that wrote the checkpoint; without one, ``dr_grpo``."""


@attrs.frozen
class PolicyGradient:
    """The loss of the update is given by registered names, as trained on-policy with one optimizer step.

    What is ``null`` is as in the run that wrote the checkpoint. Where no run of this package did, it is that of
    Dr. GRPO, with neither KL nor entropy term nor clipping.
    """

    advantage: Named | None = component("advantage")
    policy_loss: Named | None = component("policy_loss")
    kl: Named | None = component("kl")
    """KL term to the policy that training started from: an adapter's base, or ``checkpoint.backbone``."""
    kl_coef: float | None = number(None, 0)
    """Coefficient of the KL term; 0 is no KL term. A run's is the one that its controller has reached."""
    kl_placement: Literal["loss", "reward"] | None = None
    kl_weight: Literal["none", "detached", "differentiable"] | None = None
    entropy_coeff: float | None = number(None, -math.inf)
    max_grad_norm: float | None = number(None, 0)
    """Largest global norm of the gradient before an ``adamw`` step, to which it is clipped; 0 does not clip."""
    soft_advantage_reweight: bool | None = None
    zero_task_advantage: bool | None = None


@attrs.frozen
class Importance:
    """The true change is measured by importance sampling (``true_delta_h`` in newer files of the research code)."""

    enabled: bool = False
    is_mode: Literal["snis", "snis_rb", "clip", "psis", "is"] = "snis"
    clip_c: float = number(10.0, 1)
    """Largest weight of ``is_mode: clip``. The mean of all weights is 1."""
    training_loss: Literal["rl"] = "rl"
    """Loss of the step: that of the policy gradient, as in the prediction."""
    entropy_mode: Literal["rb", "naive"] = "rb"
    """Estimate of the entropy at a token: the entropy of its distribution, or minus its log-prob."""
    report_per_token: bool = True
    etas: tuple[float, ...] | None = attrs.field(default=None, validator=_steps)
    """Learning rates at which the truth is measured; by default that of the step."""
    independent_E: bool = False
    """Whether the true change is measured on a sample of E of its own: only then is prediction against truth a z-score.
    On one sample the prediction is the exact derivative of the self-normalised truth, and their difference is
    curvature."""
    symmetric: bool = False
    """Whether minus each eta is measured as well: (change(eta) - change(-eta)) / (2 eta) has no curvature in it."""


@attrs.frozen
class ImportanceSampling:
    """The report warns of importance weights that are no better than this."""

    ess_threshold: float = number(0.5, 0, 1)
    """Least effective sample size over the number of sequences; below it the report warns."""


@attrs.frozen
class MemoryConfig:
    """The sizes of passes bound the memory."""

    microbatch_size: int = number(8, 1)
    """Rows per pass with a gradient, which keeps what its backward pass needs."""
    teacher_force_microbatch_size: int | None = number(None, 1)
    """Rows per pass without one (predictions and truth); by default four times ``microbatch_size``."""

    @property
    def sizes(self) -> dict[str, int]:
        return {
            "size": self.microbatch_size,
            "forward_size": self.teacher_force_microbatch_size or 4 * self.microbatch_size,
        }


@attrs.frozen
class ProbeReuse:
    """Batches are kept in files: written if missing, read if they hold what would be sampled, else refused.

    An experiment of several runs may keep U, which they share, but not E, which each draws for itself.
    """

    e_batch_cache_path: str | None = None
    """File of E."""
    u_batch_cache_path: str | None = None
    """File of U."""


@attrs.frozen
class Output:
    """The section says what is written."""

    save_results: bool = True
    results_path: str = ""
    """JSON file for the results of ``run_mixed_probe``."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    save_samples: bool = False
    """Whether texts and rewards of E and U stand beside the results of each run of an experiment; ``run`` has detailed
    logs."""


@attrs.frozen
class ProbeConfig:
    """A configuration is everything that decides what a probe computes."""

    checkpoint: Checkpoint = section(Checkpoint)
    batch_config: BatchConfig = section(BatchConfig)
    rollout: Rollout | None = None
    """Settings with which ``batch_config.environment`` is played; by default those of the run that wrote the
    checkpoint, else those of ``uncollapse train`` by default."""
    dialogue: Named | None = component("dialogue")
    """Dialogue in which ``batch_config.environment`` is played; by default that of the checkpoint's run."""
    reward: Reward | None = None
    generation: Generation = section(Generation)
    probe_rework: ProbeRework = section(ProbeRework)
    policy_gradient: PolicyGradient = section(PolicyGradient)
    importance: Importance = section(Importance)
    importance_sampling: ImportanceSampling = section(ImportanceSampling)
    variance: tuple[Named, ...] = components("variance")
    """Further standard errors, by registered names; only the passes that they need are run. What needs no pass of its
    own is always there: ``deriv_delta`` for the prediction, ``snis_delta`` and ``snis_ess`` for the truth, and
    ``paired_difference`` (curvature) where both are computed."""
    memory_config: MemoryConfig = section(MemoryConfig)
    probe_reuse: ProbeReuse = section(ProbeReuse)
    learning_rate: float | None = number(None, 0, above=True)
    """Learning rate eta of the step; by default that of the run's next step by its schedule, or the base rate that the
    checkpoint has recorded where the schedule has ended at 0."""
    entropy_unit: EntropyUnit = "per_sequence"
    """Entropy whose change ``deltaH1`` and ``deltaH_true`` are: mean entropy of a sequence, entropy per token (a ratio
    of sums), or the mean over sequences of their mean token entropy. The ``_tok`` keys are always per token."""
    direction: Literal["adamw", "preconditioned_gradient"] = "adamw"
    """Step of prediction and truth alike: what AdamW really does, or the gradient over the root of the saved second
    moment."""
    output: Output = section(Output)
    detailed_logging: DetailedLogging = section(DetailedLogging)
    plugins: tuple[str, ...] = ()
    """Plugin files, as with ``--plugin FILE.py``."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of E: those of ``B_E_values``, or the one of ``B_E``; 64 where neither is given."""
        batches = self.batch_config
        return (batches.B_E,) if batches.B_E is not None else batches.B_E_values or (64,)

    @property
    def measures_truth(self) -> bool:
        return self.importance.enabled or self.probe_rework.compute_importance_sampling
