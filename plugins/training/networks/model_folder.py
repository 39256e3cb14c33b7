"""A model's folder is opened here; one that holds no model, or parts of different models, is refused in one message."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ....core.compose import hub
from ....core.errors import RequestError, UncollapseError
from ....core.paths import is_folder, unusable
from ..processes.quiet import only_errors, quiet_libraries

HOW = "give a directory with a Hugging Face model, or the name of one that is downloaded or reachable"
SUMMED = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
"""Types whose numbers can be NaN or infinite, and which torch can sum."""
BUFFERS = re.compile(r"(^|\.)(inv_freq|masked_bias)$")
"""Names of buffers, which older checkpoints hold besides weights; the model computes them from its configuration."""


def read_config(path: str | Path, key: str = "model.path") -> Any:
    """Read the configuration of a model, without its weights.

    Raises:
        RequestError: there is no model of that name or in that directory.
    """
    from transformers import AutoConfig

    _require_model(path, key)
    with loading(path, key):
        return AutoConfig.from_pretrained(str(path), trust_remote_code=False)


def open_model(cls: Any, path: str | Path, dtype: str, key: str = "model.path", **options: Any) -> Any:
    """Load the model in a folder, or of a name, with every weight that its configuration asks for and no other.

    Args:
        cls: ``AutoModelForCausalLM``, or ``AutoModel`` for its trunk alone: the weights of a head are then left out.
        path: a directory, or the name of a model.
        dtype: the name of the type that the weights are loaded in.
        key: the key of the experiment that gave ``path``, for errors.
        options: more arguments of ``from_pretrained``.

    Raises:
        RequestError: there is no model, its weights are damaged or not finite, or they belong to a model of another
            size than its configuration says.
    """
    _require_model(path, key)
    with loading(path, key), only_errors():
        model, report = cls.from_pretrained(
            str(path),
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            trust_remote_code=False,  # without it transformers asks the user, and waits for an answer
            ignore_mismatched_sizes=True,  # refused below, where the message can name the weight
            **options,
        )
    _check_sizes(model, report, path, key)
    _check_ties(model, path, key)
    check_finite(model.named_parameters(), path, key)
    return model


def check_finite(weights: Iterable[tuple[str, Tensor]], path: str | Path, key: str = "model.path") -> None:
    """Raise RequestError if a weight is NaN or infinite."""
    broken = [name for name, weight in weights if not _is_finite(weight.detach())]
    if broken:
        others = f", and so do {len(broken) - 1} other tensors" if len(broken) > 1 else ""
        raise RequestError(
            f"the weights of {path} are not all finite numbers: {broken[0]} holds NaN or infinity{others}",
            key,
            "give another model or an earlier checkpoint: this one was damaged, or its training diverged",
        )


def _is_finite(weight: Tensor) -> bool:
    if weight.is_meta or weight.dtype not in SUMMED:
        return True
    # A sum needs no second tensor, and is not finite if a part of it is not. But a sum of huge numbers may overflow,
    # so what it calls infinite is looked at again.
    return bool(weight.sum(dtype=torch.float32).isfinite()) or bool(weight.isfinite().all())


@contextmanager
def loading(
    path: str | Path, key: str = "model.path", fix: str = HOW, what: str = "cannot load a model from"
) -> Iterator[None]:
    """Turn any exception of the libraries that read a model into one RequestError.

    It is any exception because the files may hold anything, and so reading them may fail with any type.
    """
    quiet_libraries()
    if not is_folder(path):
        if not unusable(str(path)) and Path(path).is_file():
            raise RequestError(f"{what} {path}: that is a file", key, fix)
        hub.require(str(path), key)
    try:
        yield
    except (UncollapseError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        kind = "" if isinstance(error, OSError | ValueError | SafetensorError) else f"{type(error).__name__}: "
        raise RequestError(f"{what} {path}: {kind}{shorten(str(error), 300)}", key, fix) from error


def _require_model(path: str | Path, key: str) -> None:
    """Raise RequestError if a directory holds something else than a model."""
    folder = Path(path)
    if not folder.is_dir():
        return
    has_adapter = (folder / "adapter_config.json").is_file()
    if (folder / "config.json").is_file():
        # transformers would put the adapter into the model without being asked
        if has_adapter:
            raise RequestError(
                f"{path} holds a model and an adapter beside it",
                key,
                "move adapter_config.json and the adapter's weights to a folder of their own, or merge them",
            )
        return
    if has_adapter:
        raise RequestError(
            f"{path} holds an adapter, not a model",
            key,
            "give the model that it was trained on, or merge the two first "
            "(peft's merge_and_unload; `uncollapse export` for a run of this package)",
        )
    if not any(folder.iterdir()):
        raise RequestError(f"cannot load a model from {path}: the directory is empty", key, HOW)
    if any(folder.glob("*.gguf")):
        raise RequestError(
            f"{path} holds a GGUF file, which is for inference", key, "give the Hugging Face model it was made from"
        )
    raise RequestError(f"cannot load a model from {path}: it has no config.json", key, HOW)


def require_unquantised(config: Any, path: str | Path, key: str = "model.path") -> None:
    """Raise RequestError if the weights are quantised: such weights cannot be trained, merged and sent."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    raise RequestError(
        f"the weights of {path} are quantised ({getattr(method, 'value', method) or 'method unknown'})",
        key,
        "give the model in float32, bfloat16 or float16 that it was made from",
    )


def check_vocabulary(tokenizer: Any, model: Any, path: str | Path, key: str = "model.path") -> None:
    """Refuse a tokenizer that cannot belong to the model.

    Raises:
        RequestError: it has tokens without an embedding, or lacks the token by which the model ends its text.
    """
    ids, embeddings = tokenizer.get_vocab(), model.get_input_embeddings().weight.shape[0]
    last = max(ids, key=ids.__getitem__)
    fix = "give the tokenizer that belongs to the model, or resize the model's embeddings and save both"
    if ids[last] >= embeddings:
        raise RequestError(
            f"the tokenizer of {path} has more tokens than the model has embeddings: {last!r} is token {ids[last]}, "
            f"and the embeddings end at {embeddings - 1}",
            key,
            fix,
        )
    end_tokens = getattr(model.config.get_text_config(), "eos_token_id", None)
    for end in end_tokens if isinstance(end_tokens, list | tuple) else [end_tokens]:
        # an id beyond the embeddings says nothing of the tokenizer: no model could sample it
        if isinstance(end, int) and ids[last] < end < embeddings:
            raise RequestError(
                f"the tokenizer of {path} is another model's: this one ends its text with token {end} (eos_token_id "
                f"of its config.json), and the tokenizer's last is {ids[last]}",
                key,
                fix,
            )


def _check_sizes(model: nn.Module, report: dict[str, Any], path: str | Path, key: str) -> None:
    """Refuse weights that do not fit the configuration.

    Transformers accepts them: it fills weights that do not fit or are missing with random numbers, and drops the rest.
    """
    fix = "give the config.json and the weights of one model"
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        name, stored, wanted = mismatched[0]
        raise RequestError(
            f"config.json of {path} is not that of its weights: {name} has shape {_shape(stored)} there, and the "
            f"configuration says {_shape(wanted)}",
            key,
            fix,
        )
    missing = report["missing_keys"]
    if missing:
        raise RequestError(f"{path} has no weights for {len(missing)} parameters, e.g. {min(missing)}", key, fix)
    surplus = sorted(name for name in report["unexpected_keys"] if _is_of_a_layer(name, model))
    if surplus:
        raise RequestError(
            f"the model that config.json of {path} describes has no place for {len(surplus)} of its weights, e.g. "
            f"{surplus[0]}",
            key,
            fix,
        )


def _check_ties(model: Any, path: str | Path, key: str) -> None:
    """Refuse two different embeddings where the configuration ties them.

    Transformers keeps both if a file holds both; engines and other tools would use one of them for the two.
    """
    inputs = model.get_input_embeddings()
    outputs = model.get_output_embeddings()
    tied = getattr(model.config, "tie_word_embeddings", False) and getattr(model, "_tied_weights_keys", None)
    if tied and outputs is not None and inputs.weight is not outputs.weight:
        raise RequestError(
            f"config.json of {path} ties the output embedding to the input embedding, and its weights hold two that "
            "differ",
            key,
            "set tie_word_embeddings in config.json to what the model was trained with",
        )


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _is_of_a_layer(name: str, model: Any) -> bool:
    """Say whether a weight belongs to the model's stack of layers, and not to a head or tower that is not loaded."""
    stacks = {stack for stack, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    stacks |= {stack.removeprefix(f"{model.base_model_prefix}.") for stack in stacks}
    stack_and_rest = re.split(r"\.\d+\.", name, maxsplit=1)
    stack = stack_and_rest[0]
    in_a_stack = stack in stacks or stack.removeprefix(f"{model.base_model_prefix}.") in stacks
    return len(stack_and_rest) == 2 and in_a_stack and not BUFFERS.search(name)
