"""Every built-in component keeps the laws of its kind."""

import sys
from pathlib import Path

import pytest
import uncollapse
from uncollapse.core.errors import MissingExtraError
from uncollapse.core.kinds import KINDS
from uncollapse.core.registry import registry
from uncollapse.testing import NotExercisedError, check
from uncollapse.testing.check import ROOMS

SHOP = Path(__file__).parents[1] / "plugins" / "environments" / "mcp_shop.py"
SPELLINGS = {
    ("rollout_filter", "top_p"): (
        "top_p(1)",
        "top_p(0.9)",
        "top_p(0.5, prob_mode=softmax)",
        "top_p(0.7, include_zero=false)",
    ),
    ("rollout_filter", "top_k"): ("top_k(2)", "top_k(3, type=smallest)"),
    ("rollout_filter", "top_f"): ("top_f(0.5)",),
    ("rollout_filter", "min_p"): ("min_p(0.2)",),
    ("rollout_filter", "quantile"): ("quantile(0.25, 0.5)", "quantile(0, 1)"),
    ("episode_filter", "best_worst"): ("best_worst(1)",),
    ("entropy_controller", "schedule"): ("schedule", "schedule(cosine)", "schedule(steps, last=3)"),
    ("entropy_controller", "pi"): ("pi(0.5)",),
    ("advantage", "rae"): ("rae", "rae(0.5)"),
    ("advantage", "entropic"): ("entropic(0.5)", "entropic(0.5, of=rae)", "entropic(0.5, of=repo(of=rae))"),
    ("advantage", "gdpo"): ("gdpo", "gdpo(over=tokens)"),
    ("environment", "with_tools"): ("with_tools(dataset(arithmetic), [calculator])",),
    ("toolset", "search"): (f"search({Path(uncollapse.__file__).parent / 'docs' / 'agents.md'})",),
    ("verifier", "contains"): ("contains", "contains(longest=30)"),
    ("verifier", "json_schema"): ("json_schema({type: integer})",),
    ("advantage", "repo"): ("repo", "repo(0.01, target=0.6)", "repo(adapt=false)"),
    ("advantage", "entrocraft"): ("entrocraft", "entrocraft(of=rae)"),
    ("model_builder", "cloned_qwen2"): ("cloned_qwen2(steps=1)",),
    ("toolset", "mcp"): (f"mcp({sys.executable}, [{SHOP}])",),
    ("environment", "sokoban"): ("sokoban", "sokoban(view=grid)"),
}
ELSEWHERE = {
    "experiment": "composed by the tests of the command check",
    "sweep": "their points are those that tests of the seeds' sweeps count",
}
UNSUITED = {("tracker", "wandb"): "writes into the working directory", ("launcher", "ray"): "starts a cluster"}
SLOW = {("model_builder", "smollm2")}


def names():
    for kind in registry().kinds():
        for entry in registry().entries(kind) if kind not in ELSEWHERE else ():
            if entry.distribution == "uncollapse" and (kind, entry.name) not in UNSUITED:
                marks = [pytest.mark.slow] if (kind, entry.name) in SLOW else []
                for spelling in SPELLINGS.get((kind, entry.name), (entry.name,)):
                    yield pytest.param(kind, spelling, marks=marks)


@pytest.mark.parametrize(("kind", "name"), names(), ids=str)
def test_a_built_in_component_keeps_the_laws_of_its_kind(kind, name):
    try:
        assert check(kind, name) == []
    except (NotExercisedError, MissingExtraError) as error:
        pytest.skip(str(error))


def test_every_kind_has_laws_but_the_train_backend():
    """A backend owns processes and devices: its own tests train with it."""
    assert set(KINDS) - set(ROOMS) == {"train_backend"}
