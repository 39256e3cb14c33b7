"""``uncollapse sweep`` as it is typed: options of sweeps, wrong requests, plugins, status."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core.registry import registry
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.launch import slots
from uncollapse.plugins.launch.local import Local
from uncollapse.plugins.sweeps import sweep as sweeps


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory, a fresh registry, and a machine of whose GPUs none is visible."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(slots, "has_gpu", lambda: True)
    registry.cache_clear()
    yield tmp_path / "here"
    registry.cache_clear()


@pytest.fixture
def ran(monkeypatch):
    """What was run, in place of running it: (launcher, job names); every job succeeds."""
    seen = []

    def run(self, jobs, on_start=None, on_finish=None):
        seen.append((self, [job.name for job in jobs]))
        for job in jobs:
            on_start(job)
            RunDirectory(job.log.parent).set_status("success", metrics={"validation/success": 0.25})
            on_finish(job, 0)
        return [0 for _ in jobs]

    monkeypatch.setattr(Local, "run", run)
    return seen


@pytest.fixture
def asked(monkeypatch):
    """The options that named sweeps were made with."""
    seen = []
    load = sweeps.load

    def record(source, **options):
        seen.append(options)
        return load(source, **options)

    monkeypatch.setattr(sweeps, "load", record)
    return seen


def invoke(*words, code=0):
    answer = CliRunner().invoke(main, ["sweep", *map(str, words)])
    assert answer.exit_code == code, answer.output
    return answer


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("--kl-values", "0,0.01", "--rollout-filter-include-zero", "False", "--save-freq", "50", "--steps", "7"),
        ("--kl_values", "0,0.01", "--rollout_filter_include_zero", "False", "--save_freq", "50", "--steps", "7"),
        ("--kl-values=0,0.01", "--rollout_filter_include_zero=False", "--save-freq=50", "--steps=7"),
        ("--kl_values=0,0.01", "--rollout-filter-include-zero=false", "--save_freq=50", "--steps=7"),
    ],
)
def test_dashes_and_underscores_are_one(asked, words):
    shown = json.loads(invoke("show", "kl", "--json", *words).stdout)
    assert asked[0]["kl_values"] == "0,0.01"
    assert asked[0]["rollout_filter_include_zero"] is False
    assert [keys["kl.coef"] for keys in shown.values()] == ["0.0", "0.01"]
    for keys in shown.values():
        assert (keys["trainer.steps"], keys["trainer.save_every"]) == ("7", "50")
        assert "include_zero=false" in keys["filter.select"]


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("top-p", "--rollout_filter_value", "1.0,0.98,0.95,0.9,0.8,0.6,0.4,nofilter"),
        ("kl", "--kl-values", "0,0.001,0.003,0.01,0.03,0.1"),
        ("entropy", "--entropy-values", "0,0.001,0.003,0.01,0.03,0.1"),
        ("smoke", "--groups", "1,2,3,4,5"),
    ],
)
def test_defaults_are_in_the_help(name, option, value):
    text = re.sub(r"\s+", " ", invoke("run", name, "--help").stdout)
    assert option.replace("_", "-") in text
    assert value in text.replace(", ", ",").replace(" ", "") or value in text
    wanted = {"smoke": "50"}.get(name, "400")
    assert re.search(rf"--steps INTEGER .*?\[default: {wanted}\]", text)


def test_the_commands_of_the_documents_are_understood(asked):
    dry = ("--dry-run", "-e", "tiny-sokoban")
    invoke("run", "top-p", "--rollout_filter_value", "0.9,nofilter", "--steps", "3", *dry)
    invoke("run", "kl", "--kl-values", "0,0.001,0.01", "--rollout_filter_include_zero", "False", *dry)
    words = ("--ray-num-cpus", "16", "--gpu-memory-utilization", "0.5", "--gpus-per-exp", "1", "--save-freq", "50")
    invoke("run", "entropy", "--entropy-values", "0,0.01", *words, *dry)
    smoke = ("--groups", "1,3,5", "--kl-type", "kl", "--steps", "50", "--rollout_filter_strategy", "top_p")
    points = invoke("run", "smoke", *smoke, "--dry-run").stdout
    assert points.startswith(
        "36 points\ng1-smoke-ppo-sokoban-topk100-kl0001-ent0-kl-ftmt  logs/smoke_test_top_p_details/"
    )
    points = invoke("run", "smoke-all", "--rollout_filter_strategy", "top_k", "--dry-run").stdout
    assert points.startswith("164 points\n")
    assert len(re.findall(r"^g\d-smoke-ppo-sokoban-\S+  logs/", points, re.MULTILINE)) == 164
    assert not list(Path.cwd().iterdir())


def test_a_dry_run_shows_commands_and_slots():
    words = ("--kl-values", "0.01", "--slots", "2", "--output-root", "out", "--dry-run", "-e", "tiny-sokoban")
    answer = invoke("run", "kl", *words)
    run = "out/logs/kl_sweep_cloned_qwen2/nofilter/001"
    assert answer.stdout.splitlines()[:3] == [
        "1 points",
        f"sokoban_kl_sweep_nofilter_001-cloned_qwen2  {run}",
        f"    {sys.executable} -m uncollapse.cli.main train {run}/config.yaml --run-dir {run} --resume",
    ]
    assert [line.split(":")[0].strip() for line in answer.stdout.splitlines()[3:]] == ["slots", "slot 0", "slot 1"]
    assert "expected gradient is zero on policy" in answer.stderr


def test_gpus_are_shared_out(ran):
    words = ("--gpus", "0,1,2,3", "--gpus-per-exp", "2", "--max-parallel", "1", "--cooldown", "3")
    answer = invoke("run", "kl", "-e", "tiny-sokoban", "--kl-values", "0,0.01", *words, "--dry-run")
    assert "slot 0: GPU 0,1" in answer.stdout
    assert "slot 1" not in answer.stdout
    assert answer.stdout.count("--resume --ranks 2") == 2
    assert ran == []


def test_seeds_axes_and_settings_apply_to_named_sweeps():
    words = ("--kl-values", "0.01", "--seeds", "0,1", "--set", "trainer.lr=0.5", "--axis", "entropy_coeff=0,0.1")
    shown = json.loads(invoke("show", "kl", *words, "--json").stdout)
    assert [*shown] == ["001", "001__seed_1", "001__entropy_coeff_0.1", "001__entropy_coeff_0.1__seed_1"]
    assert {keys["trainer.lr"] for keys in shown.values()} == {"0.5"}


def test_keys_of_the_scripts_can_be_pasted_behind_their_program():
    out = invoke("show", "kl", "--as", "ragen").stdout
    blocks = out.split("# kl ")[1:]
    assert [block.splitlines()[0] for block in blocks] == ["0", "0.001", "0.003", "0.01", "0.03", "0.1"]
    for block in blocks:
        value, words = block.split("\n", 1)
        flag, config, *pairs = shlex.split(words.replace("\\\n", " "))  # as a shell joins lines
        assert (flag, config) == ("--config-name", "_2_sokoban")
        found = dict(pair.split("=", 1) for pair in pairs)
        assert float(found["actor_rollout_ref.actor.kl_loss_coef"]) == float(value)
        assert found["es_manager.val.env_configs.n_groups"] == "[512]"
        assert found["trainer.logger"] == "['console','wandb']"
        assert found["model_path"] == "Qwen/Qwen2.5-3B"
    assert "model_path" not in invoke("show", "custom", "--as", "ragen").stdout


def test_skip_statuses(ran):
    words = ("run", "kl", "-e", "sokoban", "--kl-values", "0,0.01")
    invoke(*words)
    invoke(*words)
    invoke(*words, "--skip-statuses", "none")
    invoke(*words, "--skip-statuses", "success,stopped,stopped:empty_filter,failed,interrupted")
    assert [names for _, names in ran] == [["0", "001"], [], ["0", "001"], []]


def test_retries_reach_the_sweep(monkeypatch):
    codes = []

    def run(self, jobs, on_start=None, on_finish=None):
        queue = list(jobs)
        while queue:
            job = queue.pop(0)
            on_start(job)
            codes.append(job.name)
            RunDirectory(job.log.parent).set_status("failed" if len(codes) < 3 else "success")
            queue += filter(None, [on_finish(job, 1)])
        return []

    monkeypatch.setattr(Local, "run", run)
    invoke("run", "kl", "-e", "sokoban", "--kl-values", "0", "--retries", "1", code=1)
    assert codes == ["0", "0"]
    invoke("run", "kl", "-e", "sokoban", "--kl-values", "0", "--retries", "1")
    assert codes == ["0", "0", "0"]


# --- wrong requests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("kl", "--kl-value", "0"), "No such option"),
        (("kl", "--kl-values", "0,,1"), "--kl-values has an empty value: '0,,1'"),
        (("kl", "--kl-values", ""), "--kl-values has an empty value"),
        (("kl", "--kl-values", "0,much"), "--kl-values takes numbers, not 'much'"),
        (("kl", "--kl-values", "-1"), "at least 0"),
        (("kl", "--kl-values", ".nan"), "kl.coef"),
        (("kl", "--kl-values", "1.0,10"), "two points of the sweep are called '10'"),
        (("kl", "--kl-values", "0,0.0"), "two points are the same experiment"),
        (("kl", "--kl-type", "k9"), "'k9' is not one of"),
        (("kl", "--rollout_filter_include_zero", "maybe"), "not a valid boolean"),
        (("kl", "--steps", "0"), "trainer.steps"),
        (("kl", "--axis", "seed="), "the axis seed has no values"),
        (
            ("kl", "--axis", "kl.coef=1"),
            "sets kl.coef itself, case by case\n  fix:   use --kl-values (load_sweep(..., kl_values=...) in Python)",
        ),
        (("kl", "--set", "kl.estimator=mse"), "sets kl.estimator itself, case by case\n  fix:   use --kl-type"),
        (("kl", "--set", "kl={coef: 1}"), "sets kl.coef itself"),
        (("kl", "--set", "kl.placement=reward"), "the sweep kl sets kl.placement itself"),
        (("kl", "--set", "filter={select: top_k}"), "fixes filter.select"),
        (("kl", "--axis", "setting={kl.coef: 1},{kl.coef: 2}"), "sets kl.coef itself"),
        (("entropy", "--set", "entropy_coeff=0.1"), "use --entropy-values"),
        (("top-p", "--set", "filter.select=nofilter"), "use --rollout-filter-value"),
        (("top-p", "--set", "filter.select.value=0.5"), "use --rollout-filter-value"),
        (("top-p", "--set", "filter.select={name: top_k, value: 3}"), "use --rollout-filter-value"),
        (("top-p", "--axis", "filter.select.value=0.3,0.4"), "use --rollout-filter-value"),
        (("smoke", "--set", "kl.coef=1"), "use --groups"),
        (("smoke", "--set", "zero_task_advantage=true"), "use --groups"),
        (("demo", "--set", "kl.coef=1"), "--axis 'kl.coef=...' (axes={'kl.coef': [...]} in Python)"),
        (("demo", "--set", "filter.select.value=0.3"), "sets filter.select.value itself, on the axis filter.select"),
        (("kl", "--steps", "7", "--set", "trainer.steps=3"), "trainer.steps is given twice: --steps, --set"),
        (("demo", "--steps", "7", "--set", "trainer.steps=3"), "trainer.steps is given twice"),
        (("kl", "--save-freq", "7", "--set", "trainer.save_every=3"), "given twice: --save-freq, --set"),
        (("kl", "--seeds", "0", "--axis", "seed=1"), "the axis seed is given twice"),
        (("kl", "--seeds", "0..99999999999"), "the axis seed has 100000000000 values"),
        (("kl", "--seeds", f"0..{'9' * 5000}"), "numbers of 5000 digits"),
        (("kl", "--seeds", "5..0"), "write 0..5"),
        (("kl", "--seeds", "0..4000"), "the sweep has 24006 points"),
        (("kl", "--gpu-memory-utilization", "1.7"), "--gpu-memory-utilization is 1.7"),
        (("kl", "--gpu-memory-utilization", "nan"), "--gpu-memory-utilization is nan"),
        (("kl", "--output-root", ""), "the path '' is empty"),
        (("kl", "--seeds", ""), "the axis seed has no values"),
        (("kl", "-e", "sokobann"), "did you mean 'sokoban'"),
        (("top-p", "--rollout_filter_value", "1.5"), "filter.select"),
        (("smoke", "--groups", "7"), "--groups has no group 7"),
        (("smoke", "--rollout_filter_strategy", "top_q"), "'top_q' is not one of"),
        (("klm",), "did you mean 'kl'"),
        (("kl", "--launcher", "locale"), "did you mean 'local'"),
        (("kl", "--launcher", "local(slot=1)"), "has no parameter 'slot'"),
        (("kl", "--slots", "many"), "slots must be"),
        (("kl", "--slots", "1e12"), "slots must be a count of at least 1 and at most 100000"),
        (("kl", "--slots", "9" * 5000), "slots must be a count"),
        (("kl", "--cooldown", "nan"), "'nan' is not a finite number"),
        (("kl", "--launcher", "ray(address=5)"), "address must be text, not 5"),
        (("kl", "--launcher", "local(gpus=1.5)"), "launcher 'local'"),
        (("kl", "--launcher", "slurm(folder=5)"), "launcher"),
        (
            (
                "kl",
                "--gpus",
                "0,1",
                "--gpus-per-exp",
                "2",
                "--set",
                "rollout.groups=3",
                "--set",
                "trainer.mini_batch=24",
            ),
            "rollout.groups = 3",
        ),
        (("kl", "--skip-statuses", "fail"), "--skip-statuses has no status 'fail'"),
        (("kl", "--gpus", "0,1,2", "--gpus-per-exp", "2"), "3 GPUs cannot be shared out by 2"),
        (("kl", "--gpus", "0,1", "--gpus-per-exp", "4"), "a job asks for 4 GPUs, and there are 2"),
        (("kl", "--gpus-per-exp", "2"), "a job asks for 2 GPUs, and there are 0"),
        (("kl", "--gpus", ""), "GPUs is empty"),
        (("kl", "--gpus", "0,0"), "GPU 0 is named twice"),
        (("kl", "--gpus-per-exp", "0"), "Invalid value"),
        (("kl", "--retries", "-1"), "Invalid value"),
        (("kl", "--wandb-sync", "now"), "'now' is not one of"),
        (("kl", "--plugin", "absent.py"), "absent.py"),
        (("kl", "--plugin"), "plugin file"),
        (("kl", "--output-root", "/dev/null/x"), "directory cannot be written"),
        (("absent.yaml",), "cannot be read"),
    ],
)
@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry"])
def test_wrong_requests_end_with_2_and_one_message_and_write_nothing(ran, words, message, dry):
    if "--output-root" in words and dry:
        pytest.skip("a dry run writes nothing anyway")
    answer = invoke("run", *words, *(["--dry-run"] if dry else []), code=2)
    assert message in answer.stderr
    assert len(re.findall(r"^(?:error|Error): ", answer.stderr, re.MULTILINE)) == 1, answer.stderr
    assert "Traceback" not in answer.output
    assert answer.stdout == ""
    assert ran == []
    assert not list(Path.cwd().iterdir())


def test_a_plugin_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setenv("UNCOLLAPSE_PLUGINS", "nowhere")
    assert "plugin 'nowhere' is not installed" in invoke("run", "kl", "--dry-run", code=2).stderr


def test_what_runs_already_is_refused(ran, here):
    import fcntl

    words = ("run", "kl", "-e", "sokoban", "--kl-values", "0")
    invoke(*words)
    home = here / "logs" / "kl_sweep_Qwen2.5-3B" / "nofilter"
    with (home / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = invoke(*words, code=2)
    assert f"error: process {os.getpid()} runs this sweep" in answer.stderr
    assert len(ran) == 1
    # The file stays when its process is gone: what counts is the lock.
    (home / ".lock").write_text("process 1")
    invoke(*words)


# --- sweeps of other people -----------------------------------------------------------------------------------------

THEIRS = '''
from __future__ import annotations

from typing import Literal

import attrs

from uncollapse import hookimpl


@attrs.frozen(kw_only=True)
class Temperatures:
    """Sampling temperature, hot and cold."""

    temperatures: str = "0.5,1.0"
    """With commas."""
    style: Literal["hot", "cold"] = "hot"
    limit: int | None = None
    """At most that many."""
    task: str

    def record(self):
        values = [float(text) for text in self.temperatures.split(",")][: self.limit]
        if self.style == "cold":
            values = [value / 10 for value in values]
        return {
            "name": "temperatures",
            "experiment": {"environment": self.task, "model": {"path": "a/model"}},
            "axes": {"rollout.temperature": values},
        }


def few(count: int = 2, factor: float = 0.5):
    """A function does it, too."""
    return {"experiment": {"environment": "bandit", "model": {"path": "m"}},
            "axes": {"kl.coef": [factor * i for i in range(count)]}}


@hookimpl
def register_sweeps(register):
    register("temperatures", Temperatures, summary="hot and cold")
    register("few", few, summary="a few")
    register("fixed", {"experiment": "sokoban", "axes": {"seed": [0, 1, 2]}}, summary="as it is")
'''


@pytest.fixture
def theirs(tmp_path):
    (tmp_path / "theirs.py").write_text(THEIRS)
    return tmp_path / "theirs.py"


def temperatures(*words, plugin):
    shown = json.loads(invoke("show", "temperatures", "--plugin", plugin, "--json", *words).stdout)
    return [(keys["rollout.temperature"], keys["environment"].partition("(")[0]) for keys in shown.values()]


def test_a_sweep_of_a_plugin_file_has_its_own_options(theirs):
    assert temperatures("--task", "bandit", plugin=theirs) == [("0.5", "bandit"), ("1.0", "bandit")]
    words = ("--task=sokoban", "--style", "cold", "--limit", "1", "--temperatures=0.5,1.0")
    assert temperatures(*words, plugin=theirs) == [("0.05", "sokoban")]
    assert "Missing option '--task'" in invoke("show", "temperatures", "--plugin", theirs, code=2).stderr
    answer = invoke("show", "temperatures", "--plugin", theirs, "--task", "bandit", "--limit", "few", code=2)
    assert "'few' is not a valid integer" in answer.stderr
    help_text = invoke("run", "--plugin", theirs, "temperatures", "--help").stdout
    assert "Sampling temperature, hot and cold." in help_text
    assert "[hot|cold]" in help_text
    assert "--wandb-sync" in help_text


@pytest.mark.parametrize("spelling", ["before", "after", "equals", "global"])
def test_the_file_may_stand_anywhere(theirs, spelling):
    words = {
        "before": ["sweep", "show", "--plugin", theirs, "few"],
        "after": ["sweep", "show", "few", "--plugin", theirs],
        "equals": ["sweep", "show", "few", f"--plugin={theirs}"],
        "global": ["--plugin", theirs, "sweep", "show", "few"],
    }[spelling]
    answer = CliRunner().invoke(main, [*map(str, words), "--json", "--count", "3"])
    assert answer.exit_code == 0, answer.output
    assert [keys["kl.coef"] for keys in json.loads(answer.stdout).values()] == ["0.0", "0.5", "1.0"]


def test_a_sweep_of_a_plugin_file_runs(theirs, ran, here):
    invoke("run", "few", "--plugin", theirs, "--factor", "0.25")
    assert [names for _, names in ran] == [["kl.coef_0.0", "kl.coef_0.25"]]
    assert RunDirectory(here / "runs" / "few" / "kl.coef_0.25").read_config()["plugins"] == [str(theirs)]
    assert (here / "runs" / "few" / "report").is_dir()


def test_an_option_that_every_sweep_has_is_refused_by_name(tmp_path):
    text = THEIRS.replace("count: int", "gpus: int").replace("range(count)", "range(gpus)")
    (tmp_path / "theirs.py").write_text(text)
    answer = invoke("run", "few", "--plugin", tmp_path / "theirs.py", code=2)
    assert "the sweep few has an option --gpus, which every sweep has already" in answer.stderr


def test_sweeps_without_options_take_those_of_every_sweep(theirs):
    shown = json.loads(invoke("show", "fixed", "--plugin", theirs, "--steps", "4", "--seeds", "7", "--json").stdout)
    assert {keys["trainer.steps"] for keys in shown.values()} == {"4"}
    assert [keys["seed"] for keys in shown.values()] == ["7"]


def test_an_installed_plugin_brings_a_sweep(tmp_path):
    site = tmp_path / "site"
    (site / "theirs-1.0.dist-info").mkdir(parents=True)
    (site / "theirs.py").write_text(THEIRS)
    (site / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text("[uncollapse]\ntheirs = theirs\n")
    done = subprocess.run(
        [sys.executable, "-m", "uncollapse.cli.main", "sweep", "show", "few", "--count", "2", "--json"],
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [keys["kl.coef"] for keys in json.loads(done.stdout).values()] == ["0.0", "0.5"]


def test_the_list_names_all(theirs):
    names = [sweep["name"] for sweep in json.loads(invoke("list", "--plugin", theirs, "--json").stdout)]
    builtin = {"custom", "demo", "top-p", "kl", "entropy", "smoke", "smoke-all"}
    assert builtin | {"temperatures", "few", "fixed"} <= set(names)


# --- status ---------------------------------------------------------------------------------------------------------


def test_status(ran, here):
    invoke("run", "kl", "-e", "sokoban", "--kl-values", "0,0.01,0.1")
    home = here / "logs" / "kl_sweep_Qwen2.5-3B" / "nofilter"
    RunDirectory(home / "001").set_status("stopped:empty_filter")
    (home / "01" / "status.json").write_text('{"st')
    data = json.loads(invoke("status", home, "--json").stdout)
    assert data["sweep"] == "kl"
    assert data["counts"] == {"success": 1, "failed regime (empty_filter)": 1, "damaged": 1}
    assert [row["label"] for row in data["runs"]] == ["0", "001", "01"]
    assert data["runs"][0]["success"] == 0.25
    for words in ((), ("--watch",)):
        lines = invoke("status", home, *words).stdout.splitlines()
        assert lines[0].split("\t")[:2] == ["run", "status"]
        assert [line.split("\t")[1] for line in lines[1:4]] == ["success", "failed regime (empty_filter)", "damaged"]
        assert lines[4].startswith("3 runs: ")


def test_status_of_what_is_no_sweep(here):
    assert "this is no sweep directory" in invoke("status", here, code=2).stderr
    assert "--watch" in invoke("status", here, "--watch", "--json", code=2).stderr


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["smoke", "--set", "collapse=[]"], "collapse"),
        (["smoke", "--rollout_filter_strategy", "top_k", "--set", "rollout.groups=16"], "rollout.groups"),
        (["kl", "--set", "filter.select=top_p(0.9)"], "filter.select"),
        (["entropy", "--axis", "filter.select.value=0.9,0.8"], "filter.select"),
    ],
)
def test_what_names_and_paths_tell_of_is_not_changed_behind_them(words, key):
    answer = CliRunner().invoke(main, ["sweep", "show", *words])
    assert answer.exit_code == 2, answer.output
    assert f"fixes {key}" in answer.output
