"""The report of an experiment directory: what it reads, what it shows first, and what it does without parts."""

from __future__ import annotations

import base64
import math
import re
import struct

import attrs
import pytest
import torch
from uncollapse.core.errors import RequestError
from uncollapse.core.files import to_json
from uncollapse.plugins.probe.experiments import criteria, scaling
from uncollapse.plugins.probe.report import plots
from uncollapse.plugins.probe.report.data import Experiment
from uncollapse.plugins.probe.report.readable import short, with_error
from uncollapse.plugins.probe.report.report import draw, write
from uncollapse.plugins.report.page import Chip, Section, render

ETA = 2e-6


def step(eta, delta, error, generator, sequences=256):
    log_weights = torch.randn(sequences, generator=generator, dtype=torch.float64) * eta * 1e4
    counts, edges = torch.histogram(log_weights, 30)
    return {
        "eta": eta,
        "deltaH": delta * eta / ETA * (1 - 0.004 * eta / ETA),
        "se": error * eta / ETA,
        "predicted": delta * eta / ETA,
        "predicted_se": error * eta / ETA,
        "ess": 0.98 * sequences,
        "ess_fraction": 0.98,
        "mean_w": 1.001,
        "se_mean_w": 0.004,
        "clipped_fraction": 0.0,
        "logw": {"histogram": {"edges": edges.tolist(), "counts": counts.tolist()}},
    }


def result(generator, B_E=256, bug=1.0):
    error = 0.03 * math.sqrt(256 / B_E)
    delta = (-0.14 + error * float(torch.randn((), generator=generator, dtype=torch.float64))) * bug
    return {
        "success": True,
        "deltaH1": delta,
        "deltaH1_tok": delta / 101,
        "deltaH_true": delta * 0.996,
        "bars_dot": delta / ETA,
        "learning_rate": ETA,
        "entropy_unit": "per_sequence",
        "direction": "adamw",
        "update": {"v_norm": 2400.0},
        "SE_conditional": error * bug,
        "variance": {
            "conditional_E": {"estimand": "of deltaH1 over draws of E", "se": error, "value": delta, "n": B_E}
            | {"units": "prompts of E", "status": "ok", "reason": "", "measured_in": "nats per sequence"},
            "vx_vy": {"estimand": "total", "se": None, "value": None, "n": 1, "units": "prompts"}
            | {"status": "too_few_units", "reason": "1 unit(s), and 2 are needed", "measured_in": "nats per sequence"},
        },
        "truth": [step(ETA * scale, delta, error * bug, generator) for scale in (0.5, 1, 2, 4, 8)],
        "integrity": {"adam_coverage": 1.0, "param_hash_before": "a", "param_hash_after": "a"},
        "timing": {"total_time": 12.3},
        "peak_memory_bytes": 3 * 2**30,
        "B_E": B_E,
        "B_U": 32,
    }


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(value), encoding="utf-8")


def config(test, **more):
    return {
        "test_type": test,
        "checkpoint": "runs/<a>&b/step_40",
        "B_U": 32,
        "timestamp": "2026-01-02 03:04:05",
        **more,
    }


def batch_scaling(root, bug=lambda B: 1.0):
    generator = torch.Generator().manual_seed(5)
    results = [result(generator, B, bug(B)) for B in (16, 64, 256) for _ in range(4)]
    for at, one in enumerate(results):
        save(root / f"BE{one['B_E']:03d}_run{at % 4 + 1:03d}" / "results.json", one)
    analysis = scaling.analyse(scaling.ScalingRun(r["B_E"], r["deltaH1"], r["SE_conditional"]) for r in results)
    ignored = ["distributed: ranks share prompts", "memory_config.amp: weights are float32"]
    summary = {"test_config": config("batch_scaling", ignored=ignored), "analysis": analysis, "all_results": []}
    save(root / "convergence_analysis.json", summary)
    return root


def sanity_check(root, count=15):
    generator = torch.Generator().manual_seed(6)
    results = [result(generator) for _ in range(count)]
    for at, one in enumerate(results, 1):
        save(root / f"run{at:03d}" / "results.json", one)
    (root / "run099").mkdir()
    (root / "run099" / "error.txt").write_text("out of memory at <E>\nTraceback ...\n")
    judged = criteria.evaluate([*results, {"success": False}])
    analysis = criteria.analysis(results) | {"criteria": [attrs.asdict(criterion) for criterion in judged]}
    save(root / "validation_summary.json", {"test_config": config("sanity_check"), "analysis": analysis})
    return root


def single(root, **changed):
    one = {**result(torch.Generator().manual_seed(7)), **changed}
    save(root / "BE256_BU032" / "results.json", one)
    save(root / "single_test_results.json", {"test_config": config("single"), "result": one})
    return root


def pictures(html):
    """The PNGs in the page: (width, height) of each."""
    found = [base64.b64decode(data) for data in re.findall(r"src='data:image/png;base64,([^']+)'", html)]
    assert all(png.startswith(b"\x89PNG") for png in found)
    return [struct.unpack(">II", png[16:24]) for png in found]


def headings(html):
    return re.findall(r"<h2>(.*?)</h2>", html)


def test_the_report_of_batch_scaling_opens_with_the_verdict(tmp_path):
    file = write(batch_scaling(tmp_path))
    html = file.read_text(encoding="utf-8")
    assert file == tmp_path / "report.html"
    assert "<b>convergence</b>" in html and "<b>12 of 12 succeeded</b>" in html
    assert headings(html) == [
        "Verdict",
        "By batch size",
        "How errors fall with the batch",
        "Pictures",
        "Runs",
        "Measured steps",
        "Standard errors",
        "What is measured",
        "Ignored in the configuration",
    ]
    assert len(pictures(html)) == 4
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {"change_over_size.png", "error_over_size.png", "change_over_eta.png", "weights.png"}
    assert "memory_config.amp: weights are float32" in html
    assert "momentum, preconditioning and weight decay" in html
    assert (
        "runs/&lt;a&gt;&amp;b/step_40 · B_U 32 · learning rate 2e−6 · 2026-01-02 03:04:05<" in html
        and "<a>" not in html
    )


def test_an_injected_division_is_what_the_page_says(tmp_path):
    html = write(batch_scaling(tmp_path, bug=lambda B: 16 / B)).read_text(encoding="utf-8")
    assert "<li class='lower'><span class='soft'>verdict</span><b>inverse B</b>" in html


def test_the_report_of_sanity_check_has_each_criterion_and_the_run_that_failed(tmp_path):
    html = write(sanity_check(tmp_path)).read_text(encoding="utf-8")
    assert headings(html)[:2] == ["Criteria", "Pictures"]
    assert "<b>15 of 16 succeeded</b>" in html
    assert "failed: success_rate" in html
    for name in ("success rate", "prediction against truth", "sign flip"):
        assert f"<td>{name}</td>" in html
    assert html.count("<td>not judged</td>") == 4
    assert "out of memory at &lt;E&gt;" in html and "Traceback" not in html
    assert (tmp_path / "plots" / "runs.png").is_file()


def test_a_single_run_opens_with_its_numbers(tmp_path):
    html = write(single(tmp_path)).read_text(encoding="utf-8")
    assert re.search(r"predicted change, deltaH1</span><b>−0\.1\d\d ± 0\.030</b>nats per sequence; .*: poor", html)
    assert "measured change, deltaH_true" in html
    assert "1 unit(s), and 2 are needed" in html
    assert len(pictures(html)) == 2


@pytest.mark.parametrize(
    ("absent", "left"),
    [
        ({"truth": None, "deltaH_true": None}, {"Runs", "Standard errors", "What is measured"}),
        (
            {"deltaH1": None, "deltaH1_tok": None, "bars_dot": None, "SE_conditional": None, "variance": None}
            | {"truth": [{"eta": ETA, "deltaH": -0.1, "se": 0.03, "predicted": None, "predicted_se": None}]},
            {"Pictures", "Runs", "Measured steps", "What is measured"},
        ),
        (
            dict.fromkeys(("truth", "deltaH1", "deltaH_true", "variance", "timing", "SE_conditional", "B_E"))
            | {"entropy_unit": None, "direction": None, "learning_rate": None, "integrity": None},
            {"Runs", "What is measured"},
        ),
    ],
)
def test_what_was_not_measured_is_left_out(tmp_path, absent, left):
    html = write(single(tmp_path, **absent)).read_text(encoding="utf-8")
    assert set(headings(html)) == left
    assert "None" not in html and "nan" not in html.split("<body>")[1].split("base64")[0]


@pytest.mark.parametrize(
    ("paired", "said"), [(True, "their difference is curvature"), (False, "have a sample of E each")]
)
def test_the_page_says_whether_prediction_and_truth_share_their_sample(tmp_path, paired, said):
    html = write(single(tmp_path, comparison={"paired": paired})).read_text(encoding="utf-8")
    assert (said in html) and ("curvature" in html) is paired


def test_an_experiment_that_was_interrupted_is_read_from_its_runs(tmp_path):
    batch_scaling(tmp_path)
    (tmp_path / "convergence_analysis.json").unlink()
    (tmp_path / "BE064_run001" / "results.json").write_text('{"deltaH1": ')
    html = write(tmp_path).read_text(encoding="utf-8")
    assert "<b>11 of 12 succeeded</b>" in html
    assert "results.json cannot be read" in html


def test_a_run_directory_alone_is_an_experiment_of_one_run(tmp_path):
    single(tmp_path)
    experiment = Experiment.read(tmp_path / "BE256_BU032")
    assert experiment.test == "probe" and len(experiment.runs) == 1
    assert {plot.name for plot in draw(experiment)} == {"change_over_eta", "weights"}


@pytest.mark.parametrize("path", [".", "absent"])
def test_a_directory_without_results_is_a_wrong_request(tmp_path, path):
    with pytest.raises(RequestError, match="no results of a probe"):
        write(tmp_path / path)


def test_the_change_over_eta_is_the_mean_over_runs_with_its_error():
    both = ((1.0, 0.3), (2.0, 0.4))
    steps = [{"eta": ETA, "deltaH": x, "se": se, "predicted": x, "predicted_se": se} for x, se in both]
    means = plots._mean_over_runs([{"truth": [one]} for one in steps] + [{"truth": None}])
    assert means == [
        {"eta": ETA, "runs": 2, "deltaH": 1.5, "se": pytest.approx(0.25), "predicted": 1.5}
        | {"predicted_se": pytest.approx(0.25)}
    ]
    steps[0]["predicted"] = None
    assert plots._mean_over_runs([{"truth": [one]} for one in steps])[0]["predicted"] is None


def test_without_data_there_are_no_pictures():
    nothing = scaling.analyse([])
    assert plots.change_over_eta([{"truth": None}], "nats") is None
    assert plots.weights([{"eta": 0.0, "logw": None}]) is None
    assert plots.change_over_size([], nothing, "nats") is None
    assert plots.error_over_size([scaling.ScalingRun(16, 1.0)], nothing, "nats") is None
    assert plots.runs_side_by_side([{"deltaH1": 1.0}], "nats") is None


def test_one_size_has_pictures_without_fits():
    runs = [scaling.ScalingRun(16, 1.0, 0.1), scaling.ScalingRun(16, 1.2, math.nan), scaling.ScalingRun(16, math.nan)]
    analysis = scaling.analyse(runs)
    assert plots.change_over_size(runs, analysis, "nats")
    assert plots.error_over_size(runs, analysis, "nats")


def test_columns_without_a_cell_are_left_out_and_numbers_stand_at_the_right():
    rows = [{"name": "a<b", "x": "−1.2e−6 ± 3", "none": ""}, {"name": "c", "x": "–", "late": Chip("passed", "success")}]
    html = render("t", "s", [], [Section("One", rows=rows), Section("Empty")])
    assert "<th>name</th><th class='num'>x</th><th>late</th></tr>" in html
    assert "<td>a&lt;b</td><td class='num'>−1.2e−6 ± 3</td><td></td>" in html
    assert "<span class='chip success'>passed</span>" in html
    assert headings(html) == ["One"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "–"), (-0.0123456, "−0.0123"), (2e-06, "2e−6"), (1.5e20, "1.5e20"), (0.0, "0"), (math.inf, "inf")],
)
def test_short_numbers(number, text):
    assert short(number) == text


@pytest.mark.parametrize(
    ("value", "se", "text"),
    [
        (0.012345, 0.0045, "0.0123 ± 0.0045"),
        (-1.0, 0.25, "−1.00 ± 0.25"),
        (-1.234e-5, 4.5e-7, "(−1.234 ± 0.045)e−5"),
        (123.4, 56.0, "123 ± 56"),
        (3.0, None, "3"),
        (None, 1.0, "–"),
        (1.0, 0.0, "1 ± 0"),
        (0.0, 0.02, "0.000 ± 0.020"),
        (0.0, math.nan, "0"),
        (2.0, math.inf, "2 ± inf"),
        (1e5, 1e-300, "1e5 ± 1e−300"),
        (0.0, 5e-324, "0 ± 4.94e−324"),
    ],
)
def test_a_value_has_the_digits_of_its_error(value, se, text):
    assert with_error(value, se) == text
