"""The plugin of collapse registers the built-in detectors and the command ``detect``."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl

COLLAPSE = "uncollapse.plugins.collapse"


@hookimpl
def register_collapse_detectors(register: Register) -> None:
    module = f"{COLLAPSE}.stopping"
    register(
        "reward_variance_collapse",
        f"{module}:RewardVarianceCollapse",
        summary="stop when the reward spread within groups has died",
    )
    register(
        "low_validation_success",
        f"{module}:LowValidationSuccess",
        summary="stop when validation success stays near zero",
    )
    register("empty_filter", f"{module}:EmptyFilter", summary="stop when the filter keeps no group for several steps")
    register(
        "no_signal",
        f"{COLLAPSE}.signal:NoSignal",
        summary="a run has never had a valid answer, a spread of rewards or reasonings that fit their prompts",
    )
    register(
        "mutual_information",
        f"{COLLAPSE}.mutual_information:MutualInformation",
        summary="measure how much the reasonings say about their prompts",
    )
    register(
        "template_collapse",
        f"{COLLAPSE}.template:TemplateCollapse",
        summary="reasonings no longer tell their prompts apart, or are the same for all of them",
    )
    register(
        "entropy_collapse",
        f"{COLLAPSE}.entropy:EntropyCollapse",
        summary="the token entropy stays far below where it began",
    )
    register(
        "entropy_explosion",
        f"{COLLAPSE}.entropy:EntropyExplosion",
        summary="the token entropy stays far above where it began",
    )
    register(
        "format_collapse",
        f"{COLLAPSE}.format:FormatCollapse",
        summary="answers lose their form: invalid, without a thought, too short or too long",
    )
    register(
        "length_drift",
        f"{COLLAPSE}.length:LengthDrift",
        summary="responses are much shorter or longer than they were",
    )
    register(
        "gradient_spike",
        f"{COLLAPSE}.gradient:GradientSpike",
        summary="the gradient norm stays many times above its usual size",
    )
    register(
        "sampler_mismatch",
        f"{COLLAPSE}.mismatch:SamplerMismatch",
        summary="the sampler's log-probs stay too far from the trainer's",
    )
    register("kl_runaway", f"{COLLAPSE}.kl:KlRunaway", summary="KL to the reference, or within a step, stays too large")


@hookimpl
def register_commands(register: Register) -> None:
    register("detect", f"{COLLAPSE}.detect:command", summary="Replay detectors over finished runs.")
