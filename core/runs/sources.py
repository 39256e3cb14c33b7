"""The sources that a run was made with, as its manifest has them, and which of them are others now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..errors import RequestError
from ..files import replace_text, to_json
from .directory import RunDirectory
from .status import Status

ATTEMPTS = "attempts"
"""Key of a manifest: what each attempt after the first one was made with."""
DATA = "data"
"""Key of a manifest: hashes of data that no parameter determines, such as files and servers (``digest``), by the keys
of the components that have them."""
OWN = "uncollapse"
"""The distribution of the built-in plugins, whose components have hashes of their own."""


def attempts(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What each attempt of a run was made with, the first one first."""
    later = manifest.get(ATTEMPTS)
    return [manifest, *(later if isinstance(later, list) else [])]


def with_attempt(manifest: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a run that goes on with what ``now`` says, the manifest that a new run would have."""
    began = {"began": datetime.now(UTC).isoformat(timespec="seconds")}
    return {**manifest, ATTEMPTS: [*attempts(manifest)[1:], began | dict(now)]}


def record_attempt(run: RunDirectory, now: Mapping[str, Any]) -> None:
    """Add to a run's manifest what an attempt to train is made with, ``now``; of the first attempt it is all.

    With ``now`` may go what the attempt has changed about the run, see :class:`.resumption.Resumption`.
    """
    try:
        before = None if run.status().get("status") == Status.QUEUED else run.manifest()
    except RequestError:
        before = None
    manifest = now if before is None else with_attempt(before, now)
    replace_text(run.path / "manifest.json", to_json(manifest, indent=1))


def sources(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Map each component and plugin that the run uses to the SHA-256 of its source, where that is known.

    A component is ``filter.select: my_filter (plugin mine)``; a plugin of somebody else's stands for its module.
    """
    components = {
        f"{key}: {origin.get('name')} (plugin {origin.get('plugin')})": str(origin["sha256"])
        for key, origin in _mappings(dict(manifest.get("components") or {}))
        if origin.get("sha256")
    }
    used = {origin.get("plugin") for _, origin in _mappings(dict(manifest.get("components") or {}))}
    modules = {
        f"plugin {plugin.get('name')}": str(plugin["sha256"])
        for _, plugin in _mappings(dict(enumerate(manifest.get("plugins") or ())))
        if plugin.get("sha256")
        and plugin.get("distribution") != OWN
        and (plugin.get("name") in used or not plugin.get("distribution"))
    }
    return components | modules


def changed(manifest: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What the last attempt of a run was made with that has another source ``now``; see :func:`sources`."""
    then, here = sources(attempts(manifest)[-1]), sources(now)
    return [what for what, digest in then.items() if here.get(what, digest) != digest]


def other_data(manifest: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What the last attempt of a run had other data of than ``now``, in words; see :data:`DATA`."""
    then, here = (dict(each.get(DATA) or {}) for each in (attempts(manifest)[-1], now))
    others = [key for key, digest in then.items() if here.get(key, digest) != digest]
    # what holds another component has a hash of its data, too
    innermost = [key for key in others if not any(other.startswith(f"{key}.") for other in others)]
    return [f"{key} has other data than before: {here[key]}, where it had {then[key]}" for key in innermost]


def differing(manifests: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, list[str]]]]:
    """What runs were made with different sources of: (component or plugin, SHA-256 -> the runs made with it).

    Args:
        manifests: run -> its manifest. A run whose attempts differ stands under each of its sources.
    """
    runs_by_digest: dict[str, dict[str, list[str]]] = {}
    for run, manifest in manifests.items():
        for attempt in attempts(manifest):
            for what, digest in sources(attempt).items():
                runs = runs_by_digest.setdefault(what, {}).setdefault(digest, [])
                runs += [] if run in runs else [run]
    return [(what, by_digest) for what, by_digest in runs_by_digest.items() if len(by_digest) > 1]


def _mappings(items: Mapping[Any, Any] | Sequence[Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The entries that are mappings: a manifest is a file, and may be damaged."""
    pairs = items.items() if isinstance(items, Mapping) else enumerate(items)
    return ((key, value) for key, value in pairs if isinstance(value, Mapping))
