from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner
from uncollapse.cli import main as cli
from uncollapse.core.errors import RunError
from uncollapse.core.registry import registry

HEAVY = ("torch", "transformers", "deepspeed", "peft", "numpy", "wandb", "matplotlib", "ray", "vllm", "rich", "IPython")
OUR_VERSION = version("uncollapse")

MINE = '''
from __future__ import annotations

import attrs

from uncollapse import hookimpl
from uncollapse.core.components import RolloutFilter


@attrs.frozen
class Mine(RolloutFilter):
    """Keep what is mine.

    scores > share
    """

    share: float = 0.5
    """Of the groups."""
    strict: bool = attrs.field(kw_only=True)

    def select(self, scores_P):
        return scores_P > self.share


@hookimpl
def register_rollout_filters(register):
    register("mine", Mine, summary="keep mine", aliases=("my",))
'''


@pytest.fixture(autouse=True)
def fresh_registry(monkeypatch):
    """The registry of the process, built anew for each test."""
    for name in ("UNCOLLAPSE_PLUGINS", "UNCOLLAPSE_DISABLE_PLUGINS", "UNCOLLAPSE_TRACE"):
        monkeypatch.delenv(name, raising=False)
    registry.cache_clear()
    yield
    registry.cache_clear()


@pytest.fixture
def mine(tmp_path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


@pytest.fixture
def broken(tmp_path, monkeypatch) -> Path:
    """A distribution with a broken plugin, on the path."""
    (tmp_path / "broken-3.1.dist-info").mkdir()
    (tmp_path / "broken-3.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 3.1\n")
    (tmp_path / "broken-3.1.dist-info" / "entry_points.txt").write_text("[uncollapse]\ncracked = cracked_module\n")
    path = tmp_path / "cracked_module.py"
    path.write_text("raise OSError('no disk')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return path


def invoke(*arguments: str, code: int = 0):
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


# --- what start-up imports --------------------------------------------------------------------------------------------


def loaded_modules(*arguments: str, prelude: str = "") -> set[str]:
    """The modules that a process has imported once the command is done."""
    program = f"""
        import sys
        {prelude}
        from uncollapse.cli.main import main
        try:
            main({list(arguments)!r}, prog_name="uncollapse")
        except SystemExit as exit:
            assert not exit.code, exit.code
        print(*sys.modules, file=sys.stderr)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["list", "kl", "--json"], ["plugins"], ["plugins", "--json"]]
)
def test_listing_imports_nothing_heavy(arguments):
    assert not loaded_modules(*arguments) & set(HEAVY)


def test_help_loads_plugins_and_no_command():
    modules = loaded_modules("--help")
    assert {name for name in modules if name.startswith("uncollapse.cli.")} == {"uncollapse.cli.main"}
    ours = {name for name in modules if name.startswith("uncollapse.plugins.") and name.count(".") > 2}
    assert {name.rpartition(".")[2] for name in ours} == {"plugin"}
    assert not modules & {"cattrs", *HEAVY}


def test_the_light_install_lists_and_reports_plugins():
    """As if nothing but the plain dependencies were installed."""
    prelude = f"sys.modules.update(dict.fromkeys({HEAVY!r}))"
    for arguments in (["list"], ["plugins"], ["--version"]):
        loaded_modules(*arguments, prelude=prelude)


# --- list -------------------------------------------------------------------------------------------------------------


def test_list_shows_names_distribution_and_summary(mine):
    lines = invoke("--plugin", mine, "list", "rollout_filter").stdout.splitlines()
    assert lines[0] == "rollout_filter"
    rows = {line.split()[0].rstrip(","): line.split() for line in lines[1:]}
    assert rows["mine"] == ["mine,", "my", "mine.py", "keep", "mine"]
    assert rows["top_p"][1:3] == ["uncollapse", OUR_VERSION]
    starts = {line.index("mine.py" if "mine.py" in line else "uncollapse ") for line in lines[1:]}
    assert len(starts) == 1


def test_list_without_kind_has_every_kind_that_has_names():
    lines = invoke("list").stdout.splitlines()
    kinds = [line for line in lines if not line.startswith(" ")]
    assert kinds == [kind for kind in registry().kinds() if registry().names(kind)]
    assert sum(line.startswith("  ") for line in lines) == sum(len(registry().names(kind)) for kind in kinds)


def test_list_json(mine):
    listed = json.loads(invoke("list", "rollout_filter", "--json", "--plugin", mine).stdout)
    assert [entry["name"] for entry in listed] == registry().names("rollout_filter")
    (entry,) = (entry for entry in listed if entry["name"] == "mine")
    assert entry.pop("target").endswith(":Mine")
    assert entry == {
        "kind": "rollout_filter",
        "name": "mine",
        "aliases": ["my"],
        "summary": "keep mine",
        "plugin": "mine",
        "distribution": "",
        "version": "",
    }


def test_list_of_an_unknown_kind():
    result = invoke("list", "rollout-filter", code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("error: there is no kind 'rollout-filter'\n  fix:   did you mean 'rollout_filter'?")


def test_list_mentions_broken_plugins(broken):
    result = invoke("list")
    assert "cracked" in result.stderr
    assert "(uncollapse plugins says why)" in result.stderr
    assert "cracked" not in result.stdout


# --- show -------------------------------------------------------------------------------------------------------------


def test_show(mine):
    shown = invoke("--plugin", mine, "show", "rollout_filter", "my").stdout
    assert shown.startswith(
        "rollout_filter mine, my: keep mine\n\nKeep what is mine.\n\nscores > share\n\nparameters\n"
    )
    assert "  share: float = 0.5\n      Of the groups.\n  strict: bool (required)\n" in shown
    assert f"source  {mine}\n" in shown
    assert "plugin  mine (a file)\n" in shown


def test_show_json(mine):
    shown = json.loads(invoke("show", "rollout_filter", "mine", "--json", "--plugin", mine).stdout)
    assert shown["parameters"][0] == {
        "name": "share",
        "type": "float",
        "default": 0.5,
        "required": False,
        "doc": "Of the groups.",
        "kind": "",
    }
    assert (shown["needs"], shown["facts"], shown["source"]) == ([], {}, str(mine))


def test_show_of_an_unknown_name(mine):
    result = invoke("--plugin", mine, "show", "rollout_filter", "mina", code=2)
    assert result.stderr.startswith("error: there is no rollout_filter 'mina'\n")
    assert "did you mean 'mine'? rollout_filter names: " in result.stderr


# --- plugins ----------------------------------------------------------------------------------------------------------


def test_plugins_reports_what_is_broken_and_why(broken):
    lines = invoke("plugins").stdout.splitlines()
    rows = [" ".join(line.split()[:4] + line.split()[5:]) for line in lines if " ms " in line]  # without the times
    assert "broken cracked broken 3.1 ms cracked_module" in rows
    assert f"loaded filters uncollapse {OUR_VERSION} ms uncollapse.filters.plugin" in rows
    assert "  plugin 'cracked' (broken 3.1) cannot be imported: OSError: no disk" in lines
    assert f"    where: {broken}:1" in lines


def test_plugins_json(broken, monkeypatch):
    monkeypatch.setenv("UNCOLLAPSE_DISABLE_PLUGINS", "filters")
    reported = {plugin["name"]: plugin for plugin in json.loads(invoke("plugins", "--json").stdout)}
    cracked = reported["cracked"]
    assert (cracked["status"], cracked["distribution"], cracked["version"]) == ("broken", "broken", "3.1")
    assert cracked["errors"][0]["type"] == "PluginLoadError"
    assert cracked["source"] == str(broken)
    assert len(cracked["source_sha256"]) == 64
    assert (reported["filters"]["status"], reported["filters"]["registers"]) == ("blocked", {})
    assert reported["filters"]["blocked_by"] == "UNCOLLAPSE_DISABLE_PLUGINS"


def test_plugins_check(broken, monkeypatch):
    ours = ",".join({plugin.name for plugin in registry().plugins if plugin.distribution == "uncollapse"})
    registry.cache_clear()
    monkeypatch.setenv("UNCOLLAPSE_DISABLE_PLUGINS", ours)
    invoke("plugins")
    invoke("plugins", "--check", code=1)
    broken.write_text(MINE.replace("def select", "def choose"))
    registry.cache_clear()
    assert "lacks select" not in invoke("plugins").stdout
    assert "rollout_filter 'mine' lacks select" in invoke("plugins", "--check", code=1).stdout
    sys.modules.pop("cracked_module")
    broken.write_text(MINE.replace('"mine", Mine', '"mine", "cracked_target:Mine"'))
    (broken.parent / "cracked_target.py").write_text("import vllm\n")
    registry.cache_clear()
    result = invoke("plugins", "--check")
    assert result.stderr == "not imported, for want of an extra (pip install 'uncollapse[vllm]'): rollout_filter mine\n"
    sys.modules.pop("cracked_module")


# --- the group --------------------------------------------------------------------------------------------------------


def test_help_and_version():
    shown = invoke("--help").stdout
    assert all(f"  {name}" in shown and text in shown for name, (_, text) in cli.COMMANDS.items())
    assert invoke("--version").stdout.split()[-1] == OUR_VERSION


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name):
    assert f"{name} [OPTIONS]" in invoke(name, "--help").stdout


def test_unknown_command():
    assert "there is no command 'plugin'; did you mean 'plugins'?" in invoke("plugin", code=2).stderr


def test_a_plugin_file_that_fails_is_fatal(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("raise OSError('no disk')\n")
    for arguments in (["--plugin", bad, "list"], ["list", "--plugin", bad]):
        result = invoke(*arguments, code=2)
        assert result.stderr == (
            f"error: plugin 'bad' ({bad}) cannot be imported: OSError: no disk\n  where: {bad}:1\n  fix:   mend it\n"
        )
        assert result.stdout == ""


def test_an_allowed_plugin_that_is_not_installed_is_an_error(monkeypatch):
    monkeypatch.setenv("UNCOLLAPSE_PLUGINS", "nowhere")
    assert "plugin 'nowhere' is not installed" in invoke("list", code=2).stderr


def raise_in_list(monkeypatch, error: BaseException) -> None:
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr("uncollapse.cli.list.registry", fail)


def test_errors_become_messages_and_exit_codes(monkeypatch):
    raise_in_list(monkeypatch, RunError("the disk is full", "here", "make room"))
    assert invoke("list", code=1).stderr == "error: the disk is full\n  where: here\n  fix:   make room\n"
    monkeypatch.setenv("UNCOLLAPSE_TRACE", "1")
    assert "Traceback (most recent call last)" in invoke("list", code=1).stderr
    raise_in_list(monkeypatch, KeyboardInterrupt())
    assert invoke("list", code=130).stderr == "interrupted\n"


def test_a_missing_library_of_an_extra_is_named(monkeypatch):
    raise_in_list(monkeypatch, ModuleNotFoundError("No module named 'vllm'", name="vllm"))
    assert "pip install 'uncollapse[vllm]'" in invoke("list", code=2).stderr
    ours = ModuleNotFoundError("No module named 'nothing'", name="nothing")
    raise_in_list(monkeypatch, ours)
    assert invoke("list", code=1).exception is ours


def test_doctor_says_what_can_run():
    shown = invoke("doctor").stdout
    assert f"uncollapse    {OUR_VERSION}\n" in shown
    assert f"torch         {version('torch')}\n" in shown
    assert "  list names and plugins  yes\n" in shown


def test_the_installed_command_ends_with_its_exit_code():
    done = subprocess.run(
        [sys.executable, "-m", "uncollapse.cli.main", "show", "kl", "nothing"],
        env=os.environ | {"UNCOLLAPSE_TRACE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no kl 'nothing'\n")
