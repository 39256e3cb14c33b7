"""Train two steps with each mistake of ``mistakes.py``; prints {kind_name: how it ended} as JSON."""

import json
import sys
from pathlib import Path

import uncollapse
from uncollapse.core.errors import RunError
from uncollapse.core.registry import registry
from uncollapse.plugins.training import assemble
from uncollapse.plugins.training.processes import ranks
from uncollapse.plugins.training.step.loop import Loop

SETTINGS = {
    "rollout_filter": ["filter.select={}"],
    "episode_filter": ["filter.episodes={}"],
    "reward_shaping": ["reward.shaping={}"],
    "entropy_controller": ["entropy.controller={}"],
    "group_metric": ["filter.metric={}", "filter.select=top_k(1)"],
    "kl": ["kl.estimator={}", "kl.coef=0.1"],
    "kl_controller": ["kl.controller={}", "kl.coef=0.1"],
    "advantage": ["advantage={}"],
    "policy_loss": ["policy_loss={}"],
    "sampler_correction": ["correction={}"],
    "task_sampler": ["rollout.tasks={}"],
    "batch_sampler": ["rollout.batch={}"],
    "loss_aggregation": ["trainer.loss_aggregation={}"],
    "verifier": ["environment=dataset(arithmetic, verifier={})"],
    "environment": ["environment={}"],
    "dialogue": ["dialogue={}", "rollout.max_turns=2", "rollout.max_actions=2"],
    "rollout_engine": ["rollout.engine={}"],
}


def ending(base, own, kind, name):
    overrides = [setting.format(name) for setting in SETTINGS[kind]]
    experiment = uncollapse.compose(base, overrides)
    parts = None
    try:
        parts = assemble.assemble(experiment, own)
        loop = Loop(experiment, parts, own)
        loop.train_step()
        if kind in ("environment", "verifier"):  # the model has not learnt to name an action yet
            parts.sampler.environment.make(0).step("Up")
        loop.train_step()
        loop.state_dict()
    except RunError as error:
        return str(error)
    except BaseException as error:
        return f"raw {type(error).__name__}: {error}"
    finally:
        if parts is not None:
            parts.close()
    return "trained without a word"


base = json.loads(Path(sys.argv[1]).read_text())
base["validation"].pop("environment")
plugin = registry().load_file(Path(__file__).with_name("mistakes.py"))
own = ranks.start_ranks()
names = [(kind, name) for kind in SETTINGS for name in registry().names(kind) if name.startswith(f"{kind}_")]
print(json.dumps({name: ending(base, own, kind, name) for kind, name in names}))
