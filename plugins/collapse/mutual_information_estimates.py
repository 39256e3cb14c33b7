"""How much reasonings say about their prompts, from the log-prob of each after each prompt.

``R`` reasonings, ``N`` columns (the prompts that they are scored against; equal ones may stand there several times).
``scores_R_N`` are log-probs in nats, of the whole reasoning or divided by its number of tokens; ``matched_R`` is the
column of each reasoning's own prompt.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STD_EPS = 1e-3
"""Added to the std of the marginal, in nats, before a z-score is taken."""
MAX_LOG_RATIO = 500.0
"""How many nats another prompt may explain a reasoning better than its own, for all that the bootstrap sees."""
RANKS = (1, 2, 4, 8)
"""Retrieval looks at so many of the best columns."""


def information(logprobs_R_N: Tensor, lengths_R: Tensor, matched_R: Tensor) -> dict[str, float]:
    """The estimates for the scores per token, and, with ``_seq`` in the name, for those per sequence.

    ``mi_estimate`` is the mean of matched - marginal, where marginal is the log of the mean probability over all
    columns; never above ``mi_upper_bound`` = ln N.
    """
    metrics = {"mi_upper_bound": math.log(logprobs_R_N.shape[1])}
    for seq, scores_R_N in (("", per_token(logprobs_R_N, lengths_R)), ("_seq", logprobs_R_N)):
        own_R, marginal_R = matched(scores_R_N, matched_R), marginal(scores_R_N)
        mi, std = float((own_R - marginal_R).mean()), float(marginal_R.std(correction=0))
        metrics |= {
            f"mi{seq}_estimate": mi,
            f"conditional_entropy{seq}_est": -float(own_R.mean()),
            f"reasoning_entropy{seq}_est": -float(marginal_R.mean()),
            f"marginal_std{seq}": std,
            f"mi_zscore{seq}": mi / (std + STD_EPS),
        }
    return {
        **metrics,
        "matched_log_prob_mean": -metrics["conditional_entropy_est"],
        "marginal_log_prob_mean": -metrics["reasoning_entropy_est"],
    }


def per_token(logprobs_R_N: Tensor, lengths_R: Tensor) -> Tensor:
    return logprobs_R_N / lengths_R[:, None]


def matched(scores_R_N: Tensor, matched_R: Tensor) -> Tensor:
    return scores_R_N.gather(1, matched_R[:, None])[:, 0]


def marginal(scores_R_N: Tensor) -> Tensor:
    return scores_R_N.logsumexp(1) - math.log(scores_R_N.shape[1])


def retrieval(scores_R_N: Tensor, matched_R: Tensor, prompts_N: Tensor) -> dict[str, float]:
    """How often the best k columns hold the reasoning's own prompt, what chance would give, and the difference.

    ``prompts_N`` numbers the distinct prompts: every column with the same prompt is a hit. Of columns that tie, each is
    as likely as the others to be among the best: a policy that gives every prompt the same score is at chance.
    """
    same_R_N = prompts_N[None, :] == prompts_N[matched_R][:, None]
    best_R = scores_R_N.masked_fill(~same_R_N, -math.inf).amax(1, keepdim=True)
    above_R = (scores_R_N > best_R).sum(1)
    ties_R_N = scores_R_N == best_R
    ties_R, hits_R = ties_R_N.sum(1).double(), (ties_R_N & same_R_N).sum(1)
    chance = float(same_R_N.double().mean())
    metrics = {}
    for k in RANKS:
        missed_R = torch.ones(len(scores_R_N), dtype=torch.float64)
        for drawn in range(k):  # the places that better columns leave are drawn among those that tie
            misses_R = (ties_R - hits_R - drawn).clamp(min=0) / (ties_R - drawn).clamp(min=1)
            missed_R = torch.where(above_R + drawn < k, missed_R * misses_R, missed_R)
        at = "" if k == 1 else f"@{k}"
        accuracy, expected = 1.0 - float(missed_R.mean()), min(1.0, chance * k)
        metrics[f"retrieval_accuracy{at}"] = accuracy
        metrics[f"retrieval_chance_level{at}"] = expected
        metrics[f"retrieval_above_chance{at}"] = accuracy - expected
    return metrics


def standard_error(
    scores_R_N: Tensor, matched_R: Tensor, tasks_N: Tensor, replicates: int, generator: torch.Generator
) -> float | None:
    """Bootstrap standard error of the estimate over tasks; ``None`` for fewer than three, which vary in no replicate.

    ``tasks_N`` numbers the task of each column. In each replicate as many tasks as there are are drawn with
    replacement, each with all of its columns and reasonings. A task that is drawn twice does not compete with itself:
    in the marginal of a reasoning the columns of its own task count once, and those of the others that were drawn share
    the rest of the N places. (Otherwise an estimate that reaches its bound in every sample would seem to vary.)
    Replicates of one task alone say nothing and are left out.
    """
    count, places = int(tasks_N.max()) + 1, scores_R_N.shape[1]
    if count < 3:  # of two, every replicate that says something is both of them
        return None
    drawn_B_P = torch.randint(count, (replicates, count), generator=generator)
    weights_B_P = torch.zeros(replicates, count, dtype=torch.float64)
    weights_B_P.scatter_add_(1, drawn_B_P, torch.ones_like(drawn_B_P, dtype=torch.float64))
    weights_B_P = weights_B_P[(weights_B_P > 0).sum(1) > 1]
    if len(weights_B_P) < 2:
        return None
    ratios_R_N = (scores_R_N - matched(scores_R_N, matched_R)[:, None]).clamp(max=MAX_LOG_RATIO).exp().double()
    columns_N_P = torch.nn.functional.one_hot(tasks_N, count).double()
    own_R_P = columns_N_P[matched_R]
    ratios_R_P, places_P = ratios_R_N @ columns_N_P, columns_N_P.sum(0)
    own_R, own_places_R = (ratios_R_P * own_R_P).sum(1), own_R_P @ places_P
    others_B_R = weights_B_P @ (ratios_R_P * (1 - own_R_P)).T
    others_places_B_R = (weights_B_P * places_P) @ (1 - own_R_P).T
    gains_B_R = -((own_R + others_B_R * (places - own_places_R) / others_places_B_R) / places).log()
    weights_B_R = weights_B_P @ own_R_P.T
    drawn_B = weights_B_R.sum(1)
    estimates_B = ((weights_B_R * gains_B_R).sum(1) / drawn_B)[drawn_B > 0]
    return float(estimates_B.std()) if len(estimates_B) > 1 else None
