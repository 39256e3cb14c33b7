"""``uncollapse plugins --check`` finds the mistakes that authors make, and names each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BORDERS = HERE.parent / "plugins" / "training" / "mistakes.py"


@pytest.fixture(scope="module")
def reported():
    """Plugin -> (what it registers, what is wrong with it), as ``plugins --check --json`` tells."""
    files = [word for path in (BORDERS, HERE / "subtle_mistakes.py") for word in ("--plugin", str(path))]
    words = [sys.executable, "-m", "uncollapse.cli.main", *files, "plugins", "--check", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    return {
        plugin["name"]: (
            [(kind, name) for kind, names in plugin["registers"].items() for name in names],
            [error["message"] for error in plugin["errors"]],
        )
        for plugin in json.loads(done.stdout)
    }


def missed(registered, messages):
    return [(kind, name) for kind, name in registered if not any(f"{kind} {name!r}" in text for text in messages)]


def test_every_mistake_that_a_run_would_refuse_is_found_without_one(reported):
    registered, messages = reported["mistakes"]
    assert len(registered) >= 67
    assert missed(registered, messages) == []


def test_every_mistake_that_would_train_in_silence_is_found(reported):
    registered, messages = reported["subtle_mistakes"]
    assert len(registered) == 82
    assert missed(registered, messages) == []


def test_what_is_sound_is_not_blamed(reported):
    others = {name: messages for name, (_, messages) in reported.items() if "mistakes" not in name}
    assert others
    assert not any(others.values()), others


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("row_ratio", 'set ratio_of = "rows", which is refused with corrections of single tokens'),
        ("spreads_gradients", "a gradient in the log-probs of other tokens"),
        ("says_it_weighs_rows", "weighs tokens of one row differently"),
        ("couples_rows", "another gradient with micro-batches of 1 rows"),
        ("metric_of_micro_batch", "the metric largest another value"),
        ("spreads_nan", "spreads a NaN off the mask"),
        ("unmasked", "is not zero off the mask"),
        ("first_half", "when the same groups came in another order"),
        ("takes_nan", "took a score of NaN"),
        ("first_episodes", "kept other episodes when the groups came in another order"),
        ("says_it_keeps_all", "drops episodes although it says that it keeps all"),
        ("above_the_one_before", "another reward when the episodes came in another order"),
        ("says_it_is_idle", "changes rewards although it says that it is idle"),
        ("counts_calls", "gave other rewards at a second call"),
        ("reads_the_entropy", "coef is nan, which is not a finite number"),
        ("forgets_its_coefficient", "does not restore the coefficient"),
        ("for_all_runs", "the same session twice"),
        ("needs_values", "holds values; there are entropies"),
        ("by_place", "when the groups came in another order"),
        ("not_zero", "is not 0 where both log-probs are equal"),
        ("constant", "does not depend on the log-probs"),
        ("forgetful", "does not restore the coefficient"),
        ("moves_by_chance", "gave two ranks that were told the same different shares"),
        ("moves_by_its_own_count", "moves the reference at other steps, or by other shares, after a resume"),
        ("neighbours", "the same rows came in another order"),
        ("padding", "when the batch was padded further"),
        ("forgets_its_average", "gave other advantages in step 1 after a resume"),
        ("learns_by_place", "the same rows came in another order (in step 1)"),
        ("noisy_average", "gives other advantages in another process"),
        ("common_average", "shares something with another run's session"),
        ("one_session", "the same session twice"),
        ("computes_otherwise", "gives other advantages than compute in its first step"),
        ("mean_of_the_batch", "other weights in a smaller micro-batch"),
        ("counts_padding", "other weights when the rows were padded further"),
        ("first_rows_most", "other weights when the same rows came in another order"),
        ("divides_by_nothing", "gave values that are NaN or infinite"),
        ("first_only", "any of several right answers is right"),
        ("by_chance", "said something else of the same answer"),
        ("talks", "gave a score = 'right', which is of the type str and not a number"),
        ("without_state", "gave a SimpleNamespace, not a CollapseSession"),
        ("forgets", "otherwise after a resume"),
        ("by_entropy", "name in needs what it reads: uncollapse show policy_loss"),
        ("against_the_reference", "failed in call: TypeError"),
        ("one_for_all", "the same session twice"),
        ("one_board", "plays another episode while others are played"),
        ("sets_alarms", "signal only works in main thread"),
        ("dice_tasks", "draws other tasks in another process"),
        ("one_counter", "draws otherwise beside another run"),
        ("forgetful_tasks", "draws other tasks in step 1 after a resume"),
        ("numbered_tasks", "holds a mapping with the key 40, which a checkpoint would make a text"),
        ("foresees_others", "does not give the seeds that draw gives later"),
        ("wrapped_tasks", "gave the seed 1 twice in a step"),
        ("forgetful_batches", "collects other groups in step 1 after a resume"),
        ("dice_batches", "collects other groups in another process"),
        ("forever_batches", "gave two groups of the seed 100"),
        ("draws_more", "gave 4, and a step samples 8 groups"),
        ("remembers_turns", "ask says something else the second time"),
        ("case_sensitive", "which respond says for ('Up',)"),
        ("hides_the_task", "leaves the instruction out, or changes it"),
        ("takes_anything", "read ('Up',) in a response of nothing at all"),
        ("trusts_calls", 'takes {"name": "add", "arguments": {"number": "one"}} for right'),
        ("keeps_all", "where actions <= parsed <= 1 (a turn's)"),
        ("unsayable", "holds 'Up || Down', which no answer in the dialogue ThinkAnswer can name"),
        ("dice", "another episode of the same seed, member and actions"),
        ("needs_too_much", "holds entropy; there are"),
        ("remembers", "can be changed after it was made"),
    ],
)
def test_the_message_says_what_is_wrong(reported, name, says):
    _, messages = reported["subtle_mistakes"]
    assert any(f"'subtle-{name}'" in text and says in text for text in messages), "\n".join(messages)
