"""``uncollapse probe influence``: one update, one sample of E, and the files that say what every sequence adds."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from ....core.files import replace_text
from ....estimators.variance.terms import MEASURED_IN
from ...report.page import require_libraries
from ..estimation.clock import Clock
from ..experiments.files import CONFIG, check_label, claim, write_json
from ..probe import of_size
from ..read_config import to_yaml
from ..session import Session
from .influence import BLOCKS, check, choose, prediction, sequence_table, shares
from .summary import correlations, groups

DATA, TABLE, PICTURE = "influence.json", "influence.csv", "influence.png"


def influence(session: Session, B_E: int, *, blocks: int = BLOCKS, checked: int = 2) -> dict[str, Any]:
    """The shares of all sequences of one update, as plain data in nats; see :mod:`.influence` for what they mean.

    Args:
        B_E: prompts of E.
        blocks: of E, for the standard errors; 0 leaves them out.
        checked: how many of the largest shares, and of the others, are held against the truth.
    """
    config, unit, clock, started = session.config, session.config.entropy_unit, Clock(), time.perf_counter()
    U, E = session.draw_U(clock=clock), session.draw_E(B_E, clock=clock)
    step = session.step(U, clock)
    measurement = session.measurement(E, step, clock)
    with clock("shares"):
        found = shares(measurement, unit, blocks)
    truth = []
    if checked:
        with clock("check"):
            chosen = choose(found.of_sequences, checked, session.master_seed)
            truth = [{**attrs.asdict(item), "ratio": item.ratio} for item in check(measurement, unit, found, chosen)]
    advantages = step.update.batch.advantages
    assert advantages is not None
    records = sequence_table(U.rollouts, advantages, U.tasks, found)
    return {
        "checkpoint": str(session.loaded.directory),
        "entropy_unit": unit,
        "measured_in": MEASURED_IN[unit],
        "direction": config.direction,
        "learning_rate": session.eta,
        "master_seed": session.master_seed,
        "B_E": len(E.rollouts.group_ids_P),
        "B_U": len(U.rollouts.group_ids_P),
        "G": config.batch_config.G,
        "blocks": 0 if found.influence_K is None else len(found.influence_K),
        "widened_by": None if found.influence_K is None else found.widened_by,
        "prediction": prediction(measurement, unit),
        "total": found.total,
        "total_se": found.total_error,
        "total_is_noise": not found.clear,
        "step": session.predicted_step(),
        "carried": {"share": found.carried, "se": found.carried_error},
        "sequences": records,
        "groups": groups(records, found),
        "correlations": correlations(records),
        "check": truth,
        "timing": {**clock.seconds, "total_time": time.perf_counter() - started},
    }


def write(found: dict[str, Any], session: Session, results: Path, label: str | None) -> Path:
    """Write ``influence.json``, ``influence.csv``, ``influence.png`` (with matplotlib) and the configuration to a new
    directory ``results/influence/<label>_<time>``; returns it.

    Raises:
        RequestError: it cannot be made.
    """
    check_label(label)
    directory = claim(results.expanduser() / "influence", label or "influence", datetime.now())
    replace_text(directory / CONFIG, to_yaml(of_size(session.config, found["B_E"])))
    write_json(directory / DATA, found)
    replace_text(directory / TABLE, _csv(found["sequences"]))
    require_libraries()
    from .plots import picture

    (directory / PICTURE).write_bytes(picture(found))
    return directory


def _csv(records: Sequence[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()
