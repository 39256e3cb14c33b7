"""``uncollapse probe influence`` takes one update and one sample of E, and writes what each sequence adds."""

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
from ..sampling.samples import Sample
from ..session import Session
from .influence import BLOCKS, Shares, check, choose, prediction, sequence_table, shares
from .summary import correlations, groups

DATA = "influence.json"
TABLE = "influence.csv"
PICTURE = "influence.png"


def influence(session: Session, B_E: int, *, blocks: int = BLOCKS, checked: int = 2) -> dict[str, Any]:
    """Return the shares of all sequences of one update, as plain data in nats; see :mod:`.influence` for their meaning.

    Args:
        B_E: number of prompts of E.
        blocks: number of blocks of E, for the standard errors; 0 leaves them out.
        checked: how many of the largest shares, and of the others, are held against the truth.
    """
    unit = session.config.entropy_unit
    clock, started = Clock(), time.perf_counter()
    U, E = session.draw_U(clock=clock), session.draw_E(B_E, clock=clock)
    step = session.step(U, clock)
    measurement = session.measurement(E, step, clock)
    with clock("shares"):
        predicted = shares(measurement, unit, blocks)
    truth = []
    # each sequence that is checked takes two forward passes over E, so only a few are
    if checked:
        with clock("check"):
            chosen = choose(predicted.of_sequences, checked, session.master_seed)
            for item in check(measurement, unit, predicted, chosen):
                truth.append({**attrs.asdict(item), "ratio": item.ratio})
    advantages_B_T = step.update.batch.advantages
    assert advantages_B_T is not None
    records = sequence_table(U.rollouts, advantages_B_T, U.tasks, predicted)
    return {
        **_facts(session, E, U),
        **_totals(predicted),
        "prediction": prediction(measurement, unit),
        "sequences": records,
        "groups": groups(records, predicted),
        "correlations": correlations(records),
        "check": truth,
        "timing": {**clock.seconds, "total_time": time.perf_counter() - started},
    }


def _facts(session: Session, E: Sample, U: Sample) -> dict[str, Any]:
    """Return what was probed, and how."""
    config, unit = session.config, session.config.entropy_unit
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
        "step": session.predicted_step(),
    }


def _totals(predicted: Shares) -> dict[str, Any]:
    """Return the total of the shares, the part of momentum and decay, and how their errors were estimated."""
    blocks = predicted.influence_K
    return {
        "blocks": 0 if blocks is None else len(blocks),
        "widened_by": None if blocks is None else predicted.widened_by,
        "total": predicted.total,
        "total_se": predicted.total_error,
        "total_is_noise": not predicted.clear,
        "carried": {"share": predicted.carried, "se": predicted.carried_error},
    }


def write(result: dict[str, Any], session: Session, results: Path, label: str | None) -> Path:
    """Write the data, the table, the picture and the configuration to a new directory; return it.

    The directory is ``results/influence/<label>_<time>``; the picture needs matplotlib.

    Raises:
        RequestError: the directory cannot be made.
    """
    check_label(label)
    directory = claim(results.expanduser() / "influence", label or "influence", datetime.now())
    replace_text(directory / CONFIG, to_yaml(of_size(session.config, result["B_E"])))
    write_json(directory / DATA, result)
    replace_text(directory / TABLE, _csv(result["sequences"]))
    require_libraries()
    from .plots import picture

    (directory / PICTURE).write_bytes(picture(result))
    return directory


def _csv(records: Sequence[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()
