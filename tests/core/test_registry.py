from __future__ import annotations

import sys
from hashlib import sha256

import pytest
from uncollapse.core import components
from uncollapse.core.calling import call
from uncollapse.core.errors import MissingExtraError, RequestError
from uncollapse.core.kinds import KINDS
from uncollapse.core.plugins import PluginLoadError, SignatureError
from uncollapse.core.registry import Registry, UnknownNameError, registry
from uncollapse.core.targets import locate

COMPONENTS = '''
from __future__ import annotations

from typing import ClassVar, Literal

import attrs
from uncollapse.core.components import GroupMetric, KlVariant, RolloutFilter


@attrs.frozen
class Base(RolloutFilter):
    share: float = attrs.field(default=0.5, validator=[attrs.validators.instance_of(float), attrs.validators.le(1.0)])
    """Of the groups,
    in (0, 1]."""


@attrs.frozen
class Filter(Base):
    """Keep a share.

    The formula stands here.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"turns", "groups"})

    type: Literal["largest", "smallest"] = attrs.field(
        default="largest", validator=attrs.validators.in_(("largest", "smallest"))
    )
    """Which."""
    weights: list[float] = attrs.field(factory=list, kw_only=True)

    def select(self, scores_P):
        return scores_P > self.share


@attrs.frozen
class Required(RolloutFilter):
    value: int

    def select(self, scores_P):
        return scores_P > self.value


@attrs.frozen
class Metric(GroupMetric):
    def score(self, rollouts):
        return rollouts


@attrs.frozen
class Variant(KlVariant):
    """A variant."""

    value_bias: ClassVar[str] = "none"
    gradient_bias: ClassVar[str] = "all of it"

    def __call__(self, logprobs, ref_logprobs):
        return logprobs - ref_logprobs


@attrs.frozen
class Silent(KlVariant):
    """Not callable."""


@attrs.frozen
class Alone:
    def select(self, scores_P):
        return scores_P > 0


def twice(share=0.25):
    """A filter made by a function."""
    return Filter(share=2 * share)


def wrong():
    return Metric()


def made_alone():
    return Alone()


def experiment():
    return {"seed": 7}
'''

PLUGIN = """
from uncollapse import hookimpl


@hookimpl
def register_rollout_filters(register):
    register("share", "kit.components:Filter", summary="keep a share", aliases=("portion",))
    register("required", "kit.components:Required")
    register("metric", "kit.components:Metric")
    register("twice", "kit.components:twice")
    register("wrong", "kit.components:wrong")
    register("alone", "kit.components:Alone")
    register("made_alone", "kit.components:made_alone")
    register("torchy", "kit.torchy:Filter")
    register("vanished", "kit.components:Vanished")


@hookimpl
def register_kl_variants(register):
    register("variant+", "kit.components:Variant")
    register("silent", "kit.components:Silent")


@hookimpl
def register_experiments(register):
    register("file", "kit:small.yaml", summary="a file")
    register("mapping", {"nested": {"seed": 1}})
    register("function", "kit.components:experiment")
    register("invalid", "kit:invalid.yaml")
    register("list", "kit:list.yaml")
"""


@pytest.fixture
def kit(site) -> Registry:
    site.distribution("kit-dist", "0.3", kit="kit.plugin")
    site.module("kit.__init__", "")
    site.module("kit.components", COMPONENTS)
    site.module("kit.torchy", "import torch\nraise AssertionError('listing imported me')")
    site.module("kit.plugin", PLUGIN)
    (site.root / "kit/small.yaml").write_text("# a comment\nseed: 3\nmodel: {build: no}\n")
    (site.root / "kit/invalid.yaml").write_text("seed: 3\nseed: 4\n")
    (site.root / "kit/list.yaml").write_text("- 1\n")
    return site.registry()


def message(action) -> str:
    with pytest.raises(RequestError) as caught:
        action()
    assert caught.value.exit_code == 2
    return str(caught.value)


# --- listing ----------------------------------------------------------------------------------------------------------


def test_kinds_are_those_of_the_hooks():
    assert Registry().kinds() == list(KINDS)
    assert {name for name, kind in KINDS.items() if not kind.is_component} == {"experiment", "sweep", "command"}
    assert all(hasattr(components, kind.contract) for kind in KINDS.values() if kind.is_component)


def test_names_and_entries(kit):
    mine = [entry for entry in kit.entries("kl") if entry.plugin.name == "kit"]
    assert [entry.name for entry in mine] == ["silent", "variant+"]
    entry = kit.entry("rollout_filter", "portion")
    assert entry is kit.entry("rollout_filter", "share")
    assert (entry.name, entry.aliases, entry.summary) == ("share", ("portion",), "keep a share")
    assert (entry.plugin.name, entry.distribution, entry.version) == ("kit", "kit-dist", "0.3")
    assert entry.target_string == "kit.components:Filter"
    assert "portion" not in kit.names("rollout_filter")
    assert kit.names("rollout_filter") == sorted(kit.names("rollout_filter"))


def test_listing_imports_no_component(kit):
    assert [entry.name for kind in kit.kinds() for entry in kit.entries(kind)]
    assert "kit.plugin" in sys.modules
    assert "kit.components" not in sys.modules
    assert "kit.torchy" not in sys.modules


def test_one_registry_per_process():
    assert registry() is registry()


# --- unknown names ----------------------------------------------------------------------------------------------------


def test_unknown_name(site):
    site.install(
        "small",
        """
        from uncollapse import hookimpl

        @hookimpl
        def register_model_builders(register):
            register("toy_transformer", "json:JSONEncoder", aliases=("toy",))
        """,
    )
    registry = Registry([site.plugin("small")])
    assert message(lambda: registry.create("model_builder", "toy_transformr")) == (
        "there is no model_builder 'toy_transformr'\n"
        "  fix:   did you mean 'toy_transformer'? model_builder names: toy, toy_transformer"
    )
    assert message(lambda: registry.resolve("model_builder", "zebra")).endswith("choose one of: toy, toy_transformer")
    assert message(lambda: registry.resolve("sweep", "kl")) == "there is no sweep 'kl'\n  fix:   there is none"


def test_unknown_kind(kit):
    assert message(lambda: kit.names("rollout_filters")).startswith(
        "there is no kind 'rollout_filters'\n  fix:   did you mean 'rollout_filter'? kinds: advantage, "
    )


def test_an_unknown_name_may_come_from_a_plugin_that_is_not_there(site, monkeypatch):
    site.install("broken_one", "raise OSError")
    site.install("blocked_one", "raise OSError")
    monkeypatch.setenv("UNCOLLAPSE_DISABLE_PLUGINS", "blocked_one")
    with pytest.raises(UnknownNameError) as caught:
        site.registry().entry("kl", "mine")
    assert "broken_one (broken)" in caught.value.where
    assert "blocked_one (blocked)" in caught.value.where


# --- what a target must be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "target", "problem"),
    [
        ("kl_variants", "'nomodule.anywhere:X'", "kl 'x': there is no module 'nomodule.anywhere'"),
        ("kl_variants", "'json.nosuch:X'", "kl 'x': there is no module 'json.nosuch'"),
        ("kl_variants", "'json.decoder.deep:X'", "kl 'x': there is no module 'json.decoder.deep'"),
        ("kl_variants", "'json'", "kl 'x': 'json' is not 'module:attribute'"),
        ("kl_variants", "7", "kl 'x': int is not a component class"),
        ("kl_variants", "{}", "kl 'x': dict is not a component class"),
        (
            "kl_variants",
            "'json:a.yaml'",
            "kl 'x': 'json:a.yaml' is a file, and only experiments and sweeps can be files",
        ),
        ("sweeps", "'json:a.yaml'", "sweep 'x': there is no file 'a.yaml' in the package 'json'"),
    ],
)
def test_targets_that_cannot_be(site, hook, target, problem):
    source = f"from uncollapse import hookimpl\n@hookimpl\ndef register_{hook}(register): register('x', {target})\n"
    site.install("odd", source)
    error = site.error("odd")
    assert type(error) is PluginLoadError
    assert (error.what, error.where) == (problem, "plugin 'odd' (odd-dist 1.0)")


@pytest.mark.parametrize("name", ["", "two words", "f(x)", "a,b", "a=b", "9", 9])
def test_names_that_cannot_be(site, name):
    source = f"from uncollapse import hookimpl\n@hookimpl\ndef register_sweeps(register): register({name!r}, {{}})\n"
    site.install("odd", source)
    error = site.error("odd")
    assert type(error) is SignatureError
    assert error.what == f"{name!r} cannot be the name of a sweep"


def test_locating_a_module_does_not_import_its_parents(site):
    site.module("heavy.__init__", "raise AssertionError('imported')")
    path = site.module("heavy.inner.part", "raise AssertionError('imported')")
    site.module("heavy.inner.__init__", "raise AssertionError('imported')")
    assert locate("heavy.inner.part").origin == str(path)
    assert locate("heavy.inner.other") is None
    assert locate("heavy.inner.part.deeper") is None
    assert locate("") is None


# --- resolving and creating -------------------------------------------------------------------------------------------


def test_create_fills_the_first_fields(kit):
    component = kit.create("rollout_filter", "portion", 0.75, type="smallest", weights=[1.0])
    assert (component.share, component.type, component.weights) == (0.75, "smallest", [1.0])
    assert kit.create("rollout_filter", "share").share == 0.5
    assert kit.create("rollout_filter", "twice", 0.1).share == 0.2
    assert kit.resolve("rollout_filter", "share") is type(component)


def test_wrong_parameters(kit):
    def create(*args, name="share", **params):
        return message(lambda: kit.create("rollout_filter", name, *args, **params))

    assert create(typ="largest") == "rollout_filter 'share' has no parameter 'typ'\n  fix:   did you mean 'type'?"
    assert create(0.1, "largest", [1.0]) == (
        "rollout_filter 'share': too many positional arguments\n"
        "  where: its parameters: share, type, weights\n"
        "  fix:   uncollapse show rollout_filter share"
    )
    assert create(0.1, share=0.2).startswith("rollout_filter 'share': multiple values for argument 'share'\n")
    assert create(name="required").startswith("rollout_filter 'required': missing a required argument: 'value'\n")


def test_refused_values(kit):
    refused = message(lambda: kit.create("rollout_filter", "share", type="middle"))
    assert refused.startswith("rollout_filter 'share': 'type' must be in ('largest', 'smallest') (got 'middle')\n")
    assert "'share' must be <= 1.0: 1.5" in message(lambda: kit.create("rollout_filter", "share", 1.5))
    assert "'share' must be <class 'float'>" in message(lambda: kit.create("rollout_filter", "share", "half"))


def test_a_component_without_the_methods_of_its_kind(kit):
    with pytest.raises(SignatureError) as caught:
        kit.resolve("rollout_filter", "metric")
    assert str(caught.value) == (
        "rollout_filter 'metric' lacks select\n"
        "  where: kit.components:Metric of plugin 'kit' (kit-dist 0.3)\n"
        "  fix:   write class Metric(uncollapse.api.RolloutFilter), with select: uncollapse show rollout_filter"
    )
    with pytest.raises(SignatureError, match="kl 'silent' lacks __call__"):
        kit.resolve("kl", "silent")
    with pytest.raises(SignatureError, match="rollout_filter 'wrong' lacks select"):
        kit.create("rollout_filter", "wrong")


@pytest.mark.parametrize("name", ["alone", "made_alone"])
def test_a_component_that_does_not_derive_from_the_base_class_of_its_kind(kit, name):
    with pytest.raises(SignatureError) as caught:
        kit.create("rollout_filter", name)
    target = {"alone": "Alone", "made_alone": "made_alone"}[name]
    assert str(caught.value) == (
        f"rollout_filter {name!r} does not derive from RolloutFilter\n"
        f"  where: kit.components:{target} of plugin 'kit' (kit-dist 0.3)\n"
        "  fix:   write class Alone(uncollapse.api.RolloutFilter)"
    )


def test_a_target_that_cannot_be_imported(kit):
    with pytest.raises(PluginLoadError, match=r"rollout_filter 'vanished' of plugin 'kit' \(kit-dist 0.3\) cannot be "):
        kit.resolve("rollout_filter", "vanished")


@pytest.mark.parametrize(
    ("library", "extra"),
    [
        *((library, "train") for library in ("torch", "deepspeed", "transformers", "peft", "wandb", "matplotlib")),
        ("vllm", "vllm"),
        ("ray", "ray"),
    ],
)
def test_a_missing_extra(site, kit, monkeypatch, library, extra):
    site.module("kit.torchy", f"import {library}.nn")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError) as caught:
        kit.resolve("rollout_filter", "torchy")
    assert str(caught.value) == (
        f"rollout_filter 'torchy' of plugin 'kit' (kit-dist 0.3) cannot be loaded: {library} is not installed\n"
        f"  where: the extra [{extra}]\n"
        f"  fix:   pip install 'uncollapse[{extra}]'"
    )


def test_check_imports_everything_and_says_what_failed(site, kit, monkeypatch):
    site.module("kit.torchy", "import ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    failed = {entry.name: type(error) for entry, error in kit.check() if entry.plugin.name == "kit"}
    assert failed == {
        "metric": SignatureError,
        "alone": SignatureError,
        "torchy": MissingExtraError,
        "vanished": PluginLoadError,
        "silent": SignatureError,
        "invalid": RequestError,
        "list": PluginLoadError,
    }
    (plugin,) = (plugin for plugin in kit.plugins if plugin.name == "kit")
    assert not any(isinstance(error, MissingExtraError) for error in plugin.errors)
    assert len(plugin.errors) == 6


# --- experiments and sweeps -------------------------------------------------------------------------------------------


def test_experiments_resolve_to_mappings(kit):
    assert kit.resolve("experiment", "file") == {"seed": 3, "model": {"build": "no"}}  # YAML 1.2: no is text
    assert kit.resolve("experiment", "function") == {"seed": 7}
    kit.resolve("experiment", "mapping")["nested"]["seed"] = 2
    assert kit.resolve("experiment", "mapping") == {"nested": {"seed": 1}}


def test_bad_experiments(site, kit):
    invalid = message(lambda: kit.resolve("experiment", "invalid"))
    assert "not valid YAML" in invalid
    assert str(site.root / "kit/invalid.yaml:2") in invalid
    assert "it is a list, not a mapping" in message(lambda: kit.resolve("experiment", "list"))
    assert message(lambda: kit.create("experiment", "file")).startswith("experiment 'file' is not a component")


# --- describing -------------------------------------------------------------------------------------------------------


def test_describe(site, kit):
    description = kit.describe("rollout_filter", "portion")
    source = site.root / "kit/components.py"
    assert (description.name, description.aliases, description.summary) == ("share", ("portion",), "keep a share")
    assert (description.plugin, description.distribution, description.version) == ("kit", "kit-dist", "0.3")
    assert (description.target, description.module) == ("kit.components:Filter", "kit.components")
    assert (description.source, description.source_sha256) == (str(source), sha256(source.read_bytes()).hexdigest())
    assert description.doc == "Keep a share.\n\nThe formula stands here."
    assert description.needs == ("groups", "turns")
    share, kind, weights = description.parameters
    assert (share.name, share.type, share.default, share.required) == ("share", "float", 0.5, False)
    assert share.doc == "Of the groups,\nin (0, 1]."
    assert (kind.type, kind.default, kind.doc) == ("Literal['largest', 'smallest']", "largest", "Which.")
    assert (weights.type, weights.default, weights.doc) == ("list[float]", [], "")
    (value,) = kit.describe("rollout_filter", "required").parameters
    assert (value.required, value.default) == (True, None)


def test_describe_states_the_facts_of_the_kind(kit):
    assert kit.describe("kl", "variant+").facts == {"value_bias": "none", "gradient_bias": "all of it"}
    assert kit.describe("rollout_filter", "share").facts == {}


def test_describe_a_function_and_a_file(site, kit):
    description = kit.describe("rollout_filter", "twice")
    assert description.doc == "A filter made by a function."
    assert [(parameter.name, parameter.default) for parameter in description.parameters] == [("share", 0.25)]
    description = kit.describe("experiment", "file")
    assert description.doc.startswith("# a comment\nseed: 3")
    assert description.source == str(site.root / "kit/small.yaml")
    assert kit.describe("experiment", "mapping").source == ""


# --- the plugins of a run ---------------------------------------------------------------------------------------------


def test_run_manager_has_the_plugins(site):
    site.install(
        "watching",
        """
        from uncollapse import hookimpl

        @hookimpl
        def run_finished(status):
            return f"saw {status}"
        """,
    )
    manager = site.registry().run_manager()
    assert "saw success" in call(manager, "run_finished", run=None, status="success", metrics={})
