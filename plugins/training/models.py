"""The networks: a policy that scores tokens, a critic that values states, and the reference that neither trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...core import hub
from ...core.errors import RequestError
from ...core.paths import is_folder
from .attention import fuse_fp32_attention
from .heads.torch_head import Torch
from .packing import Packed, packed_hidden
from .quiet import quiet_libraries

if TYPE_CHECKING:
    from ...core.components import TokenHead, Wanted
    from ...core.experiment import Lora, Model
    from .batch import Batch

VALUE_HEAD = "value_head.safetensors"
HOW = "give a directory with a Hugging Face model, or the name of one that is downloaded or reachable"
REFERENCE_HEAD = Torch()
"""The one with forward-mode derivatives, on every device."""


class Policy(nn.Module):
    """A Hugging Face causal language model that scores sampled tokens instead of returning logits."""

    def __init__(self, model: Any, temperature: float, head: TokenHead = REFERENCE_HEAD) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.head = head

    @property
    def language_model(self) -> Any:
        """The causal language model inside an adapter, or the model itself."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @contextmanager
    def using(self, head: TokenHead) -> Iterator[None]:
        """With another token head, for a while."""
        own, self.head = self.head, head
        try:
            yield
        finally:
            self.head = own

    def forward(
        self, batch: Batch, entropy: Wanted = "value", cache: Any = None, packed: bool = False
    ) -> dict[str, Tensor]:
        """``logprobs`` and ``entropies`` [B, T] of the tokens on the mask (nats); only those positions reach the
        head. With a ``cache``, rows continue the tokens in it. ``packed`` rows go through the model without padding,
        after :func:`.packing.enable_packing`.
        """
        return self.token_scores(self.hidden_states(batch, cache, packed), batch, entropy)

    def hidden_states(self, batch: Batch, cache: Any = None, packed: bool = False) -> Tensor:
        """[N, H]: the trunk's last hidden states before each of the N tokens on the mask."""
        return _hidden(self.language_model.get_decoder(), batch, cache, packed)

    def token_scores(self, hidden_N_H: Tensor, batch: Batch, entropy: Wanted) -> dict[str, Tensor]:
        """What :meth:`forward` returns, from hidden states."""
        model = self.language_model
        found = self.head(
            hidden_N_H,
            model.get_output_embeddings().weight,
            batch.tokens[:, 1:][batch.mask[:, 1:]],
            temperature=self.temperature,
            softcap=getattr(model.config.get_text_config(), "final_logit_softcapping", None),
            entropy=entropy,
        )
        scores = {"logprobs": spread(found.logprobs, batch.mask)}
        return scores if found.entropies is None else {**scores, "entropies": spread(found.entropies, batch.mask)}


class Critic(nn.Module):
    """The same architecture with a scalar head: the value (reward units) of the state before each sampled token."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = nn.Linear(decoder.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch, packed: bool = False) -> dict[str, Tensor]:
        """``values`` [B, T]."""
        hidden_N_H = _hidden(self.decoder, batch, packed=packed)
        values_N = self.head(hidden_N_H.to(self.head.weight.dtype)).squeeze(-1).float()
        return {"values": spread(values_N, batch.mask)}


def _hidden(decoder: Any, batch: Batch, cache: Any = None, packed: bool = False) -> Tensor:
    """[N, H] last hidden states before each token on the mask."""
    if packed:
        rows = Packed.of(batch)
        return packed_hidden(decoder, rows)[rows.predicts]
    # Rows are right padded and attention is causal: no real token can see the padding, so no mask is needed.
    hidden = decoder(input_ids=batch.tokens, past_key_values=cache, use_cache=cache is not None).last_hidden_state
    return hidden[:, :-1][batch.mask[:, 1:]]


def spread(values_N: Tensor, mask_B_T: Tensor) -> Tensor:
    """[B, T]: the values at the mask's positions, in their order, and zero elsewhere."""
    return torch.zeros(mask_B_T.shape, dtype=values_N.dtype, device=values_N.device).masked_scatter(mask_B_T, values_N)


# --- loading and saving ---------------------------------------------------------------------------------------------


def load_tokenizer(path: str | Path, *, chat: bool = True) -> Any:
    """Raises RequestError if there is none, or if ``chat`` is wanted and it has no chat template."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    # AutoTokenizer goes by the model's type: a Qwen2 model's own tokenizer would quietly get Qwen2's splitting.
    with loading(path):
        own = get_tokenizer_config(str(path)).get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend")
        tokenizer = (PreTrainedTokenizerFast if own else AutoTokenizer).from_pretrained(str(path))
    if chat and not tokenizer.chat_template:
        raise RequestError(
            f"the tokenizer of {path} has no chat template",
            "model.path",
            "use an instruction model, or add chat_template to its tokenizer_config.json",
        )
    return tokenizer


def read_config(path: str | Path, key: str = "model.path") -> Any:
    """The configuration of a model, without its weights."""
    from transformers import AutoConfig

    with loading(path, key):
        return AutoConfig.from_pretrained(str(path))


def load_policy(
    settings: Model,
    path: str | Path,
    temperature: float,
    checkpoint: Path | None = None,
    head: TokenHead = REFERENCE_HEAD,
    **options: Any,
) -> Policy:
    """The trainable policy, from a model directory or name, or from a checkpoint's ``model/``.

    ``options`` go to ``from_pretrained`` of the model, or of an adapter's base model.
    """
    from transformers import AutoModelForCausalLM

    if settings.lora is None:
        model = _from_pretrained(AutoModelForCausalLM, checkpoint or path, settings.dtype, **options)
    else:
        model = _from_pretrained(AutoModelForCausalLM, path, settings.dtype, **options)
        model = _with_adapter(model, settings, checkpoint)
    if settings.gradient_checkpointing:
        _checkpoint_gradients(model)
        if settings.lora is not None:
            model.enable_input_require_grads()
    policy = Policy(model, temperature)
    _check_head(policy)
    policy.head = head
    return policy


def load_reference(settings: Model, path: str | Path, temperature: float, head: TokenHead = REFERENCE_HEAD) -> Policy:
    """A frozen copy of the start model; with LoRA the policy without its adapter serves instead."""
    from transformers import AutoModelForCausalLM

    model = _from_pretrained(AutoModelForCausalLM, path, settings.dtype)
    return Policy(model, temperature, head).eval().requires_grad_(False)


def load_critic(settings: Model, path: str | Path, checkpoint: Path | None = None) -> Critic:
    from transformers import AutoModel

    critic = Critic(_from_pretrained(AutoModel, checkpoint or path, settings.dtype, "critic.path"))
    if checkpoint is not None:
        critic.head.load_state_dict(load_file(checkpoint / VALUE_HEAD))
    if settings.gradient_checkpointing:
        _checkpoint_gradients(critic.decoder)
    return critic.to(getattr(torch, settings.dtype))


def save_model(module: Policy | Critic, weights: dict[str, Tensor], directory: Path) -> None:
    """Write full ``weights`` (by parameter name of ``module``) as a Hugging Face model or adapter, plus any value
    head.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(module, Policy):
        module.model.save_pretrained(directory, state_dict=_under(weights, "model."))
    else:
        module.decoder.save_pretrained(directory, state_dict=_under(weights, "decoder."))
        save_file(_under(weights, "head."), directory / VALUE_HEAD)


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _checkpoint_gradients(model: Any) -> None:
    if not model.supports_gradient_checkpointing:
        reason = f"models of type {model.config.model_type} cannot recompute activations"
        raise RequestError(reason, "model.gradient_checkpointing", "set it to false")
    model.gradient_checkpointing_enable({"use_reentrant": False})


def _with_adapter(model: Any, settings: Model, checkpoint: Path | None) -> Any:
    from peft import PeftModel

    if checkpoint is not None:
        with loading(checkpoint, "model.lora"):
            return PeftModel.from_pretrained(model, str(checkpoint), is_trainable=True)
    assert settings.lora is not None
    return add_adapter(model, settings.lora)


def add_adapter(model: Any, lora: Lora) -> Any:
    """``model`` with a new low-rank adapter, which alone trains.

    Raises:
        RequestError: the model has no such modules, or they cannot be adapted.
    """
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        fix = "name linear layers of the model, or take all-linear"
        raise RequestError(str(error).splitlines()[0], "model.lora.targets", fix) from error


def _from_pretrained(cls: Any, path: str | Path, dtype: str, key: str = "model.path", **options: Any) -> Any:
    with loading(path, key, (OSError, ValueError, SafetensorError)):
        model, report = cls.from_pretrained(str(path), dtype=getattr(torch, dtype), output_loading_info=True, **options)
    # the library would fill them with random numbers
    if missing := report["missing_keys"]:
        raise RequestError(f"{path} has no weights for {len(missing)} parameters, e.g. {min(missing)}", key)
    if torch.cuda.is_available():
        fuse_fp32_attention(model)
    return model


@contextmanager
def loading(
    path: str | Path, key: str = "model.path", reasons: tuple[type[Exception], ...] = (OSError, ValueError)
) -> Iterator[None]:
    """What the libraries raise where there is no model becomes one error that says so."""
    quiet_libraries()
    if not is_folder(path):
        hub.require(str(path), key)
    try:
        yield
    except reasons as error:
        raise RequestError(
            f"cannot load a model from {path}: {str(error).splitlines()[0]}",
            key,
            HOW,
        ) from error


@torch.no_grad()
def _check_head(policy: Policy) -> None:
    """Refuse a model that does more after its output embedding than the token head knows of."""
    from .batch import Batch

    policy.eval()
    tokens = (
        torch.arange(1, 9, device=policy.model.device)[None] % policy.language_model.config.get_text_config().vocab_size
    )
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 0] = False
    ours = policy(Batch(tokens=tokens, mask=mask, lengths=torch.tensor([8])), entropy="none")["logprobs"][:, 1:]
    logits = policy.model(input_ids=tokens, use_cache=False).logits.float() / policy.temperature
    theirs = logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
    if not torch.allclose(ours, theirs, atol=1e-3 if logits.dtype == torch.float32 else 5e-2, rtol=1e-2):
        raise RequestError(
            f"log-probs of {type(policy.language_model).__name__} differ from its own logits by "
            f"{float((ours - theirs).abs().max()):.3g} nats",
            "model.path",
            "the architecture scales its logits in a way that the token head does not know",
        )
