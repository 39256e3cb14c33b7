"""No command executes what a run directory names, unless it is told to."""

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core.registry import registry
from uncollapse.core.yaml import dumps

PLUGIN = """
from pathlib import Path

import attrs
from uncollapse import hookimpl
from uncollapse.core.components import RolloutFilter

Path(__file__).with_name("executed").touch()

@attrs.frozen
class Never(RolloutFilter):
    def select(self, scores_P):
        return scores_P < 0

@hookimpl
def register_rollout_filters(register):
    register("never_{name}", Never, summary="keep nothing")
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of a stranger, as far as these commands read it before they would need weights."""
    monkeypatch.chdir(tmp_path)
    plugin = tmp_path / "theirs.py"
    plugin.write_text(PLUGIN.format(name=tmp_path.name))
    home = tmp_path / "run"
    checkpoint = home / "checkpoints" / "step_1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model").mkdir()
    for name in ("model/config.json", "model/model.safetensors", "optimizer.pt"):
        (checkpoint / name).write_text("{}")
    (checkpoint / "state.json").write_text('{"step": 1, "files": {}, "metrics": {}}')
    config = {"environment": "sokoban", "model": {"path": "nowhere"}, "plugins": [str(plugin)]}
    home.joinpath("config.yaml").write_text(dumps(config | {"filter": {"select": f"never_{tmp_path.name}"}}))
    home.joinpath("status.json").write_text('{"status": "success", "step": 1}')
    home.joinpath("metrics.jsonl").write_text('{"step": 0}\n{"step": 1, "actor/entropy": 0.5}\n')
    yield home
    registry.cache_clear()


COMMANDS = [
    ["detect", "RUN", "--detector", "entropy_collapse"],
    ["export", "RUN"],
    ["eval", "RUN"],
    ["probe", "single", "--checkpoint", "RUN"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_runs_plugin_files_are_not_executed_unasked(run, words):
    words = [str(run) if word == "RUN" else word for word in words]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2, result.output
    assert f"which would be executed: {run.parent / 'theirs.py'}" in result.stderr
    assert "give --trust (registry().trusts_runs = True in Python), or load each with --plugin FILE.py" in result.stderr
    assert not (run.parent / "executed").exists()


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_runs_programs_are_not_started_unasked(run, words):
    pytest.importorskip("mcp")
    config = run.joinpath("config.yaml")
    server = {"name": "mcp", "command": "sh", "args": ["-c", f"touch {run.parent / 'executed'}"]}
    environment = {"name": "with_tools", "of": "tool_calculator", "tools": [server]}
    config.write_text(dumps({"environment": environment, "dialogue": "tool_calls", "model": {"path": "nowhere"}}))
    words = [str(run) if word == "RUN" else word for word in words]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2, result.output
    assert "the run's configuration names programs, which would be started: mcp(command=sh, args=[-c, " in result.stderr
    assert "look at them; then give --trust (registry().trusts_runs = True in Python)" in result.stderr
    assert not (run.parent / "executed").exists()


@pytest.mark.parametrize("how", [["--trust"], ["--plugin", "FILE"]], ids=lambda how: how[0])
def test_a_runs_plugin_files_are_executed_for_who_trusts_them(run, how):
    how = [str(run.parent / "theirs.py") if word == "FILE" else word for word in how]
    result = CliRunner().invoke(main, ["detect", str(run), "--detector", "entropy_collapse", *how])
    assert result.exit_code == 0, result.output
    assert (run.parent / "executed").exists()
