from __future__ import annotations

import math

import pytest
import torch
from rollout_worlds import CHATML, LLAMA3, Counter, Scripted, says, tiny_model, tokenizer
from uncollapse.core.components import Step
from uncollapse.core.compose.experiment import Reward, Rollout
from uncollapse.core.errors import RunError
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.rollout import rows
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.engine_hf import HfEngine
from uncollapse.plugins.rollout.template import Template

TEMPLATE = Template(tokenizer(), ThinkAnswer())
MODES = ["full", "limited_multi_turn", "single_turn"]
UP, DOWN, BAD = "a</think><answer>Up</answer>", "bb</think><answer>Down</answer>", "?"


def scripted(*texts: str, seeds=(5,), group_size: int = 1, world: Counter = Counter(), **settings):  # noqa: B008
    rollout = Rollout(**settings)
    engine = Scripted(TEMPLATE, *texts)
    return rollout, collect(world, rollout, engine, TEMPLATE, seeds=seeds, group_size=group_size, seed=0)


def sampled(**settings):
    """Episodes of a model that knows nothing: any bytes, cut by length or ended by chance."""
    rollout = Rollout(max_turns=4, max_tokens=10, **settings)
    model = tiny_model(len(TEMPLATE.tokenizer))
    engine = HfEngine().start(model, TEMPLATE.tokenizer)
    engine.end_ids = [*engine.end_ids, *range(0, 300, 9)]  # ends that the template knows nothing of, too
    return model, rollout, collect(Counter(), rollout, engine, TEMPLATE, seeds=[3, 4], group_size=3, seed=1)


# --- tokens in, tokens out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [CHATML, LLAMA3])
def test_a_prompt_begins_with_the_turns_before_it(family):
    template = Template(tokenizer(family), ThinkAnswer())
    engine = HfEngine().start(tiny_model(len(template.tokenizer)), template.tokenizer)
    engine.end_ids = [*engine.end_ids, *range(0, 300, 9)]
    episodes = collect(Counter(), Rollout(max_tokens=10), engine, template, seeds=[3, 4], group_size=3, seed=1)
    survived = True
    for episode in episodes:
        assert len(episode.turns) == 5
        for turn, following in zip(episode.turns, episode.turns[1:], strict=False):
            so_far = turn.prompt + turn.tokens
            assert following.prompt[: len(so_far)] == so_far
            text = template.tokenizer.decode(list(turn.tokens))
            survived &= tuple(template.tokenizer.encode(text, add_special_tokens=False)) == turn.tokens
    assert not survived  # or decoding and encoding again would not have been seen


@pytest.mark.parametrize("mode", MODES)
def test_rows_hold_the_sampled_tokens_and_their_logprobs(mode):
    model, rollout, episodes = sampled(context_window=mode, window_turns=2)
    rollouts = rows.build(episodes, rollout, Reward())
    turns = [turn for episode in episodes for turn in episode.turns]
    assert rollouts.tokens[rollouts.mask].tolist() == [token for turn in turns for token in turn.tokens]
    assert len(rollouts.tokens) == (len(episodes) if mode == "full" else len(turns))
    for row, length in enumerate(rollouts.lengths.tolist()):
        assert not rollouts.mask[row, length:].any()
        assert not rollouts.tokens[row, length:].any()
    with torch.no_grad():
        logprobs = model.eval()(input_ids=rollouts.tokens).logits.log_softmax(-1)
    following = rollouts.tokens[:, 1:, None]
    scored = logprobs[:, :-1].gather(2, following)[..., 0] * rollouts.mask[:, 1:]
    torch.testing.assert_close(rollouts.logprobs[:, 1:], scored, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_turns_and_masks(mode):
    rollout, episodes = scripted(UP, DOWN, BAD, max_turns=3, context_window=mode)
    rollouts = rows.build(episodes, rollout, Reward())
    expected = [TEMPLATE.tokenizer.encode(text, add_special_tokens=False) for text in (UP, DOWN, BAD)]
    for number, tokens in enumerate(expected):
        row = 0 if mode == "full" else number
        of_turn = rollouts.turns[row] == number
        assert rollouts.tokens[row, of_turn].tolist() == [*tokens, TEMPLATE.end_of_turn]
        tag = TEMPLATE.tokenizer.encode("<think>", add_special_tokens=False)
        start = int(of_turn.nonzero()[0])
        assert rollouts.tokens[row, start - len(tag) : start].tolist() == tag
        assert not rollouts.mask[row, start - 1]
    assert torch.equal(rollouts.mask, rollouts.turns >= 0)
    if mode != "full":
        assert [row.unique().tolist() for row in rollouts.turns] == [[-1, 0], [-1, 1], [-1, 2]]


def states_of_turns(rollouts):
    """The states of each row's turns, once each, in the order of the turns."""
    rows_of_turns = [
        dict(zip(turns, states, strict=True))
        for turns, states in zip(rollouts.turns.tolist(), rollouts.states.tolist(), strict=True)
    ]
    return [[states[turn] for turn in sorted(states) if turn >= 0] for states in rows_of_turns]


@pytest.mark.parametrize("mode", MODES)
def test_states_are_equal_where_observations_are(mode):
    """They are, whatever number the turn has and however many actions are left."""
    rollout, episodes = scripted(DOWN, BAD, UP, DOWN, UP, max_turns=5, context_window=mode)
    rollouts = rows.build(episodes, rollout, Reward())
    observed = [turn.observation for turn in episodes[0].turns]
    assert observed == ["seed 5 at 0", "at -1", "at -1", "at 0", "at -1"]
    assert [state for row in states_of_turns(rollouts) for state in row] == [0, 1, 1, 2, 1]
    assert torch.equal(rollouts.states >= 0, rollouts.mask)
    kept = rollouts.select(torch.tensor([True]))
    assert torch.equal(kept.states, rollouts.states)


# --- rewards --------------------------------------------------------------------------------------------------------


def last_sampled(rollouts):
    return [int(row.nonzero()[-1]) for row in rollouts.mask]


@pytest.mark.parametrize("mode", MODES)
def test_the_episode_reward_is_on_the_last_sampled_token_of_every_row(mode):
    rollout, episodes = scripted(UP, BAD, UP, context_window=mode)
    rollouts = rows.build(episodes, rollout, Reward())
    assert rollouts.raw_rewards_E.tolist() == pytest.approx([-0.1 - 0.1 + 9.9])
    for row, last in enumerate(last_sampled(rollouts)):
        assert rollouts.rewards[row, last] == rollouts.raw_rewards_E[0]
        assert rollouts.rewards[row].count_nonzero() == 1


@pytest.mark.parametrize("mode", MODES)
def test_turn_rewards_are_on_the_last_token_of_their_turns(mode):
    rollout, episodes = scripted(UP, BAD, UP, context_window=mode)
    rollouts = rows.build(episodes, rollout, Reward(placement="turn"))
    placed = rollouts.rewards[rollouts.rewards != 0]
    assert placed.tolist() == pytest.approx([-0.1, -0.1, 9.9])
    for number in range(3):
        row = 0 if mode == "full" else number
        last = int((rollouts.turns[row] == number).nonzero()[-1])
        assert rollouts.rewards[row, last] == placed[number]


def test_normalised_rewards_are_placed_and_raw_ones_kept():
    rollout, episodes = scripted(UP, seeds=(9, 2), group_size=2)
    normalised_E = torch.tensor([1.0, 2.0, 3.0, 4.0])
    rollouts = rows.build(episodes, rollout, Reward(normalization="mean"), normalised_E)
    assert rollouts.rewards.sum(1).tolist() == [1.0, 2.0, 3.0, 4.0]
    assert rollouts.raw_rewards_E.tolist() == pytest.approx([9.8] * 4)
    with pytest.raises(RunError, match="placed by turn"):
        rows.build(episodes, rollout, Reward(placement="turn"), normalised_E)
    with pytest.raises(RunError, match="placed by turn"):  # however little they differ
        rows.build(episodes, rollout, Reward(placement="turn"), rollouts.raw_rewards_E + 1e-5)
    assert rows.build(episodes, rollout, Reward(placement="turn"), rollouts.raw_rewards_E).rewards.any()


@pytest.mark.parametrize("mode", MODES)
def test_what_shaping_adds_is_on_the_last_token_of_the_episode(mode):
    rollout, episodes = scripted(UP, BAD, UP, context_window=mode, seeds=(9, 2), group_size=2)
    raw_E, _ = rows.raw_rewards(episodes)
    shaped_E = torch.tensor([4.0, -2.5, 0.0, 9.75])
    plain = rows.build(episodes, rollout, Reward(placement="turn"))
    shaped = rows.build(episodes, rollout, Reward(placement="turn"), shaped_E, shaped_E)
    returns_E = torch.zeros(4).index_add(0, shaped.episodes, shaped.rewards.sum(1))
    assert torch.allclose(returns_E, shaped_E, atol=1e-5)
    assert torch.equal(shaped.raw_rewards_E, raw_E)
    changed = (shaped.rewards != plain.rewards).nonzero().tolist()
    assert [shaped.episodes[row].item() for row, _ in changed] == [0, 1, 2, 3]
    for row, column in changed:
        assert shaped.turns[row, column] == 2
        assert column == last_sampled(shaped)[row]
    with pytest.raises(RunError, match="placed by turn"):
        rows.build(episodes, rollout, Reward(placement="turn"), shaped_E - shaped_E.mean(), shaped_E)


def test_a_reward_that_is_not_finite_is_an_error():
    class Broken(Counter):
        def make(self, seed, member=0):
            walk = super().make(seed, member)
            walk.step = lambda action: Step("", math.nan)
            return walk

    rollout, episodes = scripted(UP, world=Broken())
    with pytest.raises(RunError, match="NaN or infinite"):
        rows.build(episodes, rollout, Reward(placement="turn"))


# --- groups ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_ranks_merge_into_the_same_rows(mode):
    rollout, whole = scripted(UP, DOWN, seeds=(30, 10, 20), group_size=2, max_turns=2, context_window=mode)
    parts = [
        scripted(UP, DOWN, seeds=seeds, group_size=2, max_turns=2, context_window=mode)[1]
        for seeds in [(20,), (10, 30)]
    ]
    one, merged = rows.build(whole, rollout, Reward()), rows.build([*parts[0], *parts[1]], rollout, Reward())
    for name in (
        "tokens",
        "turns",
        "logprobs",
        "rewards",
        "episodes",
        "groups",
        "group_ids_P",
        "raw_rewards_E",
        "lengths",
    ):
        assert torch.equal(getattr(one, name), getattr(merged, name)), name
    assert one.group_ids_P.tolist() == [0, 1, 2]
    assert one.groups_of_episodes().tolist() == [0, 0, 1, 1, 2, 2]
    rewards_E, groups_E = rows.raw_rewards(whole)
    assert torch.equal(rewards_E, one.raw_rewards_E)
    assert torch.equal(groups_E, one.groups_of_episodes())


def test_the_same_member_twice_is_an_error():
    rollout, episodes = scripted(UP)
    with pytest.raises(RunError, match="same member"):
        rows.build([*episodes, *episodes], rollout, Reward())


# --- metrics ----------------------------------------------------------------------------------------------------


def test_metrics():
    _, solved = scripted("a</think><answer>Up||Up</answer>", seeds=(1,), group_size=2)
    _, failed = scripted("a</think><answer>Up||Hop</answer>", BAD, seeds=(2,), group_size=2, max_turns=2)
    texts = "a</think><answer>Up||Up</answer>", "a</think><answer>Up||Hop</answer>", BAD
    lengths = [len(says(TEMPLATE, text).tokens) for text in texts]
    metrics = rows.episode_metrics([*failed, *solved])
    assert metrics == pytest.approx(
        {
            "success": 0.5,
            "pass@2": 0.5,
            "truncated": 0.5,
            "reward": (9.8 - 0.3) / 2,
            "turns": 1.5,
            "actions": 1.5,
            "response_length": sum(lengths) / 2,
            "share_of_named_actions_known": 3 / 4,
            "share_of_turns_invalid": 2 / 3,
            "share_of_turns_cut": 0.0,
            "up": 1.0,
        }
    )


def test_metrics_when_no_action_was_ever_read():
    _, episodes = scripted(BAD)
    metrics = rows.episode_metrics(episodes)
    assert metrics["share_of_named_actions_known"] == 0.0
    assert metrics["pass@1"] == 0.0
    assert "up" not in metrics
