"""Distributions that misbehave while they are found, imported or called: they are named, and hurt nobody else."""

import json
import os
import pickle
import signal
import sys
import textwrap
import threading
import time

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core import plugins
from uncollapse.core.errors import MissingExtraError
from uncollapse.core.imports import import_alone
from uncollapse.core.plugins import PluginLoadError, SignatureError, UnknownHookError
from uncollapse.core.registry import DuplicateNameError, Registry, registry


@pytest.fixture
def invoke(site):
    """Runs a command with the plugins of the site, as a new process would find them."""

    def invoke(*words):
        registry.cache_clear()
        return CliRunner().invoke(main, words)

    yield invoke
    registry.cache_clear()


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
    good, line = site.good("nothing"), raises.count("\n") + 1
    hook = "\n@hookimpl\ndef register_kl_variants(register):\n"
    if at == "import":
        path = site.install("odd", raises + "\n" + good)
    elif at == "registration":
        path = site.install("odd", good + hook + textwrap.indent(raises, "    "))
        line += (good + hook).count("\n")
    else:
        path = site.module("odd_target", raises + "\nclass Cls: pass")
        site.install("odd", good + hook + "    register('odd', 'odd_target:Cls')\n")
    names = site.registry()
    if at == "use":
        with pytest.raises(PluginLoadError) as failed:
            names.resolve("kl", "odd")
        error = failed.value
    else:
        (odd,) = (plugin for plugin in names.plugins if plugin.name == "odd")
        (error,) = odd.errors
    assert says in str(error)
    assert "plugin 'odd' (odd-dist 1.0)" in str(error)
    assert error.where.endswith(f"{path}:{line}")
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
    noisy = site.good("noisy").replace("(register):", f"(register):{loud}")
    site.install("noisy", NOISY + site.good("noisy") if where == "import" else noisy)
    plugin = site.plugin("noisy")
    out, err = capfd.readouterr()
    assert plugin.status == "loaded"
    assert out == ""
    assert "noise of python" in err
    assert "noise of a library" in err


def test_listing_as_json_is_json_however_much_plugins_print(site, invoke):
    site.install("noisy", NOISY + site.good("noisy"))
    result = invoke("plugins", "--json")
    (noisy,) = (plugin for plugin in json.loads(result.stdout) if plugin["name"] == "noisy")
    assert noisy["registers"] == {"rollout_filter": ["noisy"]}


def test_load_times_are_shown_and_a_slow_plugin_is_named(site, invoke):
    site.install("sleepy", "import time\ntime.sleep(1.1)\n" + site.good("sleepy"))
    site.install("quick")
    result = invoke("list", "kl")
    assert "slow: plugin 'sleepy' (sleepy-dist 1.0) took 1." in result.stderr
    assert "quick" not in result.stderr
    del sys.modules["sleepy"]
    result = invoke("plugins")
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("loaded") and " sleepy " in line)
    assert float(line.split(" ms")[0].split()[-1]) >= 1100


def test_a_summary_is_one_clean_line(site, invoke):
    summary = r"two\nlines,\ttabs and \x1b[31mcolours\x07"
    site.install("gaudy", site.good("gaudy").replace("keep nothing", summary))
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
    site.install("tidy")
    names = site.registry()
    (scrawl,) = (plugin for plugin in names.plugins if plugin.distribution == "scrawl-dist")
    assert scrawl.status == "broken"
    assert says in str(scrawl.errors[0])
    assert "tidy" in names.names("rollout_filter")


def test_comments_other_groups_and_extras_are_no_mistakes(site):
    site.module("tidy", site.good("tidy"))
    site.distribution("tidy-dist", "1.0", tidy="tidy")
    info = site.root / "tidy_dist-1.0.dist-info" / "entry_points.txt"
    info.write_text("# made by hand\n\n[console_scripts]\nx = a.b:c\n\n[uncollapse]\ntidy = tidy [fast,slow]\n")
    assert site.plugin("tidy").status == "loaded"


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


# --- each error says what, where and how to mend it -------------------------------------------------------------------


def test_misspelt_hook(site):
    path = site.install(
        "misspelt",
        """
        from uncollapse import hookimpl

        @hookimpl
        def register_kl_variant(register):
            register("mine", "json:loads")
        """,
    )
    error = site.error("misspelt")
    assert type(error) is UnknownHookError
    assert str(error) == (
        "plugin 'misspelt' (misspelt-dist 1.0): there is no hook 'register_kl_variant'\n"
        f"  where: {path}:4\n"
        "  fix:   did you mean 'register_kl_variants'?"
    )


def test_hook_without_its_mark(site):
    path = site.install(
        "unmarked",
        """
        def register_kl_variants(register):
            register("mine", "json:loads")
        """,
    )
    error = site.error("unmarked")
    assert type(error) is UnknownHookError
    assert str(error) == (
        "plugin 'unmarked' (unmarked-dist 1.0): register_kl_variants is not marked as a hook\n"
        f"  where: {path}:2\n"
        "  fix:   put @hookimpl above it"
    )


def test_module_without_hooks(site):
    site.install("hookless", "x = 1")
    assert str(site.error("hookless")) == (
        "plugin 'hookless' (hookless-dist 1.0) has no hooks\n  fix:   put @hookimpl above its functions"
    )


def test_failing_import(site):
    path = site.install("explosive", "def f():\n    raise OSError('no disk')\n\nf()\n")
    error = site.error("explosive")
    assert type(error) is PluginLoadError
    assert str(error) == (
        "plugin 'explosive' (explosive-dist 1.0) cannot be imported: OSError: no disk\n"
        f"  where: {path}:2\n"
        "  fix:   mend it, or block the plugin: UNCOLLAPSE_DISABLE_PLUGINS=explosive"
    )


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("x = (\n", "SyntaxError: '(' was never closed"),
        ("import no_such_module_anywhere\n", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
    ],
)
def test_other_failing_imports(site, source, what):
    path = site.install("explosive", source)
    error = site.error("explosive")
    assert type(error) is PluginLoadError
    assert error.what.startswith(f"plugin 'explosive' (explosive-dist 1.0) cannot be imported: {what}")
    assert error.where == f"{path}:1"


def test_module_that_does_not_exist(site):
    site.distribution("gone-dist", "1.0", gone="gone.plugin")
    error = site.error("gone")
    assert error.what.endswith("cannot be imported: ModuleNotFoundError: No module named 'gone'")
    assert error.where == "gone.plugin"


def test_import_of_a_library_of_an_extra(site):
    site.install("wants_vllm", "import vllm\n")
    error = site.error("wants_vllm")
    assert type(error) is MissingExtraError
    assert str(error) == (
        "plugin 'wants_vllm' (wants_vllm-dist 1.0) cannot be imported: vllm is not installed\n"
        "  where: the extra [vllm]\n"
        "  fix:   pip install 'uncollapse[vllm]'"
    )


def test_wrong_signature(site):
    path = site.install(
        "curious",
        """
        from uncollapse import hookimpl

        @hookimpl
        def step_finished(run, step, loss):
            pass
        """,
    )
    error = site.error("curious")
    assert type(error) is SignatureError
    assert str(error) == (
        "plugin 'curious' (curious-dist 1.0): step_finished is not given an argument 'loss'\n"
        f"  where: {path}:4\n"
        "  fix:   it may take: run, step, metrics"
    )


def test_hook_wrapper(site):
    site.install(
        "wrapping",
        """
        from uncollapse import hookimpl

        @hookimpl(wrapper=True)
        def run_started(run):
            return (yield)
        """,
    )
    assert type(site.error("wrapping")) is SignatureError
    assert "run_started cannot be a hook wrapper" in str(site.error("wrapping"))


def test_hook_that_raises_while_it_registers(site):
    path = site.install(
        "clumsy",
        """
        from uncollapse import hookimpl

        @hookimpl
        def register_sweeps(register):
            register("early", {})
            1 / 0

        @hookimpl
        def register_experiments(register):
            register("clumsy", {})
        """,
    )
    error = site.error("clumsy")
    assert type(error) is PluginLoadError
    assert str(error) == (
        "plugin 'clumsy' (clumsy-dist 1.0) failed in register_sweeps: ZeroDivisionError: division by zero\n"
        f"  where: {path}:7\n"
        "  fix:   mend it, or block the plugin: UNCOLLAPSE_DISABLE_PLUGINS=clumsy"
    )
    assert "early" in site.registry().names("sweep")
    assert "clumsy" in site.registry().names("experiment")


def test_duplicate_name_keeps_the_first_and_the_other_names(site):
    site.install("first", site.good("same"))
    site.install(
        "second",
        """
        from uncollapse import hookimpl

        @hookimpl
        def register_rollout_filters(register):
            register("same", "second:Nothing")
            register("another", "second:Nothing", aliases=("same",))
            register("fresh", "second:Nothing")
        """,
    )
    registry = site.registry()
    assert registry.entry("rollout_filter", "same").distribution == "first-dist"
    assert "fresh" in registry.names("rollout_filter")
    assert "another" not in registry.names("rollout_filter")
    errors = site.plugin("second").errors
    assert [type(error) for error in errors] == [DuplicateNameError] * 2
    assert str(errors[0]) == (
        "rollout_filter 'same' is registered twice\n"
        "  where: first by plugin 'first' (first-dist 1.0), again by plugin 'second' (second-dist 1.0); "
        "the first stays\n"
        "  fix:   give one of them another name, or block a plugin: UNCOLLAPSE_DISABLE_PLUGINS=second"
    )
    assert site.plugin("first").status == "loaded"


def test_one_broken_plugin_hurts_no_other(site):
    untouched = Registry(plugins.discover())
    site.install("bad_import", "raise RuntimeError")
    site.install("bad_hook", "from uncollapse import hookimpl\n@hookimpl\ndef register_x(register): pass\n")
    site.install("zz_good", site.good("survivor"))
    registry = site.registry()
    assert {plugin.name: plugin.status for plugin in registry.plugins if plugin.distribution.endswith("-dist")} == {
        "bad_import": "broken",
        "bad_hook": "broken",
        "zz_good": "loaded",
    }
    assert registry.names("rollout_filter") == sorted([*untouched.names("rollout_filter"), "survivor"])
    for kind in set(registry.kinds()) - {"rollout_filter"}:
        assert registry.names(kind) == untouched.names(kind)


def test_errors_survive_pickling(site):
    site.install("explosive", "raise OSError('no disk')")
    error = site.error("explosive")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))
