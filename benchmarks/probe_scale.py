"""One probe of a LoRA policy with the shape of Qwen2.5-1.5B on one GPU: seconds of every phase, memory, and parity.

    python benchmarks/probe_scale.py [--shape qwen2.5-1.5b] [--be 2048] [--bu 64] [--etas 5] [--micro-batch 16]

The weights are random (no download), the adapter and Adam's state come from a few real AdamW steps on random text, and
responses run to their full length: what a probe costs does not depend on what the weights have learnt. The research
code that the probe replaces recorded, for the same shape and sizes (E of 2048, U of 64 x 8, up to 150 tokens): sampling
490-545 s, update direction 21 s, truth 1180 s for six passes, prediction 2490-4034 s, on a GPU that it does not name.
Those are figures of another machine; the ratio that is claimed here is that of probe_speed.py, which runs both sides in
one process. ``--shape tiny`` runs on a laptop.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM
from uncollapse.plugins.experiments.tokenizer import build_tokenizer
from uncollapse.plugins.probe import OfflineEntropyProbe

SHAPES = {
    "qwen2.5-1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
                     "num_key_value_heads": 2, "vocab_size": 151936},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 2000},
}  # fmt: skip
WORDS = ["Make", "the", "target", "with", "each", "number", "exactly", "once", "Answer", "Numbers", "Target"]


def make_checkpoint(directory: Path, shape: str, device: torch.device) -> None:
    """A base model, an adapter and its optimizer state after three steps, as PEFT and torch write them."""
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=4096)
    with torch.device(device):
        base = Qwen2ForCausalLM(config).float()
    tokenizer = build_tokenizer(WORDS)
    base.save_pretrained(directory / "base")
    tokenizer.save_pretrained(directory / "base")
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(named.values(), lr=1e-4, weight_decay=0.01)
    for _ in range(3):
        tokens = torch.randint(0, config.vocab_size, (4, 64), device=device)
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    checkpoint = directory / "checkpoint"
    model.save_pretrained(checkpoint / "model")
    tokenizer.save_pretrained(checkpoint / "model")
    torch.save(optimizer.state_dict(), checkpoint / "optimizer.pt")
    (checkpoint / "optimizer_param_names.json").write_text(json.dumps([list(named)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-1.5b")
    parser.add_argument("--be", type=int, default=2048)
    parser.add_argument("--bu", type=int, default=64)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--etas", type=int, default=5)
    parser.add_argument("--micro-batch", type=int, default=16)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        started = time.perf_counter()
        make_checkpoint(Path(temporary), arguments.shape, device)
        made = time.perf_counter() - started
        config = {
            "checkpoint": {"backbone": f"{temporary}/base"},
            "batch_config": {
                "environment": "countdown",
                "B_E": arguments.be,
                "B_U": arguments.bu,
                "G": arguments.responses,
                "rollout_batch_size": 256,
            },
            "generation": {"temperature": 1.0, "max_new_tokens": arguments.tokens},
            "rollout": {"max_turns": 1},
            "probe_rework": {"checks": "full"},
            "importance": {"enabled": True, "etas": [1e-6 * 2**k for k in range(arguments.etas)], "symmetric": False},
            "learning_rate": 1e-6,
            "memory_config": {"microbatch_size": arguments.micro_batch},
        }
        started = time.perf_counter()
        probe = OfflineEntropyProbe(config)
        session = probe.session(f"{temporary}/checkpoint")
        loaded = time.perf_counter() - started
        result = probe.run(session, arguments.be)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    print(f"device {name}, shape {arguments.shape}, {result['batches']['E']['sampled_tokens']} tokens of E sampled, "
          f"{result['batches']['U']['sampled_tokens']} of U, micro-batch {arguments.micro_batch}, float32")  # fmt: skip
    print(f"make the checkpoint {made:.1f} s, load it {loaded:.1f} s")
    for phase, seconds in result["timing"].items():
        print(f"{phase:20s} {seconds:9.2f} s")
    print(f"peak memory {result['peak_memory_bytes'] / 2**30:.1f} GiB ({result['peak_memory_of']})")
    print(f"deltaH1 {result['deltaH1']:.6g} +- {result['deltaH1_se']:.2g} (forward mode), "
          f"{result['integrity']['reverse_mode']['deltaH1']:.6g} (reverse mode), {result['measured_in']}")  # fmt: skip
    for point in result["truth"]:
        print(f"eta {point['eta']:.2e}: predicted {point['predicted']:.4e}, measured {point['deltaH']:.4e} "
              f"+- {point['se']:.1e}, ESS/N {point['ess_fraction']:.4f}")  # fmt: skip
    integrity = result["integrity"]
    print(f"noise floor {integrity['noise_floor']:.2e} nats per sequence, sampler gap {integrity['sampler_gap']:.2e}, "
          f"score identity {integrity['score_identity']}, canary {integrity['shift_canary']}")  # fmt: skip


if __name__ == "__main__":
    main()
