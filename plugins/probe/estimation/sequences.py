"""From what the passes say of tokens to what the estimators read of sequences: sums over the sampled tokens of each.

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
from .sampled_tokens import SampledTokens

EntropyMode = Literal["rb", "naive"]
"""What stands for the entropy of a token: that of its distribution (Rao-Blackwell), or minus its log-prob."""


def entropy_terms(outputs: Outputs, rollouts: Rollouts, mode: EntropyMode = "rb") -> dict[str, Tensor]:
    """Per sequence, as fields of :class:`Terms`: H and T, and with derivatives jH, S1, Hj and Tj; ``prompt`` as well.

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
    """Per sequence: the log-weight log pi_new - log pi_old of all its tokens (nats), and h1, its entropy at the new
    parameters.
    """
    tokens = SampledTokens(rollouts)
    log_weights = tokens.total(tokens.of(moved["logprobs"] - base["logprobs"]))
    return log_weights, tokens.total(tokens.of(entropy_of(moved, mode)))


def entropy_of(outputs: Outputs, mode: EntropyMode) -> Tensor:
    """[B, T]: what stands for the entropy of each token."""
    return -outputs["logprobs"] if mode == "naive" else outputs["entropies"]


def by_others(terms: dict[str, Tensor], unit: EntropyUnit) -> Tensor:
    """[S]: what turns H - h T, with h the mean entropy of the whole sample, into that with h of all other sequences.

    A sequence's own entropy in the h that centres it takes a share of its score away: in the mean, (N - 1) / N of the
    score part is left. With T the length (per token) or 1, H - h_others T = (H - h T) sum T / (sum T - T): N / (N - 1)
    per sequence. A sequence alone has no others, and keeps its own.
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
    """[B, T] weights of log-probs and entropies whose weighted sum has the gradient X-bar of the mean entropy.

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
    on_tokens = [torch.where(rollouts.mask, x[rollouts.episodes][:, None], 0.0) for x in (score * centring, share)]
    if mode == "naive":
        return on_tokens[0] - on_tokens[1], torch.zeros_like(on_tokens[1])
    return on_tokens[0], on_tokens[1]


def per_prompt(terms: Terms) -> Tensor:
    """[N] s_n = X_n . v: what each prompt contributes to D_v h, their mean being D_v h itself.

    The entropy h and the mean length are taken as given; ``deriv_delta`` knows how their noise adds to it.
    """
    H, T, jH, S1 = (terms[name] for name in ("H", "T", "jH", "S1"))
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
