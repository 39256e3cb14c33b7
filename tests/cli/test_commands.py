"""Commands that plugins register, ours among them."""

import os
import subprocess
import sys

import pytest

PLUGIN = """
import click
from uncollapse.core.hookspecs import hookimpl


@click.command()
@click.argument("name")
@click.option("--times", default=1, show_default=True, help="How often.")
def greet(name, times):
    "Greet NAME."
    click.echo(" ".join([f"hello {name}"] * times))


@hookimpl
def register_commands(register):
    register("greet", greet, summary="Say hello.", aliases=("hail",))
"""
OURS = ("detect", "eval", "export", "probe", "report", "sweep", "train", "transcripts")


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "uncollapse.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def plugin(tmp_path):
    def write(text=PLUGIN):
        path = tmp_path / "greeting.py"
        path.write_text(text)
        return path

    return write


def listed(*options, **environment):
    """The commands of ``--help``."""
    text = run(*options, "--help", **environment).stdout
    return [line.split()[0] for line in text.partition("Commands:\n")[2].splitlines()]


def test_a_plugin_adds_a_command_with_its_own_options(plugin):
    path = plugin()
    assert run("--plugin", path, "greet", "you", "--times", "2").stdout == "hello you hello you\n"
    assert run("--plugin", path, "hail", "you").stdout == "hello you\n"
    assert "greet" in listed("--plugin", path)
    assert "greet" not in listed()
    shown = run("show", "command", "greet", "--plugin", path).stdout
    assert "Greet NAME." in shown and "--times: integer = 1" in shown and str(path) in shown


def test_our_commands_are_those_that_our_plugins_register():
    assert listed() == ["list", "show", "plugins", "check", "doctor", *OURS]
    names = [line.split()[0] for line in run("list", "command").stdout.splitlines()[1:]]
    assert names == list(OURS)


def test_a_blocked_plugin_leaves_no_command_and_that_is_said():
    blocked = {"UNCOLLAPSE_DISABLE_PLUGINS": "probe,sweeps"}
    assert not {"probe", "sweep"} & {*listed(**blocked)}
    done = run("probe", "run", **blocked)
    assert done.returncode == 2
    assert "there is no command 'probe'" in done.stderr
    assert "probe (blocked)" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"greet"', '"list"', "'list' is a command of uncollapse itself"),
        ('"greet"', '"train"', "command 'train' is registered twice"),
        ("@click.command()\n@click.argument", "@click.argument", "a function, not a click command"),
    ],
)
def test_what_cannot_be_a_command_is_refused_by_name(plugin, old, new, message):
    path = plugin(PLUGIN.replace(old, new))
    done = run("--plugin", path, "greet", "you")
    assert done.returncode == 2
    assert message in done.stderr and str(path) in done.stderr and "Traceback" not in done.stderr


def test_help_says_what_is_wrong_with_the_environment():
    done = run("--help", UNCOLLAPSE_PLUGINS="nothing-like-it")
    assert done.returncode == 2
    assert "plugin 'nothing-like-it' is not installed" in done.stderr and "Traceback" not in done.stderr


def test_the_help_of_all_commands_imports_neither_torch_nor_a_component():
    code = (
        "import sys; from uncollapse.cli.main import main; main(['--help'], standalone_mode=False); "
        "print(sorted(n for n in sys.modules if n == 'torch' or n.startswith('uncollapse.plugins.training.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['uncollapse.plugins.training.plugin']"
