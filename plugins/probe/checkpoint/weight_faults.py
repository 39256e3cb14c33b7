"""Faults of a checkpoint's weights explain why its policy cannot be scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ....core.errors import RequestError

HEADS = ("lm_head", "embed_out", "output_layer")
"""Names that architectures give to their output embedding."""


def cause(places: Iterable[str | Path]) -> RequestError | None:
    """Return what is wrong with the weights in these directories, as far as they show it, or ``None``."""
    from safetensors import SafetensorError, safe_open

    for place in places:
        wrong, heads = [], []
        for file in sorted(Path(place).glob("*.safetensors")):
            try:
                with safe_open(file, "pt") as saved:
                    names = list(saved.keys())
                    wrong += [name for name in names if not bool(saved.get_tensor(name).isfinite().all())]
            except SafetensorError:
                return None  # what is damaged has said so itself
            adapted = [name for name in names if "lora_" in name]
            heads += [name for name in adapted if any(f".{head}." in name for head in HEADS)]
        if wrong:
            return not_finite(wrong, place)
        if heads:
            return RequestError(
                f"the adapter changes the output embedding ({min(heads)}), and log-probs would be those without it",
                str(place),
                "train the adapter on other layers, or merge it into the model and probe that",
            )
    return None


def not_finite(names: Sequence[str], place: str | Path) -> RequestError:
    """Return the error that refuses weights that are NaN or infinite."""
    count = f"{len(names)} tensors, e.g. {names[0]}" if len(names) > 1 else names[0]
    return RequestError(
        f"the weights hold values that are no finite numbers: {count}",
        str(place),
        "the training has diverged, or the file is damaged: give an earlier checkpoint",
    )
