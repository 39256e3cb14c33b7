"""The intervention sweeps of RAGEN-2 vary top-p filtering, KL or entropy on Sokoban, one of them at a time.

Names, values, files and lines are those of its scripts ``run_top_p_sweep.sh``, ``run_kl_sweep.sh`` and
``run_entropy_sweep.sh``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from ...core.compose.config import compose
from ...core.compose.spec import parse_value
from ...core.errors import RequestError
from ..sweeps.information import measuring

OUTCOME = "train_time=${train}s | eval_time=${eval}s | total_time=${total}s | wall_time=${wall}s | gpu=$gpu"
K1_AS_LOSS = (
    "kl.estimator is kl (k1), as in the scripts of RAGEN-2: as a loss, its expected gradient is zero on policy, and "
    "the coefficient hardly regularises; --kl-type low_var_kl does"
)
KlType = Literal["kl", "abs", "mse", "low_var_kl"]
OPTIONS = {"trainer.steps": "--steps", "trainer.save_every": "--save-freq"}
"""Options of the command line by the key that they set."""


def listed(text: str, option: str) -> list[str]:
    """Return the values of a comma list as they were typed. Raises RequestError if one is empty."""
    values = [item.strip() for item in str(text).split(",")]
    if not all(values):
        raise RequestError(f"{option} has an empty value: {text!r}", fix="write values with commas between them")
    return values


def number(text: str, option: str) -> float:
    """Read a number of a comma list. Raises RequestError if it is none."""
    value = parse_value(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(f"{option} takes numbers, not {text!r}")
    return value


def value_label(text: str) -> str:
    """Return a value in lower case and without its dots, such as ``095`` for ``0.95``."""
    return text.replace(".", "").lower()


def base_settings(steps: int, save_freq: int) -> dict[str, Any]:
    """Return what all three sweeps fix, whatever the experiment says."""
    return {
        "advantage": "gae(gamma=1.0, lam=1.0)",
        "filter.metric": "reward_variance",
        "filter.loss_scaling": "none",
        "validation.before_train": True,
        "trainer.steps": steps,
        **saving(save_freq),
    }


def saving(save_freq: int) -> dict[str, Any]:
    """Return settings that keep every checkpoint, one each ``save_freq`` steps, as the scripts do."""
    return {"trainer.save_every": save_freq, **({"trainer.keep": 0} if save_freq > 0 else {})}


def kl_loss(kl_type: str, coef: float) -> dict[str, Any]:
    """Return settings of KL as a term of the policy's loss; a coefficient of 0 switches it off, reference pass too."""
    return {"kl.estimator": kl_type, "kl.coef": coef, "kl.placement": "loss", "kl.controller": "fixed"}


def softmax_top_p(value: float, include_zero: bool) -> str:
    """Return the spelling of the scripts' filter, top-p with softmax weights."""
    return f"top_p({value}, prob_mode=softmax, type=largest, include_zero={str(include_zero).lower()})"


@attrs.frozen(kw_only=True)
class _Intervention:
    """All three sweeps have these parameters."""

    experiment: str = "sokoban"
    """Registered experiment or YAML file; for example tiny-sokoban on a laptop."""
    steps: int = 400
    """Number of training steps of every point."""
    save_freq: int = -1
    """Steps between checkpoints, all of which are kept; -1 writes the last one only."""
    gpu_memory_utilization: float = 0.5
    """Share of a GPU that an inference engine beside the trainer may take, where the engine has this setting."""
    mutual_information: bool = True
    """Whether mutual information is measured every 5 steps, as in RAGEN-2; false leaves the experiment's detectors."""

    def _record(
        self,
        kind: str,
        directory: str,
        name: str,
        line: str,
        settings: Mapping[str, Any],
        notices: Sequence[str] = (),
        **parts: Any,
    ) -> dict[str, Any]:
        measured, unmeasured = measuring(compose(self.experiment)) if self.mutual_information else ({}, [])
        logs = f"logs/{kind}_sweep_$model"
        if not 0 < self.gpu_memory_utilization <= 1:
            raise RequestError(
                f"--gpu-memory-utilization is {self.gpu_memory_utilization}", fix="give a share above 0 and at most 1"
            )
        return {
            "name": kind.replace("_", "-"),
            "experiment": self.experiment,
            "project": f"ragen_release_{kind}_sweep",
            "engine": {"gpu_memory_utilization": self.gpu_memory_utilization},
            "root": ".",
            "set": {**base_settings(self.steps, self.save_freq), **measured, **settings},
            "notices": [*notices, *unmeasured],
            "layout": {
                "home": f"{logs}{directory}",
                "run": f"{logs}{directory}/$label",
                "name": f"${{environment}}_{name}_$label-$model",
                "log": f"{logs}{directory}/$label/$name.log",
                "checkpoints": f"model_saving/{kind}_sweep_$model/$label/$name",
                "summary": f"{logs}.log",
                "line": f"{line}$axes | {OUTCOME} | status=$status",
            },
            **parts,
        }


@attrs.frozen(kw_only=True)
class TopPSweep(_Intervention):
    """Vary the strength of reward-variance filtering: softmax top-p over the groups' reward std, KL and entropy 0.001.

    ``1.0`` and ``nofilter`` differ: both keep all of the mass, but ``1.0`` drops groups whose reward std is zero.
    """

    rollout_filter_value: str = "1.0,0.98,0.95,0.9,0.8,0.6,0.4,nofilter"
    """Values of top-p, with commas; nofilter keeps every group."""
    kl_type: KlType = "kl"
    """KL estimate in the loss."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping."""
        cases = []
        for text in listed(self.rollout_filter_value, "--rollout-filter-value"):
            off = text == "nofilter"
            value = 1.0 if off else number(text, "--rollout-filter-value")
            cases.append(_case(text, {"filter.select": softmax_top_p(value, include_zero=off)}, value=text))
        return self._record(
            kind="top_p",
            directory="",
            name="top_p",
            line="value=$value | include_zero=$filter_include_zero | filter_value=$filter_value",
            settings=kl_loss(self.kl_type, 0.001) | {"entropy.coef": 0.001},
            cases=cases,
            options=OPTIONS | {"filter.select": "--rollout-filter-value", "kl.estimator": "--kl-type"},
            notices=[K1_AS_LOSS] if self.kl_type == "kl" else [],
        )


@attrs.frozen(kw_only=True)
class KlSweep(_Intervention):
    """Vary the strength of KL regularisation in the loss, without an entropy bonus and with the filter off."""

    kl_values: str = "0,0.001,0.003,0.01,0.03,0.1"
    """KL coefficients, with commas; 0 switches the KL loss and the reference pass off."""
    rollout_filter_include_zero: bool = True
    """Whether groups without reward variance train, too."""
    kl_type: KlType = "kl"
    """KL estimate."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping."""
        cases = [
            _case(text, kl_loss(self.kl_type, number(text, "--kl-values")), kl=text)
            for text in listed(self.kl_values, "--kl-values")
        ]
        return self._record(
            *_tagged("kl", self.rollout_filter_include_zero),
            settings={"entropy.coef": 0.0, "filter.select": softmax_top_p(1.0, self.rollout_filter_include_zero)},
            fixed=TAGGED,
            cases=cases,
            options=OPTIONS | {"kl.coef": "--kl-values", "kl.estimator": "--kl-type"},
            notices=[K1_AS_LOSS] if self.kl_type == "kl" else [],
        )


@attrs.frozen(kw_only=True)
class EntropySweep(_Intervention):
    """Vary the strength of the entropy bonus (mean over sampled tokens), without KL and with the filter off."""

    entropy_values: str = "0,0.001,0.003,0.01,0.03,0.1"
    """Entropy coefficients, with commas."""
    rollout_filter_include_zero: bool = True
    """Whether groups without reward variance train, too."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping."""
        cases = [
            _case(text, {"entropy.coef": number(text, "--entropy-values")}, entropy=text)
            for text in listed(self.entropy_values, "--entropy-values")
        ]
        return self._record(
            *_tagged("entropy", self.rollout_filter_include_zero),
            settings={"kl.coef": 0.0, "filter.select": softmax_top_p(1.0, self.rollout_filter_include_zero)},
            fixed=TAGGED,
            cases=cases,
            options=OPTIONS | {"entropy.coef": "--entropy-values"},
        )


def _case(text: str, overrides: dict[str, Any], **values: str) -> dict[str, Any]:
    return {"label": value_label(text), "overrides": overrides, "values": values}


TAGGED = {"filter.select": "paths and names say that the filter is off: use top-p, or custom"}


def _tagged(kind: str, include_zero: bool) -> tuple[str, str, str, str]:
    """Return kind, directory, name and line of the KL or entropy sweep, with the filter's tag in paths and names."""
    tag = "nofilter" if include_zero else "filter_zero"
    line = f"{kind}=${kind} | filter={tag} | include_zero=$filter_include_zero"
    return kind, f"/{tag}", f"{kind}_sweep_{tag}", line
