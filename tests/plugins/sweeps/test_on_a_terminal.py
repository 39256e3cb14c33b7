"""A sweep that trains for real, on a terminal that knows ASCII alone; then one of its records is cut short."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import pytest
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps
from uncollapse.plugins.report.sweep_report import read_report

ENVIRONMENT = {"LC_ALL": "C", "PYTHONUTF8": "0", "TERM": "xterm", "COLUMNS": "150", "CUDA_VISIBLE_DEVICES": ""}


PLUGIN = """
import time
from pathlib import Path

import attrs
from uncollapse import hookimpl
from uncollapse.filters.nofilter import NoFilter


@attrs.frozen
class Waits(NoFilter):
    file: str = ""
    keeps_all = False

    def select(self, scores_P):
        while not Path(self.file).exists():
            time.sleep(0.02)
        return NoFilter.select(self, scores_P)


@hookimpl
def register_rollout_filters(register):
    register("waits", Waits, summary="keep every group, once a file is there")
"""
TABLE = b"2 runs: 1 running, 1 queued"


def on_a_terminal(directory: Path, *words: str) -> tuple[int, str]:
    """Exit code of a command whose terminal this is, and all that it wrote; its runs go on once it shows the table."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(directory)
        command = [sys.executable, "-m", "uncollapse.cli.main", "sweep", *words]
        os.execve(sys.executable, command, os.environ | ENVIRONMENT)
    written = b""
    try:
        while part := os.read(terminal, 65536):
            written += part
            if TABLE in written:
                (directory / "go").touch()
    except OSError:  # the other side is closed
        pass
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), written.decode("ascii")


@pytest.mark.slow
def test_a_sweep_shows_how_it_stands_and_mends_a_record_that_was_cut_short(tmp_path, bandit):
    trainer = {**bandit["trainer"], "steps": 2}
    waits = {"select": {"name": "waits", "file": str(tmp_path / "go")}}
    experiment = {**bandit, "trainer": trainer, "filter": waits}
    record = {"name": "small", "experiment": experiment, "axes": {"kl.coef": [0, 0.01]}}
    (tmp_path / "small.yaml").write_text(dumps(record))
    (tmp_path / "waits.py").write_text(PLUGIN)
    words = ("run", "small.yaml", "--plugin", "waits.py", "--slots", "1", "--root", "out")
    code, text = on_a_terminal(tmp_path, *words)
    assert code == 0, text
    assert "started kl.coef 0, see out/kl.coef_0/log.txt" in text
    assert TABLE.decode() in text
    assert " +- " in text
    assert "[2/2] kl.coef 0.01: success" in text
    run = RunDirectory(tmp_path / "out" / "kl.coef_0.01")
    whole, measured = run.metrics_file.read_bytes(), run.metrics()
    assert "attempts" not in run.manifest()

    run.metrics_file.write_bytes(whole[:-40])
    code, text = on_a_terminal(tmp_path, "status", "out", "--watch")
    assert (code, "damaged" in text) == (0, True)
    found = read_report(tmp_path / "out")
    assert found.to_dict()["left_out"] == ["kl.coef 0.01"]
    assert found.effects[0].difference is None
    code, text = on_a_terminal(tmp_path, *words)
    assert code == 0, text
    assert "restored from step_2" in text
    for mended, before in zip(run.metrics(), measured, strict=True):
        assert {key: before[key] for key in mended if key != "timing_s/total"} == (
            {key: value for key, value in mended.items() if key != "timing_s/total"}
        )
    assert read_report(tmp_path / "out").to_dict()["left_out"] == []
