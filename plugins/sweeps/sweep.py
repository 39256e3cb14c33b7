"""A sweep is one experiment, and what is varied about it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ...core.components import Launcher
from ...core.compose.combinations import check_ranks
from ...core.compose.config import compose, to_dict
from ...core.compose.converter import make_converter, structure_component
from ...core.compose.experiment import Experiment
from ...core.compose.flat import differing
from ...core.compose.identity import config_hash
from ...core.compose.named import Named
from ...core.compose.plain_data import plain
from ...core.compose.problems import CompositionError, Invalid, Problem, unique
from ...core.compose.spec import read_spec
from ...core.errors import RequestError
from ...core.paths import read_text
from ...core.registry import registry
from ...core.runs.labels import titles
from ...core.runs.sweep_record import LONGEST, loads
from ...core.yaml import SyntaxProblem
from ..report.claim import Claim, without_points
from .changes import changed, refuse_idle
from .definition import Definition
from .layout import Layout, check_name
from .path_clashes import refuse_shared
from .points import Point, axis_values, expand
from .result import Result
from .run import Options, run_points
from .skip_or_resume import Prepared
from .variation import Case


@attrs.frozen
class _File:
    """A sweep file has these keys."""

    experiment: str | dict[str, Any]
    name: str | None = None
    summary: str = ""
    overrides: dict[str, Any] = attrs.field(factory=dict, alias="set")
    cases: tuple[Case, ...] = ()
    axes: dict[str, Any] = attrs.field(factory=dict)
    exclude: tuple[dict[str, Any], ...] = ()
    root: str | None = None
    layout: Layout = attrs.field(factory=Layout)
    project: str | None = None
    engine: dict[str, Any] = attrs.field(factory=dict)
    notices: tuple[str, ...] = ()
    missing: str = ""
    fixed: dict[str, str] = attrs.field(factory=dict)
    ranked: bool = False
    claims: tuple[Claim, ...] = ()
    options: dict[str, str] = attrs.field(factory=dict)
    points: Any = None
    """Points that a sweep directory's own ``sweep.yaml`` adds; they follow from the rest."""


@attrs.frozen
class Sweep(Definition):
    """Every combination of the values of ``axes``, each an experiment with a run directory of its own.

    >>> Sweep("tiny-sokoban", axes={"filter.select": ["nofilter", "top_p(0.9)"], "seed": [0, 1]}).run()
    """

    def changed(self, overrides: Mapping[str, Any] | None = None, axes: Mapping[str, Any] | None = None) -> Sweep:
        """Return the sweep with further ``overrides``, and with further or other ``axes``, as its user asks for them.

        Raises RequestError where that would have no effect, or change what names and files tell of.
        """
        return changed(self, overrides or {}, axes or {})

    def points(self) -> list[Point]:
        """Return every experiment of the sweep. Raises RequestError with everything that is wrong with any of them."""
        check_name(self.title)
        base = compose(self.experiment, self.overrides)
        refuse_idle(self)
        points = expand(base, self.axes, self.exclude, cases=self.cases)
        for claim, term in without_points(self.claims, [point.values for point in points])[:1]:
            place = ", ".join(f"{axis} {value}" for axis, value in term.at.items())
            fix = "write the values of axes as sweep show prints them"
            raise RequestError(f"a claim is about {place}, of which the sweep has no point", claim.text, fix)
        return points

    def prepared(self, root: str | Path | None = None, ranks: int = 1) -> list[Prepared]:
        """Return every point with its place below ``root`` and with what the sweep says of trackers and resources.

        Raises RequestError as :meth:`points`, if two points would have one directory, and if a point cannot be shared
        out to ``ranks`` processes.
        """
        points = self.points()
        _check_ranks([point.experiment for point in points], ranks)
        base = Path(root or self.root or Path("runs") / self.title)
        names = titles([point.label for point in points], [point.values for point in points])
        prepared = []
        for point, title in zip(points, names, strict=True):
            place = self.layout.place(base, point)
            experiment = _with_resources(self._tracked(point.experiment, place.name), self.engine)
            digest = point.hash if experiment.rollout is point.experiment.rollout else config_hash(experiment)
            prepared.append(Prepared(point.label, digest, experiment, place, point.values, title))
        refuse_shared(prepared)
        return prepared

    def run(
        self,
        root: str | Path | None = None,
        launcher: Launcher | str | Mapping[str, Any] = "local",
        options: Options | None = None,
        **resources: object,
    ) -> Result:
        """Run what has not finished yet, resuming what has begun; returns how every point ended.

        Args:
            root: below it are the run directories, where :attr:`layout` says.
            launcher: a launcher or the spelling of one, e.g. ``local(slots=2)``.
            options: what is skipped, retried and uploaded.
            resources: parameters of the launcher where it is spelled, e.g. ``slots=2``.

        Raises:
            RequestError: a point cannot be composed, something that the sweep needs is not installed, or another
                process runs it. Nothing is started.
            KeyboardInterrupt: it was interrupted; all runs have ended, and running it again continues them.
        """
        if self.missing:
            raise RequestError(f"the sweep {self.title} cannot run here: {self.missing}")
        made = make_launcher(launcher, **resources)
        points = self.prepared(root, made.gpus_per_job)
        return run_points(self.record(points), points, made, options or Options())

    def record(self, points: Sequence[Prepared]) -> dict[str, Any]:
        """Return what ``sweep.yaml`` says: a sweep that :func:`load` reads, and the points with their place in it."""
        # for reports, which would have to read the configuration of every run to find out
        settings = differing(point.experiment for point in points)
        return {
            "name": self.title,
            "experiment": to_dict(compose(self.experiment, self.overrides)),
            **({"cases": [plain(case) for case in self.cases]} if self.cases else {}),
            "axes": {axis: axis_values(axis, values) for axis, values in self.axes.items()},
            **({"exclude": [dict(item) for item in self.exclude]} if self.exclude else {}),
            **({"root": str(self.root)} if self.root else {}),
            **({"layout": plain(self.layout)} if self.layout != Layout() else {}),
            **({"project": self.project} if self.project else {}),
            **({"engine": dict(self.engine)} if self.engine else {}),
            **({"fixed": dict(self.fixed)} if self.fixed else {}),
            **({"ranked": True} if self.ranked else {}),
            **({"claims": plain(tuple(self.claims))} if self.claims else {}),
            "points": [
                {
                    "label": point.label,
                    "path": os.path.relpath(point.place.run, points[0].place.home),
                    "hash": point.hash,
                    "values": dict(point.values),
                    "seed": point.experiment.seed,
                    "steps": point.experiment.trainer.steps,
                    "settings": own_settings,
                }
                for point, own_settings in zip(points, settings, strict=True)
            ],
        }

    def _tracked(self, experiment: Experiment, name: str) -> Experiment:
        """Give the W&B tracker, if there is one, the run's name, the sweep's as the group, and the project."""
        settings = {"run_name": name, "group": self.title, **({"project": self.project} if self.project else {})}
        return attrs.evolve(
            experiment,
            trackers=tuple(_where_default(t, settings) if t.name == "wandb" else t for t in experiment.trackers),
        )


def make_launcher(launcher: Launcher | str | Mapping[str, Any], **resources: object) -> Launcher:
    """Return a launcher from its spelling, with further parameters; one that is made already is left as it is.

    Raises RequestError if there is none of the name, it has no such parameter, or a value makes no sense.
    """
    if isinstance(launcher, Launcher):
        return launcher
    spec = read_spec(launcher)
    try:
        made: Launcher = registry().create("launcher", spec.name, *spec.args, **{**resources, **spec.params})
    except (TypeError, ValueError) as error:
        fix = f"uncollapse show launcher {spec.name}"
        raise RequestError(f"the launcher {spec} cannot be made: {error}", fix=fix) from error
    return made


LARGEST = 2**18
"""Characters of a sweep file, at most, its points apart."""


def load(source: str | Path, /, **options: Any) -> Sweep:
    """Return a sweep by its registered name, with its own options, or from a YAML file.

    Raises RequestError if it cannot be read.
    """
    if Path(source).suffix in (".yaml", ".yml"):
        try:
            record = loads(read_text(source, LONGEST), LARGEST)
        except SyntaxProblem as error:
            raise RequestError(f"the file {source} is not valid YAML: {error}") from error
        name = Path(source).stem
    else:
        record, name = registry().resolve("sweep", str(source), **options), str(source)
    if not isinstance(record, Mapping):
        raise RequestError("a sweep is a mapping with experiment, and axes or cases", str(source))
    try:
        file = make_converter(registry()).structure(dict(record), _File)
    except Invalid as error:
        reasons = "\n  ".join(str(problem) for problem in error.problems)
        raise RequestError(f"the sweep cannot be read:\n  {reasons}", str(source)) from error
    if not {"axes", "cases"} & record.keys():
        raise RequestError("a sweep needs axes or cases", str(source))
    words = {field.name: getattr(file, field.name) for field in attrs.fields(Definition)}
    return Sweep(**{**words, "name": file.name or name})


def _check_ranks(experiments: Sequence[Experiment], ranks: int) -> None:
    all_problems: list[Problem] = []
    for experiment in experiments if ranks > 1 else ():
        try:
            check_ranks(experiment, ranks)
        except CompositionError as error:
            all_problems += error.problems
    if all_problems:
        raise CompositionError(unique(all_problems))


def _with_resources(experiment: Experiment, resources: Mapping[str, Any]) -> Experiment:
    engine = _where_default(experiment.rollout.engine, resources)
    if engine is experiment.rollout.engine:
        return experiment
    return attrs.evolve(experiment, rollout=attrs.evolve(experiment.rollout, engine=engine))


def _where_default(named: Named, changes: Mapping[str, Any]) -> Named:
    """Return the component with new values for those of its parameters that still have their defaults."""
    defaults = {field.name: field.default for field in attrs.fields(type(named.component))}
    new = {
        key: value
        for key, value in changes.items()
        if key in defaults and getattr(named.component, key) == defaults[key]
    }
    if not new:
        return named
    try:
        spelled = {"name": named.name, **plain(named.params), **new}
        return structure_component(make_converter(registry()), registry(), named.kind, spelled)
    except Invalid as error:
        raise CompositionError([problem.under(named.kind) for problem in error.problems]) from error
