"""A layout says where the runs of a sweep are and what they are called, in templates that each point fills in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import attrs

from ...core.compose.experiment import Experiment
from ...core.compose.spec import format_value
from ...core.errors import RequestError
from .points import Point

_SIZE = re.compile(r"\d+(?:\.\d+)?[BM]\b")

OUTCOME = dict.fromkeys(("status", "gpu", "train", "eval", "collapse", "first_turn", "multi_turn", "total", "wall"), "")
"""Names that a line may use beside the fields of a point."""

NAME_BYTES = 200
"""Bytes of the name of a file, at most: file systems take 255, and what is moved aside gets a longer name."""


@attrs.frozen
class Place:
    """The place of one point on disk, as its layout says. Paths are below the root of the sweep."""

    home: Path
    """The directory of the sweep itself, with ``sweep.yaml`` and the report."""
    run: Path
    """The run directory."""
    name: str
    """The run's name, for people, logs and W&B."""
    log: Path | None
    """A second name of the run's log."""
    checkpoints: Path | None
    """A second name of the run's checkpoints."""
    summary: Path | None
    """The log that gets one line per run."""
    line: Template
    """The template of that line; status and times are filled in when the run has ended."""


@attrs.frozen
class Layout:
    """Templates such as ``logs/kl_sweep_$model/$label``.

    ``$label`` is the point's label, ``$name`` the run's name, ``$model`` the last part of the model's path (or the name
    of its builder), ``$size`` its size where the name tells it (``3B``), ``$environment`` the environment's name;
    ``$filter_value``, ``$filter_include_zero`` and so on are the parameters of the rollout filter; every axis and
    every value of a case has its own name, and ``$axes`` is ``" | seed=1"``, all axes that are crossed with the cases,
    or nothing. A line may also use ``$status``, ``$gpu`` and the seconds ``$train``, ``$eval``, ``$collapse``,
    ``$first_turn``, ``$multi_turn``, ``$total`` and ``$wall``. No path leaves the root of the sweep.
    """

    home: str = "."
    run: str = "$label"
    name: str = "$label"
    log: str = ""
    checkpoints: str = ""
    summary: str = ""
    line: str = "$name | status=$status"

    def place(self, root: Path, point: Point) -> Place:
        """Say where the point is below ``root``.

        Raises RequestError if a template names what there is not, or a path that is none, or not below the root.
        """
        fields = _fields(point)
        fields["name"] = _fill("name", self.name, fields)

        def path(key: str) -> Path | None:
            text = getattr(self, key)
            return root / below(_fill(key, text, fields), f"layout.{key}: {text}") if text else None

        _fill("line", self.line, {**fields, **OUTCOME})
        line = Template(Template(self.line).safe_substitute(fields))  # status and times stay for later
        home, run = path("home") or root, path("run")
        if run is None:
            raise RequestError("the layout of a sweep needs a run directory", "layout.run", "write $label")
        return Place(home, run, fields["name"], path("log"), path("checkpoints"), path("summary"), line)


def _fields(point: Point) -> dict[str, str]:
    experiment = point.experiment
    model = model_name(experiment)
    size = _SIZE.search(model)
    fields = {f"filter_{key}": format_value(value) for key, value in experiment.filter.select.params.items()}
    fields |= {"filter_include_zero": str(experiment.filter.select.params.get("include_zero", True))}
    fields |= {
        "model": model,
        "size": size[0] if size else model,
        "environment": experiment.environment.name,
        "steps": str(experiment.trainer.steps),
    }
    axes = "".join(f" | {axis}={value}" for axis, value in point.values.items() if axis in point.crossed)
    return fields | dict(point.values) | {"label": point.label, "axes": axes}


def model_name(experiment: Experiment) -> str:
    """``Qwen2.5-3B``: the last part of the model's path, or the name of its builder."""
    model = experiment.model
    return Path(model.path).name if model.path else model.build.name if model.build else "model"


def _fill(key: str, template: str, fields: Mapping[str, Any]) -> str:
    where = f"layout.{key}: {template}"
    try:
        return Template(template).substitute(fields)
    except KeyError as error:
        names = ", ".join(f"${name}" for name in sorted(fields) if name.isidentifier())
        raise RequestError(f"there is no ${error.args[0]}", where, f"use {names}") from error
    except ValueError as error:
        raise RequestError(f"the template cannot be read: {error}", where, "write $$ for $") from error


def below(text: str, where: str) -> Path:
    """Return the relative path ``text``. Raises RequestError if it is none, or leaves the directory it starts in."""
    path = Path(os.path.normpath(text))
    if path.is_absolute() or path.parts[:1] == (os.pardir,):
        raise RequestError(f"the path {text} leaves the root of the sweep", where, "write a path below it, without ..")
    if not text.isprintable():
        raise RequestError(f"the path {text!r} has a character that cannot be printed", where, "write another name")
    if too_long := [part for part in path.parts if len(os.fsencode(part)) > NAME_BYTES]:
        what = f"the name {too_long[0][:40]}... has {len(os.fsencode(too_long[0]))} bytes"
        raise RequestError(what, where, f"write one of at most {NAME_BYTES}")
    return path


def check_name(name: str) -> None:
    """Raise RequestError if ``name`` cannot be that of a directory: ``../x``, ``a/b``, an empty one."""
    if not name.strip() or "/" in name or os.sep in name or name in (os.curdir, os.pardir):
        raise RequestError(f"{name!r} cannot be the name of a sweep", fix="write a word, which names its directory")
    below(name, "name")
