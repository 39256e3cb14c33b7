"""Detectors that judge hand-written metrics."""

from uncollapse.core.registry import registry
from uncollapse.plugins.training.assemble import DetectorContext


def session_of(name, **parameters):
    return registry().create("collapse", name, **parameters).start(DetectorContext(None, tokenizer=None))


def first(session, records):
    """(step, verdict) of the first verdict; steps count from 1."""
    for step, metrics in enumerate(records, start=1):
        if verdict := session.judge(step, metrics):
            return step, verdict
    return None, None


def series(metric, values):
    return [{} if value is None else {metric: value} for value in values]
