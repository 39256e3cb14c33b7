"""Names of the built-in filters, of groups and of episodes, and of the group metrics."""

from __future__ import annotations

from ..core.hookspecs import Register, hookimpl


@hookimpl
def register_rollout_filters(register: Register) -> None:
    register(
        "top_p", "uncollapse.filters.top_p:TopP", summary="keep the best groups that carry a share p of the score mass"
    )
    register(
        "top_k", "uncollapse.filters.top_k:TopK", summary="keep the k best groups (a count)", aliases=("top_k_abs",)
    )
    register("top_f", "uncollapse.filters.top_k:TopF", summary="keep the best fraction of the groups")
    register(
        "min_p", "uncollapse.filters.min_p:MinP", summary="keep the groups with at least a share of the best score"
    )
    register("quantile", "uncollapse.filters.quantile:Quantile", summary="keep a band of ranks, such as a quarter")
    register("nofilter", "uncollapse.filters.nofilter:NoFilter", summary="keep every group")


@hookimpl
def register_episode_filters(register: Register) -> None:
    register("all", "uncollapse.filters.episodes:AllEpisodes", summary="keep every episode of the kept groups")
    register(
        "best_worst", "uncollapse.filters.episodes:BestWorst", summary="keep the best k and the worst k of each group"
    )
    register(
        "drop_truncated", "uncollapse.filters.episodes:DropTruncated", summary="drop the episodes that a limit ended"
    )


@hookimpl
def register_group_metrics(register: Register) -> None:
    register(
        "reward_variance",
        "uncollapse.filters.metrics:RewardVariance",
        summary="standard deviation of the episode rewards in the group",
        aliases=("reward_std",),
    )
    register("reward", "uncollapse.filters.metrics:Reward", summary="mean episode reward of the group")
    register("reward_sum", "uncollapse.filters.metrics:RewardSum", summary="sum of the group's episode rewards")
    register("entropy", "uncollapse.filters.metrics:Entropy", summary="mean token entropy of the group's episodes")
    register(
        "entropy_variance",
        "uncollapse.filters.metrics:EntropyVariance",
        summary="standard deviation of the episodes' mean token entropy in the group",
        aliases=("entropy_std",),
    )
    register("length", "uncollapse.filters.metrics:Length", summary="mean number of sampled tokens per episode")
