"""Each experiment of the probe is written to a directory of its own, with one for each of its runs."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from ....core.errors import RequestError
from ....core.files import make_directory, replace_text, to_json
from ..config import ProbeConfig
from ..messages import at_level, heard
from ..read_config import to_yaml
from ..sampling.samples import Sample

# the files of a run
CONFIG = "config.yaml"
LOG = "probe_log.txt"
RESULTS = "results.json"
ERROR = "error.txt"
SAMPLES = "samples.jsonl"


def check_label(label: str | None) -> None:
    """Raise RequestError if no directory can have this name."""
    if label is not None and (not label.strip(". ") or "/" in label or "\0" in label):
        raise RequestError(f"{label!r} is no name of a directory", "--label", "give a name without a slash")


def claim(category: Path, title: str, now: datetime) -> Path:
    """Make a new directory ``category/<title>_<time>``; experiments of one second are numbered.

    Raises:
        RequestError: the directory cannot be made.
    """
    make_directory(category)
    name = f"{title}_{now:%Y-%m-%d_%H-%M-%S}"
    for number in count(1):
        directory = category / (name if number == 1 else f"{name}_{number}")
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise RequestError(
                f"the directory cannot be made: {error.strerror}", str(directory), "give another --results directory"
            ) from error
        return directory
    raise AssertionError


def logged(directory: Path | None, level: str, rank: int = 0) -> AbstractContextManager[None]:
    """Write messages of the probe, from ``level`` on, to ``probe_log.txt`` in a directory, if there is one."""
    if directory is None:
        return at_level(level)
    return heard(directory / LOG, f"[Rank {rank}] %(asctime)s - %(name)s - %(levelname)s - %(message)s", level)


def begin(directory: Path, config: ProbeConfig) -> None:
    """Make the directory of a run, with the configuration in it."""
    directory.mkdir()
    replace_text(directory / CONFIG, to_yaml(config))


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; NaN and infinities become null."""
    replace_text(path, to_json(data, indent=2))


def write_error(directory: Path, error: BaseException) -> None:
    """Write ``error.txt``: the message, and where it was raised."""
    trace = "".join(traceback.format_exception(error))
    replace_text(directory / ERROR, f"{type(error).__name__}: {error}\n\n{trace}")


def write_samples(directory: Path, samples: Mapping[str, Sample], tokenizer: Any) -> None:
    """Write ``samples.jsonl``: a line for each episode of each batch, with its texts, its reward and its length."""
    lines = []
    for batch, sample in samples.items():
        lines += [to_json({"batch": batch, **record}) for record in _episodes(sample, tokenizer)]
    replace_text(directory / SAMPLES, "".join(f"{line}\n" for line in lines))


def _episodes(sample: Sample, tokenizer: Any) -> Iterator[dict[str, Any]]:
    groups = sample.rollouts.groups_of_episodes().tolist()
    rows = zip(sample.episodes, groups, sample.rewards.tolist(), sample.lengths.tolist(), strict=True)
    for episode, group, reward, length in rows:
        yield {
            "unit": group,
            "task": sample.tasks[group],
            "member": episode.member,
            "prompt": tokenizer.decode(list(episode.turns[0].prompt)),
            "response": episode.response,
            "reward": reward,
            "length": length,
            "success": episode.success,
        }
