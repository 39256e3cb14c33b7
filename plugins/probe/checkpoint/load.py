"""A checkpoint is loaded as the probe needs it: the policy in float32, the tokenizer, and notes for the user on both.

It may be of this package, of the Hugging Face Trainer and TRL, of plain torch and PEFT, or of DeepSpeed. The files of
DeepSpeed are converted with its own tools, which unpickle: read those only from people whom you trust.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn

from ....core.compose.experiment import Lora, Model
from ....core.errors import MissingExtraError, RequestError
from .adam_state import read_saved
from .deepspeed_state import read_weights
from .files import ADAPTER, Files, find_checkpoint, read_json, start_model
from .optimizer_layout import canonical
from .weight_faults import cause, not_finite

if TYPE_CHECKING:
    from ...training.networks.models import Policy

WEIGHTS = "adapter_model.safetensors"


@attrs.frozen(eq=False)
class Loaded:
    """A loaded checkpoint has a policy that is ready to be probed, and says where it came from."""

    directory: Path
    model_path: Path
    optimizer_path: Path
    """File ``optimizer.pt``, or the folder with DeepSpeed's shards, for :func:`.adam_state.read_adam_state`."""
    policy: Policy
    """Policy in float32 (but for a quantised base) and evaluation mode; only what trains requires a gradient."""
    tokenizer: Any
    adapter: bool
    start: str
    """Directory or hub name of the full model, or of the adapter's base."""
    weights_digest: str
    notes: tuple[str, ...]
    """Facts of the loading that a user should know."""


def load_checkpoint(
    path: str | Path,
    *,
    backbone: str | None = None,
    optimizer_path: str | Path | None = None,
    temperature: float = 1.0,
    use_qlora: bool = False,
    device: torch.device | str = "cpu",
) -> Loaded:
    """Load the policy of the checkpoint at ``path`` (see :func:`find_checkpoint`), ready to be probed.

    Args:
        backbone: the base model of an adapter, where the checkpoint does not say it: a short name of
            :mod:`..legacy_keys`, a hub name or a directory.
        optimizer_path: where the optimizer state is, if not with the checkpoint.
        temperature: temperature of the policy's distribution.
        use_qlora: load an adapter's base in 4 bits (nf4, double quantisation, bfloat16 compute); needs a GPU.

    Raises:
        RequestError: a part is missing or damaged, or the parts do not belong together.
    """
    from ...training.networks.models import load_policy

    files = find_checkpoint(path, optimizer_path)
    settings = files.adapter
    _check_kind(files, use_qlora)
    start, note = start_model(files, backbone)
    model = Model(path=start, dtype="float32", lora=None if settings is None else Lora())
    options = _four_bits(device) if use_qlora else {}
    with _damaged(files.model_path), _explained(files.model_path, start):
        policy = load_policy(model, start, temperature, None if settings is None else files.model_path, **options)
    if settings is not None:
        _check_adapter(policy, files.model_path)
    # a quantised base can neither be cast nor moved
    quantised = getattr(policy.language_model.config, "quantization_config", None) is not None
    notes = [note, _restore_weights(policy, files, start), _quantisation(files, quantised)]
    if not quantised:
        policy = policy.float().to(device)
    if wrong := sorted(name for name, p in policy.named_parameters() if not bool(p.isfinite().all())):
        raise not_finite(wrong, files.model_path)
    return Loaded(
        directory=files.directory,
        model_path=files.model_path,
        optimizer_path=files.optimizer_path,
        policy=_without_dropout(policy),
        tokenizer=_tokenizer(files, start),
        adapter=settings is not None,
        start=start,
        weights_digest=digest(policy),
        notes=tuple(filter(None, notes)),
    )


def _check_kind(files: Files, use_qlora: bool) -> None:
    """Raise RequestError if the checkpoint is neither a LoRA adapter with its weights nor a full model."""
    settings = files.adapter
    if settings is None:
        if use_qlora:
            raise RequestError("a full model has no adapter to train over a 4-bit base", "use_qlora", "leave it out")
        return
    if settings.get("peft_type") != "LORA":
        raise RequestError(
            f"the adapter is {settings.get('peft_type')}, not LoRA",
            str(files.model_path / ADAPTER),
            "probe a LoRA adapter or a full model",
        )
    if not (files.model_path / WEIGHTS).is_file():
        raise RequestError(f"the adapter has no {WEIGHTS}", str(files.model_path), "save it with save_pretrained")


def digest(policy: nn.Module) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of all parameters and buffers."""
    total = hashlib.sha256()
    for name, tensor in (*policy.named_parameters(), *policy.named_buffers()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


@contextmanager
def _damaged(model_path: Path) -> Iterator[None]:
    """Turn what is raised by weights that are damaged, or of another shape, into one error that says so."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, RuntimeError, ImportError) as error:
        raise RequestError(
            f"the weights cannot be loaded: {' '.join(str(error).split())[:300]}",
            str(model_path),
            "give the base model that the adapter was trained on, or another checkpoint",
        ) from error


@contextmanager
def _explained(*places: str | Path) -> Iterator[None]:
    """Name the cause, if the weights show it, where a policy is refused because its log-probs are not of its logits."""
    try:
        yield
    except RequestError as error:
        raise cause(places) or error from error


def _check_adapter(policy: Policy, model_path: Path) -> None:
    """Raise RequestError if weights are missing: peft only warns of them, and leaves them as they were made."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(model_path / WEIGHTS, "pt") as saved:
        stored = set(saved.keys())
    wanted = set(get_peft_model_state_dict(policy.model, save_embedding_layers=False))
    # embeddings may be stored as well, frozen and in full
    if different := (wanted - stored) | {name for name in stored - wanted if "lora_" in name}:
        raise RequestError(
            f"the adapter's weights and its settings disagree on {len(different)} tensors, e.g. {min(different)}",
            str(model_path),
            "give the base model that the adapter was trained on",
        )


@torch.no_grad()
def _restore_weights(policy: Policy, files: Files, start: str) -> str:
    """Put the float32 copies that the optimizer kept into what trains; return a note on the weights' precision."""
    from transformers import AutoConfig

    parameters = {canonical(name): p for name, p in policy.named_parameters() if p.requires_grad}
    stored = str(AutoConfig.from_pretrained(start).dtype or torch.float32).removeprefix("torch.")
    master = {}
    if files.sharded:
        master = read_weights(files.optimizer_path)
    elif stored != "float32":
        saved = read_saved(files.optimizer_path)
        master = saved.get("master", {}) if isinstance(saved, dict) else {}
    by_name = {canonical(name): tensor for name, tensor in master.items()}
    # DeepSpeed gives buffers and the second names of tied weights as well; our trainer only what is not float32
    different = parameters.keys() - by_name.keys() if files.sharded else by_name.keys() - parameters.keys()
    if different:
        raise RequestError(
            f"the float32 weights of the optimizer and the model disagree on {len(different)} parameters, "
            f"e.g. {min(different)}",
            str(files.optimizer_path),
            "give the optimizer state of this very model",
        )
    for name in by_name.keys() & parameters.keys():
        tensor = by_name[name]
        if tensor.shape != parameters[name].shape:
            shapes = f"{tuple(tensor.shape)}, the model {tuple(parameters[name].shape)}"
            raise RequestError(
                f"the float32 weights of {name} have shape {shapes}",
                str(files.optimizer_path),
                "give the optimizer state of this very model",
            )
        parameters[name].copy_(tensor)
    upcast = [f"weights stored as {stored} are used as float32"] if stored != "float32" else []
    kept = ["what trains has the weights that DeepSpeed or the optimizer kept"] if master else []
    return "; ".join(upcast + kept)


def _four_bits(device: torch.device | str) -> dict[str, Any]:
    if torch.device(device).type != "cuda":
        raise RequestError(
            "a base model in 4 bits needs a GPU", "use_qlora", "set use_qlora: false, or run where there is a GPU"
        )
    try:
        import bitsandbytes  # noqa: F401 - transformers looks for it only when it loads
    except ImportError as error:
        raise MissingExtraError(
            "a base model in 4 bits needs bitsandbytes", "use_qlora", "pip install bitsandbytes"
        ) from error
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": settings, "device_map": {"": torch.device(device)}}


def _quantisation(files: Files, here: bool) -> str:
    """Return a note if the base was quantised in training and is not here, or the other way round."""
    if files.adapter is None:
        return ""
    keys = ("use_qlora", "load_in_4bit", "quantization")
    information = read_json(files.directory / "training_info.json") or {}
    values = [*_values(information, keys), *_values(files.adapter, keys)]
    trained = any(values) if values else None
    if trained and not here:
        return "the base model was quantised in training and is not here: this is another policy; see use_qlora"
    if here and trained is False:
        return "the base model is quantised here and was not in training: this is another policy"
    return ""


def _values(record: Any, keys: tuple[str, ...]) -> Iterator[Any]:
    """Yield the values under ``keys``, at any depth."""
    for key, value in record.items() if isinstance(record, dict) else ():
        if key in keys:
            yield value
        else:
            yield from _values(value, keys)


def _without_dropout(policy: Policy) -> Policy:
    for module in policy.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return policy.eval()


def _tokenizer(files: Files, start: str) -> Any:
    from ...training.networks.models import load_tokenizer

    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    for place in (files.model_path, files.directory):
        if any((place / name).is_file() for name in names):
            return load_tokenizer(place, chat=False)
    return load_tokenizer(start, chat=False)
