"""What an environment hands over is a number, a truth or a name, or refused with the environment's name."""

import attrs
import numpy as np
import pytest
import torch
from uncollapse.core.components import Env, Environment, Step
from uncollapse.core.compose.named import Named
from uncollapse.core.errors import RunError
from uncollapse.core.registry import registry
from uncollapse.plugins.rollout.borders import CheckedEnvironment


@attrs.frozen
class World(Environment, Env):
    """One question; the step is what it was made with."""

    given: Step
    actions: tuple[str, ...] | None = None
    instruction: str = "Answer."

    def make(self, seed, member=0):
        return self

    def initial_observation(self):
        return "Which?"

    def step(self, action):
        return self.given


def checked(*arguments, **options):
    named = Named("environment", "bandit", {}, World(*arguments, **options))
    assert registry().entry("environment", "bandit")
    return CheckedEnvironment(named)


def taken(*arguments, **options):
    return checked(Step(*arguments, **options)).make(0).step("a")


def test_numbers_of_numpy_become_numbers_of_python():
    step = taken("ok", np.float32(0.5), np.True_, np.int64(1), {"moves": np.int64(3), "hit": True})
    assert step == Step("ok", 0.5, True, True, {"moves": 3.0, "hit": 1.0})
    assert [type(value) for value in (step.reward, step.done, step.success, *step.metrics.values())] == [
        float, bool, bool, float, float,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ok", torch.tensor(1.0)), "reward = tensor(1.), which is of the type Tensor and not a number"),
        (("ok", None), "reward = None, which is of the type NoneType"),
        (("ok", "1"), "reward = '1', which is of the type str"),
        (("ok", 10**400), "which is not a finite number"),
        (("ok", np.float32("inf")), "which is not a finite number"),
        (("ok", 1.0, "no"), "done = 'no', which is neither true nor false"),
        (("ok", 1.0, None), "done = None, which is neither true nor false"),
        (("ok", 1.0, True, 0.5), "success = 0.5, which is neither true nor false"),
        (("ok", 1.0, True, True, None), "metrics = None, which is not a mapping"),
        (("ok", 1.0, True, True, {1: 2.0}), "gave int 1, not a text"),
        (("ok", 1.0, True, True, {"moves": "3"}), "moves = '3', which is of the type str"),
    ],
)
def test_what_is_no_number_or_truth_is_refused_by_name(arguments, said):
    with pytest.raises(RunError) as raised:
        taken(*arguments)
    assert said in str(raised.value)
    assert "environment 'bandit'" in str(raised.value)


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        ((), "is empty"),
        (("Up", " "), "holds ' ', which no answer can name"),
        (("Up", "Down", "UP "), "holds names that differ in case and white space alone: Up, Down, UP"),
    ],
)
def test_actions_that_cannot_be_told_apart_are_refused(actions, said):
    with pytest.raises(RunError, match="actions") as raised:
        _ = checked(Step("ok", 0.0), actions).actions
    assert said in str(raised.value)
