"""Tools of MCP servers, which are real processes: what they say, and what becomes of them when something goes wrong."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import attrs
import pytest

pytest.importorskip("mcp")

from uncollapse.core import targets
from uncollapse.core.components import Setting
from uncollapse.core.compose.config import compose, problems
from uncollapse.core.errors import EpisodeLostError, RequestError, RunError
from uncollapse.plugins.dialogue.tool_calls import ToolCalls
from uncollapse.plugins.environments.tools.mcp import connection, servers
from uncollapse.plugins.environments.tools.mcp.connection import TookTooLongError
from uncollapse.plugins.environments.tools.mcp.listing import callable_name
from uncollapse.plugins.environments.tools.mcp.mcp import Mcp

SHOP = Path(__file__).with_name("mcp_shop.py")
BY_HAND = Path(__file__).with_name("mcp_by_hand.py")


def lives(process):
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{int(process)}/status").read_text()


def ends(process):
    limit = time.monotonic() + 20
    while lives(process) and time.monotonic() < limit:
        time.sleep(0.02)
    return not lives(process)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A server of the package, which the tests of this module share."""
    started = tmp_path_factory.mktemp("shop") / "started"
    toolset = Mcp(sys.executable, (str(SHOP), str(started)), env={"SOLD_BY": "me"}, timeout=20)
    assert not started.exists()  # composed, but not started
    toolset.tools  # noqa: B018 - starts it
    yield toolset
    servers.end_all()
    assert all(map(ends, started.read_text().split()))


@pytest.fixture(scope="module", autouse=True)
def ended():
    yield
    servers.end_all()


@pytest.fixture
def by_hand(tmp_path):
    """Make tool sets of servers that say what they are told to."""

    def make(*tools, more=None, **parameters):
        says = tmp_path / "says.json"
        says.write_text(json.dumps({"tools": tools, **(more or {})}))
        return Mcp(sys.executable, ("-I", "-S", str(BY_HAND), str(says)), **parameters)

    return make


def call(toolset, name, **arguments):
    return toolset.start(0, 0).call(name, arguments)


# --- what a server offers and answers ---


def test_a_server_says_what_its_tools_are(shop):
    tools = {tool.name: tool.function for tool in shop.tools}
    assert list(tools)[:4] == ["add", "sell_items", "stock", "show"]
    assert tools["add"]["description"] == "Add two numbers."
    assert tools["add"]["parameters"]["required"] == ["a", "b"]
    assert tools["sell_items"]["name"] == "sell_items"
    assert tools["sell_items"]["parameters"]["$defs"]["Item"]["properties"]["size"]["enum"] == ["small", "large"]
    assert shop.digest.startswith("MCP server shop 1.2, tools ")


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("add", {"a": 2, "b": 3}, "5"),
        ("sell_items", {"items": [{"name": "rope"}, {"name": "saw", "size": "large"}]}, "sold 2"),
        ("stock", {}, '{\n  "rope": 2\n}'),
        (
            "show",
            {},
            "here:\n[image, image/png, 3 KB]\n[audio, audio/wav, 2 bytes]\n[resource list: file:///list.txt]\n"
            "a text\n[resource file:///b, binary, 3 bytes]",
        ),
        ("much", {}, "x" * 1_000_000),
    ],
)
def test_a_result_is_text(shop, name, arguments, said):
    assert call(shop, name, **arguments) == said


def test_a_result_without_content_is_not_an_empty_message(by_hand):
    assert call(by_hand("look", more={"result": {"content": []}}), "look") == "(nothing)"


def test_structured_content_alone_is_json(by_hand):
    toolset = by_hand("look", more={"result": {"content": [], "structuredContent": {"rope": [1, None]}}})
    assert call(toolset, "look") == '{"rope": [1, null]}'


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [("fail", {}, "Error executing tool fail: no luck"), ("add", {"a": "x"}, "validation errors for addArguments")],
)
def test_what_the_server_calls_an_error_is_told_to_the_model(shop, name, arguments, said):
    with pytest.raises(ValueError, match=said):
        call(shop, name, **arguments)


def test_a_result_that_is_none_counts_as_a_tool_that_failed(by_hand):
    toolset = by_hand("look", more={"result": {"content": 3}})
    with pytest.raises(RuntimeError, match="the server has given what is no result"):
        call(toolset, "look")


def test_calls_are_made_side_by_side(shop):
    said = []
    threads = [threading.Thread(target=lambda: said.append(call(shop, "meet"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert said == ["met", "met"]


def test_arguments_are_held_to_the_schema_of_the_server(shop):
    setting = Setting("", None, 5, 5, 5, 99, False, shop.tools)

    def fault(name, arguments):
        text = json.dumps({"name": name, "arguments": arguments})
        (read,) = ToolCalls().parse(f"<tool_call>{text}</tool_call>", setting).calls
        return read.fault

    assert fault("sell_items", {"items": [{"name": "rope"}]}) == ""
    assert fault("sell_items", {"items": [{"name": "rope", "size": "huge"}]}) == "wrong"
    assert fault("sell_items", {"items": [{}]}) == "wrong"
    assert fault("sell.items", {"items": []}) == "unknown"
    assert fault("add", {"a": 1, "b": 2, "c": 3}) == "wrong"


def test_a_server_gets_the_variables_that_it_is_given_and_no_others(shop, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    assert call(shop, "whose", variable="SOLD_BY").split()[1] == "me"
    assert call(shop, "whose", variable="A_KEY").split()[1] == "None"


def test_a_server_inherits_a_variable_by_name(by_hand, monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(RequestError, match="the environment variable A_KEY is not set"):
        by_hand("look", inherit=("A_KEY",))
    monkeypatch.setenv("A_KEY", "secret")
    toolset = by_hand("look", inherit=("A_KEY",))
    assert toolset.program.environment["A_KEY"] == "secret"
    assert b"secret" not in pickle.dumps(toolset)


def test_the_model_may_be_shown_some_of_the_tools(by_hand):
    assert [tool.name for tool in by_hand("a", "b-c", "d", only=("b-c", "d")).tools] == ["b_c", "d"]
    with pytest.raises(RequestError, match=r"no tool 'dd'.*\n.*\n.*did you mean 'd'"):
        _ = by_hand("a", "b-c", "d", only=("dd",)).tools


@pytest.mark.parametrize(
    ("name", "known"),
    [("get-weather", "get_weather"), ("brave.search/web", "brave_search_web"), ("2d", "_2d"), ("import", "_import")],
)
def test_names_are_such_as_every_format_of_calls_can_write(name, known):
    assert callable_name(name) == known
    assert callable_name(known) == known


def test_lines_that_are_no_messages_do_no_harm(by_hand, caplog):
    assert call(by_hand("look", more={"junk": ["Welcome!", "{}", ""]}), "look").isdecimal()
    assert "Traceback" not in caplog.text


# --- servers that cannot be used ---


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (("sh", "-c", "echo 'no such module' >&2; exit 3"), "ends before it lists its tools; it says:\nno such module"),
        (("sh", "-c", "echo Usage: shop"), "what is no message of the protocol: 'Usage: shop'"),
        (("sh", "-c", "read LINE; exec sleep 100 <&-"), "does not list its tools in 0.5 s"),
        (("cat",), "cannot be used: MCPError: "),
    ],
)
def test_a_program_that_is_no_server_is_refused_with_what_it_says(command, what):
    toolset = Mcp(command[0], command[1:], start_timeout=0.5 if "sleep" in command[-1] else 60)
    with pytest.raises(RequestError) as caught:
        _ = toolset.tools
    assert what in caught.value.what
    assert caught.value.what.startswith(f"the MCP server `{command[0]}")


@pytest.mark.parametrize(
    ("parameters", "what"),
    [
        ({"command": "no-such-program"}, "there is no program 'no-such-program'"),
        ({"command": "./no-such-program"}, "there is no program './no-such-program'"),
        ({"command": "python shop.py"}, r"there is no program 'python shop.py'\n.*\n.* its arguments as args: \["),
        ({"command": "cat", "directory": "/no/such/folder"}, "there is no folder '/no/such/folder'"),
    ],
)
def test_a_program_that_does_not_exist_is_refused_before_anything_is_started(parameters, what):
    with pytest.raises(RequestError, match=what):
        Mcp(**parameters)


BAD = {"name": "a", "inputSchema": {"type": "object", "properties": {"x": {"type": "strng"}}}}


@pytest.mark.parametrize(
    ("tools", "what"),
    [
        ((), "the server lists no tools"),
        (("a", "a"), "two tools of 'a' have the name 'a'"),
        (("a.b", "a-b"), "'a.b' and 'a-b' have the name 'a_b' for the model"),
        (({"name": "a", "inputSchema": {"type": "array"}},), r"tools\.0\.inputSchema\.type"),
        ((BAD,), "the schema of the tool a cannot be used: 'strng' is not"),
    ],
)
def test_a_list_of_tools_that_means_nothing_is_refused(by_hand, tools, what):
    with pytest.raises(RequestError, match=what):
        _ = by_hand(*tools).tools


def test_a_tool_whose_schema_cannot_be_used_may_be_left_out(by_hand):
    assert [tool.name for tool in by_hand(BAD, "b", only=("b",)).tools] == ["b"]


def test_a_description_and_parameters_may_be_missing(by_hand):
    (tool,) = by_hand({"name": "a", "inputSchema": {"type": "object"}}).tools
    assert tool.function == {"name": "a", "description": "", "parameters": {"type": "object", "properties": {}}}


WITH = ["environment.name=with_tools", "environment.of=tool_calculator", "validation.environment=null"]
NO_MODEL = ["model.build=null", "model.path=nowhere"]


def test_an_experiment_is_composed_without_starting_a_server(tmp_path):
    touch = f"environment.tools=[{{name: mcp, command: sh, args: [-c, 'touch {tmp_path}/started']}}]"
    compose("tiny-sokoban", [*WITH, *NO_MODEL, touch, "dialogue=tool_calls"])
    found = problems("tiny-sokoban", [*WITH, *NO_MODEL, touch, "dialogue=plain"])
    assert [each.key for each in found] == ["dialogue"]
    missing = problems("tiny-sokoban", [*WITH, *NO_MODEL, "environment.tools=[mcp(nonesuch)]", "dialogue=tool_calls"])
    assert "there is no program 'nonesuch'" in str(missing[0])
    assert not (tmp_path / "started").exists()


# --- servers that hang and die ---


def test_a_call_that_takes_too_long_is_told_and_the_server_goes_on(shop):
    session = Mcp(shop.command, shop.args, shop.env, timeout=0.2).start(0, 0)
    process = session.call("whose", {"variable": "A"})
    with pytest.raises(TookTooLongError, match=r"the call took more than 0\.2 s"):
        session.call("wait", {"seconds": 100})
    assert session.call("whose", {"variable": "A"}) == process


def test_a_server_that_answers_nothing_any_more_is_ended_and_started_again(by_hand, monkeypatch):
    monkeypatch.setattr(connection, "_ANSWER_S", 0.2)
    toolset = by_hand("hang", "look", timeout=0.2)
    process = call(toolset, "look")
    with pytest.raises(EpisodeLostError, match="does not answer any more"):
        call(toolset, "hang")
    assert ends(process)
    assert call(toolset, "look") != process


@pytest.mark.slow
def test_a_server_whose_calls_all_take_too_long_is_ended(shop, monkeypatch):
    monkeypatch.setattr(connection, "_OVERDUE", 3)
    session = Mcp(shop.command, (str(SHOP),), per_episode=True, timeout=0.05).start(0, 0)
    for _ in range(2):
        with pytest.raises(TookTooLongError):
            session.call("wait", {"seconds": 100})
    with pytest.raises(EpisodeLostError):
        session.call("wait", {"seconds": 100})


def test_a_server_that_dies_costs_the_episode_and_is_started_for_the_next_call(by_hand):
    toolset = by_hand("die", "look")
    one, other = toolset.start(0, 0), toolset.start(1, 0)
    process = other.call("look", {})
    with pytest.raises(EpisodeLostError, match="has ended"):
        one.call("die", {})
    again = other.call("look", {})
    assert again != process
    assert call(toolset, "look") == again


def test_the_last_words_of_a_server_are_told(shop):
    with pytest.raises(EpisodeLostError, match=r"has ended: I die\n"):
        call(shop, "die")
    assert call(shop, "add", a=1, b=2) == "3"


def test_a_server_that_somebody_has_ended_is_started_for_the_next_episode(by_hand):
    toolset = by_hand("look")
    process = call(toolset, "look")
    running = servers.connected(toolset.program)
    os.kill(int(process), signal.SIGKILL)
    running.thread.join(20)
    assert call(toolset, "look") != process


def test_a_server_that_does_not_come_back_loses_episodes(by_hand):
    toolset = by_hand("die", "look")
    session = toolset.start(0, 0)
    Path(toolset.args[-1]).write_text("no JSON")
    with pytest.raises(EpisodeLostError):
        session.call("die", {})
    with pytest.raises(EpisodeLostError, match="ends before it lists its tools"):
        toolset.start(1, 0)


def test_a_server_that_comes_back_with_other_tools_ends_the_run(by_hand):
    toolset = by_hand("die", "look")
    session = toolset.start(0, 0)
    by_hand("die", "hang")
    with pytest.raises(EpisodeLostError):
        session.call("die", {})
    with pytest.raises(RunError, match="the server is another one than before: MCP server by hand 1, tools "):
        toolset.start(1, 0)


@pytest.mark.slow
def test_an_interrupted_start_leaves_no_server(by_hand, tmp_path):
    def interrupt(number, frame):
        raise InterruptedError

    toolset = Mcp("sh", ("-c", f"echo $$ > {tmp_path}/process; exec {sys.executable} {SHOP}"))
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(InterruptedError):
            _ = toolset.tools
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ends((tmp_path / "process").read_text())


def test_an_interrupted_call_leaves_the_server_usable(shop):
    def interrupt(number, frame):
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(InterruptedError):
            call(shop, "wait", seconds=100)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert call(shop, "add", a=1, b=2) == "3"


# --- who has which server ---


def test_episodes_share_a_server_or_have_one_each(by_hand):
    shared = by_hand("look")
    assert len({call(shared, "look") for _ in range(3)}) == 1
    toolset = by_hand("look", per_episode=True)
    sessions = [toolset.start(0, member) for member in range(3)]
    processes = [session.call("look", {}) for session in sessions]
    assert len(set(processes)) == 3
    assert sessions[0].call("look", {}) == processes[0]
    sessions[0].close()
    assert ends(processes[0])
    assert all(map(lives, processes[1:]))
    for session in sessions[1:]:
        session.close()
    assert all(map(ends, processes))


def test_a_dead_server_of_an_episode_is_not_replaced(by_hand):
    session = by_hand("die", "look", per_episode=True).start(0, 0)
    for name in ("die", "look"):
        with pytest.raises(EpisodeLostError, match="has ended"):
            session.call(name, {})


def test_a_fork_has_a_server_of_its_own(by_hand):
    toolset = by_hand("look")
    session = toolset.start(0, 0)
    process = session.call("look", {})
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, f"{session.call('look', {})} {call(toolset, 'look')}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        own, again = said.read().split()
    os.waitpid(child, 0)
    assert own == again != process
    assert ends(own)
    assert session.call("look", {}) == process


def test_a_pickled_tool_set_uses_the_same_server(by_hand):
    toolset = by_hand("look")
    assert call(pickle.loads(pickle.dumps(toolset)), "look") == call(toolset, "look")


@pytest.mark.slow
def test_a_server_that_runs_already_is_called_at_its_address(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    toolset = Mcp(url=f"http://127.0.0.1:{port}/mcp", timeout=10)
    with pytest.raises(RequestError, match=r"http://127.*/mcp cannot be used: ConnectError: .*\n.*start the server"):
        _ = toolset.tools
    words = [sys.executable, str(SHOP), str(tmp_path / "started"), str(port)]

    def serve():
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                time.sleep(0.05)
            else:
                break
        return process

    with serve() as process:
        session = toolset.start(0, 0)
        assert session.call("add", {"a": 1, "b": 2}) == "3"
        with pytest.raises(TookTooLongError):
            attrs.evolve(toolset, timeout=0.2).start(0, 0).call("wait", {"seconds": 100})
        process.kill()
        process.wait()
        with pytest.raises(EpisodeLostError, match="has ended"):
            session.call("add", {"a": 1, "b": 2})
    with pytest.raises(EpisodeLostError, match="ConnectError"):
        toolset.start(0, 0)
    with serve() as process:
        assert toolset.start(0, 0).call("add", {"a": 1, "b": 2}) == "3"
        process.kill()


@pytest.mark.parametrize(
    ("parameters", "what"),
    [
        ({}, "give either a command or the url"),
        ({"command": "cat", "url": "http://127.0.0.1:1/mcp"}, "give either a command or the url"),
        ({"url": "localhost:1/mcp"}, "the url begins with http:// or https://, not 'localhost:1/mcp'"),
    ],
)
def test_a_server_has_a_command_or_an_address(parameters, what):
    with pytest.raises(ValueError, match=what):
        Mcp(**parameters)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    error = targets.missing_extra(ImportError(name="mcp"), "the toolset mcp")
    assert error.fix == "pip install 'uncollapse[mcp]'"


KILLED = """
import sys, threading, time
from uncollapse.plugins.environments.tools.mcp.mcp import Mcp
toolset = Mcp(sys.executable, tuple(sys.argv[1:]), per_episode=True)
sessions = [toolset.start(0, member) for member in range(2)]
print(*(session.call("look", {}) for session in sessions), flush=True)
threading.Thread(target=sessions[0].call, args=("hang", {}), daemon=True).start()
time.sleep(1000)
"""


def test_a_run_that_is_killed_leaves_no_server_behind(by_hand):
    """One server is in a call that hangs, so that it does not read that its input has ended."""
    words = [sys.executable, "-c", KILLED, *by_hand("look", "hang").args]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as run:
        processes = run.stdout.readline().split()
        time.sleep(0.3)
        assert len(processes) == 2
        assert all(map(lives, processes))
        run.kill()
    assert all(map(ends, processes))
