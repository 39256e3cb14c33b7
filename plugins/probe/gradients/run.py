"""``uncollapse probe gradients`` draws one batch U, puts its groups into buckets, and writes what it measures there."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from ....core.compose.named import Named
from ....core.files import replace_text
from ...report.page import require_libraries
from ..estimation.clock import Clock
from ..estimation.update import Update
from ..experiments.files import CONFIG, check_label, claim, write_json
from ..read_config import to_yaml
from ..sampling.samples import Sample
from ..session import Session
from .buckets import BUCKETS, Bucket, by_edges, by_quantile, everything
from .measure import Gradients, OnBucket
from .metric import check_groups, scores_of
from .norms import FOR_ERRORS

DATA, TABLE, PICTURE = "gradients.json", "gradients.csv", "gradients.png"


def gradients(
    session: Session, metric: Named, *, buckets: int = BUCKETS, edges: Sequence[float] | None = None
) -> dict[str, Any]:
    """Return the gradient norms of the terms of the loss by bucket, as plain data; see :mod:`.norms` for their meaning.

    Args:
        metric: the group metric whose scores make the buckets.
        buckets: number of buckets of one size, unless ``edges`` are given.
        edges: rising scores at which one bucket ends and the next begins.

    Raises:
        ConfigError: the metric compares the responses of a group, and there is only one.
    """
    check_groups(metric, session.config.batch_config.G)
    clock, started = Clock(), time.perf_counter()
    U = session.draw_U(clock=clock)
    with clock("scores"):
        scores_P = scores_of(metric, session, U)
    update = session.update(U)
    sizes = session.config.memory_config.sizes
    measured = Gradients(session.policy, update, session.weighting, session.rollout.max_context, session.ranks, **sizes)
    chosen = by_quantile(scores_P, buckets) if edges is None else by_edges(scores_P, edges)
    with clock("gradients"):
        records = [_record(bucket, scores_P, measured.on(bucket.groups)) for bucket in (everything(scores_P), *chosen)]
    return {
        **_facts(session, update),
        "by": str(metric),
        "mode": "quantile" if edges is None else "edges",
        "edges": None if edges is None else list(edges),
        "terms": _terms(update, session),
        "buckets": records,
        "groups": _groups(U, scores_P, chosen),
        "warnings": list(_warnings(records, buckets if edges is None else None)),
        "notes": list(_notes(session)),
        "timing": {**clock.seconds, "total_time": time.perf_counter() - started},
    }


def _facts(session: Session, update: Update) -> dict[str, Any]:
    """Return what was probed, and how."""
    step = session.predicted_step()
    return {
        "checkpoint": str(session.loaded.directory),
        "run_step": None if session.run is None else session.run.step,
        "master_seed": session.master_seed,
        "B_U": len(update.rollouts.group_ids_P),
        "G": session.config.batch_config.G,
        "step": {name: step[name] for name in ("loss", "said_by", "left_out")},
    }


def _terms(update: Update, session: Session) -> dict[str, Any]:
    """Return the coefficient that is in the gradient of each term."""
    coefficients = {"task": 1.0, "entropy": update.objective.entropy_coef, "kl": update.objective.kl_coef}
    return {name: {"coefficient": coefficients[name]} for name in update.objective.terms}


def _record(bucket: Bucket, scores_P: Tensor, measured: OnBucket) -> dict[str, Any]:
    """Return a bucket as plain data: what it holds, the scores in it, and the norms of its gradients."""
    scores_n = scores_P[list(bucket.groups)].double()
    filled = len(scores_n) > 0
    return {
        "bucket": bucket.name,
        "low": bucket.low,
        "high": bucket.high,
        "groups": len(scores_n),
        "sequences": measured.sequences,
        "tokens": measured.tokens,
        "score": {
            "mean": float(scores_n.mean()) if filled else None,
            "min": float(scores_n.min()) if filled else None,
            "max": float(scores_n.max()) if filled else None,
        },
        "gradients": {
            name: {
                "norm": norm.norm,
                "norm_se": norm.norm_se,
                "square": norm.square,
                "square_se": norm.square_se,
                "without_noise": norm.without_noise,
                "clear": norm.clear,
                "mean_norm_of_one_group": float(measured.parts[name].mean()) if filled else None,
            }
            for name, norm in measured.norms.items()
        },
    }


def _groups(U: Sample, scores_P: Tensor, buckets: Sequence[Bucket]) -> list[dict[str, Any]]:
    """Return the task, the score, the mean reward and the bucket of each group."""
    of_group = {group: bucket.name for bucket in buckets for group in bucket.groups}
    units_E, rewards_E = U.rollouts.groups_of_episodes(), U.rewards
    return [
        {
            "group": position,
            "task": U.tasks[int(unit)],
            "score": float(scores_P[position]),
            "mean_reward": float(rewards_E[units_E == unit].double().mean()),
            "bucket": of_group[position],
        }
        for position, unit in enumerate(U.rollouts.group_ids_P.tolist())
    ]


def _warnings(records: Sequence[dict[str, Any]], wanted: int | None) -> Iterator[str]:
    """Yield what limits the numbers: buckets without groups, without an error, or fewer than asked for."""
    buckets = records[1:]
    if wanted is not None and len(buckets) < wanted:
        yield f"there are {len(buckets)} buckets and not {wanted}, one for each group; take a larger --bu"
    if empty := [record["bucket"] for record in buckets if not record["groups"]]:
        yield f"no group has a score in {', '.join(empty)}: nothing is measured there"
    few = [f"{record['bucket']} ({record['groups']})" for record in buckets if 0 < record["groups"] < FOR_ERRORS]
    if few:
        yield f"no standard errors with fewer than {FOR_ERRORS} groups: {', '.join(few)}; take a larger --bu"
    spans = [(record["score"]["min"], record["score"]["max"]) for record in buckets if record["groups"]]
    shared = [high for (_, high), (low, _) in pairwise(spans) if high == low]
    if wanted is not None and shared:
        yield "groups of equal scores stand in neighbouring buckets; --edges keeps them together"


def _notes(session: Session) -> Iterator[str]:
    """Yield why a term has no gradient of its own."""
    gradient = session.config.policy_gradient
    if gradient.kl is None:
        yield "no KL term: the run's coefficient is 0; give policy_gradient.kl and policy_gradient.kl_coef to have one"
    elif gradient.kl_placement == "reward":
        yield "the KL term stands in the rewards: its gradient is a part of the task's"
    if not gradient.entropy_coeff:
        yield "no entropy bonus: the run's coefficient is 0; give policy_gradient.entropy_coeff to have one"


def write(result: dict[str, Any], session: Session, results: Path, label: str | None) -> Path:
    """Write the data, the table, the picture and the configuration to a new directory; return it.

    The directory is ``results/gradients/<label>_<time>``; the picture needs matplotlib.

    Raises:
        RequestError: the directory cannot be made.
    """
    check_label(label)
    directory = claim(results.expanduser() / "gradients", label or "gradients", datetime.now())
    replace_text(directory / CONFIG, to_yaml(session.config))
    write_json(directory / DATA, result)
    replace_text(directory / TABLE, _csv(result))
    require_libraries()
    from .plots import picture

    (directory / PICTURE).write_bytes(picture(result))
    return directory


def _csv(result: dict[str, Any]) -> str:
    """Return a line for each bucket and term."""
    rows = []
    for record in result["buckets"]:
        about = {key: record[key] for key in ("bucket", "low", "high", "groups", "sequences", "tokens")}
        scores = {f"score_{name}": value for name, value in record["score"].items()}
        for term, norms in record["gradients"].items():
            coefficient = result["terms"][term]["coefficient"]
            rows.append({**about, **scores, "term": term, "coefficient": coefficient, **norms})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
