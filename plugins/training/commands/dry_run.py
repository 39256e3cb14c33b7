"""``uncollapse train --dry-run`` says in words what a run would do."""

from __future__ import annotations

from pathlib import Path

from ....core.compose.combinations import needs
from ....core.compose.experiment import Experiment
from ...rollout.foreseen import training_seeds


def describe(experiment: Experiment, run_dir: Path) -> str:
    """Describe a run in a few lines: rows, optimizer steps, passes and what is loaded."""
    rollout = experiment.rollout
    trainer = experiment.trainer
    validation = experiment.validation
    episodes = rollout.groups * rollout.group_size
    # an episode is one row in a full window; in the others its turns are rows, and nobody knows how many
    one_row_per_episode = rollout.context_window == "full"
    seeds, drawn = training_seeds(experiment), rollout.batch.component.draws(rollout.groups)
    usual = drawn == rollout.groups
    updates = -(-episodes // trainer.mini_batch) * trainer.epochs if one_row_per_episode and usual else None
    needed = needs(experiment)
    models = ["policy (trains)"]
    if "values" in needed:
        models.append("critic (trains)")
    if "reference" in needed:
        start = "frozen" if experiment.model.lora is None else "the policy without its adapter"
        moves = experiment.kl.controller.component.moves_reference != "never"
        models.append(f"reference ({start}{f', until {experiment.kl.controller} moves it' if moves else ''})")
    lines = {
        "run directory": str(run_dir),
        "models": ", ".join(models),
        "each step": (
            f"{rollout.groups if usual else f'as many groups as {rollout.batch} collects'} x {rollout.group_size} "
            f"episodes of at most {rollout.max_turns} turns"
        ),
        "tasks": (
            f"{rollout.tasks} draws them as the run goes on"
            if seeds is None
            else f"environment seeds {seeds.start} to {seeds.stop - 1}"
        ),
        "optimizer steps": (
            f"at most {updates} per step" if updates else f"as many as the {'turns' if usual else 'groups'} need"
        ),
        "steps": str(trainer.steps),
        "validation": (
            f"{validation.groups} x {validation.group_size} episodes every {validation.every} steps"
            if validation.every
            else "none"
        ),
        "needs": ", ".join(sorted(needed)) or "nothing beyond log-probs",
        "may stop it": ", ".join(str(detector) for detector in experiment.collapse) or "nothing",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in lines.items())
