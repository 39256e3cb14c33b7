"""``uncollapse probe`` as it is typed: flags, output, exit codes."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core.yaml import dumps
from uncollapse.plugins.probe import OfflineEntropyProbe
from uncollapse.plugins.probe.experiments import criteria
from uncollapse.plugins.probe.experiments.experiments import EXPERIMENTS, Experiment, Outcome

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "probe"))
from probe_tiny_lora import SETTINGS, make_checkpoint

NAMES = list(EXPERIMENTS)
FLAGS = ("--be-values", "4,5", "--be", "4", "--bu", "2", "--runs", "2", "--minimal", "--quiet", "--save-gradients")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory with ``tiny.yaml``."""
    (tmp_path / "tiny.yaml").write_text(dumps(SETTINGS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def made(monkeypatch):
    """The experiments that were asked for, in place of doing them."""
    seen = []

    def run(self):
        seen.append(self)
        return Outcome(None, {}, 0, 0)

    monkeypatch.setattr(Experiment, "run", run)
    return seen


def invoke(*words, code=0):
    answer = CliRunner().invoke(main, ["probe", *map(str, words)])
    assert answer.exit_code == code, (answer.output, answer.exception)
    return answer


def tiny(name, checkpoint, *words, code=0):
    """An experiment that takes a moment."""
    return invoke(name, "--checkpoint", checkpoint, "--config", "tiny.yaml", *words, code=code)


# --- flags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spell", [str, lambda word: word.replace("-", "_").replace("__", "--")])
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_accepts_every_flag(name, spell, made):
    words = [spell(word) if word.startswith("--") else word for word in (*FLAGS, "--verbose", "--no-delta-h1")]
    answer = invoke(spell(name), "--checkpoint", "/c", *words, "--label", "mine")
    (experiment,) = made
    config = experiment.config
    assert type(experiment) is EXPERIMENTS[name]
    assert config.checkpoint.checkpoint_path == "/c" and config.batch_config.B_U == 2
    assert config.sizes == ((4, 5) if name in ("batch-scaling", "debug") else (4,))
    assert config.batch_config.runs_per_batch == (2 if name in ("batch-scaling", "sanity-check") else 1)
    assert experiment.label == "mine" and experiment.results == Path("results")
    assert experiment.save_gradients == (name == "debug")
    assert not config.probe_rework.compute_delta_h1 and config.measures_truth
    assert config.output.log_level == "DEBUG"
    unused = {
        "single": ("--be-values", "--runs", "--save-gradients"),
        "batch-scaling": ("--be", "--save-gradients"),
        "sanity-check": ("--be-values", "--save-gradients"),
        "debug": ("--be", "--runs"),
    }[name]
    assert answer.stderr.splitlines() == [f"notice: {flag} does nothing with {name}" for flag in unused]


@pytest.mark.parametrize(
    ("name", "sizes", "runs"),
    [
        ("single", (256,), 1),
        ("batch-scaling", (16, 32, 64, 128), 3),
        ("sanity-check", (256,), 15),
        ("debug", (16, 32), 1),
    ],
)
def test_defaults_are_those_of_the_template(name, sizes, runs, made):
    invoke(name, "--checkpoint", "/c")
    (experiment,) = made
    batches = experiment.config.batch_config
    assert (experiment.config.sizes, batches.runs_per_batch, batches.B_U) == (sizes, runs, 32)
    assert experiment.read.ignored == ()


def test_flags_over_settings_over_the_file_over_the_template(made, here):
    (here / "own.yaml").write_text(
        "batch_config: {B_E: 9, B_U: 7, dataset_name: arithmetic}\n"
        "checkpoint: {checkpoint_path: /a, optimizer_path: /o}\n"
    )
    words = ("--config", "own.yaml", "--set", "batch_config.G=3", "--set", "batch_config.B_U=5", "--bu", "6")
    answer = invoke("sanity-check", *words)
    assert answer.stderr == "notice: --set batch_config.B_U=5 gives way to 6, by a flag of its own\n"
    config = made[-1].config
    assert (config.sizes, config.batch_config.B_U, config.batch_config.G) == ((9,), 6, 3)
    assert config.batch_config.runs_per_batch == 15 and config.batch_config.dataset_name == "arithmetic"
    assert (config.checkpoint.checkpoint_path, config.checkpoint.optimizer_path) == ("/a", "/o")
    # the optimizer state of another checkpoint does not go with this one
    invoke("sanity-check", *words, "--checkpoint", "/b")
    assert (made[-1].config.checkpoint.checkpoint_path, made[-1].config.checkpoint.optimizer_path) == ("/b", "")
    invoke("sanity-check", *words, "--checkpoint", "/b", "--set", "checkpoint.optimizer_path=/p")
    assert made[-1].config.checkpoint.optimizer_path == "/p"
    invoke("single", "--set", "batch_config.environment=bandit", "--set", "learning_rate=null")
    assert made[-1].config.batch_config.dataset_name is None and made[-1].config.learning_rate is None


def test_templates_are_found_by_name_from_anywhere(made):
    invoke("single", "--config", "configs/debug.yaml", "--checkpoint", "/c")
    assert made[0].config.batch_config.G == 4
    # one probe takes the first of several sizes
    assert [run.B_E for run in made[0].plan()] == [16]


@pytest.mark.parametrize(
    ("words", "level"),
    [((), "WARNING"), (("--quiet",), "WARNING"), (("--minimal", "--quiet"), "INFO"), ((*FLAGS, "--verbose"), "DEBUG")],
)
def test_levels_of_messages(made, words, level):
    invoke("debug", *words, "--set", "output.log_level=WARNING")
    assert made[0].config.output.log_level == level


# --- wrong requests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("single", "--checkpoint", "missing"), "no such checkpoint directory"),
        (("single",), "no checkpoint is given"),
        (("single", "--be", "1", "--checkpoint", "x"), "batch_config.B_E = 1: one prompt has no spread"),
        (("debug", "--be-values", "1,4"), "batch_config.B_E_values = 1: one prompt has no spread"),
        (("single", "--be-values", "a,b"), "is no list of whole numbers"),
        (("single", "--be", "0"), "is not in the range"),
        (("single", "--be", "9" * 9), "batch_config.B_E: asks for more than 10,000,000 sequences"),
        (("single", "--bu", "9" * 9), "batch_config.B_U: asks for more than 10,000,000"),
        (("batch-scaling", "--runs", "999999999"), "batch_config.runs_per_batch: asks for more than 100,000 runs"),
        (("single", "--set", "learning_rate=nan"), "learning_rate"),
        (("single", "--set", "importance.etas=[.nan]"), "importance.etas"),
        (("single", "--set", "policy_gradient.kl_coef=-1"), "policy_gradient.kl_coef"),
        (("single", "--config", "experiment.yaml", "--checkpoint", "x"), "unknown key"),
        (("single", "--set", "batch_config.nothing=1"), "batch_config.nothing"),
        (("single", "--set", "batch_config.G"), "'batch_config.G' has no value; write KEY=VALUE"),
        (("single", "--set", "batch_config.G=[1"), "is not a YAML value"),
        (("single", "--set", "generation.top_p=0.9"), "generation.top_p"),
        (("single", "--set", "learning_rate=0"), "learning_rate"),
        (("single", "--set", "variance=[nonsense]"), "nonsense"),
        (("single", "--config", "missing.yaml"), "cannot be read"),
        (("single", "--label", "a/b", "--checkpoint", "x"), "no name of a directory"),
        (("report", "missing"), "no results of a probe"),
        (("run", "--checkpoint", "x"), "Missing option '--config'"),
        (("run", "--config", "tiny.yaml"), "no checkpoint is given"),
        (("run", "--config", "tiny.yaml", "--checkpoint", "missing"), "no such checkpoint directory"),
        (("sanity",), "did you mean 'sanity-check'?"),
    ],
)
def test_wrong_requests_are_one_message_and_exit_code_2(words, said, here):
    (here / "experiment.yaml").write_text("environment: bandit\nmodel: {path: x}\n")
    answer = invoke(*words, code=2)
    assert said in answer.stderr and "Traceback" not in answer.output
    assert not (here / "results").exists()


def test_the_old_key_of_the_batch_is_refused_with_what_to_write(here):
    (here / "old.yaml").write_text("batch_config: {B: 256, B_U: 32}\n")
    assert "batch_config.B = 256: is not a key any more" in invoke("single", "--config", "old.yaml", code=2).stderr


# --- doing them -----------------------------------------------------------------------------------------------------


def test_single_says_what_it_found(checkpoint, here):
    answer = tiny("single", checkpoint, "--be", "4", "--bu", "2", "--minimal", "--results", "there")
    (directory,) = (here / "there" / "single_run").iterdir()
    result = json.loads((directory / "single_test_results.json").read_text())["result"]
    lines = answer.stdout.splitlines()
    assert lines[0].startswith("predicted") and "nats per sequence" in lines[0]
    assert "|SE/deltaH1| = " in lines[1] and any("adamw, learning rate 0.0001" in line for line in lines)
    assert any("B_E 4, B_U 2, G 2" in line for line in lines) and any("peak" in line for line in lines)
    assert lines[-1].split() == ["results", str(directory.relative_to(here))]
    (line,) = answer.stderr.splitlines()
    assert line.startswith("BE004_BU002, B_E 4, deltaH1 ") and "|SE/deltaH1| " in line and "peak memory" in line
    assert result["success"]


def test_quiet_prints_the_summary_only(checkpoint):
    answer = tiny("batch-scaling", checkpoint, "--be-values", "4,5", "--runs", "2", "--quiet")
    assert answer.stderr == ""
    text = answer.stdout
    assert [line.split()[0] for line in text.splitlines() if line.startswith("BE")] == [
        "BE004_run001",
        "BE004_run002",
        "BE005_run001",
        "BE005_run002",
    ]
    assert "verdict     " in text and "mean deltaH1" in text and "power" in text


def test_messages_go_to_standard_error_and_the_log(checkpoint, here):
    answer = tiny("single", checkpoint, "--be", "4")
    assert "INFO loading " in answer.stderr and "DEBUG" not in answer.stderr and "BE004_BU002, B_E 4" in answer.stderr
    answer = tiny("single", checkpoint, "--be", "4", "--verbose", "--label", "loud")
    assert "DEBUG X_bar (phase 1): norm" in answer.stderr and "DEBUG" not in answer.stdout
    (log,) = (here / "results").glob("single_run/loud_*/BE004_BU002/probe_log.txt")
    assert "DEBUG - X_bar (phase 1): norm" in log.read_text()
    messages = logging.getLogger("uncollapse.plugins.probe")
    assert messages.handlers == [] and messages.level == logging.NOTSET


def test_json_is_the_summary(checkpoint, here):
    answer = tiny("debug", checkpoint, "--be-values", "4,5", "--minimal", "--json", "--save_gradients")
    (file,) = (here / "results").glob("debug/*/debug_report.json")
    assert json.loads(answer.stdout) == json.loads(file.read_text())
    assert len(list(file.parent.glob("*/gradients.safetensors"))) == 2


def test_sanity_check_prints_each_criterion_and_ends_with_3_if_one_is_not_met(checkpoint, monkeypatch, here):
    words = ("--be", "4", "--runs", "2", "--quiet", "--set", "importance.enabled=true")
    monkeypatch.setattr(criteria.checks, "ESS_FRACTION", 2.0)
    answer = tiny("sanity-check", checkpoint, *words, code=3)
    rows = [line.split() for line in answer.stdout.splitlines()]
    (row,) = (row for row in rows if row[:2] == ["ess", "fraction"])
    assert (row[2], row[4]) == ("failed", "2")
    (file,) = (here / "results").glob("sanity_check/*/validation_summary.json")
    met = [criterion["passed"] for criterion in json.loads(file.read_text())["analysis"]["criteria"]]
    yes, no, unknown = met.count(True), met.count(False), met.count(None)
    assert no and unknown and f"{yes} of {yes + no} criteria are met; {unknown} do not apply" in answer.stdout
    assert next(row for row in rows if row[:1] == ["unchanged"])[1:4] == ["passed", "0", "0"]
    monkeypatch.setattr(criteria, "passed", lambda found: True)
    tiny("sanity-check", checkpoint, *words, code=0)


def _raise(error):
    def probe(self, *args, **kwargs):
        raise error

    return probe


@pytest.mark.parametrize("name", NAMES)
def test_if_every_run_fails_the_exit_code_is_1(name, checkpoint, monkeypatch):
    monkeypatch.setattr(OfflineEntropyProbe, "probe", _raise(RuntimeError("no memory")))
    answer = tiny(name, checkpoint, "--set", "batch_config.B_E=4", "--minimal", code=1)
    assert "every run failed" in answer.stdout and "failed: no memory" in answer.stderr
    assert "Traceback" not in answer.output


def test_ctrl_c_is_130_and_the_summary_is_printed(checkpoint, monkeypatch, here):
    inside, seen = OfflineEntropyProbe.probe, []

    def probe(self, *args, **kwargs):
        seen.append(args)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return inside(self, *args, **kwargs)

    monkeypatch.setattr(OfflineEntropyProbe, "probe", probe)
    answer = tiny("batch-scaling", checkpoint, "--be-values", "4", "--runs", "3", "--quiet", code=130)
    assert "interrupted: 1 of 3 runs are done" in answer.stdout
    (file,) = (here / "results").glob("batch_scaling/*/convergence_analysis.json")
    assert json.loads(file.read_text())["interrupted"] is True


# --- run and report -------------------------------------------------------------------------------------------------


def test_run_is_the_mixed_probe(checkpoint, here):
    words = (
        "--set",
        "batch_config.B_E=4",
        "--set",
        "importance.enabled=true",
        "--set",
        "detailed_logging.enabled=true",
    )
    (here / "tiny.yaml").write_text(dumps({**SETTINGS, "memory_config": {"amp": True}}))
    answer = tiny("run", checkpoint, *words, "--output", "out/found.json")
    found = json.loads((here / "out" / "found.json").read_text())
    expected = OfflineEntropyProbe.from_config_file(
        "tiny.yaml", {"batch_config.B_E": 4, "importance.enabled": True}
    ).run_mixed_probe(checkpoint)
    assert found["deltaH1"] == expected["deltaH1"] and found["deltaH_true"] == expected["deltaH_true"]
    text = answer.stdout
    for part in (
        "deltaH1 = ",
        "deltaH_true = ",
        "ESS ",
        "of 4",
        "|SE/deltaH1|",
        "per_sequence",
        "adamw",
        "memory_config.amp",
    ):
        assert part in text
    log = next(line.split()[1] for line in text.splitlines() if line.startswith("log "))
    assert (here / log).is_file() and found["log_file"] == log
    printed = json.loads(tiny("run", checkpoint, *words, "--json").stdout)
    assert printed["deltaH1"] == found["deltaH1"] and printed["ignored"] == found["ignored"]


def test_run_without_the_prediction(checkpoint):
    words = ("--set", "batch_config.B_E=4", "--set", "importance.enabled=true")
    answer = tiny("run", checkpoint, *words, "--set", "probe_rework.compute_delta_h1=false")
    assert "deltaH_true = " in answer.stdout and "deltaH1" not in answer.stdout


def test_report_of_an_experiment(checkpoint, here):
    tiny("batch-scaling", checkpoint, "--be-values", "4,5", "--runs", "2", "--quiet")
    (directory,) = (here / "results" / "batch_scaling").iterdir()
    page = Path(invoke("report", directory).stdout.strip())
    assert page.parent.resolve() == directory and page.is_file()
    assert "BE004_run001" in page.read_text()


def test_help_imports_no_torch():
    program = (
        "import sys; from uncollapse.cli.main import main\n"
        "from uncollapse.plugins.probe.commands.probe import COMMANDS\n"
        "for words in ([], *([name] for name in COMMANDS)):\n"
        "    main(['probe', *words, '--help'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- processes ------------------------------------------------------------------------------------------------------


def start(*words):
    command = [sys.executable, "-m", "uncollapse.cli.main", "probe", *map(str, words)]
    hidden = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_two_ranks_write_one_experiment_with_the_numbers_of_one(checkpoint, here):
    words = ("batch-scaling", "--checkpoint", checkpoint, "--config", "tiny.yaml", "--be-values", "5,9", "--runs", "2")
    two = start(*words, "--minimal", "--json", "--ranks", "2", "--results", "two", "--save-gradients")
    output, errors = two.communicate(timeout=250)
    assert two.returncode == 0, errors
    summary = json.loads(output)
    assert errors.count("BE005_run001, B_E 5") == 1
    one = json.loads(invoke(*words, "--quiet", "--json", "--results", "one").stdout)
    for ours, theirs in zip(summary["all_results"], one["all_results"], strict=True):
        assert ours["deltaH1"] == pytest.approx(theirs["deltaH1"], rel=1e-6)
        assert ours["SE_conditional"] == pytest.approx(theirs["SE_conditional"], rel=1e-6)
    layout = [sorted(path.name for path in here.glob(f"{place}/*/*/*")) for place in ("one", "two")]
    assert layout[0] == layout[1] and len(layout[0]) == 5
    wrong = start(*words, "--ranks", "2", "--set", "batch_config.B_U=0")
    assert "batch_config.B_U" in wrong.communicate(timeout=100)[1] and wrong.returncode == 2


@pytest.mark.slow
def test_the_interrupt_of_a_terminal_leaves_the_finished_runs(checkpoint, here):
    words = ("--config", "tiny.yaml", "--be-values", "4", "--runs", "1000", "--minimal")
    process = start("batch-scaling", "--checkpoint", checkpoint, *words)
    lines = [process.stderr.readline() for _ in range(2)]
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and all(line.startswith("BE004_run00") for line in lines)
    (file,) = (here / "results").glob("batch_scaling/*/convergence_analysis.json")
    summary = json.loads(file.read_text())
    done = len(summary["all_results"])
    assert summary["interrupted"] is True and done >= 2
    assert f"interrupted: {done} of 1000 runs are done" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--no-delta-h1", "--set", "importance.enabled=false"), "importance.enabled = false: goes against --no-delta"),
        (("--no-delta-h1", "--set", "probe_rework.compute_delta_h1=true"), "compute_delta_h1 = true: goes against"),
    ],
)
def test_settings_that_ask_for_a_prediction_after_all_are_refused(checkpoint, made, words, message):
    assert message in tiny("single", checkpoint, *words, code=2).output
    assert made == []


@pytest.mark.parametrize("words", [("--be", 4, "--set", "batch_config.B_E=4"), ("--be", 1, "--no-delta-h1")])
def test_a_setting_that_agrees_and_a_prompt_that_needs_no_error_are_taken(checkpoint, made, words):
    tiny("single", checkpoint, *words)
    assert [made[0].config.batch_config.B_E, made[0].config.probe_rework.compute_delta_h1] == [
        words[1],
        words[2] == "--set",
    ]
