"""Hostfiles, what is refused before anything starts, and runs through DeepSpeed's launchers."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps
from uncollapse.plugins.training.processes import launch as distributed
from uncollapse.plugins.training.processes.hosts import Host, check_reachable, first_slots, only_here, read_hostfile
from uncollapse.plugins.training.processes.launch import hosts_command, pack, unpack

SSH = """#!/bin/sh
while [ "$1" = -o ]; do shift 2; done
case "$1 $2" in
    down*) echo "warning: something" >&2; echo "$1: Permission denied (publickey)." >&2; exit 255 ;;
    *hostname) echo 127.0.0.1 ;;
esac
"""
PDSH = """#!/bin/sh
# every host is this machine: the command runs once for each, with %n replaced by its number
while [ "$1" != -w ]; do shift; done
hosts=$(echo "$2" | tr , ' '); shift 2
number=0; waited=""
for host in $hosts; do
    sh -c "$(echo "$*" | sed "s/%n/$number/g")" & waited="$waited $!"
    number=$((number + 1))
done
worst=0
for each in $waited; do wait $each || worst=$?; done
exit $worst
"""


@pytest.fixture
def hostfile(tmp_path):
    def write(text):
        path = tmp_path / "hosts"
        path.write_bytes(text.encode("latin-1"))
        return path

    return write


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A machine on which ssh reaches every host but ``down``, and every host is the machine itself."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("ssh", SSH), ("pdsh", PDSH)):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_hostfile(hostfile):
    path = hostfile("# two machines\n\nnode-1.lab slots=8\n  10.0.0.2\tslots=04   # the old one\n")
    hosts = read_hostfile(path)
    assert hosts == (Host("node-1.lab", 8), Host("10.0.0.2", 4))
    assert first_slots(hosts, None, path) == hosts
    assert first_slots(hosts, 12, path) == hosts
    assert first_slots(hosts, 9, path) == (Host("node-1.lab", 8), Host("10.0.0.2", 1))
    assert first_slots(hosts, 3, path) == (Host("node-1.lab", 3),)
    with pytest.raises(RequestError, match="--ranks 13 is more than the 12 slots"):
        first_slots(hosts, 13, path)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a slots=2\nb slots=x\n", 2, r"not understood: 'b slots=x'"),
        ("a slots = 2", 1, "not understood"),
        ("a", 1, "not understood"),
        ("a slots=-1", 1, "not understood"),
        ("me@a slots=1", 1, "not understood"),
        ("-oProxyCommand=x slots=1", 1, "not understood"),
        ("a slots=2 b slots=2", 1, "not understood"),
        ("\na slots=0", 2, "a has no slots"),
        ("a slots=1\n# b\na slots=2", 3, "a is there twice"),
        ("a slots=1\nm\xfcnchen slots=1", 2, "not understood"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(hostfile, text, line, message):
    with pytest.raises(RequestError, match=message) as refused:
        read_hostfile(hostfile(text))
    assert refused.value.where.endswith(f"hosts, line {line}")


def test_no_file_and_no_hosts(hostfile, tmp_path):
    with pytest.raises(RequestError, match="there is no such hostfile"):
        read_hostfile(tmp_path / "none")
    with pytest.raises(RequestError, match="names no host"):
        read_hostfile(hostfile("# nobody\n"))


def test_only_this_machine():
    assert only_here([Host("localhost", 2)])
    assert not only_here([Host("node", 2)])
    assert not only_here([Host("localhost", 2), Host("node", 2)])


def test_hosts_that_cannot_be_reached_are_named_in_one_message(tools, hostfile):
    path = hostfile("up slots=1\ndown slots=1\ndown2 slots=1\n")
    check_reachable([Host("up", 1), Host("localhost", 1)], path)
    with pytest.raises(RequestError) as refused:
        check_reachable(read_hostfile(path), path)
    assert refused.value.what == (
        "cannot log in to down: down: Permission denied (publickey).; "
        "cannot log in to down2: down2: Permission denied (publickey)."
    )
    assert "ssh -o BatchMode=yes down true" in refused.value.fix


@pytest.mark.parametrize("missing", ["ssh", "pdsh"])
def test_without_the_tools_nothing_starts(tools, hostfile, monkeypatch, missing):
    (tools / missing).unlink()
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(RequestError, match="several machines need") as refused:
        check_reachable([Host("a", 1), Host("b", 1)], hostfile("a slots=1\nb slots=1\n"))
    assert refused.value.fix == f"install {missing} on this machine"


def test_the_command_for_several_machines(hostfile, monkeypatch):
    monkeypatch.setattr(distributed, "free_port", lambda: 4242)
    monkeypatch.setenv("UNCOLLAPSE_PLUGINS", "mine.py")
    path, arguments = hostfile("a slots=4\nb slots=4\n"), ["train", "x.yaml", "--set", "model.lora={rank: 4}"]
    command = hosts_command(arguments, [Host("a", 4), Host("b", 2)], path)
    assert command[:-1] == [
        *(sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={path}", "--include=a:0,1,2,3@b:0,1"),
        *("--launcher=pdsh", "--force_multi", "--no_ssh_check", "--master_port=4242"),
        *("--no_local_rank", "--log_level=error", "--module", "uncollapse.cli.on_rank"),
    ]
    found, environment = unpack(command[-1])
    assert found == arguments
    assert environment["UNCOLLAPSE_PLUGINS"] == "mine.py"
    assert set(environment) == {name for name in os.environ if name.startswith("UNCOLLAPSE_")}


def test_arguments_travel_as_one_word_without_anything_that_a_shell_reads():
    arguments = ["--set", "a='b c'", '"$HOME"', "top_p(0.9)", "ä", ""]
    word = pack(arguments, {"UNCOLLAPSE_CACHE": "/x y", "SECRET": "s"})
    assert not set(word) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")
    assert unpack(word) == (arguments, {"UNCOLLAPSE_CACHE": "/x y"})


def run(*arguments, cwd):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    return subprocess.run(
        [sys.executable, "-m", "uncollapse.cli.main", "train", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=250,
        cwd=cwd,
        env={**environment, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def experiment(bandit, tmp_path, **trainer):
    path = tmp_path / "two.yaml"
    settings = {**bandit["trainer"], "steps": 2, "mini_batch": 4, "micro_batch": 2, "zero_stage": 2, **trainer}
    path.write_text(dumps({**bandit, "trainer": settings, "advantage": "grpo"}))
    return path


@pytest.mark.parametrize(
    ("text", "ranks", "message"),
    [
        ("localhost slots=2", ["--ranks", "3"], "--ranks 3 is more than the 2 slots"),
        ("localhost slots=3", [], "rollout.groups = 4: must be a multiple of 3"),
        ("up slots=1\ndown slots=1", [], "cannot log in to down"),
    ],
)
def test_a_wrong_request_starts_nothing(bandit, tmp_path, hostfile, tools, monkeypatch, text, ranks, message):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("something was started"))
    arguments = [experiment(bandit, tmp_path), "--run-dir", tmp_path / "run", "--hostfile", hostfile(text), *ranks]
    result = CliRunner().invoke(main, ["train", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert result.output.count("error:") == 1
    assert not (tmp_path / "run").exists()


def test_ranks_that_cannot_be_start_nothing(tmp_path):
    from click.testing import CliRunner
    from uncollapse.cli.main import main

    found = CliRunner().invoke(main, ["train", "tiny-sokoban", "--ranks", "3", "--run-dir", str(tmp_path / "run")])
    assert found.exit_code == 2
    assert found.output.count("must be a multiple of 3, the 3 processes") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["localhost slots=2", "node-a slots=1\nnode-b slots=1"])
def test_a_hostfile_trains(bandit, tmp_path, hostfile, tools, text):
    """The second through DeepSpeed's multi-node runner, whose ssh and pdsh stay on this machine."""
    config, out = experiment(bandit, tmp_path), tmp_path / "the run"
    changes = ("--set", "filter.select={name: top_p, value: 0.99}", "--set", "filter.metric=reward_std")
    result = run(config, "--run-dir", out, "--hostfile", hostfile(text), *changes, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    done = RunDirectory.open(out)
    assert done.status()["status"] == "success"
    assert [record["step"] for record in done.metrics()] == [0, 1, 2]
    assert done.read_config()["filter"]["select"]["value"] == 0.99
    assert Path(done.latest()).name == "step_2"


@pytest.mark.slow
def test_the_exit_code_of_a_rank_is_that_of_the_command(bandit, tmp_path, hostfile, tools):
    config = experiment(bandit, tmp_path)
    path = hostfile("node-a slots=1\nnode-b slots=1")
    result = run(config, "--run-dir", tmp_path / "none", "--resume", "--hostfile", path, cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "this is no run directory" in result.stderr + result.stdout


def test_more_ranks_than_the_cores_bear_are_refused(monkeypatch):
    import torch
    from uncollapse.plugins.training.processes.launch import PER_CORE, check_gpus

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    check_gpus(2 * PER_CORE)
    with pytest.raises(RequestError, match="2 cores for 17 ranks"):
        check_gpus(2 * PER_CORE + 1)
