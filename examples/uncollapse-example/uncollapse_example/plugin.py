"""The plugin registers the names. It imports neither torch nor the components, so that listing stays fast."""

from uncollapse import hookimpl


@hookimpl
def register_rollout_filters(register):
    register("median_up", "uncollapse_example.filters:MedianUp", summary="keep the groups at or above the median score")


@hookimpl
def register_kl_variants(register):
    register("jeffreys", "uncollapse_example.kl:Jeffreys", summary="half the symmetrised divergence, never negative")
