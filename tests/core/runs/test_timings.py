import pytest
from uncollapse.core.runs.timings import timings


def record(number, **seconds):
    return {"step": number} | {f"timing_s/{name}": value for name, value in seconds.items()}


def test_by_hand():
    records = [
        record(0, validation=3.0, total=4.0),
        record(1, step=10.0, detectors=1.0, total=15.0),
        record(2, step=20.0, detectors=2.0, validation=5.0, collapse_first_turn=1.5, total=36.0),
        record(3, step=10.0, total=50.0),
    ]
    assert timings(records) == pytest.approx(
        {"eval": 8.0, "collapse": 3.0, "first_turn": 1.5, "train": 40.0 - 5.0 - 3.0, "total": 50.0}
    )


def test_what_was_not_measured_is_absent():
    assert timings([]) == {}
    assert timings([record(0, total=2.0), {"step": 1, "timing_s/step": None}]) == {"total": 2.0}
