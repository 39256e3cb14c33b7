"""The networks of a run are a policy that scores tokens, a critic that values states, and a frozen reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ....core.errors import RequestError
from ....core.tokenizers import stated_tokenizer
from ..heads.torch_head import Torch
from .adapters import add_adapter, load_adapter, require_used
from .attention import fuse_fp32_attention
from .check_head import check_head, some_tokens
from .dropout import as_loaded, switch_off
from .model_folder import check_finite, loading, open_model
from .output_layer import as_product
from .packing import Packed, packed_hidden

if TYPE_CHECKING:
    from ....core.components import TokenHead, Wanted
    from ....core.compose.experiment import Model
    from ..step.batch import Batch

VALUE_HEAD = "value_head.safetensors"
REFERENCE_HEAD = Torch()
"""Head that every model is checked with; it runs on every device and has forward-mode derivatives."""

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Names that configurations have for the cap of a model's logits."""


class Policy(nn.Module):
    """A policy is a Hugging Face causal language model that scores sampled tokens instead of returning logits."""

    def __init__(self, model: Any, temperature: float, head: TokenHead = REFERENCE_HEAD) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.head = head

    @property
    def language_model(self) -> Any:
        """Causal language model inside an adapter, or the model itself."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @contextmanager
    def using(self, head: TokenHead) -> Iterator[None]:
        """Score with another token head for a while."""
        previous = self.head
        self.head = head
        try:
            yield
        finally:
            self.head = previous

    def forward(
        self,
        batch: Batch,
        entropy: Wanted = "value",
        cache: Any = None,
        packed: bool = False,
        second_moment: Wanted = "none",
        collision_prob: Wanted = "none",
    ) -> dict[str, Tensor]:
        """Score the tokens on the mask: ``logprobs``, ``entropies`` (nats), ``second_moments`` (nats squared) and
        ``collision_probs``, [B, T].

        All but log-probs are computed where they are wanted. Only positions on the mask reach the head.

        Args:
            cache: keys and values of tokens that the rows continue, a :class:`~..step.prefix.Prefix`.
            packed: whether rows go through the model without padding; :func:`.packing.enable_packing` comes first.
        """
        hidden_N_H = self.hidden_states(batch, cache, packed)
        return self.token_scores(hidden_N_H, batch, entropy, second_moment, collision_prob)

    def hidden_states(self, batch: Batch, cache: Any = None, packed: bool = False) -> Tensor:
        """Compute the trunk's last hidden states before each of the N tokens on the mask: [N, H]."""
        return _hidden(self.language_model.get_decoder(), batch, cache, packed)

    def token_scores(
        self,
        hidden_N_H: Tensor,
        batch: Batch,
        entropy: Wanted,
        second_moment: Wanted = "none",
        collision_prob: Wanted = "none",
    ) -> dict[str, Tensor]:
        """Compute what :meth:`forward` returns from hidden states."""
        model = self.language_model
        hidden_N_K, weight_V_K = as_product(model.get_output_embeddings(), hidden_N_H)
        head_scores = self.head(
            hidden_N_K,
            weight_V_K,
            batch.tokens[:, 1:][batch.mask[:, 1:]],
            temperature=self.temperature,
            softcap=softcap(model.config),
            entropy=entropy,
            second_moment=second_moment,
            # a head of a plugin need not know it
            **({} if collision_prob == "none" else {"collision_prob": collision_prob}),
        )
        scores = {
            "logprobs": head_scores.logprobs,
            "entropies": head_scores.entropies,
            "second_moments": head_scores.second_moments,
            "collision_probs": head_scores.collision_probs,
        }
        return {name: on_mask(values_N, batch.mask) for name, values_N in scores.items() if values_N is not None}


def softcap(config: Any) -> float | None:
    """Return c if a model's logits are c tanh(x / c), and ``None`` if they are not capped."""
    text = config.get_text_config()
    caps = (getattr(text, name, None) for name in CAPS)
    return next((cap for cap in caps if cap), None)


class Critic(nn.Module):
    """A critic has the policy's architecture with a scalar head.

    It gives the value (reward units) of the state before each sampled token.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = nn.Linear(decoder.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch, packed: bool = False) -> dict[str, Tensor]:
        """Return ``values``: [B, T] reward units, zero off the mask."""
        hidden_N_H = _hidden(self.decoder, batch, packed=packed)
        values_N = self.head(hidden_N_H.to(self.head.weight.dtype)).squeeze(-1).float()
        return {"values": on_mask(values_N, batch.mask)}


def _hidden(decoder: Any, batch: Batch, cache: Any = None, packed: bool = False) -> Tensor:
    """Compute the last hidden states before each token on the mask: [N, H]."""
    if packed:
        rows = Packed.of(batch)
        return packed_hidden(decoder, rows)[rows.predicts]
    # Rows are right padded and attention is causal: no real token can see the padding, so no mask is needed.
    options = {} if cache is None else {"past_key_values": cache, **cache.inputs(batch.tokens.shape[1])}
    output = decoder(input_ids=batch.tokens, use_cache=cache is not None, **options)
    hidden_B_T_H = output.last_hidden_state
    return hidden_B_T_H[:, :-1][batch.mask[:, 1:]]


def on_mask(values_N: Tensor, mask_B_T: Tensor) -> Tensor:
    """Put values at the mask's positions, in their order, and zero elsewhere: [B, T]."""
    return torch.zeros(mask_B_T.shape, dtype=values_N.dtype, device=values_N.device).masked_scatter(mask_B_T, values_N)


# --- loading and saving ---------------------------------------------------------------------------------------------


def load_tokenizer(path: str | Path, *, chat: bool = True) -> Any:
    """Load the tokenizer of a model.

    Raises:
        RequestError: there is none, or ``chat`` is wanted and it has no chat template that can be read.
    """
    with loading(path):
        tokenizer = stated_tokenizer(str(path))
    if chat:
        _check_template(tokenizer, path)
    return tokenizer


def _check_template(tokenizer: Any, path: str | Path) -> None:
    """Refuse a tokenizer without a chat template, or with one that is no template."""
    from jinja2 import TemplateError, TemplateSyntaxError

    if not tokenizer.chat_template:
        raise RequestError(
            f"the tokenizer of {path} has no chat template",
            "model.path",
            "use an instruction model, or add chat_template to its tokenizer_config.json",
        )
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    except TemplateSyntaxError as error:
        raise RequestError(
            f"the chat template of {path} is no template: {error.message} (line {error.lineno})",
            "model.path",
            "mend its chat_template.jinja, or chat_template in its tokenizer_config.json",
        ) from error
    except TemplateError:
        # A template may refuse this conversation and take others: the rollout shows that.
        pass


def load_policy(
    settings: Model,
    path: str | Path,
    temperature: float,
    checkpoint: Path | None = None,
    head: TokenHead = REFERENCE_HEAD,
    **options: Any,
) -> Policy:
    """Load the trainable policy, from a model directory or name, or from a checkpoint's ``model/``.

    ``options`` go to ``from_pretrained`` of the model, or of an adapter's base model.
    """
    from transformers import AutoModelForCausalLM

    if settings.lora is None:
        model = _open(AutoModelForCausalLM, checkpoint or path, settings, **options)
    else:
        model = _open(AutoModelForCausalLM, path, settings, **options)
        model = add_adapter(model, settings.lora) if checkpoint is None else load_adapter(model, checkpoint)
    if settings.gradient_checkpointing:
        _checkpoint_gradients(model)
        if settings.lora is not None:
            model.enable_input_require_grads()
    # checked with the reference head, whatever head the policy then has
    policy = Policy(model, temperature)
    check_head(policy)
    if settings.lora is not None and checkpoint is None:
        require_used(model, some_tokens(policy))
    policy.head = head
    return policy


def load_reference(settings: Model, path: str | Path, temperature: float, head: TokenHead = REFERENCE_HEAD) -> Policy:
    """Load a frozen copy of the start model; with LoRA the policy without its adapter is the reference instead."""
    from transformers import AutoModelForCausalLM

    model = _open(AutoModelForCausalLM, path, settings)
    return Policy(model, temperature, head).eval().requires_grad_(False)


def load_critic(settings: Model, path: str | Path, checkpoint: Path | None = None) -> Critic:
    """Load a critic with a new head from a model, or with its own from a checkpoint's ``critic/``."""
    from transformers import AutoModel

    critic = Critic(_open(AutoModel, checkpoint or path, settings, "critic.path"))
    if checkpoint is not None:
        critic.head.load_state_dict(load_value_head(checkpoint))
    if settings.gradient_checkpointing:
        _checkpoint_gradients(critic.decoder)
    return critic.to(getattr(torch, settings.dtype))


def load_value_head(directory: Path) -> dict[str, Tensor]:
    """Load the weights of a critic's scalar head. Raises RequestError if they are damaged or not finite."""
    with loading(directory, "critic.path", "continue from an earlier checkpoint"):
        weights = load_file(directory / VALUE_HEAD)
    check_finite(weights.items(), directory, "critic.path")
    return weights


def save_model(module: Policy | Critic, weights: dict[str, Tensor], directory: Path) -> None:
    """Write full ``weights``, by parameter name of ``module``, as a Hugging Face model or adapter.

    The head of a critic goes into a file beside it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(module, Policy):
        # an adapter is saved without embeddings: otherwise peft would ask the hub whether they have changed
        options = {"save_embedding_layers": False} if hasattr(module.model, "peft_config") else {}
        with as_loaded(module.language_model):
            module.model.save_pretrained(directory, state_dict=_under(weights, "model."), **options)
    else:
        with as_loaded(module.decoder):
            module.decoder.save_pretrained(directory, state_dict=_under(weights, "decoder."))
        save_file(_under(weights, "head."), directory / VALUE_HEAD)


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select the weights whose names begin with ``prefix``, by their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _checkpoint_gradients(model: Any) -> None:
    if not model.supports_gradient_checkpointing:
        reason = f"models of type {model.config.model_type} cannot recompute activations"
        raise RequestError(reason, "model.gradient_checkpointing", "set it to false")
    model.gradient_checkpointing_enable({"use_reentrant": False})


def _open(cls: Any, path: str | Path, settings: Model, key: str = "model.path", **options: Any) -> Any:
    """Open a model, without dropout and with a fused attention where the settings and the machine want them."""
    model = open_model(cls, path, settings.dtype, key, **options)
    if not settings.dropout:
        switch_off(model)
    if torch.cuda.is_available():
        fuse_fp32_attention(model)
    return model
