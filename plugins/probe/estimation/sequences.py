"""What the passes measured at tokens is summed over each sequence, for the estimators.

A sequence is one episode: everything that the policy sampled in it, over all turns, up to and including the tokens that
ended them. What the environment wrote is given, and contributes nothing.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ....core.components import Rollouts
from ....estimators.variance.terms import EntropyUnit, Terms
from .passes import Outputs
from .tokens import SampledTokens

EntropyMode = Literal["rb", "naive"]
"""Estimate of the entropy at a token: the entropy of its distribution (Rao-Blackwell), or minus its log-prob."""


def entropy_terms(outputs: Outputs, rollouts: Rollouts, mode: EntropyMode = "rb") -> dict[str, Tensor]:
    """Return sums per sequence, as fields of :class:`Terms`: H, T and ``prompt``, and with derivatives jH, S1, Hj, Tj.

    With H_t the entropy of token t, j_t the derivative of its log-prob and sums over the T tokens of a sequence:
    H = sum H_t, jH = sum of the derivatives of H_t, S1 = sum j_t, Hj = sum over t of j_t * sum over k > t of H_k,
    Tj = sum (T - t) j_t. In Hj a naive H_t is among what comes after t: it depends on token t itself.
    """
    tokens = SampledTokens(rollouts)
    H_N = tokens.of(entropy_of(outputs, mode))
    one_N = torch.ones_like(H_N)
    terms = {"H": tokens.total(H_N), "T": tokens.total(one_N), "prompt": rollouts.groups_of_episodes()}
    if "logprobs_rate" not in outputs:
        return terms
    j_N = tokens.of(outputs["logprobs_rate"])
    jH_N = -j_N if mode == "naive" else tokens.of(outputs["entropies_rate"])
    return {
        **terms,
        "jH": tokens.total(jH_N),
        "S1": tokens.total(j_N),
        "Hj": tokens.total((tokens.to_come(H_N) + (H_N if mode == "naive" else 0.0)) * j_N),
        "Tj": tokens.total(tokens.to_come(one_N) * j_N),
    }


def weight_terms(base: Outputs, moved: Outputs, rollouts: Rollouts, mode: EntropyMode = "rb") -> tuple[Tensor, Tensor]:
    """Return the log-weight log pi_new - log pi_old of each sequence, and h1, its entropy at the new parameters.

    Both are [S], in nats, and sums over the tokens of the sequence.
    """
    tokens = SampledTokens(rollouts)
    log_weights = tokens.total(tokens.of(moved["logprobs"] - base["logprobs"]))
    return log_weights, tokens.total(tokens.of(entropy_of(moved, mode)))


def entropy_of(outputs: Outputs, mode: EntropyMode) -> Tensor:
    """Return the estimate of the entropy at each token: [B, T] nats."""
    return -outputs["logprobs"] if mode == "naive" else outputs["entropies"]


def by_others(terms: dict[str, Tensor], unit: EntropyUnit) -> Tensor:
    """Return the factors ([S]) that turn H - h T into H - h_others T: h is the mean entropy of all, or of all others.

    A sequence's own entropy in the h that centres it takes a share of its score away: in the mean, (N - 1) / N of the
    score part is left. With T the length (per token) or 1, H - h_others T = (H - h T) sum T / (sum T - T): N / (N - 1)
    per sequence. A sequence alone has no others, and its factor is 1.
    """
    T = terms["T"] if unit == "per_token_ratio" else torch.ones_like(terms["T"])
    return T.sum() / (T.sum() - T) if len(T) > 1 else torch.ones_like(T)


def entropy_gradient_weights(
    terms: dict[str, Tensor],
    rollouts: Rollouts,
    unit: EntropyUnit,
    mode: EntropyMode = "rb",
    centring: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return [B, T] weights of log-probs and entropies whose weighted sum has the gradient X-bar of the mean entropy.

    D_v h = (sum jH + (H - h T) S1) / sum T, so a log-prob weighs (H - h T) / sum T and an entropy 1 / sum T; per
    sequence T is 1, and H / T stands for H in a mean over sequences of means over tokens. ``centring`` ([S]) multiplies
    the former: see :func:`by_others`.
    """
    H, T = terms["H"], terms["T"]
    match unit:
        case "per_token_ratio":
            score, share = (H - H.sum() / T.sum() * T) / T.sum(), torch.ones_like(T) / T.sum()
        case "per_seq_token_mean":
            score, share = (H / T - (H / T).mean()) / len(H), 1 / (T * len(H))
        case _:
            score, share = (H - H.mean()) / len(H), torch.ones_like(T) / len(H)
    scores_B_T = torch.where(rollouts.mask, (score * centring)[rollouts.episodes][:, None], 0.0)
    shares_B_T = torch.where(rollouts.mask, share[rollouts.episodes][:, None], 0.0)
    if mode == "naive":  # where the entropy is minus the log-prob, its weight goes to the log-prob
        return scores_B_T - shares_B_T, torch.zeros_like(shares_B_T)
    return scores_B_T, shares_B_T


def per_prompt(terms: Terms) -> Tensor:
    """Return s_n = X_n . v ([N]): what each prompt contributes to D_v h, which is their mean.

    The entropy h and the mean length are taken as given; ``deriv_delta`` counts the noise of both.
    """
    H, T = terms["H"], terms["T"]
    jH, S1 = terms["jH"], terms["S1"]
    match terms.entropy_unit:
        case "per_token_ratio":
            x = (jH + (H - H.sum() / T.sum() * T) * S1) / T.sum()
        case "per_seq_token_mean":
            x = (jH / T + (H / T - (H / T).mean()) * S1) / len(H)
        case _:
            x = (jH + (H - H.mean()) * S1) / len(H)
    if terms.prompt is None:
        return x * len(x)
    _, index = terms.prompt.unique(return_inverse=True)
    sums = torch.zeros(int(index.max()) + 1, dtype=torch.float64).index_add(0, index, x)
    return sums * len(sums)
