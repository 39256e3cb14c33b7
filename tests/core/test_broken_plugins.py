"""Distributions that misbehave while they are found, imported or called: they are named, and hurt nobody else."""

import json
import os
import signal
import sys
import threading
import time

import pytest
from click.testing import CliRunner
from uncollapse import hookimpl
from uncollapse.cli.main import main
from uncollapse.core import plugins
from uncollapse.core.errors import RunError
from uncollapse.core.imports import import_alone
from uncollapse.core.registry import registry


@pytest.fixture
def invoke(site):
    """Runs a command with the plugins of the site, as a new process would find them."""

    def invoke(*words):
        registry.cache_clear()
        return CliRunner().invoke(main, words)

    yield invoke
    registry.cache_clear()


GOOD = """
from uncollapse import hookimpl

class Nothing:
    def select(self, scores_P):
        return scores_P < 0

@hookimpl
def register_rollout_filters(register):
    register("nothing", Nothing, summary="keep nothing")
"""


@pytest.mark.parametrize(
    ("raises", "says"),
    [
        ("class Odd(BaseException): pass\nraise Odd('no')", "Odd: no"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise GeneratorExit", "GeneratorExit: "),
        ("import asyncio; raise asyncio.CancelledError('over')", "CancelledError: over"),
    ],
)
@pytest.mark.parametrize("at", ["import", "registration", "use"])
def test_whatever_a_plugin_raises_stays_with_it_and_is_named(site, raises, says, at):
    if at == "import":
        source = raises + "\n" + GOOD
    elif at == "registration":
        source = f"{GOOD}\n@hookimpl\ndef register_kl_variants(register):\n    " + raises.replace("\n", "\n    ")
    else:
        site.module("odd_target", raises + "\nclass Cls: pass")
        source = GOOD + "\n@hookimpl\ndef register_kl_variants(register):\n    register('odd', 'odd_target:Cls')\n"
    site.install("odd", source)
    names = site.registry()
    if at == "use":
        with pytest.raises(plugins.PluginLoadError) as failed:
            names.resolve("kl", "odd")
        error = failed.value
    else:
        (odd,) = (plugin for plugin in names.plugins if plugin.name == "odd")
        (error,) = odd.errors
    assert says in str(error)
    assert "plugin 'odd' (odd-dist 1.0)" in str(error)
    assert "odd" in error.where
    assert ".py:" in error.where
    assert "low_var_kl" in names.names("kl")


def test_a_ctrl_c_while_a_plugin_is_imported_is_a_ctrl_c():
    def press():
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        time.sleep(20)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        import_alone(press)
    assert signal.getsignal(signal.SIGINT) is handler


NOISY = "import os\nprint('noise of python')\nos.write(1, b'noise of a library')\n"


@pytest.mark.parametrize("where", ["import", "registration"])
def test_what_a_plugin_prints_goes_to_stderr(site, capfd, where):
    loud = "\n    ".join(["", *NOISY.splitlines()])
    noisy = GOOD.replace("(register):", f"(register):{loud}")
    site.install("noisy", NOISY + GOOD if where == "import" else noisy)
    plugin = site.plugin("noisy")
    out, err = capfd.readouterr()
    assert plugin.status == "loaded"
    assert out == ""
    assert "noise of python" in err
    assert "noise of a library" in err


def test_listing_as_json_is_json_however_much_plugins_print(site, invoke):
    site.install("noisy", NOISY + GOOD)
    result = invoke("plugins", "--json")
    (noisy,) = (plugin for plugin in json.loads(result.stdout) if plugin["name"] == "noisy")
    assert noisy["registers"] == {"rollout_filter": ["nothing"]}


def test_load_times_are_shown_and_a_slow_plugin_is_named(site, invoke):
    site.install("sleepy", "import time\ntime.sleep(1.1)\n" + GOOD)
    site.install("quick", GOOD.replace("nothing", "something"))
    result = invoke("list", "kl")
    assert "slow: plugin 'sleepy' (sleepy-dist 1.0) took 1." in result.stderr
    assert "quick" not in result.stderr
    del sys.modules["sleepy"]
    result = invoke("plugins")
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("loaded") and " sleepy " in line)
    assert float(line.split(" ms")[0].split()[-1]) >= 1100


def test_a_summary_is_one_clean_line(site, invoke):
    summary = r"two\nlines,\ttabs and \x1b[31mcolours\x07"
    site.install("gaudy", GOOD.replace("keep nothing", summary))
    result = invoke("list", "rollout_filter")
    (line,) = (line for line in result.stdout.splitlines() if "gaudy" in line)
    assert line.endswith(r"two lines, tabs and \x1b[31mcolours\x07")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[uncollapse\nmine = mine\n", "line 1 of entry_points.txt must be [uncollapse], not [uncollapse"),
        ("uncollapse]\nmine = mine\n", "line 1 of entry_points.txt must be [uncollapse], not uncollapse]"),
        (
            "[uncollapse]\nno entry\n",
            "line 2 of entry_points.txt is no entry (name = module): no entry",
        ),
        ("[uncollapse]\nmine = not a module!\n", "line 2 of entry_points.txt is no entry"),
        ("[uncollapse]\nmine =\n", "line 2 of entry_points.txt is no entry"),
        ("mine\n[uncollapse]\nmine = mine\n", "line 1 of entry_points.txt is no entry"),
    ],
)
def test_an_announcement_that_cannot_be_read_is_a_broken_plugin(site, text, says):
    site.distribution("scrawl-dist", "1.0", mine="mine")
    site.root.joinpath("scrawl_dist-1.0.dist-info", "entry_points.txt").write_text(text)
    site.install("tidy", GOOD)
    names = site.registry()
    (scrawl,) = (plugin for plugin in names.plugins if plugin.distribution == "scrawl-dist")
    assert scrawl.status == "broken"
    assert says in str(scrawl.errors[0])
    assert "nothing" in names.names("rollout_filter")


def test_comments_other_groups_and_extras_are_no_mistakes(site):
    site.module("tidy", GOOD)
    site.distribution("tidy-dist", "1.0", tidy="tidy")
    info = site.root / "tidy_dist-1.0.dist-info" / "entry_points.txt"
    info.write_text("# made by hand\n\n[console_scripts]\nx = a.b:c\n\n[uncollapse]\ntidy = tidy [fast,slow]\n")
    assert site.plugin("tidy").status == "loaded"


def test_a_hook_that_leaves_the_program_is_named(site):
    class Leaver:
        @hookimpl
        def step_finished(self, step):
            sys.exit(5)

    manager = plugins.manager([], [Leaver()])
    with pytest.raises(RunError, match=r"(?s)Leaver \(tracker 1\) failed in step_finished: SystemExit: 5.*\.py:"):
        plugins.call(manager, "step_finished", run=None, step=1, metrics={})


@pytest.mark.parametrize("command", ["check", "list"])
def test_broken_plugins_are_mentioned_once(site, invoke, command):
    site.install("broken", "1 / 0")
    words = ["check", "tiny-sokoban"] if command == "check" else ["list"]
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("broken") == 2  # the word and the name
    assert "broken: broken (uncollapse plugins says why)" in result.stderr


def test_check_composes_experiments_and_sweeps(site, invoke):
    site.install(
        "recipes",
        """
        from uncollapse import hookimpl

        @hookimpl
        def register_experiments(register):
            register("fine", {"extends": "tiny-sokoban", "seed": 3})
            register("misspelt", {"extends": "tiny-sokoban", "kl": {"ceof": 1}})

        @hookimpl
        def register_sweeps(register):
            register("grid", {"experiment": "fine", "axes": {"seed": [0, 1]}})
            register("nowhere", {"experiment": "tiny-sokobam", "axes": {"seed": [0, 1]}})
        """,
    )
    result = invoke("plugins", "--check")
    assert result.exit_code == 1
    lines = result.stdout.split("\nrecipes (recipes-dist 1.0)\n")[1]
    assert "kl.ceof = 1: unknown key" in lines
    assert "there is no experiment 'tiny-sokobam'" in lines
    assert lines.count("fix:") + lines.count("did you mean") >= 2
    assert "problem with the experiment tiny-sokoban" not in result.stdout
