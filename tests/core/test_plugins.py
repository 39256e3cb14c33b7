from __future__ import annotations

import pickle
import re
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import uncollapse
from uncollapse import hookimpl
from uncollapse.core import plugins
from uncollapse.core.calling import call, manager
from uncollapse.core.errors import MissingExtraError, RequestError, RunError
from uncollapse.core.kinds import KINDS
from uncollapse.core.plugins import PluginLoadError, SignatureError, UnknownHookError
from uncollapse.core.registry import DuplicateNameError, Registry, UnknownNameError

# --- provenance -------------------------------------------------------------------------------------------------------


def test_what_a_build_left_beside_the_source_does_not_count_where_the_package_is_installed(site):
    site.install("held")
    old = site.root / "held_dist.egg-info"
    old.mkdir()
    (old / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: held-dist\nVersion: 0.1\n")
    (old / "entry_points.txt").write_text("[uncollapse]\ngone = gone_module\n")
    ours = [plugin for plugin in site.registry().plugins if plugin.distribution == "held-dist"]
    assert [(plugin.name, plugin.version, plugin.status) for plugin in ours] == [("held", "1.0", "loaded")]


def test_a_plugin_knows_where_it_comes_from(site):
    path = site.install("tidy", version="2.3")
    plugin = site.plugin("tidy")
    assert (plugin.status, plugin.module, plugin.distribution, plugin.version) == ("loaded", "tidy", "tidy-dist", "2.3")
    assert plugin.source == path
    assert plugin.source_sha256 == sha256(path.read_bytes()).hexdigest()
    assert str(plugin) == "plugin 'tidy' (tidy-dist 2.3)"


def test_our_own_plugins_come_first_and_from_our_own_entry_points(site):
    site.install("aaa")
    distributions = [plugin.distribution for plugin in site.registry().plugins]
    ours = distributions.count("uncollapse")
    assert ours >= 10
    assert distributions[:ours] == ["uncollapse"] * ours
    assert "aaa-dist" in distributions[ours:]


def test_an_entry_point_may_name_an_object(site):
    site.distribution("object-dist", "1.0", thing="objects:PLUGIN")
    site.module(
        "objects",
        """
        from uncollapse import hookimpl

        class Plugin:
            @hookimpl
            def register_sweeps(self, register):
                register("nothing", {"axes": {}})

        PLUGIN = Plugin()
        """,
    )
    assert site.plugin("thing").status == "loaded"
    assert "nothing" in site.registry().names("sweep")


# --- allowing and blocking --------------------------------------------------------------------------------------------


def blocked(site) -> dict[str, str]:
    return {plugin.name: plugin.blocked for plugin in plugins.discover() if plugin.distribution.endswith("-dist")}


def test_allow_list(site, monkeypatch):
    site.install("one")
    site.install("two")
    assert blocked(site) == {"one": "", "two": ""}
    monkeypatch.setenv("UNCOLLAPSE_PLUGINS", "one")
    assert blocked(site) == {"one": "", "two": "UNCOLLAPSE_PLUGINS"}
    monkeypatch.setenv("UNCOLLAPSE_PLUGINS", " Two.Dist , one")
    assert blocked(site) == {"one": "", "two": ""}
    monkeypatch.setenv("UNCOLLAPSE_PLUGINS", "")
    assert blocked(site) == {"one": "UNCOLLAPSE_PLUGINS", "two": "UNCOLLAPSE_PLUGINS"}
    assert not any(plugin.blocked for plugin in plugins.discover() if plugin.distribution == "uncollapse")


def test_allowing_what_is_not_installed_is_an_error(site, monkeypatch):
    site.install("harmonic")
    monkeypatch.setenv("UNCOLLAPSE_PLUGINS", "harmonix")
    with pytest.raises(RequestError) as caught:
        plugins.discover()
    assert str(caught.value) == (
        "plugin 'harmonix' is not installed\n"
        "  where: UNCOLLAPSE_PLUGINS\n"
        "  fix:   did you mean 'harmonic'? (a plugin file is loaded with --plugin FILE.py, in Python with load_file)"
    )


def test_a_blocked_plugin_is_not_imported(site, monkeypatch):
    site.install("explosive", "raise SystemExit('imported')")
    monkeypatch.setenv("UNCOLLAPSE_DISABLE_PLUGINS", "explosive-dist,not-installed")
    plugin = site.plugin("explosive")
    assert (plugin.status, plugin.blocked, plugin.errors) == ("blocked", "UNCOLLAPSE_DISABLE_PLUGINS", [])


def test_built_ins_can_be_blocked_by_name(site, monkeypatch):
    monkeypatch.setenv("UNCOLLAPSE_DISABLE_PLUGINS", "filters")
    assert site.registry().names("rollout_filter") == []


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_plugin_file(site):
    path = site.module("mine", site.good("mine"))
    registry = site.registry()
    plugin = registry.load_file(path)
    assert (plugin.name, plugin.module, plugin.distribution) == ("mine", str(path), "")
    assert plugin.source_sha256 == sha256(path.read_bytes()).hexdigest()
    assert registry.entry("rollout_filter", "mine").plugin is plugin
    assert registry.load_file(str(path)) is plugin
    assert registry.files() == (str(path),)


def test_components_of_a_plugin_file_can_be_pickled(site):
    registry = site.registry()
    registry.load_file(site.module("mine", site.good("mine")))
    component = registry.create("rollout_filter", "mine")
    assert type(pickle.loads(pickle.dumps(component))) is type(component)


def test_files_of_the_same_name_are_different_plugins(site):
    registry = site.registry()
    registry.load_file(site.module("here.mine", site.good("here")))
    registry.load_file(site.module("there.mine", site.good("there")))
    assert {"here", "there"} <= set(registry.names("rollout_filter"))


def test_a_failing_plugin_file_is_fatal_and_leaves_nothing(site):
    site.install("holder", site.good("held"))
    path = site.module("clash", site.good("other") + '    register("held", Nothing)\n')
    registry = site.registry()
    with pytest.raises(DuplicateNameError, match="rollout_filter 'held' is registered twice") as caught:
        registry.load_file(path)
    assert caught.value.exit_code == 2
    assert "other" not in registry.names("rollout_filter")
    assert registry.files() == ()


@pytest.mark.parametrize(
    ("name", "source", "error"),
    [
        ("broken.py", "raise OSError", PluginLoadError),
        ("misspelt.py", "from uncollapse import hookimpl\n@hookimpl\ndef run_start(run): pass\n", UnknownHookError),
        ("wrong.py", "from uncollapse import hookimpl\n@hookimpl\ndef run_started(it): pass\n", SignatureError),
        ("notes.txt", "", PluginLoadError),
    ],
)
def test_plugin_files_that_cannot_be_loaded(tmp_path, name, source, error):
    path = tmp_path / name
    path.write_text(source)
    with pytest.raises(error) as caught:
        plugins.load_file(path)
    assert caught.value.exit_code == 2


def test_plugin_file_that_does_not_exist(tmp_path):
    with pytest.raises(PluginLoadError, match="there is no such plugin file"):
        plugins.load_file(tmp_path / "absent.py")


# --- calling ----------------------------------------------------------------------------------------------------------


class Session:
    """What a tracker starts."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.steps: list[int] = []
        self.failure = failure

    @hookimpl
    def step_finished(self, step, metrics):
        if self.failure:
            raise self.failure
        self.steps.append(step)
        return metrics["loss"] * step


def finish_step(run_manager, step: int = 3):
    return call(run_manager, "step_finished", run=None, step=step, metrics={"loss": 0.5})


def test_call_reaches_plugins_and_sessions_the_last_first(site):
    site.install(
        "watching",
        """
        from uncollapse import hookimpl

        @hookimpl
        def step_finished(step):
            return f"plugin {step}"
        """,
    )
    session = Session()
    assert finish_step(manager(site.registry().plugins, [session])) == [1.5, "plugin 3"]
    assert session.steps == [3]


@pytest.mark.parametrize("failure", [KeyError("lr"), SystemExit(5)], ids=repr)
def test_a_failing_hook_is_attributed_and_keeps_no_other_from_running(failure):
    before, failing, after = Session(), Session(failure), Session()
    with pytest.raises(RunError) as caught:
        finish_step(manager([], [before, failing, after]))
    assert before.steps == after.steps == [3]
    name = f"{Session.__module__}.Session (tracker 2)"
    says = f"{type(failure).__name__}: {failure}"
    assert str(caught.value).startswith(f"{name} failed in step_finished: {says}\n  where: {__file__}:")
    assert caught.value.__cause__ is failure


def test_our_own_errors_go_through_and_further_failures_are_noted():
    ours = RunError("the disk is full")
    with pytest.raises(RunError) as caught:
        finish_step(manager([], [Session(ValueError("second")), Session(ours)]))
    assert caught.value is ours
    assert "ValueError: second" in caught.value.__notes__[0]


def test_sessions_are_checked():
    class Misspelt:
        @hookimpl
        def step_done(self, step):
            pass

    with pytest.raises(UnknownHookError, match="there is no hook 'step_done'"):
        manager([], [Misspelt()])
    session = Session()
    with pytest.raises(RequestError, match="Session is there twice"):
        manager([], [session, session])


def test_trace(site, monkeypatch, capsys):
    monkeypatch.setenv("UNCOLLAPSE_TRACE", "1")
    finish_step(manager([], [Session()]), step=2)
    line = (
        f"uncollapse: {Session.__module__}.Session (tracker 1): step_finished(step=2, metrics={{'loss': 0.5}}) -> 1.0\n"
    )
    assert capsys.readouterr().err == line
    with pytest.raises(RunError):
        finish_step(manager([], [Session(KeyError("lr"))]))
    assert capsys.readouterr().err.endswith("raised KeyError('lr')\n")
    monkeypatch.setenv("UNCOLLAPSE_TRACE", "0")
    finish_step(manager([], [Session()]))
    assert capsys.readouterr().err == ""


def test_hooks_are_exactly_the_specifications():
    assert {kind.hook for kind in KINDS.values()} == {name for name in plugins.HOOKS if name.startswith("register_")}
    assert plugins.HOOKS["step_finished"] == ("run", "step", "metrics")
    assert all(plugins.HOOKS[hook] == ("register",) for hook in (kind.hook for kind in KINDS.values()))


# --- the documentation ------------------------------------------------------------------------------------------------

GUIDE = (Path(uncollapse.__file__).parent / "docs" / "plugins.md").read_text("utf-8")


def test_the_guide_documents_every_hook_with_its_arguments():
    documented = dict(re.findall(r"^(?:\| |- )`(\w+)\(([^)]*)\)`", GUIDE, flags=re.MULTILINE))
    assert documented == {name: ", ".join(arguments) for name, arguments in plugins.HOOKS.items()}


def test_the_first_filter_of_the_guide_works(tmp_path):
    source = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)[0]
    assert len(source.splitlines()) <= 20
    (tmp_path / "above_mean.py").write_text(source)
    registry = Registry()
    registry.load_file(tmp_path / "above_mean.py")
    component = registry.create("rollout_filter", "above_mean", 1.5)
    assert component.select(torch.tensor([1.0, 2.0, 3.0])).tolist() == [False, False, True]
    (parameter,) = registry.describe("rollout_filter", "above_mean").parameters
    assert (parameter.name, parameter.type, parameter.doc) == (
        "factor",
        "float",
        "Smallest score that is kept, as a multiple of the mean.",
    )
    with pytest.raises(RequestError, match="'factor' must be >= 0"):
        registry.create("rollout_filter", "above_mean", factor=-1.0)


def test_the_guide_shows_the_plugin_module_of_the_example():
    example = Path(uncollapse.__file__).parent / "examples/uncollapse-example/uncollapse_example/plugin.py"
    shown = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)[1]
    assert shown.partition("@hookimpl")[2].strip() in example.read_text("utf-8")


def test_the_guide_names_the_errors():
    errors = set(re.findall(r"^\| `(\w+Error)`", GUIDE, flags=re.MULTILINE))
    theirs = (
        UnknownHookError,
        PluginLoadError,
        SignatureError,
        DuplicateNameError,
        UnknownNameError,
        MissingExtraError,
    )
    assert errors == {error.__name__ for error in theirs}
