"""The experiments of the probe: what they write, under which names, and what becomes of runs that fail."""

import json
import math
import re
import sys
from datetime import datetime
from pathlib import Path

import attrs
import pytest
import torch
from safetensors.torch import load_file
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.core.yaml import dumps
from uncollapse.plugins.probe import OfflineEntropyProbe, sampler
from uncollapse.plugins.probe.experiments import criteria
from uncollapse.plugins.probe.experiments import files as experiment_files
from uncollapse.plugins.probe.experiments.config import TEMPLATES, read_experiment
from uncollapse.plugins.probe.experiments.experiments import EXPERIMENTS
from uncollapse.plugins.probe.read_config import ONE_BATCH, PREDICTION, REPEATS, ConfigError, read_config, templates
from uncollapse.plugins.probe.standard_errors import estimators

sys.path.insert(0, str(Path(__file__).parent))
from probe_tiny_lora import SETTINGS, make_checkpoint

TIME = r"\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text(dumps(SETTINGS))
    return file


@pytest.fixture
def perform(checkpoint, config, tmp_path):
    """Run an experiment of the tiny checkpoint: ``perform(name, {dotted key: value}, **fields)``."""

    def run(name, changes=None, truth_only=False, **fields):
        changes = {"checkpoint.checkpoint_path": str(checkpoint), **(changes or {})}
        read = read_experiment(name, config, changes, truth_only=truth_only)
        return EXPERIMENTS[name](read=read, results=tmp_path / "results", **fields).run()

    return run


@pytest.fixture
def fails(monkeypatch):
    """Make the n-th probe of the test (from 1) raise."""
    inside = OfflineEntropyProbe.probe
    seen = []

    def plan(errors):
        def probe(self, *args, **kwargs):
            seen.append(args)
            if error := errors.get(len(seen)):
                raise error
            return inside(self, *args, **kwargs)

        monkeypatch.setattr(OfflineEntropyProbe, "probe", probe)

    return plan


def read(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text("utf-8"), parse_constant=refuse)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


# --- templates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", templates())
def test_templates_load_and_hold_nothing_that_is_not_read(template):
    found = read_config(template)
    assert found.ignored == ()
    assert found.config.learning_rate == 2e-6
    assert found.config.generation.top_p == 1.0 and found.config.generation.temperature == 1.0
    assert found.config.batch_config.dataset_name == "gsm8k_r1_template"


@pytest.mark.parametrize(
    ("template", "sizes", "runs", "G", "together", "micro", "tokens"),
    [
        ("batch_scaling", (16, 32, 64, 128), 3, 8, 32, 2, 50),
        ("sanity_check", (256,), 15, 8, 64, 4, 50),
        ("single_run", (256,), 1, 8, 32, 2, 50),
        ("debug", (16, 32), 1, 4, 16, 1, 25),
    ],
)
def test_values_of_the_templates_of_experiments(template, sizes, runs, G, together, micro, tokens):
    found = read_config(f"configs/{template}.yaml").config
    batches = found.batch_config
    assert (found.sizes, batches.runs_per_batch, batches.B_U, batches.G) == (sizes, runs, 32, G)
    assert (batches.rollout_batch_size, found.memory_config.microbatch_size) == (together, micro)
    assert (found.generation.max_new_tokens, batches.split) == (tokens, "train")
    assert (found.probe_rework.weighting_mode, found.probe_rework.master_seed) == ("dr_grpo", 42)
    assert found.output.log_level == ("DEBUG" if template == "debug" else "INFO")
    assert found.output.save_samples == (template == "debug")
    full = template in ("sanity_check", "debug")
    assert found.measures_truth == full and found.probe_rework.compute_conditional_variance
    assert found.probe_rework.checks == ("full" if full else "standard")
    chosen = {named.name for named in estimators(found, paired=True)}
    if not full:
        assert chosen == {"conditional_E", "deriv_delta"}
        return
    everything = {name: registry().create("variance", name) for name in registry().names("variance")}
    assert chosen == {name for name, each in everything.items() if not each.needs & (ONE_BATCH | REPEATS)}


@pytest.mark.parametrize(
    ("template", "B_E", "B_U", "G", "level"),
    [("detailed_logging_example", 64, 16, 8, True), ("test_deltaH1", 16, 8, 4, False)],
)
def test_values_of_the_templates_of_one_probe(template, B_E, B_U, G, level):
    found = read_config(f"configs/{template}.yaml").config
    assert (found.sizes, found.batch_config.B_U, found.batch_config.G) == ((B_E,), B_U, G)
    assert found.batch_config.split == "test" and found.checkpoint.backbone == "qwen2_5_15"
    assert found.measures_truth and found.importance.report_per_token and found.importance.clip_c == 10.0
    assert found.detailed_logging.enabled == level


# --- configuration --------------------------------------------------------------------------------------------------


def test_without_a_file_the_template_of_the_experiment_is_used():
    for name, template in TEMPLATES.items():
        assert read_experiment(name) == read_config(template)


def test_flags_come_before_the_file_and_the_file_before_the_template(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("batch_config: {B_U: 5, environment: bandit}\nlearning_rate: 1e-3\n")
    own = read_experiment("sanity-check", file).config
    assert (own.batch_config.runs_per_batch, own.sizes, own.batch_config.B_U) == (15, (256,), 5)
    # the rest of the template is not mixed into a file that stands for itself
    assert own.batch_config.dataset_name is None and own.learning_rate == 1e-3 and own.variance == ()
    assert read_experiment("debug", file).config.sizes == (16, 32)
    file.write_text("batch_config: {B_E: 7, runs_per_batch: 2}")
    own = read_experiment("batch-scaling", file).config
    assert (own.sizes, own.batch_config.runs_per_batch) == ((7,), 2)
    changes = {"batch_config.B_E_values": [3, 9], "batch_config.runs_per_batch": 4, "batch_config.B_U": 6}
    flagged = read_experiment("batch-scaling", file, changes).config
    assert (flagged.sizes, flagged.batch_config.runs_per_batch, flagged.batch_config.B_U) == ((3, 9), 4, 6)


def test_a_change_takes_back_its_alternative():
    found = read_experiment("single", None, {"batch_config.environment": "bandit", "batch_config.B_E": 8}).config
    assert found.batch_config.dataset_name is None and found.batch_config.B_E_values is None and found.sizes == (8,)
    with pytest.raises(ConfigError, match="both are given"):
        read_experiment("single", None, {"batch_config.environment": "bandit", "batch_config.dataset_name": "x"})


def test_truth_only_leaves_out_what_needs_the_prediction():
    found = read_experiment("sanity-check", truth_only=True).config
    assert found.measures_truth and not found.probe_rework.compute_delta_h1
    left = {named.name for named in found.variance}
    assert left == {"entropy_prompt_jackknife", "snis_jackknife", "snis_bootstrap", "gns"}
    assert not any(named.component.needs & PREDICTION for named in found.variance)


def test_a_file_that_is_no_configuration_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_experiment("single", tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="mapping"):
        read_experiment("single", tmp_path / "list.yaml")
    (tmp_path / "odd.yaml").write_text("batch_config: 3")
    with pytest.raises(ConfigError, match="batch_config"):
        read_experiment("single", tmp_path / "odd.yaml")


# --- what is written ------------------------------------------------------------------------------------------------


def test_single(perform, checkpoint, tmp_path):
    records = []
    done = perform("single", {"batch_config.B_E": 4, "importance.enabled": True}, on_run=records.append)
    assert done.exit_code == 0 and done.directory.parent == tmp_path / "results" / "single_run"
    prefix, _, moment = done.directory.name.partition("run_")
    assert prefix == "single_" and datetime.strptime(moment, "%Y-%m-%d_%H-%M-%S")
    assert names(done.directory) == ["BE004_BU002", "single_test_results.json"]
    run = done.directory / "BE004_BU002"
    assert names(run) == ["config.yaml", "probe_log.txt", "results.json"]
    summary = read(done.directory / "single_test_results.json")
    about = summary.pop("test_config")
    assert {"test_type": "single", "B_E": 4, "B_U": 2, "checkpoint": str(checkpoint)}.items() <= about.items()
    assert datetime.fromisoformat(about["timestamp"]) and about["total_time"] > summary["result"]["runtime"] > 0
    assert set(summary) == {"result", "interrupted"} and summary["interrupted"] is False
    result = summary["result"]
    keys = {"success", "runtime", "deltaH1", "SE_conditional", "B_E", "B_U", "bars_dot", "full_results", "files"}
    assert keys | {"se_over_deltaH1", "peak_memory_bytes", "deltaH_true"} <= set(result)
    assert result["success"] is True and records == [done.summary["result"]]
    found = read(run / "results.json")
    assert found == result["full_results"]
    assert result["se_over_deltaH1"] == pytest.approx(abs(result["SE_conditional"] / result["deltaH1"]), rel=1e-12)
    assert result["deltaH1"] == pytest.approx(result["bars_dot"] * found["learning_rate"], rel=1e-12)
    assert result["files"] == {
        "config": str(run / "config.yaml"),
        "log": str(run / "probe_log.txt"),
        "results": str(run / "results.json"),
    }


def test_single_is_run_mixed_probe(perform, config, checkpoint):
    done = perform("single", {"batch_config.B_E": 4})
    alone = OfflineEntropyProbe.from_config_file(config, {"batch_config.B_E": 4}).run_mixed_probe(checkpoint)
    assert done.summary["result"]["deltaH1"] == alone["deltaH1"]
    assert done.summary["result"]["SE_conditional"] == alone["SE_conditional"]


def test_the_configuration_of_a_run_reads_back_with_the_checkpoint_in_it(perform, checkpoint):
    done = perform("batch-scaling", {"batch_config.B_E_values": [4, 5], "batch_config.runs_per_batch": 1})
    for size in (4, 5):
        file = done.directory / f"BE{size:03d}_run001" / "config.yaml"
        found = read_config(file).config
        assert found.checkpoint.checkpoint_path == str(checkpoint)
        assert found.checkpoint.optimizer_path == str(checkpoint / "optimizer.pt")
        assert found.sizes == (size,) and found.batch_config.B_U == 2 and found.generation.max_new_tokens == 4
    probed = OfflineEntropyProbe.from_config_file(file).run_mixed_probe()
    assert probed["B_E"] == 5 and probed["checkpoint"]["path"] == str(checkpoint)


def test_the_log_has_the_loading_once_and_says_which_rank(perform):
    changes = {"batch_config.B_E_values": [4], "batch_config.runs_per_batch": 2}
    done = perform("batch-scaling", changes)
    first, second = ((done.directory / f"BE004_run00{n}" / "probe_log.txt").read_text().splitlines() for n in (1, 2))
    form = r"^\[Rank 0\] \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - uncollapse\.plugins\.probe\S* - (INFO|WARNING) - .+$"
    assert all(re.match(form, line) for line in (*first, *second))
    assert sum(" - loading " in line for line in first) == 1
    assert any("optimizer state of 8 of 8 tensors" in line for line in first)
    assert not any("loading" in line or "update of all runs" in line for line in second)
    assert any("seconds: " in line for line in second) and not any("DEBUG" in line for line in first)


def test_the_model_is_loaded_once_and_the_update_drawn_once(perform, monkeypatch):
    loads, draws = [], []
    load, draw = sampler.load_checkpoint, sampler.draw
    monkeypatch.setattr(sampler, "load_checkpoint", lambda *a, **k: loads.append(a) or load(*a, **k))
    monkeypatch.setattr(sampler, "draw", lambda *a, **k: draws.append(k["with_replacement"]) or draw(*a, **k))
    perform("batch-scaling", {"batch_config.B_E_values": [4, 5], "batch_config.runs_per_batch": 2})
    assert len(loads) == 1 and sorted(draws) == [False, True, True, True, True]


def test_batch_scaling(perform):
    changes = {"batch_config.B_E_values": [4, 6], "batch_config.runs_per_batch": 2, "output.save_samples": True}
    done = perform("batch-scaling", changes)
    assert done.exit_code == 0
    assert done.directory.name.startswith("δH₁_convergence_") and done.directory.parent.name == "batch_scaling"
    runs = ["BE004_run001", "BE004_run002", "BE006_run001", "BE006_run002"]
    assert names(done.directory) == [*runs, "convergence_analysis.json"]
    summary = read(done.directory / "convergence_analysis.json")
    assert set(summary) == {"test_config", "analysis", "all_results", "interrupted"}
    about = summary["test_config"]
    expected = {"test_type": "batch_scaling", "B_E_values": [4, 6], "B_U": 2, "runs_per_batch": 2}
    assert expected.items() <= about.items()
    assert set(about) - set(expected) == {"checkpoint", "total_time", "timestamp", "experiment_directory"}
    assert about["experiment_directory"] == str(done.directory)
    records = summary["all_results"]
    assert [record["run_name"] for record in records] == runs
    assert [(r["B_E_target"], r["B_U_target"], r["run_id"], r["B_E"]) for r in records] == [
        (4, 2, 1, 4),
        (4, 2, 2, 4),
        (6, 2, 1, 6),
        (6, 2, 2, 6),
    ]
    analysis = summary["analysis"]
    assert {"by_batch_size", "scaling_analysis", "total_successful_runs", "verdict", "evidence"} <= set(analysis)
    assert analysis["by_batch_size"]["4"]["delta_values"] == [record["deltaH1"] for record in records[:2]]
    spread = analysis["repeats"]["6"]["repeat_std"]
    values = torch.tensor([record["deltaH1"] for record in records[2:]], dtype=torch.float64)
    assert spread["se"] == pytest.approx(float(values.std()), rel=1e-12) and spread["n"] == 2
    # one update, and four samples of E that are not alike
    batches = {"E": [], "U": []}
    for run in runs:
        lines = [json.loads(line) for line in (done.directory / run / "samples.jsonl").read_text().splitlines()]
        for batch, kept in batches.items():
            kept.append([line for line in lines if line["batch"] == batch])
    assert all(kept == batches["U"][0] for kept in batches["U"]) and len(batches["U"][0]) == 4
    assert [len(kept) for kept in batches["E"]] == [4, 4, 6, 6]
    drawn = {tuple(line["task"] for line in kept) for kept in batches["E"]}
    assert len(drawn) == 4
    line = batches["U"][0][0]
    assert set(line) == {"batch", "unit", "task", "member", "prompt", "response", "reward", "length", "success"}
    assert line["prompt"].endswith("assistant\n<think>") and 1 <= line["length"] <= 4
    assert len({record["full_results"]["update"]["v_norm"] for record in records}) == 1


def test_sanity_check(perform):
    changes = {"batch_config.B_E": 4, "batch_config.runs_per_batch": 3, "importance.enabled": True}
    done = perform("sanity-check", changes)
    assert done.directory.name.startswith("validation_") and done.directory.parent.name == "sanity_check"
    assert names(done.directory) == ["run001", "run002", "run003", "validation_summary.json"]
    summary = read(done.directory / "validation_summary.json")
    expected = {"test_type": "sanity_check", "runs": 3, "B_E": 4, "B_U": 2}
    assert expected.items() <= summary["test_config"].items()
    analysis = summary["analysis"]
    keys = {"successful_runs", "total_runs", "success_rate", "deltaH1_stats", "SE_conditional_stats"}
    assert keys <= set(analysis) and set(analysis["deltaH1_stats"]) == {"mean", "std", "min", "max", "values"}
    assert analysis["total_runs"] == 3 and analysis["success_rate"] == 1
    assert [record["run_name"] for record in summary["all_results"]] == ["run001", "run002", "run003"]
    assert [record["run_id"] for record in summary["all_results"]] == [1, 2, 3]
    for criterion in analysis["criteria"]:
        assert set(criterion) == {"name", "value", "threshold", "passed", "explanation"}
    met = {criterion["name"]: criterion["passed"] for criterion in analysis["criteria"]}
    assert met["unchanged"] and met["product_identity"] and met["adam_coverage"] and met["mean_weight"] is not None
    assert analysis["passed"] == (False not in met.values())
    assert done.exit_code == (0 if analysis["passed"] else 3)
    assert analysis["repeats"]["4"]["repeat_std"]["se"] == pytest.approx(analysis["deltaH1_stats"]["std"], rel=1e-12)


def test_a_criterion_that_is_not_met_is_exit_code_3(perform, monkeypatch):
    monkeypatch.setattr(criteria.checks, "ESS_FRACTION", 2.0)
    changes = {"batch_config.B_E": 4, "batch_config.runs_per_batch": 2, "importance.enabled": True}
    done = perform("sanity-check", changes)
    assert done.exit_code == 3
    failed = [each["name"] for each in done.summary["analysis"]["criteria"] if each["passed"] is False]
    assert "ess_fraction" in failed and done.summary["analysis"]["passed"] is False


@pytest.mark.parametrize("direction", ["adamw", "preconditioned_gradient"])
def test_debug_keeps_gradients_whose_product_is_the_prediction(perform, direction):
    changes = {"batch_config.B_E_values": [4, 5], "direction": direction, "output.log_level": "DEBUG"}
    done = perform("debug", changes, save_gradients=True)
    assert done.directory.name.startswith("debug_analysis_") and done.directory.parent.name == "debug"
    assert names(done.directory) == ["debug_BE004", "debug_BE005", "debug_report.json"]
    about = read(done.directory / "debug_report.json")["test_config"]
    expected = {"test_type": "debug", "B_E_values": [4, 5], "B_U": 2, "save_gradients": True}
    assert expected.items() <= about.items()
    for record in done.summary["all_results"]:
        run = done.directory / f"debug_BE{record['B_E_target']:03d}"
        tensors = load_file(run / "gradients.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
        parts = {}
        for key, tensor in tensors.items():
            kind, _, parameter = key.partition("/")
            parts.setdefault(kind, {})[parameter] = tensor.double()
        v = parts["v"] if direction == "adamw" else parts["Y_bar"]
        assert set(parts) == ({"X_bar", "Y_bar", "v"} if direction == "adamw" else {"X_bar", "Y_bar"})
        assert len(v) == 8 and all("lora_" in parameter for parameter in v)
        product = sum(float((parts["X_bar"][each] * v[each]).sum()) for each in v)
        assert product == pytest.approx(record["bars_dot"], rel=1e-4)
        norms = read(run / "gradient_norms.json")
        assert norms["X_bar_dot_v"] == pytest.approx(product, rel=1e-5)
        assert norms["v"]["norm"] == pytest.approx(record["full_results"]["update"]["v_norm"], rel=1e-6)
        assert norms["X_bar"]["tensors"] == 8 and norms["X_bar"]["nonzero_tensors"] == 8
        log = (run / "probe_log.txt").read_text()
        assert "Adam's state: 8 of 8 tensors" in log and "8 train" in log
        assert f"X_bar (phase 1): norm {norms['X_bar']['norm']:.6e}, 8 of 8 tensors not 0" in log
        assert " - DEBUG - model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight" in log


def test_the_gradient_of_the_proxy_is_another_one_than_the_step(perform, checkpoint):
    """Y_bar under adamw: the gradient of U, uphill, over the root of the saved second moment."""
    done = perform("debug", {"batch_config.B_E_values": [4]}, save_gradients=True)
    changes = {"batch_config.B_E_values": [4], "direction": "preconditioned_gradient"}
    proxy = perform("debug", changes, save_gradients=True)
    kept, other = (load_file(each.directory / "debug_BE004" / "gradients.safetensors") for each in (done, proxy))
    for key in other:
        torch.testing.assert_close(kept[key], other[key], rtol=1e-5, atol=1e-9)
    name = next(key for key in other if key.startswith("Y_bar/"))
    assert not torch.allclose(kept[name], kept[name.replace("Y_bar", "v")])


def test_truth_only(perform):
    asked = ["snis_jackknife", "row_jackknife", "gns"]
    done = perform("single", {"batch_config.B_E": 4, "variance": asked}, truth_only=True)
    result = done.summary["result"]
    assert set(result["full_results"]["variance"]) == {"snis_jackknife", "gns", "snis_delta", "snis_ess"}
    assert result["deltaH1"] is None and result["SE_conditional"] is None and result["se_over_deltaH1"] is None
    assert math.isfinite(result["deltaH_true"])
    scaled = perform("batch-scaling", {"batch_config.B_E_values": [4, 5]}, truth_only=True)
    assert scaled.exit_code == 0 and scaled.summary["analysis"]["verdict"] == "inconclusive"


def test_what_no_json_has_becomes_null(perform, monkeypatch):
    inside = OfflineEntropyProbe.probe

    def probe(self, *args, **kwargs):
        found, probed = inside(self, *args, **kwargs)
        return found | {"deltaH1": math.nan, "bars_dot": math.inf}, probed

    monkeypatch.setattr(OfflineEntropyProbe, "probe", probe)
    done = perform("sanity-check", {"batch_config.B_E": 4, "batch_config.runs_per_batch": 2})
    summary = read(done.directory / "validation_summary.json")
    assert summary["all_results"][0]["deltaH1"] is None
    assert read(done.directory / "run001" / "results.json")["bars_dot"] is None
    assert done.exit_code == 3
    met = {criterion["name"]: criterion["passed"] for criterion in summary["analysis"]["criteria"]}
    assert met["finite"] is False


# --- directories ----------------------------------------------------------------------------------------------------


def test_experiments_of_one_second_do_not_share_a_directory(perform, monkeypatch):
    class Noon(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 8, 27, 12, 0, 0)

    monkeypatch.setattr("uncollapse.plugins.probe.experiments.experiments.datetime", Noon)
    done = [perform("single", {"batch_config.B_E": 4}, label="mine") for _ in range(3)]
    assert [each.directory.name for each in done] == [
        "mine_2025-08-27_12-00-00",
        "mine_2025-08-27_12-00-00_2",
        "mine_2025-08-27_12-00-00_3",
    ]
    assert {each.directory.parent.name for each in done} == {"single_run"}
    assert all(read(each.directory / "single_test_results.json")["result"]["success"] for each in done)


@pytest.mark.parametrize("label", ["", "a/b", "..", " "])
def test_labels_that_name_no_directory(perform, tmp_path, label):
    with pytest.raises(RequestError, match="no name of a directory"):
        perform("single", {"batch_config.B_E": 4}, label=label)
    assert not (tmp_path / "results").exists()


def test_nothing_is_made_for_a_request_that_is_wrong(perform, tmp_path):
    with pytest.raises(RequestError, match="no such checkpoint"):
        perform("single", {"checkpoint.checkpoint_path": str(tmp_path / "missing")})
    with pytest.raises(RequestError, match="no checkpoint is given"):
        perform("single", {"checkpoint.checkpoint_path": ""})
    with pytest.raises(RequestError, match="a size is given twice"):
        perform("batch-scaling", {"batch_config.B_E_values": [4, 4]})
    with pytest.raises(RequestError, match="one file holds one sample of E"):
        perform("batch-scaling", {"probe_reuse.e_batch_cache_path": str(tmp_path / "e.json")})
    assert not (tmp_path / "results").exists()
    (tmp_path / "results").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        perform("single", {"batch_config.B_E": 4})


# --- runs that do not succeed ---------------------------------------------------------------------------------------


def test_a_run_that_fails_is_recorded_and_the_rest_go_on(perform, fails):
    fails({2: RuntimeError("out of memory")})
    done = perform("batch-scaling", {"batch_config.B_E_values": [4, 5], "batch_config.runs_per_batch": 2})
    assert done.exit_code == 0
    run = done.directory / "BE004_run002"
    assert names(run) == ["config.yaml", "error.txt", "probe_log.txt"]
    error = (run / "error.txt").read_text()
    assert error.startswith("RuntimeError: out of memory\n") and "Traceback" in error and "in probe" in error
    assert "ERROR - BE004_run002 failed: out of memory" in (run / "probe_log.txt").read_text()
    summary = read(done.directory / "convergence_analysis.json")
    record = summary["all_results"][1]
    expected = {"B_E_target": 4, "B_U_target": 2, "run_id": 2, "run_name": "BE004_run002"}
    assert record == {
        "success": False,
        "runtime": record["runtime"],
        **expected,
        "error": "out of memory",
        "files": {"error": str(run / "error.txt")},
    }
    assert [each["success"] for each in summary["all_results"]] == [True, False, True, True]
    assert summary["analysis"]["total_successful_runs"] == 3
    assert summary["analysis"]["by_batch_size"]["4"]["successful_runs"] == 1


def test_a_failed_run_is_a_criterion_that_is_not_met(perform, fails):
    fails({1: RuntimeError("once")})
    done = perform("sanity-check", {"batch_config.B_E": 4, "batch_config.runs_per_batch": 2})
    assert done.exit_code == 3 and done.summary["analysis"]["success_rate"] == 0.5


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_if_every_run_fails_the_exit_code_is_1(perform, fails, name):
    fails({number: RuntimeError("no") for number in range(1, 10)})
    changes = {"batch_config.B_E_values": [4, 5] if name in ("batch-scaling", "debug") else [4]}
    done = perform(name, {**changes, "batch_config.runs_per_batch": 2})
    assert done.exit_code == 1 and done.summary["interrupted"] is False
    summary = read(done.directory / EXPERIMENTS[name].summary_file)
    records = summary.get("all_results", [summary.get("result")])
    assert not any(record["success"] for record in records) and len(records) == {"single": 1}.get(name, len(records))
    if name == "sanity-check":
        assert summary["analysis"]["error"] == "No successful runs"


def test_a_wrong_request_ends_the_experiment_unless_a_run_has_succeeded(perform, fails):
    fails({1: RequestError("this cannot be", "here"), 3: RequestError("nor that", "there")})
    with pytest.raises(RequestError, match="this cannot be"):
        perform("sanity-check", {"batch_config.B_E": 4, "batch_config.runs_per_batch": 2})
    done = perform("sanity-check", {"batch_config.B_E": 4, "batch_config.runs_per_batch": 3})
    assert [record["success"] for record in done.summary["all_results"]] == [True, False, True]


def test_more_prompts_than_there_are_is_a_wrong_request(perform):
    changes = {"batch_config.dataset_name": "arithmetic", "batch_config.max_prompt_tokens": 400}
    with pytest.raises(RequestError, match="401 distinct prompts are to be drawn"):
        perform("sanity-check", {**changes, "batch_config.B_E": 4, "batch_config.B_U": 401})


def test_ctrl_c_keeps_the_runs_that_are_done(perform, fails):
    fails({3: KeyboardInterrupt()})
    done = perform("sanity-check", {"batch_config.B_E": 4, "batch_config.runs_per_batch": 5})
    assert done.exit_code == 130
    summary = read(done.directory / "validation_summary.json")
    assert summary["interrupted"] is True and len(summary["all_results"]) == 2
    assert summary["analysis"]["total_runs"] == 2
    assert names(done.directory / "run003") == ["config.yaml", "probe_log.txt"]


def test_a_kill_loses_no_run_that_is_done(perform, monkeypatch, tmp_path):
    """The summary on the disk after each run has that run, and says that others are missing."""
    seen = []

    def look(record):
        file = next((tmp_path / "results").glob("*/*/convergence_analysis.json"))
        summary = read(file)
        seen.append((len(summary["all_results"]), summary["interrupted"]))

    perform("batch-scaling", {"batch_config.B_E_values": [4], "batch_config.runs_per_batch": 3}, on_run=look)
    assert seen == [(1, True), (2, True), (3, False)]


def test_files_of_a_run(tmp_path):
    directory = experiment_files.claim(tmp_path / "kind", "name", datetime(2025, 1, 2, 3, 4, 5))
    assert directory == tmp_path / "kind" / "name_2025-01-02_03-04-05"
    error = RequestError("wrong", "here", "do that")
    experiment_files.write_error(directory, error)
    assert (directory / "error.txt").read_text().startswith("RequestError: wrong\n  where: here\n  fix:   do that\n")
    assert attrs.asdict(experiment_files.ProbeConfig())["learning_rate"] is None


def test_a_template_gives_way_to_the_run_that_wrote_the_checkpoint(tmp_path):
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "step_1"
    checkpoint.mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    given = {"checkpoint.checkpoint_path": str(checkpoint / "model")}
    read = read_experiment("single", None, given)
    assert read.config.batch_config.dataset_name is None
    assert read.config.learning_rate is None
    assert read.config.generation.max_new_tokens is None
    assert any("learning_rate" in line and "template" in line for line in read.ignored)
    read = read_experiment("single", None, {**given, "batch_config.dataset_name": "arithmetic", "learning_rate": 1e-3})
    assert read.config.batch_config.dataset_name == "arithmetic"
    assert read.config.learning_rate == 1e-3
    assert read.config.generation.max_new_tokens == 50
    read = read_experiment("single", None, {"checkpoint.checkpoint_path": str(tmp_path)})
    assert (read.config.batch_config.dataset_name, read.config.learning_rate) == ("gsm8k_r1_template", 2e-6)


def test_runs_that_share_an_update_may_keep_it_in_a_file(perform, tmp_path):
    file = tmp_path / "u.json"
    first, second = (perform("batch-scaling", {"probe_reuse.u_batch_cache_path": str(file)}) for _ in range(2))
    assert file.is_file()
    values = [[run["deltaH1"] for run in outcome.summary["all_results"]] for outcome in (first, second)]
    assert values[0] == values[1]


def test_the_truth_on_a_sample_of_its_own_leaves_the_file_of_E_alone(perform, tmp_path):
    file = tmp_path / "e.json"
    changes = {"probe_reuse.e_batch_cache_path": str(file), "importance.enabled": True}
    outcome = perform("single", {**changes, "importance.independent_E": True})
    assert outcome.exit_code == 0
    assert file.is_file()
    assert outcome.summary["result"]["full_results"]["comparison"]["paired"] is False
