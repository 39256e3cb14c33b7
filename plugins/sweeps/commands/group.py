"""``sweep show`` and ``sweep run`` are groups with one command per sweep, which has the sweep's own options."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import click

from ....core.console.options import FilePath, load_plugin_files, plugin_option, set_option
from ....core.errors import RequestError

if TYPE_CHECKING:
    from ..sweep import Sweep

REPLACED = ("steps", "seeds", "experiment")
"""Options of every sweep that a sweep may replace by its own, with another meaning or default."""


class SweepGroup(click.Group):
    """A group has the sweeps as its commands, YAML files among them; ``--plugin`` counts before names are looked up."""

    def __init__(self, *args: Any, decorate: Callable[[click.Command], click.Command], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.decorate = decorate

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = iter(args)
        for word in words:
            name, equals, value = word.partition("=")
            if name == "--plugin":
                load_plugin_files((value if equals else next(words, ""),))
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        from ....core.registry import registry

        return registry().names("sweep")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from ....core.registry import registry

        with formatter.section("Sweeps (or the path of a YAML file)"):
            formatter.write_dl([(entry.name, entry.summary) for entry in registry().entries("sweep")])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        from ....core import describe
        from ....core.registry import registry

        is_file = Path(cmd_name).suffix in (".yaml", ".yml")
        target = None if is_file else registry().target("sweep", cmd_name)
        parameters = describe.parameters(target) if callable(target) else ()
        sweep_options = [_own_option(parameter, target) for parameter in parameters]
        command = SweepCommand(cmd_name, help=inspect.getdoc(target) if callable(target) else None)
        self.decorate(command)
        command.own = [parameter.name for parameter in parameters]
        words = {word for option in sweep_options for word in option.opts}
        for option in [option for option in command.params if words & {*option.opts}]:
            if option.name not in REPLACED:
                raise RequestError(
                    f"the sweep {cmd_name} has an option {option.opts[0]}, which every sweep has already",
                    fix="its author has to give the parameter another name",
                )
            command.params.remove(option)
        command.params[:0] = sweep_options
        return command


class SweepCommand(click.Command):
    """A command of one sweep; ``--kl_values`` is ``--kl-values``."""

    own: Sequence[str] = ()
    """Parameters that the sweep itself has; their options are passed on as ``own_<name>``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_dashed(word) for word in args])


def _dashed(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def _own_option(parameter: Any, target: Any) -> click.Option:
    """Return the option of a field (or of a function's parameter) of a sweep."""
    hint = typing.get_type_hints(target if inspect.isfunction(target) else target.__init__).get(parameter.name, str)
    if type(None) in typing.get_args(hint):
        hint = next(member for member in typing.get_args(hint) if member is not type(None))
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    kinds = {bool: click.BOOL, int: click.INT, float: click.FLOAT}
    short = {"experiment": ["-e"], "groups": ["-g"]}.get(parameter.name, [])
    return click.Option(
        [*short, f"--{parameter.name.replace('_', '-')}", f"own_{parameter.name}"],
        type=click.Choice([str(choice) for choice in choices]) if choices else kinds.get(hint, click.STRING),
        **({} if parameter.required else {"default": parameter.default}),
        required=parameter.required,
        show_default=not parameter.required,
        help=parameter.doc or None,
    )


def what_options(command: Any) -> Any:
    """Add the options that say what the sweep is; :func:`make_sweep` takes them."""
    for option in (
        plugin_option,
        click.option("--seeds", metavar="0,1", help="Repeat every point with these seeds."),
        click.option("--steps", type=click.IntRange(min=1), help="Training steps of every point."),
        click.option(
            "--axis", "axes", multiple=True, metavar="KEY=A,B", help="Vary a key; replaces an axis of the name."
        ),
        set_option,
        click.option("-e", "--experiment", metavar="NAME|FILE", help="Another experiment to vary."),
        click.option(
            "--output-root",
            "--root",
            "root",
            type=FilePath(),
            help="The runs' directories are below it (default: runs/NAME, or here for sweeps with paths of their own).",
        ),
    ):
        command = option(command)
    return command


def make_sweep(
    name: str,
    own: dict[str, Any],
    overrides: tuple[str, ...],
    axes: tuple[str, ...],
    steps: int | None,
    seeds: str | None,
    experiment: str | None,
) -> Sweep:
    """Return the sweep of a name or file with its own options and with what changes any sweep."""
    from ..sweep import load

    changes = _overrides(overrides)
    if steps is not None:
        if "trainer.steps" in changes:
            raise RequestError("trainer.steps is given twice: --steps, --set", fix="drop one of them")
        changes["trainer.steps"] = steps
    varied = _axes([*axes, *([] if seeds is None else [f"seed={seeds}"])])
    sweep = load(name, **own)
    if experiment is not None:
        sweep = attrs.evolve(sweep, experiment=experiment)
    return sweep.changed(changes, varied)


def _overrides(words: Sequence[str]) -> dict[str, Any]:
    from ....core.compose.overrides import settings
    from ....core.registry import registry

    return settings(words, registry())


def _axes(words: Sequence[str]) -> dict[str, Any]:
    from ..points import parse_axis

    varied: dict[str, Any] = {}
    for axis, values in map(parse_axis, words):
        if axis in varied:
            raise RequestError(f"the axis {axis} is given twice", fix=f"write all of its values in one: {axis}=A,B")
        varied[axis] = values
    return varied


def sweep_of(context: click.Context, options: dict[str, Any]) -> Sweep:
    """Return the sweep that a command of :class:`SweepGroup` asks for. Raises RequestError."""
    assert isinstance(context.command, SweepCommand)
    own = {name: options.pop(f"own_{name}") for name in context.command.own}
    asked = {**dict.fromkeys(REPLACED), **options}
    sweep = make_sweep(str(context.info_name), own, **asked)
    for key, option in sweep.options.items():
        name = f"own_{option.removeprefix('--').replace('-', '_')}"
        if key in _overrides(asked["overrides"]) and _given(context, name):
            raise RequestError(f"{key} is given twice: {option}, --set", fix="drop one of them")
    return sweep


def _given(context: click.Context, parameter: str) -> bool:
    """Say whether an option was typed."""
    return context.get_parameter_source(parameter) is click.core.ParameterSource.COMMANDLINE


def print_notices(sweep: Sweep) -> None:
    """Print what whoever runs the sweep should know, on standard error."""
    for notice in (*sweep.notices, *([f"cannot run here: {sweep.missing}"] if sweep.missing else [])):
        click.echo(f"notice: {notice}", err=True)
