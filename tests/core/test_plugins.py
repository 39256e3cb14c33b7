from __future__ import annotations

import pickle
import re
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import uncollapse
from uncollapse import hookimpl
from uncollapse.core import hookspecs, plugins
from uncollapse.core.errors import MissingExtraError, RequestError, RunError
from uncollapse.core.plugins import PluginLoadError, SignatureError, UnknownHookError, call, manager
from uncollapse.core.registry import DuplicateNameError, Registry, UnknownNameError

GOOD = """
    from uncollapse import hookimpl

    class Nothing:
        def select(self, scores_P):
            return scores_P < 0

    @hookimpl
    def register_rollout_filters(register):
        register("{name}", Nothing, summary="keep nothing")
"""


def good(name: str) -> str:
    return GOOD.format(name=name)


# --- provenance -------------------------------------------------------------------------------------------------------


def test_a_plugin_knows_where_it_comes_from(site):
    path = site.install("tidy", good("tidy"), version="2.3")
    plugin = site.plugin("tidy")
    assert (plugin.status, plugin.module, plugin.distribution, plugin.version) == ("loaded", "tidy", "tidy-dist", "2.3")
    assert plugin.source == path
    assert plugin.source_sha256 == sha256(path.read_bytes()).hexdigest()
    assert str(plugin) == "plugin 'tidy' (tidy-dist 2.3)"


def test_our_own_plugins_come_first_and_from_our_own_entry_points(site):
    site.install("aaa", good("aaa"))
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


# --- the errors, each with what, where and how to mend it -------------------------------------------------------------


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
    ("source", "what", "line"),
    [
        ("import sys\nsys.exit(3)\n", "SystemExit: 3", 2),
        ("x = (\n", "SyntaxError: '(' was never closed", 1),
        ("import no_such_module_anywhere\n", "ModuleNotFoundError: No module named 'no_such_module_anywhere'", 1),
    ],
)
def test_other_failing_imports(site, source, what, line):
    path = site.install("explosive", source)
    error = site.error("explosive")
    assert type(error) is PluginLoadError
    assert error.what.startswith(f"plugin 'explosive' (explosive-dist 1.0) cannot be imported: {what}")
    assert error.where == f"{path}:{line}"


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
    site.install("first", good("same"))
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
    site.install("zz_good", good("survivor"))
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


# --- allowing and blocking --------------------------------------------------------------------------------------------


def blocked(site) -> dict[str, str]:
    return {plugin.name: plugin.blocked for plugin in plugins.discover() if plugin.distribution.endswith("-dist")}


def test_allow_list(site, monkeypatch):
    site.install("one", good("one"))
    site.install("two", good("two"))
    assert blocked(site) == {"one": "", "two": ""}
    monkeypatch.setenv("UNCOLLAPSE_PLUGINS", "one")
    assert blocked(site) == {"one": "", "two": "UNCOLLAPSE_PLUGINS"}
    monkeypatch.setenv("UNCOLLAPSE_PLUGINS", " Two.Dist , one")
    assert blocked(site) == {"one": "", "two": ""}
    monkeypatch.setenv("UNCOLLAPSE_PLUGINS", "")
    assert blocked(site) == {"one": "UNCOLLAPSE_PLUGINS", "two": "UNCOLLAPSE_PLUGINS"}
    assert not any(plugin.blocked for plugin in plugins.discover() if plugin.distribution == "uncollapse")


def test_allowing_what_is_not_installed_is_an_error(site, monkeypatch):
    site.install("harmonic", good("harmonic"))
    monkeypatch.setenv("UNCOLLAPSE_PLUGINS", "harmonix")
    with pytest.raises(RequestError) as caught:
        plugins.discover()
    assert str(caught.value) == (
        "plugin 'harmonix' is not installed\n"
        "  where: UNCOLLAPSE_PLUGINS\n"
        "  fix:   did you mean 'harmonic'? (a plugin file is loaded with --plugin FILE.py)"
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
    path = site.module("mine", good("mine"))
    registry = site.registry()
    plugin = registry.load_file(path)
    assert (plugin.name, plugin.module, plugin.distribution) == ("mine", str(path), "")
    assert plugin.source_sha256 == sha256(path.read_bytes()).hexdigest()
    assert registry.entry("rollout_filter", "mine").plugin is plugin
    assert registry.load_file(str(path)) is plugin
    assert registry.files() == (str(path),)


def test_components_of_a_plugin_file_can_be_pickled(site):
    registry = site.registry()
    registry.load_file(site.module("mine", good("mine")))
    component = registry.create("rollout_filter", "mine")
    assert type(pickle.loads(pickle.dumps(component))) is type(component)


def test_files_of_the_same_name_are_different_plugins(site):
    registry = site.registry()
    registry.load_file(site.module("here.mine", good("here")))
    registry.load_file(site.module("there.mine", good("there")))
    assert {"here", "there"} <= set(registry.names("rollout_filter"))


def test_a_failing_plugin_file_is_fatal_and_leaves_nothing(site):
    site.install("holder", good("held"))
    path = site.module("clash", good("other") + '        register("held", Nothing)\n')
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

    def __init__(self, failure: Exception | None = None) -> None:
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


def test_a_failing_hook_is_attributed_and_keeps_no_other_from_running():
    before, failing, after = Session(), Session(KeyError("lr")), Session()
    with pytest.raises(RunError) as caught:
        finish_step(manager([], [before, failing, after]))
    assert before.steps == after.steps == [3]
    name = f"{Session.__module__}.Session (tracker 2)"
    assert str(caught.value).startswith(f"{name} failed in step_finished: KeyError: 'lr'\n  where: {__file__}:")
    assert caught.value.__cause__ is failing.failure


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
    assert set(hookspecs.REGISTRATION.values()) == {name for name in plugins.HOOKS if name.startswith("register_")}
    assert plugins.HOOKS["step_finished"] == ("run", "step", "metrics")
    assert all(plugins.HOOKS[hook] == ("register",) for hook in hookspecs.REGISTRATION.values())


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
    assert (parameter.name, parameter.type, parameter.doc) == ("factor", "float", "Of the mean.")
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
