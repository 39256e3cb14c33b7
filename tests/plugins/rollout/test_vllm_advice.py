"""What to do about vLLM's errors is what vLLM itself says, never its opposite."""

import pytest
from uncollapse.plugins.rollout.engine_vllm.session import advice

NO_CACHE = (
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine."
)
TOO_LONG = (
    "To serve at least one request with the models's max seq len (4096), (0.50 GiB KV cache is needed, which is "
    "larger than the available KV cache memory (0.20 GiB). Try "
    "increasing `gpu_memory_utilization` or decreasing `max_model_len`"
)
FULL = (
    "Free memory on device (3.2/79.1 GiB) on startup is less than desired GPU memory utilization (0.9, 71.2 GiB). "
    "Decrease GPU memory utilization or reduce GPU memory used by other processes."
)


@pytest.mark.parametrize(
    ("words", "says", "does_not_say"),
    [
        (NO_CACHE, "raise gpu_memory_utilization", "lower gpu_memory_utilization"),
        (TOO_LONG, "raise gpu_memory_utilization", "lower gpu_memory_utilization"),
        (FULL, "lower gpu_memory_utilization", "raise gpu_memory_utilization"),
        ("CUDA out of memory. Tried to allocate 2 GiB", "lower gpu_memory_utilization", "raise gpu_memory_utilization"),
        ("Engine core initialization failed. See root cause above.", "where they ask for more cache, raise", "\n"),
    ],
)
def test_advice_follows_vllms_own(words, says, does_not_say):
    assert says in advice(words)
    assert does_not_say not in advice(words)
