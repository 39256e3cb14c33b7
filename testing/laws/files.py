"""The laws of experiments and sweeps say that they can be composed."""

from __future__ import annotations

from ...core.compose.config import compose
from ...core.compose.named import Named
from ...core.errors import RequestError, RunError
from ...core.registry import registry
from ..problems import laws


def _composes(named: Named) -> None:
    """An experiment composes, with no unknown key or name."""
    try:
        compose(named.name)
    except RequestError as error:
        raise _blamed(named, error) from error


def _has_points(named: Named) -> None:
    """A sweep that needs no option has points, each of which composes."""
    from ...plugins.sweeps.sweep import load

    try:
        if not any(parameter.required for parameter in registry().describe("sweep", named.name).parameters):
            load(named.name).points()
    except RequestError as error:
        raise _blamed(named, error) from error


def _blamed(named: Named, error: RequestError) -> RunError:
    return RunError(f"{named.described}: {error.what}", error.where, error.fix)


LAWS = {"experiment": laws(_composes), "sweep": laws(_has_points)}
