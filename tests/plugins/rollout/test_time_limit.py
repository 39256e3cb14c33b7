"""An environment that hangs ends the run with a message that names the group."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time

import attrs
import pytest
from rollout_worlds import Counter, Walk, says, tokenizer
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.errors import RunError
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.rollout.time_limit import TimeLimit

LIMIT = TimeLimit("World", 0.3, seed=10003, member=2)
WHERE = "the group of seed 10003, member 2"


def loop():
    while True:
        pass


def stubborn():
    """Goes on whatever an exception of the usual kind says."""
    while True:
        with contextlib.suppress(Exception):
            time.sleep(60)


def deaf():
    """Swallows the first two interruptions, whatever they are."""
    for _ in range(2):
        with contextlib.suppress(BaseException):
            time.sleep(60)
    time.sleep(60)


def wait_for_a_process():
    subprocess.run(["sleep", "60"], check=True)


def wait_for_a_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def match_for_ever():
    """C code that keeps Python's lock, and looks at signals now and then."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def multiply_for_ever():
    return 3 ** (10**9)


def use_math_verify():
    """Sets an alarm of its own, takes it back, and hangs afterwards."""
    from math_verify import parse

    assert parse("$\\frac{1}{2}$", parsing_timeout=5)
    time.sleep(60)


@pytest.mark.parametrize(
    "hang",
    [loop, stubborn, deaf, wait_for_a_process, wait_for_a_lock, match_for_ever, multiply_for_ever, use_math_verify],
)
def test_in_the_main_thread(hang):
    started = time.monotonic()
    with pytest.raises(RunError) as caught:
        LIMIT("a step in turn 4", hang)
    assert time.monotonic() - started < 5
    assert caught.value.what == "the environment World took more than 0.3 s for a step in turn 4"
    assert caught.value.where == WHERE
    assert "rollout.step_timeout" in caught.value.fix
    assert hang.__name__ in str([entry.name for entry in traceback_of(caught.value)])


def traceback_of(error):
    import traceback

    return traceback.extract_tb(error.__cause__.__traceback__)


def test_in_another_thread():
    over, caught, found = threading.Event(), [], []

    def outside():
        for hang in (over.wait, lambda: [None for _ in iter(over.is_set, True)]):
            try:
                LIMIT("a step", hang)
            except RunError as error:
                caught.append(error.where)
            found.append(LIMIT("a step", lambda: 7))
        owners = [LIMIT("a step", threading.get_ident) for _ in range(2)]
        found.append(owners[0] == owners[1] != threading.get_ident())
        with pytest.raises(ZeroDivisionError):
            LIMIT("a step", divmod, 1, 0)

    thread = threading.Thread(target=outside)
    thread.start()
    thread.join(20)
    over.set()
    assert (caught, found) == ([WHERE, WHERE], [7, 7, True])


def test_what_is_in_time_is_left_alone():
    assert LIMIT("a step", divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        LIMIT("a step", divmod, 1, 0)
    with pytest.raises(KeyboardInterrupt):
        LIMIT("a step", signal.raise_signal, signal.SIGINT)
    assert attrs.evolve(LIMIT, seconds=None)("a step", time.sleep, 0.4) is None
    for _ in range(3):
        LIMIT("a step", time.sleep, 0.2)  # the clock starts anew with each call
    time.sleep(0.5)  # and stands still between them


def test_an_alarm_of_the_environment_rings_all_the_same():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        LIMIT("a step", time.sleep, 0.2)
        assert rung == [1]
        signal.setitimer(signal.ITIMER_REAL, 5)
        with pytest.raises(RunError):
            LIMIT("a step", time.sleep, 60)
        assert 3 < signal.setitimer(signal.ITIMER_REAL, 0)[0] < 5
    finally:
        signal.signal(signal.SIGALRM, before)


def test_limits_within_limits():
    outer = TimeLimit("Outer", 0.3, 1, 0)
    inner = TimeLimit("Inner", 60.0, 2, 0)
    with pytest.raises(RunError):
        outer("a step", lambda: inner("a step", time.sleep, 60))
    tight = TimeLimit("Inner", 0.2, 2, 0)

    def goes_on():
        with pytest.raises(RunError, match="Inner"):
            tight("a step", time.sleep, 60)
        return "on"

    assert TimeLimit("Outer", 60.0, 1, 0)("a step", goes_on) == "on"


class Slow(Walk):
    def step(self, action):
        if self.at == 1 and self.world.slow == "step":
            time.sleep(60)
        return super().step(action)

    def initial_observation(self):
        if self.world.slow == "initial_observation":
            time.sleep(60)
        return super().initial_observation()


@attrs.frozen
class Sluggish(Counter):
    slow: str = ""

    def make(self, seed, member=0):
        if self.slow == "make":
            time.sleep(60)
        return Slow(self, seed)


@pytest.mark.parametrize(
    ("slow", "what"),
    [("make", "a new episode"), ("initial_observation", "the first observation"), ("step", "a step in turn 2")],
)
def test_a_conversation_says_where_it_hung(slow, what):
    template = Template(tokenizer(), ThinkAnswer())

    def play():
        conversation = Conversation(Sluggish(slow=slow), Rollout(step_timeout=0.2), template, 10003, 2)
        for _ in range(2):
            conversation.advance(says(template, "on</think><answer>Up</answer>"))

    with pytest.raises(RunError) as caught:
        play()
    assert caught.value.what == f"the environment Sluggish took more than 0.2 s for {what}"
    assert caught.value.where == WHERE


PROGRAM = """
import signal, time
from uncollapse.plugins.rollout import time_limit

time_limit._GRACE_S = 0.5
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})  # as C code that ignores every signal
with time_limit.last_words(lambda error: print(error.where, flush=True)):
    time_limit.TimeLimit("World", 0.4, 10003, 2)("a step", time.sleep, 60)
print("never")
"""


def test_what_cannot_be_interrupted_ends_the_process():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout.strip() == WHERE
    assert "the environment World took more than 0.4 s for a step" in done.stderr
    assert 'File "<string>", line 8 in <module>' in done.stderr


BLOCKS = """
import re, threading
from uncollapse.plugins.rollout import time_limit

time_limit._GRACE_S = 0.3
def match_for_ever():
    time_limit.TimeLimit("World", 0.3, 10003, 2)("a step", re.match, r"(a+)+$", "a" * 60 + "b")
thread = threading.Thread(target=match_for_ever)
thread.start()
thread.join()
"""


def test_a_call_in_a_thread_that_lets_no_other_run_ends_the_process_and_says_where():
    done = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGVTALRM
    assert "re/__init__.py" in done.stderr


@pytest.mark.parametrize("thread", [False, True])
def test_a_process_that_was_suspended_gets_its_time_anew(thread):
    program = (
        "import threading, time\n"
        "from uncollapse.plugins.rollout import time_limit\n"
        "time_limit._SUSPENDED_S = 0.3\n"
        "limit = time_limit.TimeLimit('World', 1.0, 10003, 2)\n"
        "def play():\n"
        "    limit('a step', lambda: [time.sleep(0.1) for _ in range(5)])\n"
        "    print('done')\n"
        "print('ready', flush=True)\n"
        f"{'threading.Thread(target=play).start' if thread else 'play'}()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60)[0] == "done\n"


# --- a whole run ----------------------------------------------------------------------------------------------------

PLUGIN = '''
import os, time
import attrs
from uncollapse import hookimpl
from uncollapse.plugins.environments.bandit import Bandit


@attrs.frozen
class Hanging(Bandit):
    """A bandit that hangs at the third step."""

    def make(self, seed, member=0):
        if seed == 10009 and member == 1 and "HANGS" in os.environ:
            time.sleep(3600)
        return super().make(seed, member)


@hookimpl
def register_environments(register):
    register("hanging", Hanging, summary="hangs")
'''


@pytest.fixture
def command(bandit, tmp_path):
    """Trains where the third step hangs, while HANGS is in the environment."""
    (tmp_path / "hanging.py").write_text(PLUGIN)
    experiment = {
        **bandit,
        "environment": "hanging",
        "rollout": {**bandit["rollout"], "step_timeout": 2},
        "trainer": {**bandit["trainer"], "save_every": 1},
    }
    (tmp_path / "experiment.yaml").write_text(json.dumps(experiment))
    start = [sys.executable, "-m", "uncollapse.cli.main", "train", str(tmp_path / "experiment.yaml")]
    return [*start, "--plugin", str(tmp_path / "hanging.py"), "--run-dir", str(tmp_path / "run")]


MESSAGE = "the environment hanging took more than 2 s for a new episode"


def status_of(run):
    return json.loads((run / "status.json").read_text())


@pytest.mark.slow
def test_a_run_whose_environment_hangs_fails_and_goes_on(command, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setenv("HANGS", "1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert f"{MESSAGE}\n  where: the group of seed 10009, member 1\n" in done.stderr
    assert (status_of(run)["status"], status_of(run)["step"]) == ("failed", 2)
    assert MESSAGE in status_of(run)["error"]
    monkeypatch.delenv("HANGS")
    more = ["--resume", "--set", "rollout.step_timeout=50"]
    resumed = subprocess.run([*command, *more], capture_output=True, text=True, timeout=240, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert status_of(run)["status"] == "success"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_all_ranks_end_and_the_status_names_the_group_of_another_rank(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HANGS", "1")
    done = subprocess.run([*command, "--ranks", "2"], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert status_of(tmp_path / "run")["status"] == "failed"
    assert f"{MESSAGE}\n  where: the group of seed 10009, member 1\n" in status_of(tmp_path / "run")["error"]
