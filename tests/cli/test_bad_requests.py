"""What is wrong with a request is said in one message, at once, with exit code 2: never a traceback, never a wait."""

import os
import re
import signal
import socket
import time

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main

LIMIT_S = 5
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DIGITS = "1" * 5000


@pytest.fixture(autouse=True)
def patience():
    """A request that is waited for fails its test instead of the suite."""

    def give_up(number, frame):
        raise TimeoutError("the request is still being answered")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def refused(*arguments, code=2):
    """The one message with which a request is refused."""
    started = time.process_time()
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, (arguments, result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert time.process_time() - started < LIMIT_S
    assert len(re.findall("^error: ", result.output, re.IGNORECASE | re.MULTILINE)) == 1
    assert "Traceback" not in result.output
    assert all(char.isprintable() or char == "\n" for char in result.output)
    assert len(result.output) < 10_000
    return result.output


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """Nothing of a run that another test has begun in this process."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def odd(odd_files, monkeypatch):
    """The directory of the odd files, as the working directory."""
    monkeypatch.chdir(odd_files)
    return odd_files


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    """A directory with files that are none: by what is odd about them."""
    tmp_path = tmp_path_factory.mktemp("odd")
    contents = {
        "empty.yaml": b"",
        "scalar.yaml": b"5",
        "latin.yaml": "environment: caf\xe9".encode("latin-1"),
        "null.yaml": b"environment: a\0b",
        "tab.yaml": b"model:\n\tpath: x",
        "two.yaml": b"--- {}\n--- {}\n",
        "twice.yaml": b"seed: 1\nseed: 2\n",
        "tag.yaml": b"seed: !!python/object/apply:os.system [true]",
        "odd_tag.yaml": b"seed: !!int x",
        "set.yaml": b"seed: !!set {a, b}",
        "self.yaml": b"environment: &a {name: bandit, low: *a}",
        "list.yaml": b"- &a [*a]",
        "bomb.yaml": BOMB.encode(),
        "merge.yaml": MERGED.encode(),
        "deep.yaml": b"seed: " + b"[" * 10_000,
        "deep_map.yaml": b"seed: " + b"{a: " * 10_000,
        "block.yaml": b"- " * 5_000,
        "large.yaml": b"a: 1\n" * 2_000_000,
        "digits.yaml": b"seed: " + DIGITS.encode(),
        "hex.yaml": b"seed: 0x" + b"f" * 5000,
        "old.yaml": b"%YAML 1.1\n---\nseed: 1",
        "number_key.yaml": b"environment: {name: bandit, 5: x}",
        "list_key.yaml": b"? [a, b]\n: 1",
        "open.yaml": b"collapse: [" + b"f(, " * 10_000 + b"]",
        "surrogate.yaml": b'model: {path: "\\ud800"}',
        "circle.yaml": b"extends: circle.yaml",
        "wide.yaml": b"".join(b"k%d: 1\n" % number for number in range(5000)),
        "extends_device.yaml": b"extends: /dev/zero.yaml",
        "extends_null.yaml": b'extends: "a\\0.yaml"',
        "plugins_null.yaml": b'plugins: ["a\\0"]',
        "plugins_user.yaml": b"plugins: [~nobody_at_all/x.py]",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for number in range(40):
        (tmp_path / f"chain{number}.yaml").write_text(f"extends: chain{number + 1}.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "directory.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.yaml"))
    return tmp_path


FILES = {
    "empty.yaml": "a mapping of keys to values",
    "scalar.yaml": "a mapping of keys to values",
    "latin.yaml": "not UTF-8",
    "null.yaml": "unacceptable character",
    "tab.yaml": "line 2",
    "two.yaml": "another document",
    "twice.yaml": "duplicate key",
    "tag.yaml": "could not determine a constructor",
    "odd_tag.yaml": "not what its tag says",
    "set.yaml": "could not determine a constructor",
    "self.yaml": "refers to what it is a part of",
    "list.yaml": "refers to what it is a part of",
    "bomb.yaml": "characters of data",
    "merge.yaml": "characters of data",
    "deep.yaml": "levels deep",
    "deep_map.yaml": "levels deep",
    "block.yaml": "levels deep",
    "large.yaml": "is larger than 64 KiB",
    "digits.yaml": "more than 64 bits",
    "hex.yaml": "more than 64 bits",
    "old.yaml": "another version of YAML",
    "number_key.yaml": "the key 5 is not text",
    "list_key.yaml": "is not text",
    "open.yaml": "collapse",
    "surrogate.yaml": "not valid Unicode",
    "circle.yaml": "in a circle",
    "chain0.yaml": "extend each other",
    "wide.yaml": "more than 1000 keys",
    "extends_device.yaml": "No such file",
    "extends_null.yaml": "null character",
    "plugins_null.yaml": "null character",
    "plugins_user.yaml": "~nobody_at_all",
    "pipe.yaml": "is a pipe",
    "directory.yaml": "is a directory",
    "loop.yaml": "symbolic links",
    "zero.yaml": "is a device",
    "socket.yaml": "socket.yaml",
    "/dev/zero": "is a device",
    "/dev/tty": "/dev/tty",
    "missing.yaml": "No such file",
    "": "there is no experiment ''",
    "n" * 5000: "there is no experiment",
    "n" * 5000 + ".yaml": "too long",
    "~nobody_at_all/x.yaml": "~nobody_at_all",
    "a\0.yaml": "null character",
    "\x1b[31m": r"\x1b[31m",
    "tiny-sokobаn": "there is no experiment",  # the last a is Cyrillic
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", [("check",), ("train",), ("doctor", "-e")])
def test_what_is_no_experiment_file_is_not_read(odd, name, command):
    assert FILES[name] in refused(*command, name)


OVERRIDES = {
    "x": "has no value",
    "=5": "has no key",
    "": "has no key",
    "a..b=1": "an empty name",
    ".seed=1": "an empty name",
    "seed.=1": "an empty name",
    ".".join("a" * 1000) + "=1": "dots",
    "sed=1": "unknown key",
    "k" * 5000 + "=1": "unknown key",
    "\x1b[31mseed=1": r"\x1b[31mseed",
    "seed=x": "seed = 'x'",
    "seed=\x1b[31m": "seed",
    f"seed={DIGITS}": "more than 64 bits",
    "seed=1e400": "seed",
    "seed=1e20": "seed",
    "seed=-1": "seed = -1: must be at least 0",
    "seed=4294967296": "seed",
    "rollout.seed=1e20": "rollout.seed",
    "trainer.lr=1e300": "trainer.lr = 1e+300",
    "trainer.lr=1" + "0" * 400: "more than 64 bits",
    "trainer.lr=.inf": "trainer.lr",
    "trainer.lr=.nan": "trainer.lr",
    "trainer.lr=1e-320": "trainer.lr",
    "trainer.lr=true": "trainer.lr = true: must be a number",
    "trainer.lr='1'": "without quotes",
    "trainer.lr=2020-01-01": "trainer.lr",
    "rollout.temperature=1e-30": "rollout.temperature",
    "validation.temperature=1e-30": "validation.temperature",
    "rollout.groups=1000000007": "rollout.groups",
    "rollout.groups=1000000000": "rollout.groups",
    "rollout.groups=1000000": "at most 262144",
    "validation.groups=10000000": "at most 262144",
    "model.lora.rank=1000000": "model.lora.rank",
    "rollout.max_context=1000000000000": "rollout.max_context",
    "rollout.groups=null": "rollout.groups = null",
    "rollout.groups=[1]": "rollout.groups",
    "rollout=5": "rollout = 5",
    "rollout=null": "rollout",
    "rollout.groups.x=1": "rollout.groups",
    "seed=" + "[" * 10_000: "levels deep",
    "filter.select=" + "top_p(" * 10_000: "filter.select",
    "filter.select=top_p(" + "1," * 5_000 + "1)": "256 is the most",
    "filter.select=top_p(" + "'" * 20_000 + ")": "filter.select",
    "filter.select={name: top_p, 5: 1}": "is not text",
    "filter.select={name: [top_p]}": "needs its name",
    "filter.select={5: 1}": "is not text",
    "collapse=[" + "empty_filter," * 100 + "]": "64 is the most",
    "collapse=5": "must be a list",
    'model.path="a\\0b"': "null character",
    "model.path='~nobody_at_all/x'": "~nobody_at_all",
    "model.path=''": "is empty",
    "model.path=" + "n" * 5000: "too long",
    "plugins=[missing.py]": "no such plugin file",
    "plugins=5": "must be a list",
    "environment={name: frozen_lake, size: 1000000}": "size",
    "environment={name: sokoban, size: 1000000}": "size",
    "environment={name: sokoban, boxes: 40}": "boxes",
    "environment={name: bandit, high: .inf}": "high",
    "model.build={name: cloned_qwen2, hidden: 1000000000}": "hidden",
    "validation.environment={size: " + "[" * 50 + "}": "levels deep",
    "validation.environment={name: 5}": "validation.environment",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_that_cannot_be_is_refused_with_its_key(override):
    assert OVERRIDES[override] in refused("check", "tiny-sokoban", "--set", override)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("rollout=5", "rollout.groups=4", "rollout = 5"),
        ("collapse=5", "collapse.empty_filter.steps=3", "collapse = 5"),
        ("collapse='a(,'", "collapse.empty_filter.steps=3", "collapse"),
        ("validation.environment=5", "validation.environment.size=6", "validation.environment = 5"),
        ("environment=5", "environment.size=6", "must name a component"),
    ],
)
def test_a_part_of_what_is_no_mapping_is_refused(first, second, message):
    assert message in refused("check", "tiny-sokoban", "--set", first, "--set", second)


PLACES = [
    ({"RANK": "x"}, "RANK is 'x'"),
    ({"RANK": "-1"}, "RANK is '-1'"),
    ({"RANK": ""}, "RANK is ''"),
    ({"RANK": "1"}, "RANK is 1, and WORLD_SIZE is 1"),
    ({"RANK": DIGITS}, "RANK is '111"),
    ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
    ({"RANK": "0", "WORLD_SIZE": "1.5"}, "WORLD_SIZE is '1.5'"),
    ({"RANK": "5", "WORLD_SIZE": "2"}, "RANK is 5, and WORLD_SIZE is 2"),
    ({"WORLD_SIZE": "2"}, "RANK is not set"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "MASTER_PORT is not set"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "99999"}, "MASTER_PORT is '99999'"),
    ({"RANK": "0", "LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
]


@pytest.mark.parametrize(("environment", "message"), PLACES)
def test_an_environment_that_is_no_place_among_ranks_is_refused(tmp_path, monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert message in refused("train", "tiny-sokoban", "--run-dir", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("ranks", "launched"), [(2, 1), (1, 2), (2, 4)])
def test_ranks_are_not_asked_for_in_a_process_of_another_number_of_them(tmp_path, monkeypatch, ranks, launched):
    for name, value in {"RANK": 0, "WORLD_SIZE": launched, "MASTER_ADDR": "localhost", "MASTER_PORT": 4242}.items():
        monkeypatch.setenv(name, str(value))
    command = ("train", "tiny-sokoban", "--ranks", str(ranks), "--run-dir", str(tmp_path / "run"))
    assert f"say that a launcher has started {launched}" in refused(*command)
    hosts = tmp_path / "hosts"
    hosts.write_text(f"localhost slots={ranks}\n")
    command = ("train", "tiny-sokoban", "--hostfile", str(hosts), "--run-dir", str(tmp_path / "run"))
    assert f"say that a launcher has started {launched}" in refused(*command)
    assert not (tmp_path / "run").exists()


OPTIONS = [
    (("train", "tiny-sokoban", "--run-dir", ""), "is empty"),
    (("train", "tiny-sokoban", "--run-dir", "empty.yaml"), "is a file"),
    (("train", "tiny-sokoban", "--run-dir", "n" * 5000), "too long"),
    (("train", "tiny-sokoban", "--run-dir", "~nobody_at_all/x"), "~nobody_at_all"),
    (("train", "tiny-sokoban", "--run-dir", "loop.yaml"), "symbolic links"),
    (("train", "tiny-sokoban", "--run-dir", "empty.yaml/x"), "Not a directory"),
    (("train", "tiny-sokoban", "--run-dir", "missing", "--resume"), "no run directory"),
    (("train", "tiny-sokoban", "--ranks", "0"), "--ranks"),
    (("train", "tiny-sokoban", "--ranks", DIGITS), "--ranks"),
    (("train", "tiny-sokoban", "--ranks", "1000000"), "rollout.groups"),
    (("train", "tiny-sokoban", "--hostfile", "pipe.yaml"), "no such hostfile"),
    (("train", "tiny-sokoban", "--hostfile", "latin.yaml"), "not understood"),
    (("train", "tiny-sokoban", "--hostfile", "large.yaml"), "is larger than"),
    (("train", "tiny-sokoban", "--hostfile", "directory.yaml"), "no such hostfile"),
    (("train", "tiny-sokoban", "--nope"), "No such option"),
    (("train", "tiny-sokoban", "--\x1b[31m"), r"\x1b[31m"),
    (("train", "tiny-sokoban", "more"), "unexpected extra argument"),
    (("train",), "Missing argument"),
    (("trian",), "did you mean 'train'?"),
    (("train", "tiny-sokoban", "--set", "model.build=null", "--set", "model.path=/no/model"), "no such directory"),
    (("train", "tiny-sokoban", "--set", "critic.path=./no_model"), "critic.path"),
    (("eval", "missing", "--temperature", "nan"), "not a finite number"),
    (("eval", "missing", "--temperature", "inf"), "not a finite number"),
    (("eval", "missing", "--temperature", "-1"), "--temperature"),
    (("eval", "missing", "--groups", "1"), "--groups"),
    (("eval", "missing"), "no run directory"),
    (("eval", "empty.yaml"), "no run directory"),
    (("eval", ""), "is empty"),
    (("eval", "a\0"), "null character"),
    (("eval", "loop.yaml/checkpoints/step_1"), "symbolic links"),
    (("export", "missing"), "no run directory"),
    (("export", "missing", "--to", ""), "is empty"),
    (("export", "missing", "--to", "empty.yaml"), "is a file"),
    (("export", "missing", "--dtype", "float8"), "--dtype"),
    (("detect", "missing", "--detector", "empty_filter"), "no run directory"),
    (("detect", "pipe.yaml", "--detector", "empty_filter"), "no run directory"),
    (("detect", "x" * 5000, "--detector", "empty_filter"), "too long"),
    (("list", "nope"), "there is no kind 'nope'"),
    (("list", "k" * 5000), "there is no kind"),
    (("show", "kl", "\x1b]0;x\x07"), "there is no kl"),
    (("show", "nope", "kl"), "there is no kind"),
    (("show", "kl", "n" * 5000), "there is no kl"),
    (("plugins", "--plugin", ""), "is empty"),
    (("plugins", "--plugin", "a\0"), "null character"),
    (("plugins", "--plugin", "loop.yaml"), "no such plugin file"),
    (("plugins", "--plugin", "pipe.yaml"), "no such plugin file"),
    (("plugins", "--plugin", "directory.yaml"), "no such plugin file"),
    (("plugins", "--plugin", "~nobody_at_all/x.py"), "~nobody_at_all"),
    (("plugins", "--plugin", "null.yaml"), "not a Python file"),
    (("doctor", "-e", "tiny-sokoban", "--gpu-memory", "nan"), "--gpu-memory"),
    (("doctor", "-e", "tiny-sokoban", "--gpu-memory", "inf"), "--gpu-memory"),
    (("doctor", "-e", "tiny-sokoban", "--gpu-memory", "1e-300"), "--gpu-memory"),
    (("doctor", "-e", "tiny-sokoban", "--ranks", "x"), "--ranks"),
    (("doctor", "--ranks", "2"), "name one with -e"),
]


@pytest.mark.parametrize(("arguments", "message"), OPTIONS)
def test_an_option_that_cannot_be_is_refused(odd, arguments, message):
    assert message in refused(*arguments)


def test_a_run_directory_that_is_given_as_an_experiment_is_named_with_its_configuration(odd):
    (odd / "run").mkdir()
    (odd / "run" / "config.yaml").write_text("seed: 1")
    assert "did you mean run/config.yaml?" in refused("check", "run")
