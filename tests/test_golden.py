"""Two steps of every family of experiments give the metrics that they gave before.

``golden.json`` was written by ``python tests/test_golden.py`` on one x86 CPU; other machines round differently, and the
difference grows with the steps. Write it anew only for a change that is meant to change numbers, and say which.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import uncollapse

FILE = Path(__file__).with_name("golden.json")
SMALL = (
    *("trainer.steps=2", "rollout.groups=4", "rollout.group_size=4", "trainer.mini_batch=8", "trainer.micro_batch=4"),
    *("validation.groups=4", "validation.every=2", "model.build.steps=60", "trackers=[jsonl]"),
)
FAMILIES = {
    "ppo with a critic": ("kl.coef=0.001",),
    "grpo with top_p": ("advantage=grpo", "filter.select=top_p(0.9)", "filter.loss_scaling=sqrt"),
    "kl in the reward": ("kl.coef=0.05", "kl.placement=reward", "kl.controller=adaptive", "entropy_coeff=0.01"),
    "shared critic": ("critic.shared=true", "trainer.mini_batch=16"),
    "rloo, packed": ("advantage=rloo", "trainer.token_budget=1024", "kl.coef=0.01", "kl.estimator=kl"),
    "remax with an adapter": ("advantage=remax", "model.lora={rank: 4}"),
    "opo, corrected, twice": ("advantage=opo", "correction=tis", "trainer.epochs=2"),
    "bi-level gae by turns": ("advantage=bi_level_gae", "reward.placement=turn", "filter.metric=entropy"),
    "turns as rows": ("advantage=reinforce_plus_plus", "rollout.context_window=single_turn", "filter.select=top_k(3)"),
    "sequence means": (
        "advantage=dr_grpo",
        "trainer.loss_aggregation=seq-mean-token-mean",
        "policy_loss=ppo(0.1, 0.1)",
    ),
}
"""Name -> what it changes of tiny-sokoban."""


def metrics(overrides, directory):
    """Step -> name -> value, without what the clock says."""
    uncollapse.train(uncollapse.compose("tiny-sokoban", (*SMALL, *overrides)), directory)
    records = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return {
        str(record["step"]): {
            name: value for name, value in record.items() if not name.startswith(("timing_s/", "step"))
        }
        for record in records
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_metrics_of_two_steps_are_what_they_were(family, tmp_path):
    golden = json.loads(FILE.read_text("utf-8"))[family]
    found = metrics(FAMILIES[family], tmp_path / "run")
    assert found.keys() == golden.keys()
    for step, expected in golden.items():
        assert found[step] == pytest.approx(expected, rel=1e-4, abs=1e-6, nan_ok=True), step


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        golden = {name: metrics(FAMILIES[name], Path(folder, str(n))) for n, name in enumerate(FAMILIES)}
    FILE.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n", "utf-8")
    sys.stdout.write(f"{FILE}\n")
