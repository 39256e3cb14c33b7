"""A checkpoint of the smallest kind: a random Qwen2, a LoRA adapter that does something, a made-up Adam state."""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from rollout_worlds import tiny_model, tokenizer

SETTINGS = {
    "batch_config": {"environment": "bandit", "dataset_name": None, "B_U": 2, "G": 2},
    "rollout": {"max_turns": 1, "max_tokens": 6, "max_context": 600},
    "generation": {"max_new_tokens": 4},
    "policy_gradient": {"entropy_coeff": 0.1},
    "learning_rate": 1e-4,
}
"""A configuration under which a probe takes a moment; the entropy term gives U a gradient whatever is answered."""


def make_checkpoint(directory: Path) -> Path:
    """``directory/step_1`` with ``model/``, ``optimizer.pt`` and the names of its tensors."""
    words = tokenizer()
    base = directory / "base"
    tiny_model(len(words)).save_pretrained(base)
    words.save_pretrained(base)
    base_model = tiny_model(len(words))
    base_model.name_or_path = str(base)
    targets = ["q_proj", "v_proj"]
    model = get_peft_model(base_model, LoraConfig(r=2, lora_alpha=4, target_modules=targets, task_type="CAUSAL_LM"))
    model.peft_config["default"].base_model_name_or_path = str(base)
    torch.manual_seed(1)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trained.items():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    checkpoint = directory / "step_1"
    model.save_pretrained(checkpoint / "model")
    words.save_pretrained(checkpoint / "model")
    state = {
        index: {
            "step": torch.tensor(10.0),
            "exp_avg": 0.01 * torch.randn(p.shape),
            "exp_avg_sq": 1e-4 * (0.1 + torch.rand(p.shape)),
        }
        for index, p in enumerate(trained.values())
    }
    group = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "params": list(state)}
    torch.save({"state": state, "param_groups": [group]}, checkpoint / "optimizer.pt")
    (checkpoint / "optimizer_param_names.json").write_text(json.dumps(list(trained)))
    return checkpoint
