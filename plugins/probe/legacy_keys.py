"""Keys are translated here between the probe and the files of the research code that it replaces.

On the way in it has other spellings of sections, keys that nothing reads, keys that are refused, and short names of
models; on the way out, the flat keys of older results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.compose.problems import Invalid, Problem

SECTIONS = {"computation_options": "probe_rework", "true_delta_h": "importance"}
"""Names of sections here, by their spelling in newer files of the research code."""

_PASSES = "memory_config says how many rows a pass takes"
_WHOLE = "all pairs of prompts are used, there are no blocks"
_RANKS = "ranks share prompts, and results do not depend on their number"
_NO_SNAPSHOT = "parameters are never changed, so nothing is put back"
_FP32 = "weights and estimates are float32, sums float64"

IGNORED = {
    "probe_config": _WHOLE,
    "distributed": _RANKS,
    "stats_config": "name estimators under variance",
    "checkpoint.device_map": "a GPU is used where there is one",
    "checkpoint.dtype": _FP32,
    "generation.pad_token_id": "lengths are known from sampling",
    "generation.gen_batch_size": "batch_config.rollout_batch_size serves",
    "generation.tf_batch_size": _PASSES,
    "generation.rb_requires_grad": "derivatives are taken where they are needed",
    "probe_rework.mb_size_prompts": _PASSES,
    "probe_rework.buffers_dtype": _FP32,
    "probe_rework.ddp_allreduce": _RANKS,
    "probe_rework.conditional_variance_batch_size": _PASSES,
    "probe_rework.prompt_sampling_seed": "probe_rework.master_seed is the root of all streams",
    "importance.rl_grad_accum": _PASSES,
    "importance.snapshot_device": _NO_SNAPSHOT,
    "importance.importance_microbatch_size": _PASSES,
    "importance.microbatch_size": _PASSES,
    "importance.tf_batch_size": _PASSES,
    "importance_sampling.use_snis": "importance.is_mode says it",
    "importance_sampling.use_psis": "importance.is_mode: psis says it",
    "importance_sampling.resample_on_low_ess": "nothing is resampled; importance_sampling.ess_threshold warns",
    "memory_config.amp": _FP32,
    "memory_config.dtype": _FP32,
    "probe_reuse.reuse_E": "probe_reuse.e_batch_cache_path says it",
    "probe_reuse.reuse_U": "probe_reuse.u_batch_cache_path says it",
}
"""Reasons why nothing reads a key, by the dotted key or the whole section."""

REFUSED = {
    "batch_config.B": "one batch is not both E and U any more: write B_E (or B_E_values) and B_U",
}
"""Advice what to write instead of a key, by the dotted key."""

BACKBONES = {
    "phi2": "microsoft/phi-2",
    "phi1_5": "microsoft/phi-1_5",
    "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "mistral7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "mixtral8x7b": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "gemma2b": "google/gemma-2b-it",
    "orcamath": "microsoft/orca-math-7b",
    "codellama7b": "codellama/CodeLlama-7b-hf",
    "qwen2": "Qwen/Qwen2-0.5B",
    "qwen2_5_15": "Qwen/Qwen2.5-1.5B",
    "qwen2_5_05": "Qwen/Qwen2.5-0.5B",
}
"""Names on the hub, by the value of ``checkpoint.backbone``."""


def backbone_path(name: str) -> str:
    """Return the hub name behind a short name; any other text is a hub name or a directory already."""
    return BACKBONES.get(name, name)


def renamed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data with the names of sections that they have here. Raises Invalid if a section stands twice."""
    doubled = [
        Problem(f"is the same section as {name}", other, fix="keep one of them")
        for other, name in SECTIONS.items()
        if other in data and name in data
    ]
    if doubled:
        raise Invalid(*doubled)
    return {SECTIONS.get(key, key): value for key, value in data.items()}


def take_out(data: dict[str, Any]) -> tuple[tuple[str, ...], list[Problem]]:
    """Take the keys that nothing reads out of the data; return a line ``key: why`` for each, and the refused ones."""
    refused, ignored = [], []
    for dotted in [*REFUSED, *IGNORED]:
        # without a dot it is a whole section
        section, key = dotted.split(".") if "." in dotted else ("", dotted)
        holder = data.get(section) if section else data
        if not isinstance(holder, dict) or key not in holder:
            continue
        value = holder.pop(key)
        if dotted in REFUSED:
            refused.append(Problem("is not a key any more", dotted, value, REFUSED[dotted]))
        else:
            ignored.append(f"{dotted}: {IGNORED[dotted]}")
    return tuple(ignored), refused


RESULTS = (
    "bars_dot", "deltaH1", "SE_conditional", "V_X", "V_Y", "SE_deltaH1", "H_orig", "H_upd", "deltaH_true",
)  # fmt: skip
"""Keys of older results that also stand together, under ``legacy``."""


def older_results(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat keys that older results have for numbers of ``prediction``, ``truth`` and ``variance``.

    Keys that end in ``_tok`` are per token. Errors that stand on few prompts are widened.
    """
    older: dict[str, Any] = dict.fromkeys(("bars_dot", "deltaH1", "deltaH_true", "SE_conditional"))
    prediction, variance = result["prediction"], result["variance"]
    # bars_dot is the product X-bar . Y-bar of the research code: the change per unit of the learning rate
    for end in ("", "_tok") if prediction is not None else ():
        older[f"bars_dot{end}"] = prediction[f"deltaH1{end}"] / prediction["eta"]
        older[f"deltaH1{end}"] = prediction[f"deltaH1{end}"]
        older[f"deltaH1{end}_se"] = prediction[f"se{end}"]
    for end in [end for end in ("", "_tok") if f"H_orig{end}" in result]:
        first = result["truth"][0]
        older[f"H_upd{end}"] = result[f"H_orig{end}"] + first[f"deltaH{end}"]
        older[f"deltaH_true{end}"] = first[f"deltaH{end}"]
        older[f"deltaH_true{end}_se"] = first[f"se{end}"]

    wider = (result["small_sample"] or {}).get("widened_by", 1.0)

    def stated(name: str) -> float | None:
        se = (variance.get(name) or {}).get("se")
        return None if se is None else se * wider

    older["SE_conditional"] = stated("conditional_E")
    if (both := variance.get("vx_vy")) is not None:
        older |= {"SE_deltaH1": stated("vx_vy"), "V_X": both["extra"].get("V_X"), "V_Y": both["extra"].get("V_Y")}
    se = older["SE_conditional"] or stated("deriv_delta")
    older["se_over_deltaH1"] = abs(se / older["deltaH1"]) if se is not None and older["deltaH1"] else None
    together = {**result, **older}
    return {**older, "legacy": {name: together.get(name) for name in RESULTS}}
