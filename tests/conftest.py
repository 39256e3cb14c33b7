"""Settings of the whole suite, and what several folders share."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Tests are never timed: the first example of a test pays for imports and for its neighbours on the same cores.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def plain_linear():
    """DeepSpeed's ZeRO 3 leaves a ``linear`` of its own in torch, for the rest of the process.

    It has no forward-mode derivative, and a program would not run ZeRO 3 and the probe in one process, as tests do.
    """
    yield
    if "torch" in sys.modules:
        import torch

        torch.nn.functional.linear = torch._C._nn.linear


@pytest.fixture(autouse=True)
def no_rank():
    """What a test has trained with other libraries may leave the variables of a launcher in this process.

    Commands that later tests start would take themselves for ranks.
    """
    yield
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def bandit(tmp_path_factory):
    """A short experiment, as plain data: the bandit, played by a tiny random model with a chat template."""
    sys.path.insert(0, str(Path(__file__).parent / "plugins" / "rollout"))
    from rollout_worlds import tiny_model, tokenizer

    directory = tmp_path_factory.mktemp("model")
    words = tokenizer()
    tiny_model(len(words)).save_pretrained(directory)
    words.save_pretrained(directory)
    return {
        "model": {"path": str(directory), "dtype": "float32"},
        "environment": "bandit",
        "rollout": {"groups": 4, "group_size": 2, "max_turns": 1, "max_tokens": 6, "max_context": 600},
        "validation": {"groups": 4, "every": 2, "environment": {"split": "validation"}},
        "trainer": {"steps": 4, "mini_batch": 4, "micro_batch": 2, "zero_stage": 0, "lr": 1e-3, "keep": 0},
        "entropy_coeff": 0.01,
        "trackers": ["jsonl"],
    }
