"""The process that asks the package reasoning_gym.

``python -m uncollapse.plugins.environments.packages.reasoning_gym.worker`` starts it.

It makes questions and scores answers. The package evaluates some answers, which are texts of a policy, as Python or
with sympy. Therefore the process has limits of processor time and memory, and while it scores it may neither write
files, nor start processes, nor connect to anything.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from .....core.asked_process import READY

QUESTION_CPU_S = 120.0
"""Seconds of processor time for a data set and one of its questions."""
SCORE_CPU_S = 5.0
"""Seconds of processor time for the score of one answer."""
MEMORY = 8 * 2**30
"""Largest address space in bytes."""
_HARMLESS = frozenset({"compile", "exec", "import", "code.__new__", "function.__new__", "marshal.loads", "builtins.id"})
"""Audit events that scoring may raise, beside the reading of files."""
_READING = frozenset({"os.listdir", "os.scandir", "object.__getattr__", "sys._getframe", "tempfile.gettempdir"})

_scoring = False


def serve() -> None:
    """Answer questions until the input ends."""
    import numpy
    import reasoning_gym  # noqa: F401 - the slow import comes before the first question

    numpy.random.seed(0)
    # a Ctrl-C goes to all processes of a terminal, and is handled by the one that asks
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_refuse)
    # neither what the package prints nor what an evaluated text reads or closes may touch questions and answers
    with os.fdopen(os.dup(0)) as questions, os.fdopen(os.dup(1), "w") as answers:
        sys.stdin.close()
        sys.stdin, sys.stdout = io.StringIO(), sys.stderr
        print(json.dumps(READY), file=answers, flush=True)
        for line in questions:
            reply = answer(json.loads(line))
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(json.dumps(reply), file=answers, flush=True)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a request.

    Without a task: ``names`` of all tasks. With one: ``unknown`` with the names that are known, or ``refused`` with the
    package's reason, if it does not take the settings; else the ``question`` of an index with the package's ``own``
    answer, which is none where it has none, or the ``score`` of a text.
    """
    from reasoning_gym.factory import DATASETS

    if "task" not in request:
        return {"names": sorted(DATASETS)}
    signal.setitimer(signal.ITIMER_PROF, QUESTION_CPU_S)
    task, settings, size, index = (request[key] for key in ("task", "settings", "size", "index"))
    known = {field.name for field in dataclasses.fields(DATASETS[task][1])} - {"seed", "size"}
    unknown = sorted(set(json.loads(settings)) - known)
    if unknown:
        return {"unknown": unknown[0], "known": sorted(known)}
    try:
        item = _item(task, settings, size, index)
    except Exception as error:
        # many assertions of the package have no words but their own
        said = str(error) or traceback.extract_tb(error.__traceback__)[-1].line or ""
        return {"refused": f"{type(error).__name__}: {said}".removesuffix(": ")}
    if "answer" not in request:
        own = item.get("answer")
        return {"question": item["question"], "own": own if isinstance(own, str) else None}
    signal.setitimer(signal.ITIMER_PROF, SCORE_CPU_S)
    return {"score": _score(_dataset(task, settings, size), request["answer"], item)}


@lru_cache(maxsize=64)
def _dataset(task: str, settings: str, size: int) -> Any:
    from reasoning_gym import create_dataset
    from reasoning_gym.composite import DatasetSpec

    given = json.loads(settings)
    if task == "composite" and isinstance(given.get("datasets"), list):
        given["datasets"] = [DatasetSpec(**{"weight": 1, "config": {}, **part}) for part in given["datasets"]]
    return create_dataset(task, seed=0, size=size, **given)


@lru_cache(maxsize=2048)
def _item(task: str, settings: str, size: int, index: int) -> dict[str, Any]:
    """Make an item, the same in whatever order items are made."""
    import numpy

    dataset = _dataset(task, settings, size)
    # some generators draw from the generators that all modules share
    random.seed(index)
    numpy.random.seed(index)
    item: dict[str, Any] = dataset[index]
    if not isinstance(item["question"], str) or not item["question"].strip():
        raise ValueError(f"item {index} has no question")
    return item


def _score(dataset: Any, text: str, item: dict[str, Any]) -> float | None:
    """Score an answer by the package; ``None`` if the package fails on it."""
    try:
        with _nothing_but_reading():
            score = float(dataset.score_answer(text, item))
    except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit):
        # scorers of the package raise anything on texts that they do not expect, and an evaluated text may, too
        return None
    return score if math.isfinite(score) else None


@contextmanager
def _nothing_but_reading() -> Iterator[None]:
    global _scoring
    _scoring = True
    try:
        yield
    finally:
        _scoring = False


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise PermissionError for what scoring an answer must not do."""
    if not _scoring or event in _HARMLESS or event in _READING:
        return
    if event == "open" and (arguments[1] is None or not set(str(arguments[1])) & set("wax+")):
        return
    raise PermissionError(f"{event} is refused while an answer is scored")


if __name__ == "__main__":
    serve()
