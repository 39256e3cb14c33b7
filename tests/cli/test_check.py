import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core import registry as registries
from uncollapse.core.compose.config import compose, to_dict
from uncollapse.core.registry import Registry
from uncollapse.core.yaml import loads

FAKE = Path(__file__).parent.parent / "core" / "fake_components.py"


@pytest.fixture
def registry(monkeypatch):
    """An empty registry in place of this process' own; commands and composition find it under its name."""
    empty = Registry()
    monkeypatch.setattr(registries, "registry", lambda: empty)
    return empty


@pytest.fixture
def check(registry):
    return lambda *arguments: CliRunner().invoke(main, ["check", "--plugin", str(FAKE), *arguments])


def test_prints_the_resolved_experiment(check, registry):
    result = check("child", "--set", "kl.coef=1e-6", "--set", "filter.select.value=0.8")
    assert result.exit_code == 0
    assert result.stderr == ""
    experiment = compose("child", ["kl.coef=1e-6", "filter.select.value=0.8"], registry)
    assert loads(result.stdout) == to_dict(experiment)
    assert experiment.plugins == (str(FAKE),)


def test_what_it_prints_is_an_experiment_file(check, tmp_path):
    printed = check("child").stdout
    path = tmp_path / "experiment.yaml"
    path.write_text(printed)
    assert check(str(path)).stdout == printed


def test_every_problem_at_once_and_exit_code_2(check):
    result = check(
        "child", "--set", "kl.ceof=1", "--set", "rollout.groups='4'", "--set", "filter.select=top_k(2, prob_mode=x)"
    )
    assert result.exit_code == 2
    assert result.stdout == ""
    for text in (
        "3 problems with the experiment child",
        "kl.ceof = 1: unknown key; did you mean 'coef'?",
        "rollout.groups = '4': must be a whole number; write 4",
        "filter.select.prob_mode = 'x': top_k has no such parameter",
    ):
        assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_unknown_names_and_files(check):
    result = check("chidl")
    assert (result.exit_code, "did you mean 'child'?" in result.stderr) == (2, True)
    result = check("absent.yaml")
    assert (result.exit_code, "absent.yaml cannot be read" in result.stderr) == (2, True)


def test_overrides_of_the_guide_are_accepted():
    guide = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text("utf-8")
    overrides = [shlex.split(words)[1] for words in re.findall(r"^\| `(--set [^`]*)`", guide, re.MULTILINE)]
    of_others = ("model.", "environment.verifier")
    overrides = [override for override in overrides if not override.startswith(of_others)]
    assert len(overrides) >= 4
    for override in overrides:
        answer = CliRunner().invoke(main, ["check", "sokoban", "--set", "filter.select=top_p(0.9)", "--set", override])
        assert answer.exit_code == 0, answer.output
