"""``uncollapse export`` writes a checkpoint as a plain Hugging Face model, or as a plain peft adapter."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ....core.errors import RequestError
from ....core.runs.directory import RunDirectory
from ....core.runs.trust import experiment_of
from ..networks.adapters import require_mergeable
from ..networks.dropout import as_loaded
from ..networks.models import load_policy, load_tokenizer
from ..networks.prepare import prepare_model
from . import start_model
from .checkpoint import load_optimizer, reading_checkpoint

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment, Model

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def export(checkpoint: Path, to: Path | None = None, adapter: bool = False, dtype: str | None = None) -> Path:
    """Write the policy of a checkpoint where ``AutoModelForCausalLM`` (or ``PeftModel``) reads it.

    Weights come from the fp32 master weights where the checkpoint has them and are cast last. So a bfloat16 model that
    is exported in bfloat16 is bitwise the one that trained, and an export in float32 keeps the optimizer's precision.
    An adapter is merged in fp32 into the base weights that the run computed with: W + (alpha / r) B A (Hu et al. 2021).

    Args:
        checkpoint: ``RUN/checkpoints/step_N``, or a run directory (its last good checkpoint).
        to: the directory to write; by default ``RUN/export/step_N`` (``step_N-adapter``).
        adapter: whether the LoRA adapter is written alone instead of being merged.
        dtype: ``float32`` or ``bfloat16``; by default that of the experiment.

    Returns:
        The directory that was written.

    Raises:
        RequestError: there is no complete checkpoint, ``to`` holds something or is among the checkpoints of the run,
            ``adapter`` is asked of a run without one, or plugin files are neither loaded nor trusted.
    """
    with reading_checkpoint(checkpoint) as (run, directory):
        return _export(run, directory, experiment_of(run), to, adapter, dtype)


def _export(
    run: RunDirectory, checkpoint: Path, experiment: Experiment, to: Path | None, adapter: bool, dtype: str | None
) -> Path:
    settings = experiment.model
    if adapter and settings.lora is None:
        raise RequestError("the run has no adapter: it trained the whole model", str(run.path), "leave adapter out")
    to = to or run.path / "export" / (f"{checkpoint.name}-adapter" if adapter else checkpoint.name)
    _check_target(run, to)
    torch_dtype = getattr(torch, dtype or settings.dtype)
    master = load_optimizer(checkpoint)["master"]
    tokenizer = load_tokenizer(checkpoint / "model")
    to = to.resolve()
    # written beside it and renamed, so that an export that fails leaves no half of a model
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=to.parent, prefix=f".{to.name}-"))
    except OSError as error:
        raise RequestError(f"cannot write there: {error.strerror}", str(to), "give another place") from error
    partial.chmod(0o755)
    try:
        if adapter:
            _write_adapter(checkpoint / "model", master, torch_dtype, partial)
        else:
            model = merged(settings, prepare_model(experiment), checkpoint, master).to(torch_dtype)
            with as_loaded(model):
                model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return to


def _check_target(run: RunDirectory, to: Path) -> None:
    """Refuse a directory that holds something, or that the run may delete with a checkpoint."""
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise RequestError("the directory to export to is there already", str(to), "give another one")
    if run.checkpoint_directory.resolve() in (to.resolve(), *to.resolve().parents):
        reason = "the checkpoints of a run come and go: what is exported among them would go with them"
        raise RequestError(reason, str(to), "give a place outside")


def merged(settings: Model, path: str | Path, checkpoint: Path, master: dict[str, torch.Tensor]) -> Any:
    """Load the causal language model of a checkpoint in fp32, with any adapter merged into it."""
    model = load_policy(settings, path, 1.0, checkpoint / "model").model
    if settings.lora is not None:
        require_mergeable(model)
        start_model.require_same(start_model.of(model), settings.dtype, checkpoint, path)
    model = model.float().eval()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in master.items():
            parameters[name].copy_(tensor)
    return model if settings.lora is None else model.merge_and_unload()


def _write_adapter(source: Path, master: dict[str, torch.Tensor], dtype: torch.dtype, to: Path) -> None:
    """Write the adapter in ``source``, with its master weights where there are any, as peft saves it."""
    from safetensors.torch import load_file, save_file

    config, weights = ADAPTER_FILES
    # peft leaves the adapter's name ("default") out of the names in its files
    saved = load_file(source / weights) | {name.replace(".default.", "."): value for name, value in master.items()}
    save_file({name: value.to(dtype).contiguous() for name, value in saved.items()}, to / weights, {"format": "pt"})
    shutil.copy(source / config, to / config)
