"""The command ``uncollapse export``."""

from __future__ import annotations

from pathlib import Path

import click

from ....core.console.options import FilePath, plugin_option, trust_option


@click.command("export")
@click.argument("checkpoint", type=FilePath())
@click.option("--to", type=FilePath(file_okay=False), help="Default: RUN/export/step_N.")
@click.option("--adapter", is_flag=True, help="The LoRA adapter alone, instead of merging it into its base model.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Default: that of the experiment.")
@trust_option
@plugin_option
def command(checkpoint: Path, to: Path | None, adapter: bool, dtype: str | None) -> None:
    """Write a checkpoint's policy as a plain Hugging Face model, with its tokenizer and chat template.

    CHECKPOINT is RUN/checkpoints/step_N, or a run directory (its last good checkpoint). A directory that holds
    something is never written to.
    """
    from ..weights.export import export

    click.echo(f"exported: {export(checkpoint, to, adapter, dtype)}")
