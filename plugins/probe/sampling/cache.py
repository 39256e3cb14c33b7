"""Samples are kept in files, each with a key of all that decided it, so that no file is taken for another sample."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cattrs

from ....core.components import RolloutEngineSession
from ....core.errors import RequestError
from ....core.files import make_directory, replace_text
from ...rollout.episode import Episode
from ...training.processes.ranks import Ranks
from .samples import CHUNK, Sample, draw
from .sources import Source

Key = Mapping[str, Any]


def sample_key(source: Source, tokenizer: Any, policy: str, **how: Any) -> dict[str, Any]:
    """Return plain data that is equal for equal samples.

    Args:
        source: where the prompts come from.
        tokenizer: the policy's tokenizer.
        policy: a digest of the policy's weights.
        how: the other arguments of :func:`.samples.draw`, but for the engine and the ranks.
    """
    key = {"policy": policy, "tokenizer": _digest(_vocabulary(tokenizer)), "chunk": CHUNK, **how}
    return dict(_flat({**key, "source": source.describe()}))


def drawn(
    path: Path,
    source: Source,
    engine: RolloutEngineSession,
    tokenizer: Any,
    *,
    policy: str,
    ranks: Ranks,
    **how: Any,
) -> Sample:
    """Return the sample of a file, or, if there is no file, a new sample that is saved to it.

    Every rank reads the file, which the first one writes. ``how`` has the other arguments of :func:`.samples.draw`.

    Raises:
        RequestError: the file holds another sample, or is damaged.
    """
    key = sample_key(source, tokenizer, policy, **how)
    if path.exists():
        return load(path, key, source)
    sample = draw(source, engine, tokenizer, ranks=ranks, **how)
    if ranks.first:
        save(path, key, sample)
    ranks.barrier()
    return sample


def save(path: Path, key: Key, sample: Sample) -> None:
    """Write the sample as JSON; a reader finds all of it or nothing."""
    make_directory(path.parent)
    content = {"key": key, "tasks": sample.tasks, "episodes": cattrs.unstructure(sample.episodes)}
    replace_text(path, json.dumps(content))


def load(path: Path, key: Key, source: Source) -> Sample:
    """Read the sample of this key.

    Raises:
        RequestError: the file's key differs (the message names the items), or the file is damaged.
    """
    started = time.perf_counter()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        saved, tasks = dict(content["key"]), tuple(content["tasks"])
        episodes = cattrs.structure(content["episodes"], list[Episode])
    except (OSError, ValueError, KeyError, TypeError, cattrs.BaseValidationError) as error:
        raise RequestError(
            f"the file is not a saved sample: {error}", str(path), "delete it, or give another path"
        ) from error
    if changed := [name for name in {**saved, **key} if saved.get(name) != key.get(name)]:
        differences = "; ".join(f"{name} {_shown(saved.get(name))}, now {_shown(key.get(name))}" for name in changed)
        raise RequestError(
            f"the saved sample was drawn in another way: {differences}",
            str(path),
            "delete the file, give another path, or go back to the settings that it was drawn with",
        )
    return Sample.of(episodes, tasks, source, started)


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{above}{name}.")
        else:
            yield f"{above}{name}", json.loads(json.dumps(item))


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _vocabulary(tokenizer: Any) -> str:
    """Return everything that decides how text becomes tokens, but for the state of padding and truncation."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend else tokenizer.get_vocab()
    kept = {name: value for name, value in content.items() if not backend or name not in ("padding", "truncation")}
    return json.dumps([kept, tokenizer.chat_template], sort_keys=True)
