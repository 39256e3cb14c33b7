"""These estimates say how much reasonings depend on their prompts, from the log-prob of each after each prompt.

``R`` counts reasonings, ``N`` columns (the prompts that they are scored after; a prompt may have several columns).
``scores_R_N`` are log-probs in nats, of the whole reasoning or divided by its number of tokens; ``matched_R`` is the
column of each reasoning's own prompt.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STD_EPS = 1e-3
"""Number in nats that is added to the std of the marginal before a z-score is taken."""
MAX_LOG_RATIO = 500.0
"""Largest difference in nats by which the bootstrap lets another prompt explain a reasoning better than its own."""
RANKS = (1, 2, 4, 8)
"""Numbers of best columns among which retrieval looks for the reasoning's own prompt."""


def information(logprobs_R_N: Tensor, lengths_R: Tensor, matched_R: Tensor) -> dict[str, float]:
    """Estimate the information, for scores per token and, with ``_seq`` in the name, for those per sequence.

    ``mi_estimate`` is the mean of matched - marginal, where marginal is the log of the mean probability over all
    columns; it is never above ``mi_upper_bound`` = ln N.
    """
    metrics = {"mi_upper_bound": math.log(logprobs_R_N.shape[1])}
    for seq, scores_R_N in (("", per_token(logprobs_R_N, lengths_R)), ("_seq", logprobs_R_N)):
        scores_R = matched(scores_R_N, matched_R)
        marginal_R = marginal(scores_R_N)
        mi = float((scores_R - marginal_R).mean())
        std = float(marginal_R.std(correction=0))
        metrics |= {
            f"mi{seq}_estimate": mi,
            f"conditional_entropy{seq}_est": -float(scores_R.mean()),
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
    """Divide log-probs by the number of tokens of each reasoning."""
    return logprobs_R_N / lengths_R[:, None]


def matched(scores_R_N: Tensor, matched_R: Tensor) -> Tensor:
    """Select each reasoning's score after its own prompt: [R]."""
    return scores_R_N.gather(1, matched_R[:, None])[:, 0]


def marginal(scores_R_N: Tensor) -> Tensor:
    """Take the log of the mean probability of each reasoning over all columns: [R]."""
    return scores_R_N.logsumexp(1) - math.log(scores_R_N.shape[1])


def retrieval(scores_R_N: Tensor, matched_R: Tensor, prompts_N: Tensor) -> dict[str, float]:
    """Measure how often the best k columns contain the reasoning's own prompt, and compare that with chance.

    ``prompts_N`` numbers the distinct prompts: every column with the same prompt is a hit. Columns with equal scores
    are equally likely to be among the best, so a policy that gives every prompt the same score is at chance.
    """
    same_R_N, above_R, ties_R, hits_R = _ranks(scores_R_N, matched_R, prompts_N)
    chance = float(same_R_N.double().mean())
    metrics = {}
    for k in RANKS:
        missed_R = torch.ones(len(scores_R_N), dtype=torch.float64)
        # the ranks that better columns leave are drawn, without replacement, among the columns that tie
        for drawn in range(k):
            misses_R = (ties_R - hits_R - drawn).clamp(min=0) / (ties_R - drawn).clamp(min=1)
            missed_R = torch.where(above_R + drawn < k, missed_R * misses_R, missed_R)
        at_k = "" if k == 1 else f"@{k}"
        accuracy = 1.0 - float(missed_R.mean())
        expected = min(1.0, chance * k)
        metrics[f"retrieval_accuracy{at_k}"] = accuracy
        metrics[f"retrieval_chance_level{at_k}"] = expected
        metrics[f"retrieval_above_chance{at_k}"] = accuracy - expected
    return metrics


def retrieval_error(scores_R_N: Tensor, matched_R: Tensor, prompts_N: Tensor, tasks_N: Tensor) -> float | None:
    """Estimate the standard error of ``retrieval_above_chance``; ``None`` for fewer than three tasks.

    It is the linearised error of a mean over clusters: the reasonings of a task, which ``tasks_N`` numbers, tend to be
    retrieved together, so the spread between P tasks counts and not that between R reasonings.
    """
    count = int(tasks_N.max()) + 1
    if count < 3:
        return None
    same_R_N, above_R, ties_R, hits_R = _ranks(scores_R_N, matched_R, prompts_N)
    excess_R = torch.where(above_R == 0, hits_R / ties_R, 0.0) - same_R_N.double().mean(1)
    task_R = tasks_N[matched_R]
    residuals_P = torch.zeros(count, dtype=torch.float64).index_add(0, task_R, excess_R - excess_R.mean())
    return math.sqrt(count / (count - 1) * float(residuals_P.square().sum())) / len(excess_R)


def _ranks(scores_R_N: Tensor, matched_R: Tensor, prompts_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compare the columns with the best one of the reasoning's own prompt.

    Returns:
        Which columns have its own prompt, [R, N]; how many are better than the best of these; how many tie with it; and
        how many of those that tie have its own prompt, [R] each.
    """
    same_R_N = prompts_N[None, :] == prompts_N[matched_R][:, None]
    best_R = scores_R_N.masked_fill(~same_R_N, -math.inf).amax(1, keepdim=True)
    above_R = (scores_R_N > best_R).sum(1)
    ties_R_N = scores_R_N == best_R
    ties_R = ties_R_N.sum(1).double()
    hits_R = (ties_R_N & same_R_N).sum(1)
    return same_R_N, above_R, ties_R, hits_R


def standard_error(
    scores_R_N: Tensor, matched_R: Tensor, tasks_N: Tensor, replicates: int, generator: torch.Generator
) -> float | None:
    """Estimate the standard error of the information by a bootstrap over tasks; ``None`` for fewer than three tasks.

    ``tasks_N`` numbers the task of each column; ``P`` counts tasks here, and ``B`` replicates. In each replicate P
    tasks are drawn with replacement, each with all of its columns and reasonings. A task that is drawn twice does not
    compete with itself: in the marginal of a reasoning the columns of its own task count once, and those of the other
    tasks that were drawn share the rest of the N places. (Otherwise an estimate that reaches its bound in every sample
    would seem to vary.) Replicates with a single task say nothing and are left out.
    """
    count = int(tasks_N.max()) + 1
    # with two tasks, every replicate that is not left out has both of them, and none varies
    if count < 3:
        return None
    drawn_B_P = torch.randint(count, (replicates, count), generator=generator)
    weights_B_P = torch.zeros(replicates, count, dtype=torch.float64)
    weights_B_P.scatter_add_(1, drawn_B_P, torch.ones_like(drawn_B_P, dtype=torch.float64))
    weights_B_P = weights_B_P[(weights_B_P > 0).sum(1) > 1]
    if len(weights_B_P) < 2:
        return None
    ratios_R_N = (scores_R_N - matched(scores_R_N, matched_R)[:, None]).clamp(max=MAX_LOG_RATIO).exp().double()
    estimates_B = _estimates_of_replicates(ratios_R_N, matched_R, tasks_N, weights_B_P)
    return float(estimates_B.std()) if len(estimates_B) > 1 else None


def _estimates_of_replicates(ratios_R_N: Tensor, matched_R: Tensor, tasks_N: Tensor, weights_B_P: Tensor) -> Tensor:
    """Estimate the information in each replicate, [B], without those that drew no reasoning.

    ``ratios_R_N`` are probabilities of a reasoning over that after its own prompt; ``weights_B_P`` say how often each
    task was drawn.
    """
    places = ratios_R_N.shape[1]
    columns_N_P = torch.nn.functional.one_hot(tasks_N, weights_B_P.shape[1]).double()
    own_task_R_P = columns_N_P[matched_R]
    ratios_R_P = ratios_R_N @ columns_N_P
    places_P = columns_N_P.sum(0)
    own_ratios_R = (ratios_R_P * own_task_R_P).sum(1)
    own_places_R = own_task_R_P @ places_P
    other_ratios_B_R = weights_B_P @ (ratios_R_P * (1 - own_task_R_P)).T
    other_places_B_R = (weights_B_P * places_P) @ (1 - own_task_R_P).T
    gains_B_R = -((own_ratios_R + other_ratios_B_R * (places - own_places_R) / other_places_B_R) / places).log()
    weights_B_R = weights_B_P @ own_task_R_P.T
    drawn_B = weights_B_R.sum(1)
    return ((weights_B_R * gains_B_R).sum(1) / drawn_B)[drawn_B > 0]
