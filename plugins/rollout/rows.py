"""Episodes become rows of :class:`Rollouts`, and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from statistics import fmean

import torch
from torch import Tensor

from ...core.components import Rollouts
from ...core.compose.experiment import Reward, Rollout
from ...core.errors import RunError
from .episode import Episode, Turn


def in_order(episodes: Iterable[Episode]) -> list[Episode]:
    """Return the episodes ordered by group and member, whichever rank collected them.

    Raises:
        RunError: two episodes are the same member of the same group.
    """
    ordered = sorted(episodes, key=lambda episode: (episode.seed, episode.member))
    if len({(episode.seed, episode.member) for episode in ordered}) < len(ordered):
        raise RunError("two episodes are the same member of the same group", "rollouts", "give each group its own seed")
    return ordered


def raw_rewards(episodes: Iterable[Episode]) -> tuple[Tensor, Tensor]:
    """Return rewards with format penalties and group ids, both [E], in the order of :func:`in_order`."""
    episodes = in_order(episodes)
    _, groups_E = torch.tensor([episode.seed for episode in episodes]).unique(return_inverse=True)
    return torch.tensor([episode.reward for episode in episodes], dtype=torch.float32), groups_E


def build(
    episodes: Iterable[Episode],
    rollout: Rollout,
    reward: Reward,
    rewards_E: Tensor | None = None,
    shaped_E: Tensor | None = None,
) -> Rollouts:
    """Build right-padded rows of episodes, ordered by group and member; group ids are 0..P-1 in that order.

    With ``context_window: full`` an episode is one row. In the turn-level windows each turn is a row in which only that
    turn's tokens train, and with ``placement: episode`` every row has the whole episode's reward.

    With ``placement: turn``, the difference between shaped and raw reward is added to the last token of the episode, so
    that the rewards of an episode add up to its shaped reward.

    Args:
        episodes: the episodes of all ranks.
        rollout: the ``rollout`` section, which has the context window.
        reward: the ``reward`` section, which has the placement.
        rewards_E: [E] normalised rewards in the order of :func:`raw_rewards`; the shaped ones unless given.
        shaped_E: [E] shaped rewards in the same order; the raw ones unless given.

    Raises:
        RunError: an episode occurs twice, or normalised rewards are to be placed by turn, which is not defined.
    """
    episodes = in_order(episodes)
    raw_E, groups_E = raw_rewards(episodes)
    whole = rollout.context_window == "full"
    shaped_E = raw_E if shaped_E is None else shaped_E.to(raw_E)
    rewards_E = shaped_E if rewards_E is None else rewards_E.to(raw_E)
    by_turn = reward.placement == "turn"
    if by_turn and not torch.allclose(rewards_E, shaped_E, rtol=0, atol=0, equal_nan=True):
        raise RunError(
            "normalised episode rewards cannot be placed by turn",
            f"reward.normalization: {reward.normalization}, reward.placement: turn",
            "set reward.normalization: identity, or reward.placement: episode",
        )
    # a row: the index of its episode, and its turns that train with their numbers
    rows: list[tuple[int, list[tuple[int, Turn]]]] = []
    for index, episode in enumerate(episodes):
        rows += [(index, trained) for trained in _trained_turns(episode, whole)]
    # the prompt of a row's last turn holds the tokens of the turns before it
    sequences = [trained[-1][1].prompt + trained[-1][1].tokens for _, trained in rows]
    lengths_B = torch.tensor([len(sequence) for sequence in sequences])
    shape = len(rows), int(lengths_B.max())
    tokens_B_T = torch.zeros(shape, dtype=torch.long)
    turns_B_T = torch.full(shape, -1)
    states_B_T = torch.full(shape, -1)
    ids: dict[str, int] = {}
    logprobs_B_T = torch.zeros(shape)
    rewards_B_T = torch.zeros(shape)
    for row, ((index, trained), sequence) in enumerate(zip(rows, sequences, strict=True)):
        tokens_B_T[row, : len(sequence)] = torch.tensor(sequence)
        for number, turn in trained:
            start = len(turn.prompt)
            end = start + len(turn.tokens)
            turns_B_T[row, start:end] = number
            states_B_T[row, start:end] = ids.setdefault(turn.observation, len(ids))
            logprobs_B_T[row, start:end] = torch.tensor(turn.logprobs)
            if by_turn:
                rewards_B_T[row, end - 1] = turn.reward - turn.penalty
        if not by_turn:
            rewards_B_T[row, len(sequence) - 1] = rewards_E[index]
        elif trained[-1][1] is episodes[index].turns[-1]:
            rewards_B_T[row, len(sequence) - 1] += shaped_E[index] - raw_E[index]
    episodes_B = torch.tensor([index for index, _ in rows])
    return Rollouts(
        tokens=tokens_B_T,
        mask=turns_B_T >= 0,
        turns=turns_B_T,
        logprobs=logprobs_B_T,
        rewards=rewards_B_T,
        episodes=episodes_B,
        groups=groups_E[episodes_B],
        raw_rewards_E=raw_E,
        group_ids_P=groups_E.unique(),
        lengths=lengths_B,
        states=states_B_T,
        success_E=torch.tensor([episode.success for episode in episodes]),
        truncated_E=torch.tensor([episode.truncated for episode in episodes]),
    )


def _trained_turns(episode: Episode, whole: bool) -> list[list[tuple[int, Turn]]]:
    """Return the turns that train in each row of the episode, with their numbers."""
    turns = list(enumerate(episode.turns))
    return [turns] if whole else [[turn] for turn in turns]


def episode_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return the metrics of the episodes of a step, or of a validation.

    The metric ``share_of_X_Y`` is the share of X that are Y.

    * shares of episodes: ``success``, ``truncated``
    * share of groups with at least one success among ``G`` members: ``pass@G``
    * means per episode: ``reward`` (raw), ``turns``, ``actions`` (executed), ``response_length`` (sampled tokens)
    * ``share_of_turns_invalid``: turns without an answer, or whose answer names an action that does not exist
    * ``share_of_turns_cut``: turns that ended because of ``max_tokens``
    * ``share_of_named_actions_known``: named actions that exist
    * ``share_of_calls_broken``, ``..._unknown``, ``..._wrong``, where tools are called: calls that cannot be read, that
      name no tool, or that have wrong arguments; and ``..._failed``: calls whose tool has failed
    * the environment's own metrics, averaged over the episodes that have them; the names above win over these
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    parsed = sum(turn.answer.parsed for turn in turns)
    groups = [list(group) for _, group in groupby(in_order(episodes), key=lambda episode: episode.seed)]
    names = sorted({name for episode in episodes for name in episode.metrics})
    return {
        **{name: fmean(e.metrics[name] for e in episodes if name in e.metrics) for name in names},
        "success": fmean(episode.success for episode in episodes),
        "truncated": fmean(episode.truncated for episode in episodes),
        f"pass@{max(map(len, groups))}": fmean(any(episode.success for episode in group) for group in groups),
        "reward": fmean(episode.reward for episode in episodes),
        "turns": len(turns) / len(episodes),
        "actions": sum(turn.executed for turn in turns) / len(episodes),
        "response_length": sum(len(turn.tokens) for turn in turns) / len(episodes),
        "share_of_named_actions_known": sum(len(turn.answer.actions) for turn in turns) / parsed if parsed else 0.0,
        "share_of_turns_invalid": fmean(not turn.answer.valid for turn in turns),
        "share_of_turns_cut": fmean(turn.stop_reason == "length" for turn in turns),
        **_call_metrics(turns),
    }


def _call_metrics(turns: Sequence[Turn]) -> dict[str, float]:
    """Return the shares of calls that could not be played, or have failed; nothing where there are no calls."""
    calls = [call for turn in turns for call in turn.answer.calls if call.fault or not call.problem]
    if not calls:
        return {}
    shares = {fault: fmean(call.fault == fault for call in calls) for fault in ("broken", "unknown", "wrong")}
    shares["failed"] = sum(turn.failed for turn in turns) / len(calls)
    return {f"share_of_calls_{fault}": share for fault, share in shares.items()}
