"""The KL and entropy smoke tests of RAGEN-2 have five groups of runs over filter strength, KL and entropy.

Grids, names, files and lines are those of its scripts ``smoke_test_for_ke.sh`` and ``run_all_kl_entropy_exps.sh``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal

import attrs

from ...core.compose.config import compose
from ...core.errors import RequestError
from ...core.registry import registry
from .interventions import OPTIONS, kl_loss, listed, saving, softmax_top_p, value_label

RATIOS = ("1.0", "0.8", "0.6", "0.4")
VALUES = ("0.001", "0.003", "0.01", "0.03")
GRIDS = {
    "1": (RATIOS, VALUES, ("0",)),
    "2": (RATIOS, ("0",), VALUES),
    "3": (RATIOS, ("0",), ("0",)),
    "4": (RATIOS[:1], VALUES, VALUES),
    "5": (RATIOS[:1], VALUES, VALUES),
}
"""Filter ratios, KL coefficients and entropy coefficients by group; the last varies fastest."""

SAMPLES = 64
"""Number of samples of the detector ``mutual_information``."""
TIMES = (
    "train_time=${train}s | eval_time=${eval}s | collapse_time=${collapse}s | collapse_first_time=${first_turn}s | "
    "collapse_multi_time=${multi_turn}s | total_time=${total}s | wall_time=${wall}s | gpu=$gpu"
)
Strategy = Literal["top_p", "top_k", "min_p", "top_f"]
Tag = Literal["ftmt", "ft", "mt", "nocd"]
KlType = Literal["kl", "mse", "low_var_kl"]


@attrs.frozen(kw_only=True)
class _Smoke:
    """The smoke test and its wrapper have these parameters."""

    rollout_filter_strategy: Strategy = "top_p"
    """Rollout filter; top_k gets int(ratio * groups), at least 1."""
    steps: int = 50
    """Number of training steps of every point."""
    experiment: str = "sokoban-instruct"
    """Registered experiment or YAML file; for example tiny-sokoban on a laptop."""
    collapse: Tag = "ftmt"
    """Mutual information that is measured: of the first turn (ft), of several turns (mt), both, or none (nocd)."""
    save_freq: int = -1
    """Steps between checkpoints, all of which are kept; -1 writes the last one only."""

    def _record(self, name: str, plan: dict[str, list[str]]) -> dict[str, Any]:
        """Return the sweep of a plan, which has the groups of runs by KL type."""
        count = compose(self.experiment).rollout.groups
        logs = f"logs/smoke_test_{self.rollout_filter_strategy}"
        measured, missing = self._detectors()
        cases: list[dict[str, Any]] = []
        for kl_type, groups in plan.items():
            for group in groups:
                cases += self._cases(group, kl_type, count)
        return {
            "name": name,
            "experiment": self.experiment,
            "project": f"ragen-smoke_test_{self.rollout_filter_strategy}",
            "root": ".",
            "set": {
                "advantage": "gae(gamma=1.0, lam=1.0)",
                "filter.metric": "reward_variance",
                "filter.loss_scaling": "sqrt",
                "validation.before_train": False,
                "validation.every": 10,
                "trainer.steps": self.steps,
                **saving(self.save_freq),
                **measured,
            },
            "cases": cases,
            "layout": self._layout(logs, list(plan)),
            "missing": missing,
            "options": OPTIONS
            | dict.fromkeys(("kl.coef", "entropy.coef", "zero_task_advantage"), "--groups")
            | {"collapse": "--collapse", "kl.estimator": "--kl-type"},
            # the directories have these in their names, which another value would make wrong
            "fixed": {
                "collapse": f"the names say {self.collapse}: use --collapse",
                "filter.select": "the names tell of the filter: use --rollout-filter-strategy",
                "kl.estimator": "the names tell of it: use --kl-type",
                **({"rollout.groups": "top_k counts groups of the experiment"} if self._counts_groups else {}),
            },
        }

    def _layout(self, logs: str, kl_types: list[str]) -> dict[str, str]:
        """Return the paths and the summary line of the scripts."""
        tag = self.collapse
        home = tag if len(kl_types) > 1 else f"{kl_types[0]}_{tag}"
        return {
            "home": f"{logs}/{home}",
            "run": f"{logs}_details/$label",
            "log": f"{logs}_details/$label.log",
            "summary": f"{logs}/smoke_test_results_${{size}}_${{kl_type}}_{tag}.log",
            "line": f"$name | filter=$filter_value | kl=$kl | entropy=$entropy$axes | {self._collapse()} | "
            f"{TIMES} | status=$status",
        }

    @property
    def _counts_groups(self) -> bool:
        return self.rollout_filter_strategy == "top_k"

    def _cases(self, group: str, kl_type: str, groups: int) -> Iterator[dict[str, Any]]:
        for ratio, kl, entropy in itertools.product(*GRIDS[group]):
            select = {
                "top_p": softmax_top_p(float(ratio), include_zero=True),
                "top_k": f"top_k({max(1, int(float(ratio) * groups))})",
            }.get(self.rollout_filter_strategy, f"{self.rollout_filter_strategy}({ratio})")
            name = {"4": "ta-topk100", "5": "nofilter"}.get(group, f"topk{float(ratio) * 100:.0f}")
            yield {
                "label": f"g{group}-smoke-ppo-sokoban-{name}-kl{value_label(kl)}-ent{value_label(entropy)}"
                f"-{kl_type}-{self.collapse}",
                "overrides": {
                    **kl_loss(kl_type, float(kl)),
                    "filter.select": select,
                    "entropy.coef": float(entropy),
                    "zero_task_advantage": group == "4",
                },
                "values": {
                    "kl_type": kl_type,
                    "filter": ratio,
                    "kl": kl,
                    "entropy": entropy,
                    "zero_task_advantage": str(group == "4"),
                },
            }

    def _collapse(self) -> str:
        first, multi = (str(part in self.collapse).lower() for part in ("ft", "mt"))
        return f"collapse=first:{first},multi:{multi},samples:{SAMPLES}"

    def _detectors(self) -> tuple[dict[str, Any], str]:
        """Return the detector of the tag beside those of the experiment, or why it cannot be had."""
        if self.collapse == "nocd":
            return {}, ""
        if "mutual_information" not in registry().names("collapse"):
            return {}, (
                f"the names say {self.collapse}, and no detector mutual_information is installed to measure it; "
                "--collapse nocd runs without it, and says so in the names"
            )
        first, multi = (str(part in self.collapse).lower() for part in ("ft", "mt"))
        spelled = f"mutual_information(first_turn={first}, multi_turn={multi}, num_samples={SAMPLES})"
        others = (named for named in compose(self.experiment).collapse if named.name != "mutual_information")
        return {"collapse": [*map(str, others), spelled]}, ""


@attrs.frozen(kw_only=True)
class Smoke(_Smoke):
    """Vary KL and entropy over five groups: KL sweep, entropy sweep, neither, both without a task, both.

    Groups 1 and 2 cross four filter ratios with four coefficients, group 3 has the ratios alone, groups 4 (zero task
    advantage) and 5 cross four KL with four entropy coefficients: 16 + 16 + 4 + 16 + 16 runs.
    """

    groups: str = "1,2,3,4,5"
    """Groups that run, with commas."""
    kl_type: KlType = "low_var_kl"
    """KL estimate in the loss."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping."""
        chosen = list(dict.fromkeys(listed(self.groups, "--groups")))
        if unknown := [group for group in chosen if group not in GRIDS]:
            raise RequestError(f"--groups has no group {', '.join(unknown)}", fix="the groups are 1, 2, 3, 4 and 5")
        return self._record("smoke", {self.kl_type: chosen})


@attrs.frozen(kw_only=True)
class SmokeAll(_Smoke):
    """Run the smoke test for three KL estimates: kl and mse with groups 1, 4, 5, low_var_kl with all: 164 runs."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping."""
        return self._record("smoke-all", {"kl": ["1", "4", "5"], "mse": ["1", "4", "5"], "low_var_kl": list(GRIDS)})
