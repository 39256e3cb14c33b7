"""Terms are what a probe measured; an estimate is what a variance estimator says of them.

Shape letters: ``N`` prompts of the evaluation batch E, ``M`` prompts of the update batch U, ``B`` sequences of E, ``K``
repetitions of the probe, ``U`` prompts of a single batch that is both E and U, ``Q`` control variates, ``R`` norms.
Notation: X_n is the entropy gradient of prompt n of E, Y_p the preconditioned policy gradient of prompt p of U (an
ascent direction), a bar is a mean; v is the update per unit of learning rate, D_v the derivative along it; j_t = D_v of
the log-prob of token t, H_t the entropy of the distribution that token t was sampled from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import torch
from attrs.validators import in_
from torch import Tensor

from ...core.errors import RunError

EntropyUnit = Literal["per_sequence", "per_token_ratio", "per_seq_token_mean"]
Status = Literal["ok", "clipped", "too_few_units", "zero_variance", "non_finite", "undefined"]

MEASURED_IN = {
    "per_sequence": "nats per sequence",
    "per_token_ratio": "nats per token",
    "per_seq_token_mean": "nats per token, mean over sequences",
}
"""Unit, in words, of an entropy and of its change, by entropy unit."""


def _float64(value: Any) -> Tensor | None:
    return None if value is None else torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()


def _ids(value: Any) -> Tensor | None:
    return None if value is None else torch.as_tensor(value, dtype=torch.int64, device="cpu")


@attrs.frozen(eq=False, kw_only=True)
class Terms:
    """The terms of one probe are all optional: an estimator says in ``needs`` which ones it reads.

    Numbers become float64 on the CPU. Entropies and log-probs are in nats at the sampling temperature; the token that
    ended a sequence (EOS) counts in T, H, S1 and all other sums over tokens.

    Raises:
        RunError: shapes disagree, a sequence has no token, a weight is negative.
    """

    eta: float | None = attrs.field(default=None, converter=attrs.converters.optional(float))
    """Learning rate of the step, of either sign; 0 gives no change and no error."""
    entropy_unit: EntropyUnit = attrs.field(default="per_sequence", validator=in_(tuple(MEASURED_IN)))
    """Entropy whose change is estimated: mean of H (``per_sequence``), sum of H over sum of T (``per_token_ratio``) or
    mean of H / T (``per_seq_token_mean``). It says how the terms per sequence are combined; the inner products
    ``s_N``, ``t_M``, ``K_NM``, ``r_U``, ``K_UU`` and the repetitions are in this unit already."""

    s_N: Tensor | None = attrs.field(default=None, converter=_float64)
    """[N] nats per unit of learning rate: X_n . Y-bar, or D_v of prompt n's entropy estimate for any fixed v."""
    t_M: Tensor | None = attrs.field(default=None, converter=_float64)
    """[M] nats per unit of learning rate: X-bar . Y_p."""
    K_NM: Tensor | None = attrs.field(default=None, converter=_float64)
    """[N, M] nats per unit of learning rate: X_n . Y_p."""

    r_U: Tensor | None = attrs.field(default=None, converter=_float64)
    """[U] nats per unit of learning rate: (X_u . Y-bar without u + Y_u . X-bar without u) / 2, of one batch."""
    K_UU: Tensor | None = attrs.field(default=None, converter=_float64)
    """[U, U] nats per unit of learning rate: X_u . Y_v, X and Y from one batch; the diagonal is not read."""

    H: Tensor | None = attrs.field(default=None, converter=_float64)
    """[B] nats: sum over the tokens of H_t."""
    T: Tensor | None = attrs.field(default=None, converter=_float64)
    """[B] tokens sampled, at least 1."""
    jH: Tensor | None = attrs.field(default=None, converter=_float64)
    """[B] nats per unit of learning rate: sum over the tokens of D_v H_t."""
    S1: Tensor | None = attrs.field(default=None, converter=_float64)
    """[B] nats per unit of learning rate: sum over the tokens of j_t, so D_v of the sequence log-prob."""
    Hj: Tensor | None = attrs.field(default=None, converter=_float64)
    """[B]: sum over t of (sum of H_k over k > t, minus a baseline that only knows the prefix of t) * j_t."""
    Tj: Tensor | None = attrs.field(default=None, converter=_float64)
    """[B]: sum over t = 1..T of (T - t) * j_t."""
    z: Tensor | None = attrs.field(default=None, converter=_float64)
    """[B, Q]: control variates whose true mean is 0, as sums over t of f(prefix) * j_t. ``S1`` is one (f = 1)."""
    w: Tensor | None = attrs.field(default=None, converter=_float64)
    """[B]: probability of the sequence after the step over that before it; not normalised, so its true mean is 1."""
    h1: Tensor | None = attrs.field(default=None, converter=_float64)
    """[B] nats: H after the step, at the same tokens."""
    prompt: Tensor | None = attrs.field(default=None, converter=_ids)
    """[B] int64: id of the prompt; sequences of one prompt are one unit, because they are not independent. With
    ``None`` each sequence is a unit."""
    shard: Tensor | None = attrs.field(default=None, converter=_ids)
    """[B] int64: the micro-batch or rank that a sequence went through."""

    repeats_K: Tensor | None = attrs.field(default=None, converter=_float64)
    """[K]: results of independent repetitions with different seeds, in their own unit (nats for deltaH1)."""
    sizes_K: Tensor | None = attrs.field(default=None, converter=_ids)
    """[K] prompts in the batch of each repetition."""

    grad_sq_R: Tensor | None = attrs.field(default=None, converter=_float64)
    """[R]: squared norms of mean gradients."""
    grad_sizes_R: Tensor | None = attrs.field(default=None, converter=_ids)
    """[R] samples in each of these means."""

    def __attrs_post_init__(self) -> None:
        self._same("B", "H", "T", "jH", "S1", "Hj", "Tj", "w", "h1", "prompt", "shard")
        self._same("K", "repeats_K", "sizes_K")
        self._same("R", "grad_sq_R", "grad_sizes_R")
        for name in ("s_N", "t_M", "r_U"):
            self._shaped(name, 1)
        for name in ("K_NM", "K_UU", "z"):
            self._shaped(name, 2)
        sizes = [len(x) if x is not None else None for x in (self.s_N, self.t_M)]
        K_NM = self.K_NM
        if K_NM is not None and any(n not in (None, m) for n, m in zip(sizes, K_NM.shape, strict=True)):
            raise RunError(f"terms.K_NM has shape {tuple(K_NM.shape)}, s_N and t_M have lengths {sizes}")
        if self.K_UU is not None and self.K_UU.shape[0] != self.K_UU.shape[1]:
            raise RunError(f"terms.K_UU has shape {tuple(self.K_UU.shape)}, and must be square")
        if self.z is not None and self.H is not None and len(self.z) != len(self.H):
            raise RunError(f"terms.z has {len(self.z)} rows, and there are {len(self.H)} sequences")
        if self.T is not None and bool((self.T < 1).any()):
            raise RunError(
                "a sequence has no token", "terms.T", "count the end-of-sequence token, which was sampled too"
            )
        if self.w is not None and bool((self.w < 0).any()):
            raise RunError("an importance weight is negative", "terms.w", "give the weights, not their logarithms")

    def __getitem__(self, name: str) -> Tensor:
        """Return the term of that name. Raises RunError if it was not measured."""
        value = getattr(self, name)
        if value is None:
            raise RunError(f"the probe has not measured {name}", "terms", "name it in the estimator's needs")
        return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)

    @property
    def measured_in(self) -> str:
        """Unit of the change of the entropy, in words."""
        return MEASURED_IN[self.entropy_unit]

    def _shaped(self, name: str, dimensions: int) -> int | None:
        """Return the length of a term, ``None`` without it. Raises RunError if it has other dimensions."""
        value = getattr(self, name)
        if value is None:
            return None
        if value.ndim != dimensions:
            raise RunError(f"terms.{name} has shape {tuple(value.shape)}, and needs {dimensions} dimension(s)")
        return len(value)

    def _same(self, letter: str, *names: str) -> None:
        """Check that all of these terms that were measured have one length."""
        lengths = {name: self._shaped(name, 1) for name in names if getattr(self, name) is not None}
        if len(set(lengths.values())) > 1:
            raise RunError(f"terms of shape [{letter}] differ in length: {lengths}")


@attrs.frozen(kw_only=True)
class Estimate:
    """An estimate is a standard error, with all that is needed to say what it is the standard error of.

    Unless ``status`` is ``ok`` or ``clipped``, ``se`` and ``var`` are NaN: there is no number that would mislead.
    """

    estimand: str
    """Statement of what varies and what is fixed. Standard errors of different estimands must not be compared."""
    units: str
    """Name of what ``n`` counts: the independent draws that the variance is estimated from."""
    n: int
    """Number of units; where E and U both vary, the smaller of the two numbers."""
    status: Status = "ok"
    """State of the estimate: ``ok``, ``clipped``, or why there is no number."""
    reason: str = ""
    """Explanation of the status in words; empty if it is ``ok``."""
    value: float = math.nan
    """Quantity that the standard error belongs to, from the same terms."""
    var: float = math.nan
    """Square of ``se``."""
    se: float = math.nan
    """Standard error, in ``measured_in``."""
    measured_in: str = ""
    """Unit of ``value`` and ``se``."""
    extra: Mapping[str, float] = attrs.field(factory=dict)
    """Further numbers; the docstring of the estimator names them."""
