"""Keys of older configuration files: other spellings of sections, keys that nothing reads, keys that are refused."""

from __future__ import annotations

SECTIONS = {"computation_options": "probe_rework", "true_delta_h": "importance"}
"""Spelling in newer files of the research code -> the section's name here."""

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
"""Dotted key (or a whole section) -> why nothing reads it."""

REFUSED = {
    "batch_config.B": "one batch is not both E and U any more: write B_E (or B_E_values) and B_U",
}
"""Dotted key -> what to write instead."""
