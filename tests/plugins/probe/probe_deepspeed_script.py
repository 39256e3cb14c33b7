"""Run as one of several ranks: train an adapter for two steps with ZeRO, and save it as DeepSpeed does."""

import sys

import deepspeed
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from uncollapse.plugins.training.processes.ranks import start_ranks


def adapter(base):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return get_peft_model(model, LoraConfig(r=3, task_type="CAUSAL_LM"))


def losses(model):
    for step in range(2):
        tokens = torch.arange(step, step + 9)[None]
        yield model(input_ids=tokens, labels=tokens).loss


def train(stage, base, directory):
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    start_ranks()  # which also leaves the group so that gloo cannot abort the process at its end
    deepspeed.init_distributed(verbose=False)
    model = adapter(base)
    if deepspeed.comm.get_rank() == 0:
        model.save_pretrained(directory)
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 1e30,  # or it clips at 1
        "zero_optimization": {"stage": stage},
    }
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    for loss in losses(engine):
        engine.backward(loss)
        engine.step()
    engine.save_checkpoint(directory)


if __name__ == "__main__":
    train(int(sys.argv[1]), *sys.argv[2:])
