import math

import pytest
from uncollapse.plugins.training.commands.eval import _success

HIDDEN = "tasks ended alike, which hides the error: the rate is"


@pytest.mark.parametrize(
    ("success", "error", "tasks", "text"),
    [
        (0.25, 0.125, 8, "success 0.250 +- 0.125 (16 episodes)"),
        # (1 - 0.78)^2 = (1 - 0.26)^10 = 0.05
        (0.0, 0.0, 2, f"success 0.000 +- 0.000 (16 episodes)\nall 2 {HIDDEN} at most 0.78, at 95% confidence"),
        (1.0, 0.0, 10, f"success 1.000 +- 0.000 (16 episodes)\nall 10 {HIDDEN} at least 0.74, at 95% confidence"),
        (0.5, math.nan, 1, "success 0.500, without a standard error: all 16 episodes are of one task"),
    ],
)
def test_a_success_without_a_spread_is_not_said_to_be_exact(success, error, tasks, text):
    metrics = {"success": success, "success_se": error, "tasks": tasks, "episodes": 16.0}
    assert _success({f"validation/{name}": value for name, value in metrics.items()}) == text
