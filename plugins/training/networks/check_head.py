"""The token head's log-probs must be those of the model's own logits, which is checked when a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ....core.errors import RequestError


@torch.no_grad()
def check_head(policy: Any) -> None:
    """Refuse a policy whose model does more after its output embedding than the token head computes."""
    from ..step.batch import Batch

    policy.eval()
    tokens_1_T = some_tokens(policy)
    mask_1_T = torch.ones_like(tokens_1_T, dtype=torch.bool)
    mask_1_T[:, 0] = False
    batch = Batch(tokens=tokens_1_T, mask=mask_1_T, lengths=torch.tensor([8]))
    layer = policy.language_model.get_output_embeddings()
    with _filled_adapter(layer):
        ours_1_T = policy(batch, entropy="none")["logprobs"][:, 1:]
        logits_1_T_V = policy.model(input_ids=tokens_1_T, use_cache=False).logits.float() / policy.temperature
    theirs_1_T = logits_1_T_V.log_softmax(-1)[:, :-1].gather(-1, tokens_1_T[:, 1:, None]).squeeze(-1)
    if not bool(theirs_1_T.isfinite().all()):
        raise RequestError(
            f"the logits of {type(policy.language_model).__name__} are NaN or infinite, though its weights are not",
            "model.path",
            "some of its weights must be damaged: give another model or an earlier checkpoint",
        )
    # in 16 bits the model's own layer rounds its logits once more for a bias or an adapter
    rounded = policy.model.dtype.itemsize == 2 and (hasattr(layer, "base_layer") or layer.bias is not None)
    if not torch.allclose(ours_1_T, theirs_1_T, atol=0.25 if rounded else 1e-3, rtol=1e-2):
        raise RequestError(
            f"log-probs of {type(policy.language_model).__name__} differ from its own logits by "
            f"{float((ours_1_T - theirs_1_T).abs().max()):.3g} nats",
            "model.path",
            "the architecture scales its logits in a way that the token head does not know",
        )


def some_tokens(policy: Any) -> Tensor:
    """Return eight tokens of the vocabulary as one row, [1, 8]."""
    vocabulary = policy.language_model.config.get_text_config().vocab_size
    return torch.arange(1, 9, device=policy.model.device)[None] % vocabulary


@contextmanager
def _filled_adapter(layer: Any) -> Iterator[None]:
    """Put numbers into an adapter that is zero, as new ones are, for a while: zeros would hide that it is left out.

    The numbers add a quarter of the norm of the layer's weight to it. Much larger ones would make logits so large that
    they differ by their rounding alone.
    """
    filled = []
    for name, up in getattr(layer, "lora_B", {}).items():
        if not up.weight.any():
            norm = torch.linalg.vector_norm(layer.weight, dtype=torch.float32)
            down_norm = torch.linalg.vector_norm(layer.lora_A[name].weight, dtype=torch.float32)
            per_row = norm / len(up.weight) ** 0.5 / down_norm
            noise = torch.randn(up.weight.shape, generator=torch.Generator().manual_seed(0))
            up.weight.copy_(0.25 / layer.scaling[name] * per_row * noise.to(up.weight.device))
            filled.append(up.weight)
    try:
        yield
    finally:
        for weight in filled:
            weight.zero_()
