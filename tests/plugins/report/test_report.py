from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import sys
from html import escape
from html.parser import HTMLParser

import attrs
import pytest
from click.testing import CliRunner
from rich.console import Console
from uncollapse.cli.main import main
from uncollapse.core.errors import MissingExtraError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps, loads
from uncollapse.plugins.report.page import Bar, Card, Chip, Episode, Fold, Message, Section, render
from uncollapse.plugins.report.plots import Plot
from uncollapse.plugins.report.sweep_report import read_report
from uncollapse.plugins.report.table import run_cells, seconds_cells, timing_cells, verdict_cells

LONG = {"reward": 1.0, "system": "Push.", "turns": [{"user": "x" * 1_000_000, "response": ""}]}


@pytest.fixture
def written(sweep_directory):
    pytest.importorskip("matplotlib")
    return read_report(sweep_directory).write()


def test_effects_of_the_axes_by_hand(sweep_directory):
    by_filter, by_kl = read_report(sweep_directory).effects
    # the pair (nofilter-0.01, top_p-0.01) is out: a detector stopped the latter
    assert by_filter.difference == pytest.approx(0.30)
    assert by_filter.se == pytest.approx(0.03 * 2**0.5)
    assert by_filter.left_out == ("filter.select top_p(0.9), kl.coef 0.01: failed regime (reward_variance_collapse)",)
    assert by_filter.verdict == "higher"
    assert by_kl.difference == pytest.approx(0.10)
    assert by_kl.verdict == "higher"  # 0.10 > 2 * 0.0424


def test_cells_of_the_tables(sweep_directory):
    first, *_, stopped = read_report(sweep_directory).sweep.runs
    assert run_cells(first) == {
        "run": "filter.select nofilter, kl.coef 0",
        "status": "success",
        "steps": "12",
        "validation success": "0.300 ± 0.020 → 0.400 ± 0.030",
        "reward": "10.000",
        "group reward std": "0.204",  # 2 * (1/8 + 1/9 + 1/10 + 1/11 + 1/12) / 5
        "entropy": "0.102",
        "kept": "0.750",
        "KL": "–",
        "directory": "nofilter-0",
        "why": "",
    }
    assert run_cells(stopped)["KL"] == "0.040"  # steps 2 to 6
    assert run_cells(stopped)["status"] == "failed regime (reward_variance_collapse)"
    assert seconds_cells(first) == {
        "run": "filter.select nofilter, kl.coef 0",
        "rollout s": "1.00",
        "score s": "0.50",
        "update s": "1.00",
        "other s": "0.60",
    }
    assert timing_cells(first) | {"wall": ""} == {
        "run": "filter.select nofilter, kl.coef 0",
        "train": "0:00:36",
        "eval": "0:00:01",
        "collapse": "–",
        "first turn": "–",
        "multi turn": "–",
        "total": "0:00:41",
        "wall": "",
        "gpu": "–",
    }
    assert run_cells(stopped)["why"] == "the spread of rewards is gone"


def test_terminal_tables(sweep_directory):
    out = io.StringIO()
    read_report(sweep_directory).print(Console(file=out, width=220))
    lines = out.getvalue().splitlines()
    (run,) = [line for line in lines if line.startswith("filter.select top_p(0.9), kl.coef 0.01 ") and "→" in line]
    assert "failed regime (reward_variance_collapse)" in run
    (effect,) = [line for line in lines if line.startswith("filter.select: top_p(0.9)")]
    assert "+0.300 ± 0.042" in effect
    assert "higher" in effect


class Loads(HTMLParser):
    """Everything that a browser would fetch, and every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "poster")]


def test_the_page_loads_nothing(written):
    text = written.read_text(encoding="utf-8")
    page = Loads(text)
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)


def test_images_of_the_page_can_be_decoded(written):
    from matplotlib.image import imread

    sources = Loads(written.read_text(encoding="utf-8")).sources
    assert len(sources) == 11  # two axes, two successes, reward, std, entropy, information, kept, KL, seconds
    for source in sources:
        pixels = imread(io.BytesIO(base64.b64decode(source.partition(",")[2])), format="png")
        assert pixels.shape[1] > 800
        assert pixels.std() > 0.01
    names = {file.name for file in written.parent.glob("*.png")}
    assert names == {f"{name}.png" for name in PLOTS}


FINALS = ("final_filter.select", "final_kl.coef")
PLOTS = (*FINALS, "success", "train_success", "reward", "group_reward_std", "entropy", "information", "kept_ratio")
PLOTS += ("kl", "seconds")


def test_the_page_says_what_was_found(written):
    text = written.read_text(encoding="utf-8")
    assert "+0.300 ± 0.042" in text
    assert "1 of 4 runs" in text
    assert "not logged by filter.select nofilter, kl.coef 0, filter.select top_p(0.9), kl.coef 0<" in text  # KL
    assert "uncollapse sweep run" in text
    assert "Where is &lt;the&gt; box?" in text
    assert text.count("&lt;answer&gt;Up&lt;/answer&gt;") == 4 * 3  # three episodes of each run


def test_the_page_of_many_runs_stays_small(sweep_directory):
    """80 runs, each with episodes of a million characters: those of 24 are shown, and cut."""
    record = loads((sweep_directory / "sweep.yaml").read_text())
    points = [{**record["points"][0], "label": f"run-{at}", "values": {"seed": str(at)}} for at in range(80)]
    for point in points:
        shutil.copytree(sweep_directory / "nofilter-0", sweep_directory / point["label"])
        RunDirectory(sweep_directory / point["label"]).write_rollouts(6, [LONG] * 5)
    (sweep_directory / "sweep.yaml").write_text(dumps({**record, "points": points}))
    file = read_report(sweep_directory).write()
    text = file.read_text(encoding="utf-8")
    assert file.stat().st_size < 4e6
    assert text.count("<summary><b>seed ") == 24
    assert "Of the first 24 runs; 56 more have theirs in the directory rollouts of the run" in text
    assert text.count("988005 more characters are in the run's file") == 24 * 3


def test_a_damaged_transcript_costs_itself_alone(sweep_directory):
    (sweep_directory / "nofilter-0" / "rollouts" / "step_6.jsonl").write_text('{"turns": [\n')
    text = read_report(sweep_directory).write().read_text(encoding="utf-8")
    assert text.count("<p>damaged: ") == 1
    assert text.count("&lt;answer&gt;Up&lt;/answer&gt;") == 3 * 3


def test_a_damaged_run_is_in_the_page_with_the_reason(sweep_directory):
    (sweep_directory / "nofilter-0" / "status.json").write_text("{")
    found = read_report(sweep_directory)
    text = found.write().read_text(encoding="utf-8")
    assert "<span class='chip damaged'>damaged</span>" in text
    assert "the run&#39;s status is damaged" in text
    assert found.to_dict()["runs"][0]["status"] == "damaged"
    # (nofilter-0, top_p-0) is no pair any more, and (nofilter-0.01, top_p-0.01) never was
    assert found.effects[0].left_out == (
        "filter.select nofilter, kl.coef 0: damaged",
        "filter.select top_p(0.9), kl.coef 0.01: failed regime (reward_variance_collapse)",
    )


def test_tables_of_many_runs_keep_their_heads_in_sight(written):
    text = written.read_text(encoding="utf-8")
    assert re.search(r"thead th \{[^}]*position: sticky", text)
    assert "<thead><tr><th>run</th>" in text


def test_a_terminal_is_spared_hundreds_of_comparisons(sweep_directory):
    found = read_report(sweep_directory)
    found = attrs.evolve(found, points=found.points * 30)
    out = io.StringIO()
    found.print(Console(file=out, width=220))
    assert "50 more are in the page" in out.getvalue()
    assert out.getvalue().count("filter.select=top_p(0.9), kl.coef=0.01 ") < 30


def test_the_page_escapes_names(sweep_directory):
    record = sweep_directory / "sweep.yaml"
    record.write_text(record.read_text().replace("name: test", "name: <script>alert(1)</script>"))
    assert "script" not in Loads(read_report(sweep_directory).write().read_text(encoding="utf-8")).tags


def test_every_part_of_a_page_is_text():
    """In attributes quotes would end them, so that they too are escaped."""
    bad = "<i>'\"&"
    message = Message(bad, bad, bad, [Chip(bad, bad)], bad, bad)
    fold = Fold(bad, bad, bad, bad, [Episode(bad, [Chip(bad, bad)], [message], 1)])
    cells = {bad: Chip(bad, bad), "plain": bad}
    chart = [Bar(bad, 0.5, bad, -0.5, 1.0, 0.0, bad)]
    section = Section(bad, bad, [cells], [Plot("p", bad, b"", (bad,))], [bad], bad, [fold], chart, bad)
    text = render(bad, bad, [Card(bad, bad, bad, bad)], [section])
    assert "i" not in Loads(text).tags
    assert text.count(escape(bad).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) == 37
    assert "<i>" not in text and bad not in text


def test_csv_has_the_final_values(written):
    with (written.parent / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["nofilter-0", "nofilter-0.01", "top_p-0", "top_p-0.01"]
    assert float(rows[1]["success_last"]) == 0.5
    assert float(rows[1]["kl"]) == pytest.approx(0.10)
    assert rows[0]["kl"] == ""
    assert rows[2]["point.filter.select"] == "top_p(0.9)"
    assert rows[3]["status"] == "stopped:reward_variance_collapse"


def test_without_matplotlib_the_extra_is_named(sweep_directory, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"uncollapse\[train\]"):
        read_report(sweep_directory).write()
    assert not (sweep_directory / "report").exists()
    answer = CliRunner().invoke(main, ["sweep", "report", str(sweep_directory)])
    assert answer.exit_code == 0
    assert "validation success" in answer.output
    assert "no page was written" in answer.output


def test_command_line(sweep_directory):
    runner = CliRunner()
    answer = runner.invoke(main, ["sweep", "report", str(sweep_directory), "--json"])
    data = json.loads(answer.stdout)
    assert [run["run"] for run in data["runs"]] == ["nofilter-0", "nofilter-0.01", "top_p-0", "top_p-0.01"]
    assert data["effects"][0]["difference"] == pytest.approx(0.3)
    assert data["runs"][0]["kl"] is None
    answer = runner.invoke(main, ["sweep", "report", str(sweep_directory / "nofilter-0")])
    assert answer.exit_code == 2
    assert "sweep.yaml" in answer.output


def test_a_sweep_without_any_result_has_a_report(sweep_directory):
    for run in list(sweep_directory.glob("*-*")):
        run.rename(run.with_name(f"gone.{run.name}"))
    empty = read_report(sweep_directory)
    assert [effect.verdict for effect in empty.effects] == ["not measured", "not measured"]
    assert "not started" in empty.write().read_text(encoding="utf-8")


def test_verdicts_are_told_with_their_evidence_whether_they_stopped_the_run_or_not(sweep_directory, capsys):
    *_, stopped = read_report(sweep_directory).sweep.runs
    said = {
        "detector": "kl_runaway",
        "step": 3,
        "reason": "it ran",
        "stop": False,
        "evidence": {"last": [0.12345]},
    }
    ended = {"detector": "reward_variance_collapse", "step": 6, "reason": "it died", "evidence": {"baseline": 2}}
    RunDirectory(stopped.path).annotate(verdicts=[said, ended])
    found = read_report(sweep_directory)
    assert verdict_cells(found.sweep.runs) == [
        {
            "run": stopped.title,
            "detector": "kl_runaway",
            "step": "3",
            "stopped it": "no",
            "why": "it ran",
            "evidence": "last [0.123]",
        },
        {
            "run": stopped.title,
            "detector": "reward_variance_collapse",
            "step": "6",
            "stopped it": "yes",
            "why": "it died",
            "evidence": "baseline 2",
        },
    ]
    assert found.to_dict()["verdicts"] == {stopped.label: [said, ended]}
    found.print(Console(width=200))
    assert "What the detectors said" in capsys.readouterr().out


def test_an_axis_may_be_called_like_a_metric(sweep_directory):
    file = sweep_directory / "sweep.yaml"
    record = loads(file.read_text())
    for point in record["points"]:
        point["values"] = {"kl": point["values"]["kl.coef"], "status": point["values"]["filter.select"]}
    record["axes"] = {}
    file.write_text(dumps(record))
    pytest.importorskip("matplotlib")
    found = read_report(sweep_directory)
    row = found.to_dict()["runs"][1]
    assert row["point"] == {"kl": "0.01", "status": "nofilter"}
    assert (row["kl"], row["status"]) == (pytest.approx(0.10), "success")
    with (found.write().parent / "runs.csv").open(newline="") as csv_file:
        line = list(csv.DictReader(csv_file))[1]
    assert (line["point.kl"], line["status"]) == ("0.01", "success")
