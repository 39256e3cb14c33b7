"""What an environment hands over is a number, a truth or a name, or refused with the environment's name."""

import urllib.error

import attrs
import numpy as np
import pytest
import torch
from uncollapse.core.components import Env, Environment, Step
from uncollapse.core.compose.named import Named
from uncollapse.core.errors import EpisodeLostError, RunError
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


# --- connections and sizes ---


@attrs.frozen
class Remote(World):
    """Raises ``raises`` in a step, as a library may that has met ``cause``."""

    raises: object = None
    cause: object = None

    def step(self, action):
        try:
            if self.cause is not None:
                raise self.cause
        except Exception as error:
            raise self.raises from error
        raise self.raises


@pytest.mark.parametrize(
    "raised",
    [
        {"raises": ConnectionRefusedError(111, "refused")},
        {"raises": ConnectionResetError("in the middle")},
        {"raises": TimeoutError("no answer")},
        {"raises": urllib.error.URLError("down"), "cause": ConnectionRefusedError(111, "refused")},
        {"raises": EpisodeLostError("the game server is down")},
    ],
)
def test_a_server_that_is_down_loses_the_episode(raised):
    remote = Remote(Step("", 0.0), **raised)
    with pytest.raises(EpisodeLostError, match=r"environment 'bandit'|the game server"):
        CheckedEnvironment(Named("environment", "bandit", {}, remote)).make(0).step("a")


@pytest.mark.parametrize(
    "raised",
    [
        {"raises": FileNotFoundError(2, "no such file")},
        {"raises": KeyError("state")},
        {"raises": AttributeError("client"), "cause": ConnectionRefusedError(111, "refused")},
    ],
)
def test_a_fault_of_the_environment_does_not_count_as_a_lost_connection(raised):
    remote = Remote(Step("", 0.0), **raised)
    with pytest.raises(RunError, match="failed in step") as caught:
        CheckedEnvironment(Named("environment", "bandit", {}, remote)).make(0).step("a")
    assert not isinstance(caught.value, EpisodeLostError)


def test_ten_megabytes_of_bytes_are_refused_in_a_few_words():
    with pytest.raises(RunError, match=r"gave bytes b'x+[.][.][.]x+', not a text") as caught:
        taken(b"x" * 10_000_000, 0.0)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("concurrency", [0, -1, True, 2.0, "many", None])
def test_concurrency_is_a_number_of_episodes(concurrency):
    world = type("Odd", (World,), {"concurrency": concurrency})(Step("", 0.0))
    with pytest.raises(RunError, match=r"concurrency is .*, which is no number of episodes from 1"):
        _ = CheckedEnvironment(Named("environment", "bandit", {}, world)).concurrency


def test_the_prompt_is_compared_however_the_members_of_groups_alternate():
    component = Says(iter(["one", "two", "one", "three"]))
    world = CheckedEnvironment(Named("environment", "bandit", {}, component))
    for seed, member in ((0, 0), (1, 0), (0, 1)):
        world.make(seed, member)
    with pytest.raises(RunError, match="differs between the members of group 1"):
        world.make(1, 1)


@attrs.frozen
class Says(World):
    def initial_observation(self):
        return next(self.given)
