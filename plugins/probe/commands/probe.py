"""The command ``uncollapse probe`` predicts and measures the entropy change of a checkpoint's next update."""

from __future__ import annotations

import click

from ....core.console.lazy_group import LazyGroup

COMMANDS = {
    "run": ("uncollapse.plugins.probe.commands.run:command", "One probe: predict and measure."),
    "single": ("uncollapse.plugins.probe.commands.experiment:single", "One probe in an experiment directory."),
    "batch-scaling": (
        "uncollapse.plugins.probe.commands.experiment:batch_scaling",
        "Does the prediction converge as E grows, or fall as 1/B_E?",
    ),
    "sanity-check": (
        "uncollapse.plugins.probe.commands.experiment:sanity_check",
        "Many runs against criteria that hold if the probe is right.",
    ),
    "debug": (
        "uncollapse.plugins.probe.commands.experiment:debug",
        "Small batches, all estimators, every message, gradients.",
    ),
    "influence": (
        "uncollapse.plugins.probe.commands.influence:command",
        "Which sequences of the update drive the change?",
    ),
    "gradients": (
        "uncollapse.plugins.probe.commands.gradients:command",
        "How large are task, KL and entropy gradients, by reward variance?",
    ),
    "report": (
        "uncollapse.plugins.probe.commands.run:report",
        "Tables and plots of an experiment directory as a page.",
    ),
}
"""Places and lines in ``--help`` of the commands, by name; ``--help`` imports no command."""


@click.group(
    "probe",
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},
)
def command() -> None:
    """Predict the entropy change of a checkpoint's next update, measure it, and say how sure both are."""
