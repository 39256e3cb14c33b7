"""What components hand to the loop is checked, and whatever they raise names them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # 100 short runs
HERE = Path(__file__).parent

SAYS = {
    "rollout_filter_gives_a_list": "select gave list, not a tensor",
    "rollout_filter_gives_places": "gave torch.int64, not torch.bool",
    "rollout_filter_gives_one_too_few": "gave a tensor of shape [3], not [4] ([P])",
    "episode_filter_gives_numbers": "select gave torch.float32, not torch.bool",
    "episode_filter_gives_groups": "gave a tensor of shape [4], not [8] ([E])",
    "episode_filter_changes_rewards": "select changed rollouts.raw_rewards_E in place",
    "reward_shaping_is_nan": "shape gave values that are NaN or infinite",
    "reward_shaping_per_group": "gave a tensor of shape [1], not [8] ([E])",
    "reward_shaping_counts": "shape gave torch.int64, not floating-point numbers",
    "reward_shaping_changes_rewards": "shape changed rewards_E in place",
    "reward_shaping_is_none": "shape gave NoneType, not a tensor",
    "entropy_controller_becomes_infinite": "coef is inf, which is not a finite number",
    "entropy_controller_becomes_a_text": "coef is 'much', which is not a finite number",
    "entropy_controller_divides_by_zero": "failed in update: ZeroDivisionError",
    "entropy_controller_has_no_session": "start gave a float: write class",
    "group_metric_scores_rows": "gave a tensor of shape [8], not [4] ([P])",
    "group_metric_scores_nan": "score gave values that are NaN or infinite, the first at [[0], [1], [2]]",
    "group_metric_divides_by_zero": "failed in score: ZeroDivisionError: division by zero",
    "group_metric_changes_rewards": "score changed rollouts.rewards in place",
    "group_metric_changes_by_numpy": "score changed rollouts.rewards in place",
    "kl_changes_the_reference": "call changed ref_logprobs in place",
    "kl_is_nan": "call gave values that are NaN or infinite",
    "kl_is_summed": "gave a tensor of shape [",
    "kl_controller_becomes_nan": "coef is nan, which is not a finite number",
    "kl_controller_has_no_state": "start: TypeError: Can't instantiate abstract class Stateless",
    "kl_controller_moves_by_two": "refresh gave 2, which is no share above 0 and at most 1",
    "kl_controller_moves_by_nothing": "refresh gave 0.0, which is no share above 0 and at most 1",
    "kl_controller_moves_if_true": "refresh gave True, which is no share above 0 and at most 1",
    "kl_controller_moves_undeclared": "refresh gave 1.0, and moves_reference declares 'never'",
    "kl_controller_moves_partly": "refresh gave 0.5, and moves_reference declares 'to_policy'",
    "advantage_per_row": "compute (advantages) gave a tensor of shape [8], not [8,",
    "advantage_off_the_mask": "compute (advantages) is not zero off the mask",
    "advantage_nan": "compute (advantages) gave values that are NaN or infinite",
    "advantage_a_tensor": "compute gave Tensor, not Advantages",
    "advantage_leaves": "failed in compute: SystemExit: 5",
    "advantage_raises_its_own": "failed in compute: Own, which cannot be printed",
    "advantage_has_a_gradient": "compute (advantages) has a gradient: detach it",
    "advantage_turns_gradients_off": "changed torch's recording of gradients (it was on, and is off)",
    "advantage_has_no_session": "start gave a dict: write class dict(uncollapse.api.AdvantageEstimatorSession)",
    "advantage_keeps_a_set": "state_dict holds set, which a checkpoint cannot hold",
    "advantage_measures_a_text": "metrics gave 'high' for the metric baseline, which is not a number",
    "policy_loss_is_a_mean": "gave a tensor of shape [], not [",
    "policy_loss_is_alone": "call must give a LossOutput",
    "policy_loss_prepares_a_tensor": "prepare gave Tensor, not a mapping of tensors",
    "policy_loss_prepares_numbers": "prepare gave share as float, not as a tensor",
    "policy_loss_prepares_one_row": "prepare gave weights of shape",
    "policy_loss_prepares_nan": "prepare (weights) gave values that are NaN or infinite",
    "policy_loss_nan_off_the_mask": "call gave values that are NaN or infinite",
    "policy_loss_detached": "gave a loss that does not depend on the log-probs",
    "policy_loss_metric_is_a_mean": "gave the metric clipped as float, not as (sum, count)",
    "policy_loss_metric_is_a_text": "gave 'many' for the metric clipped, which is not a number",
    "policy_loss_metric_is_a_row": "for the metric clipped, which is not a number",
    "policy_loss_changes_advantages": "call changed advantages in place",
    "sampler_correction_negative": "gave negative weights",
    "sampler_correction_metric_is_a_text": "gave 'high' for the metric ess, which is not a number",
    "sampler_correction_changes_log_probs": "correction changed old_logprobs in place",
    "sampler_correction_is_alone": "correction must give a pair",
    "sampler_correction_per_row": "correction gave a tensor of shape [",
    "task_sampler_gives_a_range_of_texts": "draw gave '0', which is no seed",
    "task_sampler_gives_a_generator": "draw gave range_iterator, not a list of environment seeds",
    "task_sampler_gives_one_too_few": "draw gave 3 seeds where 4 were asked for",
    "task_sampler_gives_negative_seeds": "draw gave -1, which is no seed: a whole number from 0 below 2^63",
    "task_sampler_gives_large_seeds": "draw gave 9223372036854775808, which is no seed",
    "task_sampler_repeats_a_seed": "draw gave the seed 0 twice in a step",
    "task_sampler_breaks": "failed in draw: KeyError: 0",
    "task_sampler_keeps_a_set": "state_dict holds set, which a checkpoint cannot hold",
    "task_sampler_keeps_nan": "state_dict holds nan, which a checkpoint cannot hold",
    "task_sampler_has_no_session": "start gave a dict: write class dict(uncollapse.api.TaskSamplerSession)",
    "batch_sampler_gives_nothing": "collect gave no group",
    "batch_sampler_gives_episodes": "collect gave Episode, not a Group of the pool",
    "batch_sampler_gives_a_group_twice": "collect gave two groups of the seed 10000",
    "batch_sampler_gives_none": "collect gave NoneType, not a list of groups",
    "batch_sampler_changes_rewards": "collect gave the group of the seed 10000 otherwise than the pool",
    "batch_sampler_is_ahead": "collect gave a group of step 1 in step 0",
    "batch_sampler_asks_for_a_share": "collect asked the pool for 0.5 groups",
    "batch_sampler_measures_nan": "metrics gave nan for kept, which is not a finite number",
    "batch_sampler_takes_a_name": "metrics gave a metric the name 'filter_kept_count'",
    "batch_sampler_breaks": "failed in collect: IndexError",
    "loss_aggregation_per_row": "weights gave a tensor of shape [",
    "loss_aggregation_off_the_mask": "weights gave weights off the mask, to tokens that were not sampled",
    "loss_aggregation_negative": "weights gave negative weights",
    "loss_aggregation_in_double": "weights gave torch.float64, not torch.float32",
    "loss_aggregation_infinite": "weights gave values that are NaN or infinite",
    "verifier_says_a_word": "verify gave a score = 'right', which is of the type str and not a number",
    "verifier_gives_percent": "verify gave 80, which is no score from 0 to 1",
    "verifier_is_nan": "verify gave a score = nan, which is not a finite number",
    "verifier_breaks": "failed in verify: TypeError",
    "environment_actions_are_a_text": "actions must be a tuple of names, or None for free text, not 'Up'",
    "environment_gives_a_pair": "step gave tuple, not a Step",
    "environment_reward_is_nan": "step gave reward = nan, which is not a finite number",
    "environment_reward_is_a_tensor": "gave reward = tensor(1.), which is of the type Tensor and not a number",
    "environment_changes_the_directory": "changed the working directory (it was ",
    "environment_gives_an_unnamed_reward": "step gave a reward 'right', which reward_names does not declare",
    "environment_observes_a_number": "initial_observation gave int 7, not a text",
    "environment_members_differ": "differs between the members of group 10000, which must see the same first prompt",
    "environment_breaks": "failed in step(",
    "dialogue_system_is_bytes": "system gave bytes b'Answer.', not a text",
    "dialogue_reply_is_elsewhere": "reply gave 'Reply as you like.', which is no part of the system message",
    "dialogue_asks_nothing": "ask gave no text for turn 1",
    "dialogue_outcome_is_a_number": "outcome gave float ",
    "dialogue_parses_nothing": "parse gave NoneType, not an Answer",
    "dialogue_parses_too_many": "gave 5 actions and parsed = 5, where actions <= parsed <= ",
    "dialogue_parses_a_list": "gave actions = ['a'], which is not a tuple of texts",
    "dialogue_tags_are_a_text": "tags must be a tuple of texts, not '<think>'",
    "dialogue_changes_the_directory": "changed the working directory (it was ",
    "dialogue_breaks": "failed in parse(",
    "rollout_engine_fewer_logprobs": "generate gave 1 log-probs for ",
    "rollout_engine_positive_logprobs": "which is no log-prob of a sampled token",
    "rollout_engine_nan_logprobs": "generate gave the log-prob nan",
    "rollout_engine_too_long": "tokens, where 1 to 6 were asked for",
    "rollout_engine_empty": "generate gave 0 tokens, where 1 to 6 were asked for",
    "rollout_engine_one_completion": "generate gave 1 completions for 8 prompts",
}


@pytest.fixture(scope="module")
def endings(bandit, tmp_path_factory):
    file = tmp_path_factory.mktemp("base") / "base.json"
    file.write_text(json.dumps(bandit))
    done = subprocess.run(
        [sys.executable, HERE / "mistakes_script.py", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", SAYS)
def test_a_mistake_of_a_component_ends_the_run_and_names_it(endings, name):
    kind = next(kind for kind in sorted(KINDS, key=len, reverse=True) if name.startswith(f"{kind}_"))
    said = endings[name]
    assert SAYS[name] in said
    assert f"{kind} {name!r} of plugin 'mistakes'" in said
    assert str(HERE / "mistakes.py") in said


KINDS = ["rollout_filter", "group_metric", "kl", "kl_controller", "advantage", "policy_loss", "sampler_correction"]
KINDS += ["task_sampler", "batch_sampler", "loss_aggregation", "verifier", "environment", "dialogue", "rollout_engine"]
KINDS += ["episode_filter", "reward_shaping", "entropy_controller"]


def test_every_planted_mistake_was_looked_at(endings):
    assert endings.keys() == SAYS.keys()
