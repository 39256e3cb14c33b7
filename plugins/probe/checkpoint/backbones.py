"""Short names of base models, as the keys ``backbone`` of existing configurations use them."""

from __future__ import annotations

BACKBONES = {
    "phi2": "microsoft/phi-2",
    "phi1_5": "microsoft/phi-1_5",
    "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "mistral7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "mixtral8x7b": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "gemma2b": "google/gemma-2b-it",
    "orcamath": "microsoft/orca-math-7b",
    "codellama7b": "codellama/CodeLlama-7b-hf",
    "qwen2": "Qwen/Qwen2-0.5B",
    "qwen2_5_15": "Qwen/Qwen2.5-1.5B",
    "qwen2_5_05": "Qwen/Qwen2.5-0.5B",
}


def backbone_path(name: str) -> str:
    """The hub name behind a short name; any other text is a hub name or a directory already."""
    return BACKBONES.get(name, name)
