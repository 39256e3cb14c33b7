"""Environments work side by side: how many at once, in which threads, and with the same results as in turn."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time

import attrs
import pytest
from rollout_worlds import Scripted, says, tiny_model, tokenizer
from uncollapse.core.components import Env, Environment, RolloutEngineSession, Step
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.compose.named import Named
from uncollapse.core.errors import EpisodeLostError
from uncollapse.core.registry import registry
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.rollout.awaiting import settled
from uncollapse.plugins.rollout.borders import CheckedEnvironment
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.engine_hf import HfEngine
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.verifiers.verifiers import Exact

TEMPLATE = Template(tokenizer(), ThinkAnswer())
UP = "on</think><answer>Up</answer>"
ROLLOUT = Rollout(max_turns=3, max_tokens=12, max_context=1000)


class Meter:
    """Counts the calls that run at the same time, and remembers the threads of each episode."""

    def __init__(self):
        self.lock, self.running, self.most, self.calls = threading.Lock(), 0, 0, 0
        self.threads: dict[tuple[int, int], set[int]] = {}

    def __enter__(self):
        with self.lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)

    def __exit__(self, *error):
        with self.lock:
            self.running -= 1

    def note(self, place):
        self.threads.setdefault(place, set()).add(threading.get_ident())


@attrs.frozen
class World(Environment):
    """Counts its steps; each takes ``naps(seed, member)`` seconds."""

    naps: object = attrs.field(default=lambda seed, member: 0.0)
    concurrency: int = 128
    meter: Meter = attrs.field(factory=Meter)
    instruction = "Walk."
    actions = ("Up", "Down")

    def make(self, seed, member=0):
        self.meter.note((seed, member))
        return WorldEnv(self, seed, member)


class WorldEnv(Env):
    def __init__(self, world, seed, member):
        self.world, self.place, self.at = world, (seed, member), 0

    def initial_observation(self):
        self.world.meter.note(self.place)
        return f"task {self.place[0]}"

    def step(self, action):
        self.world.meter.note(self.place)
        with self.world.meter:
            time.sleep(self.world.naps(*self.place))
        return self.reply(action)

    def reply(self, action):
        self.at += 1 if action == "Up" else -1
        return Step(f"{self.place} at {self.at}", float(self.at), metrics={"at": self.at})


class AsyncWorld(World):
    async def make(self, seed, member=0):
        await asyncio.sleep(0)
        return AsyncEnv(self, seed, member)


class AsyncEnv(WorldEnv):
    async def initial_observation(self):
        return super().initial_observation()

    async def step(self, action):
        with self.world.meter:
            await asyncio.sleep(self.world.naps(*self.place))
        return self.reply(action)


class OneByOne(RolloutEngineSession):
    """An engine of single requests. An answer depends on its prompt and seed alone; they are done in any order."""

    single_requests = True

    def __init__(self, order: int = 0):
        self.dice, self.queue, self.most = random.Random(order), [], 0

    def generate(self, prompts, sampling, seed):
        raise NotImplementedError

    def submit(self, key, prompt, sampling, seed):
        text = random.Random(f"{seed} {prompt}").choice(("Up", "Down", "Up || Up", "?"))
        self.queue.append((key, says(TEMPLATE, f"on</think><answer>{text}</answer>")))
        self.most = max(self.most, len(self.queue))

    def finished(self):
        return [self.queue.pop(self.dice.randrange(len(self.queue)))]

    def sync(self, weights):
        raise NotImplementedError

    def close(self):
        raise NotImplementedError


def played(world, engine, groups=4, size=4, rollout=ROLLOUT, **more):
    return collect(world, rollout, engine, TEMPLATE, seeds=range(groups), group_size=size, seed=1, **more)


# --- side by side ---


@pytest.mark.parametrize("kind", [World, AsyncWorld])
@pytest.mark.parametrize("engine", [lambda: Scripted(TEMPLATE, UP), OneByOne])
def test_the_steps_of_sixteen_episodes_overlap(kind, engine):
    world = kind(lambda seed, member: 0.1)
    assert len(played(world, engine())) == 16
    assert world.meter.most >= 12


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_episodes_work_at_once_than_the_environment_allows(concurrency):
    world = World(lambda seed, member: 0.005, concurrency=concurrency)
    played(world, Scripted(TEMPLATE, UP))
    assert (world.meter.most, world.meter.calls) == (concurrency, 48)
    threads = set.union(*world.meter.threads.values())
    assert len(threads) == concurrency
    assert (threading.get_ident() in threads) == (concurrency == 1)


@pytest.mark.parametrize("timeout", [None, 600.0])
def test_an_episode_has_the_same_thread_from_its_beginning_to_its_end(timeout):
    world = World(lambda seed, member: 0.002)
    played(world, Scripted(TEMPLATE, UP), rollout=attrs.evolve(ROLLOUT, step_timeout=timeout))
    assert {len(threads) for threads in world.meter.threads.values()} == {1}
    assert len(set.union(*world.meter.threads.values())) == 16


def test_a_slow_environment_does_not_hold_the_others_where_requests_are_single():
    """The others play all of their turns while the slow one is in its first."""
    others, ended = threading.Event(), []

    def nap(seed, member):
        if (seed, member) == (0, 0):
            assert others.wait(30), "the others wait for it"
        else:
            ended.append((seed, member))
            if len(ended) == 15 * 3:
                others.set()
        return 0.0

    rollout = attrs.evolve(ROLLOUT, max_actions_per_turn=1)
    assert len(played(World(nap), Upward(), rollout=rollout)) == 16


class Upward(OneByOne):
    def submit(self, key, prompt, sampling, seed):
        self.queue.append((key, says(TEMPLATE, UP)))


def test_no_thread_is_left_behind():
    before = threading.active_count()
    played(World(), Scripted(TEMPLATE, UP))
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


# --- the same results ---


def jitter(dice):
    return lambda seed, member: dice.random() / 100


@pytest.mark.parametrize("order", range(4))
def test_results_do_not_depend_on_which_environment_or_request_is_done_first(order):
    in_turn = played(World(concurrency=1), OneByOne())
    world = World(jitter(random.Random(order)))
    assert played(world, OneByOne(order)) == in_turn
    assert len({episode.reward for episode in in_turn}) > 4


def test_what_a_model_samples_is_the_same_side_by_side():
    words = TEMPLATE.tokenizer
    session = HfEngine().start(tiny_model(len(words)), words)
    in_turn = played(World(concurrency=1), session)
    assert played(World(jitter(random.Random(5))), session) == in_turn
    assert played(AsyncWorld(jitter(random.Random(6))), session) == in_turn
    assert len({turn.tokens for episode in in_turn for turn in episode.turns}) > 16


# --- what goes wrong ---


def where(*places, then=None):
    def nap(seed, member):
        if (seed, member) in places:
            then()
        return 0.0

    return nap


def down():
    raise EpisodeLostError("the game server is down", "games:80", "start it")


@pytest.mark.parametrize("concurrency", [1, 128])
@pytest.mark.parametrize("engine", [lambda: Scripted(TEMPLATE, UP), OneByOne])
def test_a_lost_episode_costs_its_group_alone(engine, concurrency):
    lost = []
    world = World(where((1, 2), (1, 3), (3, 0), then=down), concurrency)
    episodes = played(world, engine(), lost=lost)
    assert [group.seed for group in lost] == [1, 3]
    assert (lost[0].member in (2, 3), lost[1].member) == (True, 0)
    assert lost[0].reason == "the game server is down (games:80)"
    everything = played(World(), engine())
    assert [(each.seed, each.member) for each in episodes] == [(s, m) for s in (0, 2) for m in range(4)]
    assert episodes == [each for each in everything if each.seed in (0, 2)]


def test_without_a_list_for_lost_groups_the_first_is_an_error():
    with pytest.raises(EpisodeLostError, match="server is down"):
        played(World(where((1, 2), then=down)), OneByOne())


@pytest.mark.parametrize("concurrency", [1, 128])
def test_any_other_error_is_that_of_the_first_episode_that_has_one(concurrency):
    def nap(seed, member):
        if seed == 2:
            raise ZeroDivisionError(f"in {seed}, {member}")
        return 0.01

    with pytest.raises(ZeroDivisionError, match="in 2, 0"):
        played(World(nap, concurrency), Scripted(TEMPLATE, UP), lost=[])


def loop():
    while True:
        pass


async def sleep_long():
    await asyncio.sleep(3600)


@pytest.mark.parametrize("hang", [loop, threading.Event().wait, lambda: settled(sleep_long)])
def test_a_step_that_hangs_costs_its_group_alone(hang):
    lost = []
    rollout = attrs.evolve(ROLLOUT, step_timeout=1.0)
    episodes = played(World(where((2, 1), then=hang)), Scripted(TEMPLATE, UP), rollout=rollout, lost=lost)
    assert {episode.seed for episode in episodes} == {0, 1, 3}
    assert [(group.seed, group.member) for group in lost] == [(2, 1)]
    assert lost[0].reason == "the environment World took more than 1 s for a step in turn 1"


HANGS = """
import sys, threading
sys.path.insert(0, {folder!r})
from test_stepping import *
lost = []
rollout = attrs.evolve(ROLLOUT, step_timeout=0.3)
hang = where((0, 0), (1, 1), then=threading.Event().wait)
print(len(played(World(hang), OneByOne(), rollout=rollout, lost=lost)), len(lost))
"""


@pytest.mark.slow
def test_a_step_that_hangs_does_not_keep_the_process_from_ending():
    from pathlib import Path

    program = HANGS.format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "8 2\n", "")


# --- which environments are played in threads ---


@attrs.frozen
class Asks(Exact):
    """A verifier that asks a server."""

    concurrency = 8


def test_what_only_computes_is_played_in_turn_and_a_data_set_as_its_verifier_is():
    create = registry().create
    builtin = [create("environment", name) for name in ("sokoban", "frozen_lake", "bandit", "countdown")]
    assert [environment.concurrency for environment in builtin] == [1, 1, 1, 1]
    for verifier, concurrency in (("math", 1), (Asks(), 8)):
        dataset = create("environment", "dataset", "arithmetic", verifier=verifier)
        assert CheckedEnvironment(Named("environment", "dataset", {}, dataset)).concurrency == concurrency
    assert Environment.concurrency == 128
