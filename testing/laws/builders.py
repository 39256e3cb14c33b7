"""The laws of model builders are tried with the environment of the experiment ``tiny-sokoban``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...core.compose.blame import blaming
from ...core.compose.named import Named
from ..problems import laws, require
from .detectors import experiment_that_learns


def _builds(named: Named) -> None:
    """A builder writes a causal language model and a tokenizer with a chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with TemporaryDirectory() as folder:
        directory = Path(folder) / "model"
        directory.mkdir()
        with blaming(named, "build"):
            experiment = experiment_that_learns()
            named.component.build(directory, experiment.environment.component, experiment.dialogue.component)
        for name in ("config.json", "tokenizer_config.json"):
            require(named, "build", (directory / name).is_file(), f"wrote no {name}")
        with blaming(named, "build"):
            tokenizer = AutoTokenizer.from_pretrained(directory)
            model: Any = AutoModelForCausalLM.from_pretrained(directory)
        require(named, "build", bool(tokenizer.chat_template), "wrote a tokenizer without a chat template")
        rows = model.get_input_embeddings().weight.shape[0]
        require(named, "build", rows >= len(tokenizer), f"wrote {rows} embeddings for {len(tokenizer)} tokens")


LAWS = {"model_builder": laws(_builds, reaches_out=True)}
