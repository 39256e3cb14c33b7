"""Advantages of several rewards as TRL computes them, for :mod:`tests.estimators.advantage`.

    python tests/peers/trl_gdpo.py        (in an environment that has trl; README.md says how it is made)

The GRPO trainer samples from a tiny model, and its reward functions give numbers that are known before.
"""

from __future__ import annotations

import tempfile

import torch
from datasets import Dataset
from inputs import write
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

GROUP = 4
INPUTS = {
    "groups": torch.arange(3).repeat_interleave(GROUP),
    "rewards": {
        "right": torch.tensor([1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 0.0]),
        "format": torch.tensor([1, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1.0]),
        "brief": torch.tensor([-0.3, -0.1, -0.7, -0.5, -0.2, -0.8, -0.8, -0.4, -0.6, -0.1, -0.3, -0.2]),
    },
}
CASES = (["right", "format"], None), (["right", "format", "brief"], [1.0, 0.5, 0.2]), (["right", "brief"], [2.0, -1.0])


def advantages(names: list[str], weights: list[float] | None, folder: str) -> torch.Tensor:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "one": 2, "two": 3}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    config = Qwen2Config(
        vocab_size=4,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
    )
    rewards = [lambda completions, _found=INPUTS["rewards"][name], **_: _found.tolist() for name in names]
    trainer = GRPOTrainer(
        Qwen2ForCausalLM(config),
        rewards,
        args=GRPOConfig(
            folder,
            per_device_train_batch_size=len(INPUTS["groups"]),
            num_generations=GROUP,
            max_completion_length=3,
            reward_weights=weights,
            multi_objective_aggregation="normalize_then_sum",
            report_to=[],
            use_cpu=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": "one"}, {"prompt": "two"}, {"prompt": "one two"}]),
        processing_class=tokenizer,
    )
    prompts = [{"prompt": prompt} for prompt in ("one", "two", "one two") for _ in range(GROUP)]
    return trainer._generate_and_score_completions(prompts)["advantages"]


if __name__ == "__main__":
    cases = []
    for names, weights in CASES:
        with tempfile.TemporaryDirectory() as folder:
            given = weights or [1.0] * len(names)
            cases.append({"names": names, "weights": given, "advantages": advantages(names, weights, folder)})
    write("trl_gdpo", "trl", INPUTS, cases)
