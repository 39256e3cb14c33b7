"""Reproductions of RAGEN-2's tables run any experiment with its settings, and know the claims that they test.

Settings are those of its scripts for the main table: no KL, an entropy bonus of 0.001, softmax top-p over reward std.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from ...core.compose.config import compose
from ...core.compose.experiment import Experiment
from ...core.compose.spec import split_list
from ...core.errors import RequestError, nearest
from ...core.registry import registry
from ..report.claim import Claim, Term
from ..sweeps.information import INFORMATION, measuring
from ..sweeps.variation import Case
from .interventions import softmax_top_p

PAPER = "RAGEN-2 (arXiv 2604.06268)"
CLIPPED = "ppo(clip_low=0.2, clip_high=0.28)"
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {
        "advantage": "gae(gamma=1.0, lam=1.0)",
        "policy_loss": CLIPPED,
        "trainer.loss_aggregation": "token-mean",
    },
    "grpo": {"advantage": "grpo", "policy_loss": CLIPPED, "trainer.loss_aggregation": "seq-mean-token-mean"},
    "dr_grpo": {"advantage": "dr_grpo", "policy_loss": CLIPPED, "trainer.loss_aggregation": "seq-mean-token-sum"},
}
"""Settings of the algorithms as the scripts have them."""
REGULARISED = {"kl.coef": 0.0, "kl.controller": "fixed", "entropy.coef": 0.001, "entropy.controller": "fixed"}
Algorithm = Literal["ppo", "grpo", "dr_grpo", "own"]

SIZES = {
    "0.5B": "Qwen/Qwen2.5-0.5B",
    "1.5B": "Qwen/Qwen2.5-1.5B",
    "3B": "Qwen/Qwen2.5-3B",
    "7B": "Qwen/Qwen2.5-7B",
    "3B-Instruct": "Qwen/Qwen2.5-3B-Instruct",
    "Llama3.2-3B": "meta-llama/Llama-3.2-3B-Instruct",
}
"""Models of the paper by the names of its rows."""
PAPERS_OWN = "3B"
"""The model of all tables that do not vary it."""

MARGIN = 0.05
"""Gain of success below which a filter is taken to be of no use; the paper gives none."""


@attrs.frozen(kw_only=True)
class Reproduction:
    """All reproductions have these parameters."""

    experiment: str = "sokoban"
    """Registered experiment or YAML file; for example tiny-sokoban on a laptop."""
    models: str = ""
    """Start models, with commas: 0.5B and so on as in the paper, a path or a name of Hugging Face with a slash, or a
    model builder; the experiment's own by default."""
    mutual_information: bool = True
    """Whether mutual information is measured every 5 steps; false leaves the experiment's detectors as they are."""

    def _record(
        self,
        name: str,
        settings: Mapping[str, Any],
        cases: Sequence[Case],
        claims: Callable[[str], Sequence[Claim]],
        **parts: Any,
    ) -> dict[str, Any]:
        """Return the sweep of the cases, for each model; ``claims`` gives those of a model of the paper."""
        base = self._testable(compose(self.experiment, settings))
        measured, notices = measuring(base) if self.mutual_information else ({}, [])
        models = self._models(base)
        all_claims = [_of_model(claim, word) if word else claim for word, size, _ in models for claim in claims(size)]
        is_measured = measured or any(named.name == INFORMATION for named in base.collapse)
        if not is_measured and any(claim.measure.startswith("information") for claim in all_claims):
            notices.append("claims about mutual information cannot be told, as it is not measured")
        return {
            "name": name,
            "experiment": self.experiment,
            "set": {**measured, **settings},
            "cases": [attrs.asdict(_with_model(case, word, model)) for word, _, model in models for case in cases],
            "claims": [attrs.asdict(claim) for claim in all_claims],
            "notices": notices,
            **parts,
            "options": {"model.path": "--models", "model.build": "--models", **parts.get("options", {})},
        }

    def _models(self, base: Experiment) -> list[tuple[str, str, dict[str, Any]]]:
        """Return each start model as it was typed, with its row in the paper and its settings; none is the own one."""
        if not self.models:
            return [("", _row(base.model.path or ""), {})]
        words = [word.strip() for word in split_list(self.models)]
        if len(set(words)) < len(words):
            raise RequestError(f"--models names a model twice: {self.models}", fix="drop one of them")
        return [(word, _row(word), _model(word)) for word in words]

    def _testable(self, experiment: Experiment) -> Experiment:
        """Return the experiment. Raises RequestError if none of the claims can be tested with it."""
        if experiment.rollout.group_size < 2:
            fix = "set rollout.group_size to 2 or more"
            raise RequestError("a group of one episode has no reward variance to filter by", self.experiment, fix)
        if experiment.validation.every == 0:
            fix = "set validation.every to 10, for example"
            raise RequestError("the claims are about validation success, which is never measured", self.experiment, fix)
        return experiment


@attrs.frozen(kw_only=True)
class Filtering(Reproduction):
    """Reproductions that filter by top-p have this parameter."""

    filter_value: float = 0.9
    """Share of top-p."""

    def _filter(self, include_zero: bool = True) -> str:
        """Return the filter. Raises RequestError if it filters nothing or everything."""
        if not 0 < self.filter_value < 1:
            raise RequestError(
                f"--filter-value is {self.filter_value}, which filters nothing or everything",
                fix="give a share between 0 and 1",
            )
        return softmax_top_p(self.filter_value, include_zero)


def base_settings(algorithm: str) -> dict[str, Any]:
    """Return what a reproduction fixes; ``own`` leaves the algorithm and its regularisers to the experiment."""
    fixed = {"filter.metric": "reward_variance", "filter.loss_scaling": "none", "filter.episodes": "all"}
    return fixed if algorithm == "own" else {**fixed, **REGULARISED, **ALGORITHMS[algorithm]}


def difference(
    text: str,
    source: str,
    at: Mapping[str, str],
    against: Mapping[str, str],
    figures: tuple[float | None, float | None] = (None, None),
    **more: Any,
) -> Claim:
    """Return the claim about one setting less another; ``figures`` are those of the source for the two."""
    terms = (Term(weight=1.0, at=at, figure=figures[0]), Term(weight=-1.0, at=against, figure=figures[1]))
    return Claim(**{"measure": "peak", **more}, text=text, source=f"{PAPER}, {source}", terms=terms)


def gain(percent: float, gained: float) -> tuple[float, float]:
    """Return the success with and without something as shares, from the percentage without and the points gained."""
    return round((percent + gained) / 100, 6), round(percent / 100, 6)


def _row(word: str) -> str:
    """Return the row of the paper for a model: its own where there is one, else that of the paper's own model."""
    return next((size for size, path in SIZES.items() if word in (size, path)), PAPERS_OWN)


def _model(word: str) -> dict[str, Any]:
    """Return the settings of a start model. Raises RequestError if there is none of the name."""
    builders = registry().names("model_builder")
    if word.partition("(")[0] in builders:
        return {"model.path": None, "model.build": word}
    if word.startswith((".", "/", "~")) and not Path(word).expanduser().is_dir():
        raise RequestError("--models has a path where there is no model", word, "give the directory of a model")
    if word in SIZES or "/" in word:
        return {"model.path": SIZES.get(word, word), "model.build": None}
    raise RequestError(f"--models has no model {word!r}", fix=f"{nearest(word, [*SIZES, *builders])}; or write a path")


def _with_model(case: Case, word: str, model: Mapping[str, Any]) -> Case:
    if not word:
        return case
    return Case(f"{word}-{case.label}", {**model, **case.overrides}, {"model": word, **case.values})


def _of_model(claim: Claim, word: str) -> Claim:
    terms = tuple(attrs.evolve(term, at={"model": word, **term.at}) for term in claim.terms)
    return attrs.evolve(claim, text=f"{word}: {claim.text}", terms=terms)
