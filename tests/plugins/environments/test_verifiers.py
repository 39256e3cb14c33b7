"""The environment verifiers plays environments of the package of that name, as the package itself does."""

import asyncio
import importlib.util
import json
import logging
import pickle
import random
import re
import textwrap
from pathlib import Path

import numpy
import pytest
import uncollapse
from uncollapse.core.components import Completion, RolloutEngineSession
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.compose.named import Named
from uncollapse.core.errors import EpisodeLostError, MissingExtraError, RequestError, RunError
from uncollapse.core.registry import registry
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.dialogue.tool_calls import ToolCalls
from uncollapse.plugins.rollout.borders import CheckedEnvironment
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.rollout.time_limit import TimeLimit
from uncollapse.testing import check

installed = pytest.mark.skipif(importlib.util.find_spec("verifiers") is None, reason="needs verifiers")
EXAMPLES = Path(__file__).parent / "verifiers_examples"
SUMS, HIGHER, TILL = (str(EXAMPLES / f"vf_{name}.py") for name in ("sums", "higher", "till"))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES), prepend=":")


def create(env, **parameters):
    return registry().create("environment", "verifiers", env=str(env), **parameters)


def checked(environment, weights=None):
    return CheckedEnvironment(Named("environment", "verifiers", {}, environment), weights=weights or {})


@pytest.fixture
def written(tmp_path):
    """Write a module with one task, of which some lines are given; return its path."""

    def write(task="", load='yield Own(Data(prompt="Say a word."), self.config.task)', rest="", before=""):
        parts = [
            "import asyncio, random, time, numpy\nimport verifiers.v1 as vf\n",
            before,
            "class Data(vf.TaskData):\n    secret: str = 'a'\n\nclass Own(vf.Task[Data]):\n    name = 'own'\n",
            textwrap.indent(textwrap.dedent(task or RIGHT), "    "),
            "\nclass Tasks(vf.Taskset[Own, vf.TasksetConfig]):\n    def load(self):\n",
            textwrap.indent(textwrap.dedent(load), "        "),
            "\n__all__ = ['Tasks']\n",
            textwrap.dedent(rest),
        ]
        path = tmp_path / "own.py"
        path.write_text("\n".join(parts))
        return path

    return write


RIGHT = """
@vf.reward
async def right(self, trace) -> float:
    return float(trace.last_reply == self.data.secret)
"""


# --- playing --------------------------------------------------------------------------------------------------------


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(
        "uncollapse.plugins.environments.packages.verifiers.environment.importlib.util.find_spec", lambda name: None
    )
    with pytest.raises(MissingExtraError) as caught:
        create("gsm8k")
    assert "pip install 'uncollapse[verifiers]'" in str(caught.value)


@installed
@pytest.mark.parametrize("spelling", [SUMS, f"{HIGHER}, size=9", f"{HIGHER}, size=9, concurrency=8", TILL])
def test_the_laws_of_environments_hold(spelling):
    assert check("environment", f"verifiers({spelling})") == []


@installed
def test_the_rewards_of_a_response_are_named_and_have_the_weights_of_the_package():
    environment = create(SUMS, settings={"tasks": 5})
    assert (environment.tasks, environment.reward_names) == (5, ("brief", "right"))
    env = environment.make(8)
    assert (env.system_text, env.initial_observation()) == ("You add numbers.", "What is 3 + 3?")
    step = env.step("6.")
    assert (step.rewards, step.metrics) == ({"brief": 1 / 3, "right": 1.0}, {"characters": 2.0})
    assert (step.done, step.success) == (True, True)
    with pytest.raises(RunError, match="the episode is over"):
        env.step("6")
    assert checked(environment).make(3).step("6.").reward == pytest.approx(1 + 0.5 / 3)
    assert checked(environment, {"brief": 3.0}).make(3).step("6.").reward == pytest.approx(1 + 3 / 3)
    assert not environment.make(3).step("7").success


@installed
def test_an_environment_that_answers_as_the_user_is_played_over_several_turns():
    env = create(HIGHER, size=16).make(5)
    assert (env.system_text, env.initial_observation()) == ("Guess.", "Game 5: your guess?")
    steps = [env.step(guess) for guess in ("3", "no", "7", "5")]
    assert [step.observation for step in steps[:3]] == ["higher", "higher", "lower"]
    assert [step.done for step in steps] == [False, False, False, True]
    assert (steps[-1].reward, steps[-1].metrics) == (1 + 0.25 / 4, {"guesses": 4.0})
    named = create(HIGHER, size=16, rewards=["found", "quick"])
    assert named.make(2).step("2").rewards == {"found": 1.0, "quick": 0.25}


@installed
def test_the_package_ends_an_episode_after_its_largest_number_of_responses_and_scores_it():
    env = create(HIGHER, size=16, max_turns=2).make(5)
    assert not env.step("1").done
    step = env.step("2")
    assert (step.done, step.reward, step.success) == (True, 0.25 / 2, False)


@installed
def test_tools_have_the_state_of_their_episode_and_a_stop_ends_it():
    environment = create(TILL)
    assert [tool.name for tool in environment.tools] == ["shelf_price", "till_pay", "till_scan"]
    one, other = environment.make(0), environment.make(0, member=1)
    said = [
        one.call("shelf_price", {"item": "tea"}),
        one.call("till_scan", {"item": "tea"}),
        other.call("till_scan", {"item": "jam", "times": 2}),
        one.call("till_scan", {"item": "jam"}),
        one.call("till_scan", {"item": "bread"}),
    ]
    assert [step.observation for step in said] == [
        *("3", "The total is 3.", "The total is 12.", "The total is 9."),
        "Error executing tool scan: bread is not in the basket",
    ]
    step = one.call("till_pay", {"amount": 9})
    assert (step.done, step.rewards) == (True, {"exact": 1.0, "results": 4.0})
    assert checked(environment).make(0).step("No.").reward == 0.0


class Shopper(RolloutEngineSession):
    """Pays for tea and jam, one response after the other."""

    def __init__(self, template):
        self.template, self.seen = template, []

    def generate(self, prompts, sampling, seed):
        return [self.answer(self.template.tokenizer.decode(list(prompt))) for prompt in prompts]

    def answer(self, text):
        self.seen.append(text)
        scan, pay = [("till_scan", {"item": item}) for item in ("tea", "jam")], ("till_pay", {"amount": 9})
        calls = scan if "The total" not in text else [pay]
        said = "".join(
            f"<tool_call>{json.dumps({'name': name, 'arguments': given})}</tool_call>" for name, given in calls
        )
        tokens = (*self.template.tokenizer.encode(said), self.template.end_of_turn)
        return Completion(tokens, (-0.5,) * len(tokens), "eos")

    def sync(self, weights):
        raise NotImplementedError

    def close(self):
        raise NotImplementedError


@installed
def test_a_policy_calls_the_tools_as_its_chat_template_has_them(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "rollout"))
    from rollout_worlds import tokenizer

    template = Template(tokenizer(), ToolCalls(), False)
    engine, rollout = Shopper(template), Rollout(think=False, max_tokens=200, max_context=4000)
    (episode,) = collect(checked(create(TILL)), rollout, engine, template, seeds=[0], group_size=1, seed=0)
    assert (len(episode.turns), episode.success, episode.reward) == (2, True, 1.0)
    assert '"name": "till_scan", "description": "Scan an item of the basket."' in engine.seen[0]
    assert "Pay for tea, jam." in engine.seen[0]
    assert "The total is 3." in engine.seen[1]
    assert "The total is 9." in engine.seen[1]


@installed
def test_settings_reach_the_taskset_and_its_tasks(tmp_path, monkeypatch):
    (tmp_path / "more.py").write_text("async def polite(trace):\n    return float('please' in trace.last_reply)\n")
    task = {"rewards": {"polite": {"fn": f"{tmp_path}/more.py:polite", "weight": 2}, "brief": {"weight": 0}}}
    environment = create(SUMS, settings={"first": 40, "task": task})
    assert environment.reward_weights == {"brief": 0.0, "polite": 2.0, "right": 1.0}
    env = environment.make(0)
    assert env.initial_observation() == "What is 40 + 40?"
    assert env.step("80 please").rewards == {"brief": 0.1, "polite": 1.0, "right": 0.0}


@installed
def test_the_environment_of_the_guide_is_played(tmp_path):
    guide = (Path(uncollapse.__file__).parent / "docs" / "environments.md").read_text("utf-8")
    path = tmp_path / "my_sums.py"
    path.write_text(next(code for code in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "my_sums" in code))
    environment = create(path, settings={"tasks": 500})
    assert environment.tasks == 500
    assert checked(environment).make(21).step("42").reward == pytest.approx(1 + 0.1 / 3)


# --- seeds ----------------------------------------------------------------------------------------------------------


@installed
def test_train_and_validation_share_no_task():
    train, validation, everything = (create(SUMS, split=split) for split in ("train", "validation", "all"))
    keys = [{environment.make(seed).key for seed in range(environment.tasks)} for environment in (train, validation)]
    assert not keys[0] & keys[1]
    assert len(keys[0]) + len(keys[1]) == everything.tasks == 20
    assert len(keys[1]) >= 2
    assert train.digest != validation.digest


@installed
def test_chances_depend_on_seed_and_member_and_touch_no_others(written):
    task = """
        async def setup(self, trace):
            trace.info["opening"] = random.random()

        @vf.reward
        async def luck(self, trace):
            return random.random() + 10 * numpy.random.randint(9)

        @vf.metric
        async def opening(self, trace):
            return trace.info["opening"]
    """
    environment, before = create(written(task)), (random.getstate(), numpy.random.get_state()[1].tolist())
    steps = {key: environment.make(*key).step("x") for key in ((0, 0), (0, 1), (1, 0))}
    lucks = {key: step.rewards["luck"] for key, step in steps.items()}
    assert len(set(lucks.values())) == 3
    assert steps[0, 0].metrics == steps[0, 1].metrics != steps[1, 0].metrics
    assert environment.make(0, 1).step("x").rewards["luck"] == lucks[0, 1]
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before


@installed
def test_an_environment_crosses_processes():
    copy = pickle.loads(pickle.dumps(create(SUMS)))
    assert copy.make(4).step("8").rewards["right"] == 1.0


@installed
def test_a_changed_file_is_read_again(written):
    assert create(written()).make(0).initial_observation() == "Say a word."
    path = written(load='yield Own(Data(prompt="Say another."), self.config.task)')
    assert create(path).make(0).initial_observation() == "Say another."


@installed
def test_episodes_can_be_played_in_a_program_with_an_event_loop():
    async def program():
        step = create(SUMS).make(1).step("2")
        await asyncio.sleep(0)
        return step

    assert asyncio.run(program()).rewards["right"] == 1.0


@installed
def test_an_episode_that_is_given_up_ends_its_program(written, tmp_path):
    left = tmp_path / "left"
    rest = f"""
        class OwnConfig(vf.EnvConfig):
            player: vf.AgentConfig = vf.AgentConfig()

        class OwnEnv(vf.Env[OwnConfig]):
            async def run(self, task, agents):
                try:
                    async with agents.player.interaction(task) as interaction:
                        await interaction.turn()
                        await interaction.turn("Go on.")
                finally:
                    await asyncio.sleep(0)
                    open({str(left)!r}, "w").close()

        __all__ = ["Tasks", "OwnEnv"]
    """
    env = create(written(rest=rest)).make(0)
    assert env.step("one").observation == "Go on."
    assert not left.exists()
    del env
    assert left.exists()


@installed
def test_many_episodes_at_once_hold_few_files():
    environment, before = create(SUMS), len(list(Path("/proc/self/fd").iterdir()))
    episodes = [environment.make(seed) for seed in range(50)]
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 10
    assert [episode.step(str(2 * (seed % 20))).success for seed, episode in enumerate(episodes)] == [True] * 50


@installed
def test_log_messages_of_the_process_stay_where_they_were():
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    create(TILL, size=2).make(0).call("till_scan", {"item": "tea"})
    assert (root.handlers, root.level) == before


# --- what goes wrong while it is played -----------------------------------------------------------------------------


@installed
@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("return 1 / 0", RunError, "ZeroDivisionError: division by zero"),
        ("return None", RunError, "float"),
        ("return {'a': 1.0}", RunError, "a reward 'a' that has not been declared"),
        ("raise ConnectionResetError('gone')", EpisodeLostError, "lost its connection: ConnectionResetError: gone"),
        ("await asyncio.open_connection('127.0.0.1', 9)", EpisodeLostError, "lost its connection"),
        ("await asyncio.sleep(60)", EpisodeLostError, "used up its own time: scoring_timeout"),
        ("await self.box.run(['ls'], {})", RunError, "needs a sandbox (runtime.run)"),
        ("return float('nan')", RunError, "not a finite number"),
    ],
)
def test_a_reward_that_fails_ends_the_run_and_a_server_that_is_gone_costs_the_group(written, body, error, message):
    task = f"""
        async def finalize(self, trace, runtime):
            self.box = runtime

        @vf.reward
        async def right(self, trace):
            {body}
    """
    load = 'yield Own(Data(prompt="Say.", timeout=vf.TaskTimeout(scoring=0.2)), self.config.task)'
    env = checked(create(written(task, load))).make(0)
    with pytest.raises(error) as caught:
        env.step("a")
    assert message in str(caught.value)
    assert type(caught.value) is error


@installed
def test_a_judge_of_ones_own_is_asked_and_a_missing_verdict_costs_the_group():
    from verifiers_own import served

    def judged(address):
        judge = {"id": "reference", "name": "judged", "base_url": address, "api_key_var": "NO_KEY", "weight": 2}
        environment = create(SUMS, settings={"task": {"judges": [judge]}})
        assert environment.reward_weights == {"brief": 0.5, "right": 1.0, "judged": 2.0}
        return environment.make(1)

    with served(["yes", "no", "perhaps"]) as (address, requests):
        assert judged(address).step("2").rewards == {"brief": 0.5, "right": 1.0, "judged": 1.0}
        assert judged(address).step("two").rewards["judged"] == 0.0
        assert "two" in requests[1]["messages"][0]["content"]
        with pytest.raises(EpisodeLostError, match=r"a judge gives no verdict: ValueError: .*perhaps"):
            judged(address).step("2")
    with pytest.raises(EpisodeLostError, match="a judge gives no verdict: "):
        judged(address).step("2")


@installed
@pytest.mark.parametrize("wait", ["time.sleep(60)", "await asyncio.sleep(60)", "while True: pass"])
def test_a_reward_that_hangs_is_interrupted(written, wait):
    task = f"""
        @vf.reward
        async def right(self, trace):
            {wait}
    """
    env = create(written(task)).make(0)
    with pytest.raises(EpisodeLostError, match=r"took more than 0\.3 s for a step"):
        TimeLimit("verifiers", 0.3, 0, 0)("a step", env.step, "a")


@installed
def test_a_setup_that_fails_is_told_with_its_task(written):
    task = f"async def setup(self, trace):\n    raise ValueError('no such table')\n{RIGHT}"
    with pytest.raises(RunError, match=r"ValueError: no such table\n  where: environment: verifiers.*own.py, task 0"):
        create(written(task)).make(0)


# --- what is refused ------------------------------------------------------------------------------------------------

ENV = """
class OwnConfig(vf.EnvConfig):
    {roles}

class OwnEnv(vf.Env[OwnConfig]):
    async def run(self, task, agents):
        {run}

__all__ = ["Tasks", "OwnEnv"]
"""
ONE = "player: vf.AgentConfig = vf.AgentConfig()"
TWO = f"{ONE}\n    judge: vf.AgentConfig = vf.AgentConfig()"
REWRITES = f"@vf.intercept\ndef hide(self, response: vf.Response):\n    return None\n{RIGHT}"
PICTURE = (
    "yield Own(Data(prompt=[vf.UserMessage(content=[vf.ImageUrlContentPart("
    "image_url=vf.ImageUrlSource(url='data:,'))])]), self.config.task)"
)


@installed
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"load": "return []"}, "it has no tasks"),
        ({"load": "raise OSError('no file')"}, "its tasks cannot be loaded: OSError: no file"),
        ({"load": "yield Own(Data(secret=3), self.config.task)"}, "its tasks cannot be loaded: ValidationError"),
        ({"load": "yield Own(Data(), self.config.task)"}, "the task has no prompt"),
        ({"load": "yield Own(Data(prompt='a', image='ubuntu'), self.config.task)"}, "the task needs a sandbox"),
        ({"load": PICTURE}, "the prompt cannot be shown: it holds a message with something else than text"),
        ({"task": "NEEDS_CONTAINER = True" + RIGHT}, "Own needs a sandbox"),
        ({"task": "pass"}, "its tasks give no reward"),
        ({"task": REWRITES}, "it rewrites responses"),
        ({"rest": ENV.format(roles=TWO, run="pass")}, "it has 2 agents (player, judge)"),
        ({"rest": "__all__ = []"}, "its module has no taskset"),
        ({"before": "import nothing_of_that_name"}, "its module cannot be imported: ModuleNotFoundError"),
        ({"before": "1 +"}, "its module cannot be imported: SyntaxError"),
    ],
)
def test_an_environment_that_cannot_be_played_is_refused(written, parts, message):
    with pytest.raises(RequestError) as caught:
        create(written(**parts))
    assert message in str(caught.value)


@installed
def test_an_environment_that_runs_its_agent_twice_ends_the_run(written):
    twice = ENV.format(roles=ONE, run="[await agents.player.run(task) for _ in range(2)]")
    env = create(written(rest=twice)).make(0)
    with pytest.raises(RunError, match="a second conversation"):
        env.step("a")
    with pytest.raises(RunError, match="without a run of its agent"):
        create(written(rest=ENV.format(roles=ONE, run="pass  # nothing"))).make(0)


@installed
def test_unknown_names_are_refused_with_the_nearest(written, tmp_path):
    with pytest.raises(RequestError, match=r"there is no environment 'textarina'\n.*\n.*did you mean 'textarena'"):
        create("textarina")
    with pytest.raises(RequestError, match=r"there is no environment 'os\.path'"):
        create("os.path")
    with pytest.raises(RequestError, match=r"its module has no taskset.*\n.*env numpy\n.*export one Taskset") as caught:
        create("numpy")
    assert len(str(caught.value)) < 600
    with pytest.raises(RequestError, match=r"taks: Extra inputs are not permitted\n.*\n.*did you mean 'tasks'"):
        create(SUMS, settings={"taks": 3})
    with pytest.raises(RequestError, match="there is no file"):
        create(tmp_path / "none.py")
    with pytest.raises(RequestError, match="its tasks have no end"):
        create(HIGHER)
    judge = {"id": "reference", "name": "judged"}
    with pytest.raises(RequestError, match="the judge reference asks a paid service"):
        create(SUMS, settings={"task": {"judges": [judge]}})
    (tmp_path / "old.py").write_text("def load_environment(**arguments):\n    return None\n")
    with pytest.raises(RequestError, match=r"has no taskset(.|\n)*those of verifiers before 0\.4"):
        create(tmp_path / "old.py")


# --- as the package does it -----------------------------------------------------------------------------------------

SCRIPTS = {
    SUMS: (3, ["6."]),
    HIGHER: (5, ["3", "no", "7", "5"]),
    TILL: (
        0,
        [
            ("shelf_price", {"item": "tea"}),
            ("till_scan", {"item": "tea"}),
            ("till_scan", {"item": "nuts"}),
            ("till_scan", {"item": "jam"}),
            ("till_pay", {"amount": 9}),
        ],
    ),
}


def without_ids(messages):
    kept = [message.model_dump(exclude={"tool_call_id", "provider_state"}) for message in messages]
    for message in kept:
        for call in message.get("tool_calls") or []:
            del call["id"]
            call["arguments"] = json.loads(call["arguments"])
    return kept


@installed
@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS)
def test_messages_tools_rewards_and_metrics_are_those_of_the_packages_own_rollout(path, monkeypatch):
    from verifiers_own import own_episode

    number, script = SCRIPTS[path]
    theirs, requests = own_episode(monkeypatch, Path(path).stem, number, script)
    environment = create(path, size=10)
    env = environment.make(number)
    steps = [env.call(*said) if isinstance(said, tuple) else env.step(said) for said in script]
    ours = env.player.rollout.trace
    assert without_ids(ours.messages) == without_ids(theirs.messages)
    assert [tool.spelled for tool in environment.tools] == requests[0].get("tools", [])
    assert {name: (reward.score, reward.weight) for name, reward in ours.rewards.items()} == {
        name: (reward.score, reward.weight) for name, reward in theirs.rewards.items()
    }
    assert (ours.metrics, ours.stop_condition) == (theirs.metrics, theirs.stop_condition)
    weighed = sum(environment.reward_weights[name] * score for name, score in steps[-1].rewards.items())
    assert steps[-1].reward + weighed == pytest.approx(theirs.reward)


@installed
@pytest.mark.slow
def test_a_run_learns_from_the_rewards_of_the_package(bandit, tmp_path):
    own = {
        "environment": {"name": "verifiers", "env": SUMS, "split": "train", "threshold": 0.03},
        "dialogue": "plain",
        "rollout": {**bandit["rollout"], "group_size": 8, "max_actions": 1, "format_penalty": 0.0},
        "advantage": "gdpo",
        "trainer": {**bandit["trainer"], "steps": 12, "mini_batch": 16, "lr": 2e-2},
        "entropy_coeff": 0.0,
    }
    assert uncollapse.train({**bandit, **own}, tmp_path / "run").status == "success"
    steps = [record for record in RunDirectory.open(tmp_path / "run").metrics() if record["step"]]
    for step in steps:
        assert step["train/reward"] == pytest.approx(0.5 * step["reward/brief"] + step["reward/right"])
    first, last = (sum(step["reward/brief"] for step in pair) for pair in (steps[:2], steps[-2:]))
    assert last > 1.4 * first
