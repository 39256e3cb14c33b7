"""Run as one of several ranks: draw samples, one of them into a file; every rank writes what it got."""

import json
import sys
from pathlib import Path

import cattrs
from transformers import AutoTokenizer, Qwen2ForCausalLM
from uncollapse.core.compose.experiment import Rollout
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.environments.frozen_lake import FrozenLake
from uncollapse.plugins.probe.sampling.cache import drawn
from uncollapse.plugins.probe.sampling.prompts import PromptSource
from uncollapse.plugins.probe.sampling.samples import draw
from uncollapse.plugins.probe.sampling.sources import EnvironmentSource
from uncollapse.plugins.rollout.engine_hf import HfEngine
from uncollapse.plugins.training.processes.ranks import start_ranks

HOW = {"temperature": 1.0, "max_tokens": 6, "chunk": 4}


def samples(directory: Path, ranks) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(directory / "model")
    engine = HfEngine().start(Qwen2ForCausalLM.from_pretrained(directory / "model").to(ranks.device), tokenizer)
    prompts = PromptSource.named("arithmetic", max_prompt_tokens=400)
    lakes = EnvironmentSource(FrozenLake(), ThinkAnswer(), Rollout(max_turns=2))
    e = draw(prompts, engine, tokenizer, prompts=11, responses=1, with_replacement=True, seed=1, ranks=ranks, **HOW)
    u = draw(lakes, engine, tokenizer, prompts=5, responses=3, with_replacement=False, seed=2, ranks=ranks, **HOW)
    how = {"prompts": 3, "responses": 2, "with_replacement": False, "seed": 3, **HOW}
    saved = [
        drawn(directory / f"{ranks.size}.json", prompts, engine, tokenizer, policy="tiny", ranks=ranks, **how)
        for _ in range(2)
    ]
    return {
        "ranks": ranks.size,
        "episodes": [cattrs.unstructure(sample.episodes) for sample in (e, u, *saved)],
        "tasks": [sample.tasks for sample in (e, u, *saved)],
        "tokens": [sample.rollouts.tokens.tolist() for sample in (e, u, *saved)],
    }


if __name__ == "__main__":
    ranks = start_ranks()
    found = samples(Path(sys.argv[1]), ranks)
    Path(sys.argv[1], f"{ranks.rank}_of_{ranks.size}.out").write_text(json.dumps(found))
