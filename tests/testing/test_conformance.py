"""``check`` and ``conformance``, as the tests of somebody else's package use them."""

import attrs
import pytest
import torch
from uncollapse.core.components import KlVariant, LossOutput, PolicyLoss
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import UnknownNameError, registry
from uncollapse.testing import NotExercisedError, Problem, check, conformance
from uncollapse.testing.registration import check_registration

PLUGIN = """
import attrs
{imports}
from uncollapse import hookimpl
from uncollapse.core.components import RolloutFilter
from uncollapse.core.errors import RunError


@attrs.frozen
class Above(RolloutFilter):
    least: float

    def select(self, scores_P):
        if scores_P.isnan().any():
            raise RunError("NaN")
        return scores_P >= self.least


@attrs.frozen
class First(RolloutFilter):
    def select(self, scores_P):
        return scores_P.new_tensor([True] + [False] * (len(scores_P) - 1)).bool()


@hookimpl
def register_rollout_filters(register):
    register("above", Above, summary="above a score")
    register("first", First, summary="{summary}")
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a package that registers a sound filter with a parameter, and one that is broken."""

    def install(name, imports="", summary="the first"):
        (tmp_path / f"{name}.py").write_text(PLUGIN.format(imports=imports, summary=summary))
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[uncollapse]\n{name} = {name}\n")
        registry.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    yield install
    registry.cache_clear()


def cases(test):
    (mark,) = test.pytestmark
    return mark.args[1]


def test_conformance_has_a_case_for_each_name_and_one_for_the_registration(installed):
    installed("alpha")
    assert cases(conformance("alpha-dist")) == [
        ("registration", "alpha-dist"),
        ("rollout_filter", "above"),
        ("rollout_filter", "first"),
    ]
    test = conformance("alpha-dist", {"rollout_filter": ["above(0.2)", "above(0.4)"]}, skip=["rollout_filter first"])
    assert cases(test)[1:] == [("rollout_filter", "above(0.2)"), ("rollout_filter", "above(0.4)")]
    for case in cases(test):
        test(*case)


def test_a_case_fails_with_every_problem_and_is_skipped_where_it_cannot_be_tried(installed):
    installed("beta")
    test = conformance("beta-dist")
    with pytest.raises(pytest.fail.Exception) as raised:
        test("rollout_filter", "first")
    assert "took a score of NaN" in str(raised.value)
    assert "when the same groups came in another order" in str(raised.value)
    assert "rollout_filter 'first' of plugin 'beta' (beta-dist 1.0)" in str(raised.value)
    with pytest.raises(pytest.skip.Exception, match="'above' needs least"):
        test("rollout_filter", "above")


def test_a_package_that_is_not_there_is_refused_at_once():
    with pytest.raises(RequestError, match="'gamma' registers nothing"):
        conformance("gamma")


def test_registration_that_imports_torch_or_forgets_the_summary_is_a_problem(installed):
    installed("delta", imports="import torch", summary="")
    problems = check_registration("delta-dist")
    assert len(problems) == 2
    assert "plugin 'delta' (delta-dist 1.0) imports torch when it registers its names" in problems[0].what
    assert problems[1].what.startswith("rollout_filter 'first'") and "has no summary" in problems[1].what


def test_an_instance_needs_no_name():
    @attrs.frozen
    class Mean(PolicyLoss):
        def __call__(self, inputs):
            return LossOutput((inputs.logprobs * inputs.advantages)[inputs.mask].mean(), {})

    (problem,) = check("policy_loss", Mean())
    assert isinstance(problem, Problem)
    assert "policy_loss 'Mean': call gave a tensor of shape []" in problem.what
    assert problem.where.endswith("Mean")

    @attrs.frozen
    class Sound(PolicyLoss):
        def __call__(self, inputs):
            ratio = torch.where(inputs.mask, inputs.logprobs - inputs.old_logprobs, 0.0).exp()
            return LossOutput(torch.where(inputs.mask, -inputs.advantages * ratio, 0.0), {})

    assert check("policy_loss", Sound()) == []


def test_what_cannot_be_tried_says_why():
    with pytest.raises(NotExercisedError, match="'top_p' needs value") as raised:
        check("rollout_filter", "top_p")
    assert raised.value.fix == 'check("rollout_filter", "top_p(VALUE)")'
    (problem,) = check("rollout_filter", "top_p(7)")
    assert "value" in problem.what
    for kind, name in (("rollout_filter", "top_q"), ("filter", "top_p")):
        with pytest.raises(UnknownNameError):
            check(kind, name)


def test_process_wide_changes_are_put_back_and_told():
    @attrs.frozen
    class Changes(KlVariant):
        def __call__(self, logprobs, ref_logprobs):
            torch.set_default_dtype(torch.float64)
            return logprobs - ref_logprobs

    (problem,) = check("kl", Changes())
    assert "changed torch's default dtype" in problem.what
    assert torch.get_default_dtype() == torch.float32
