"""The small example packages and the script: installed as a user would, and used for what they are for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
import uncollapse
from uncollapse.testing.samples import rollouts

ROOT = Path(uncollapse.__file__).parent
EXAMPLES = ROOT / "examples"
PACKAGES = ("forking-tokens", "repetition", "calculator", "lengths")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory to put on the path, with the packages installed into it."""
    directory, sources = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("sources")
    copies = [shutil.copytree(EXAMPLES / f"uncollapse-{name}", sources / name) for name in PACKAGES]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(directory), *map(str, copies)], check=True)
    return directory


def call(installed, *words, code=0):
    path = os.pathsep.join([str(installed), str(ROOT.parent)])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=environment, cwd=installed, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_their_own_tests_pass(installed):
    tests = [EXAMPLES / f"uncollapse-{name}" / "tests" for name in PACKAGES]
    options = ("-q", "--import-mode=importlib", "-p", "no:cacheprovider")
    assert "8 passed" in call(installed, "-m", "pytest", *options, *tests)


@pytest.mark.slow
def test_they_train_together_and_the_command_reads_the_run(installed, bandit, tmp_path):
    settings = {
        **bandit,
        "environment": "calculator",
        "rollout": {"groups": 4, "group_size": 2, "max_turns": 2, "max_tokens": 6, "max_context": 900},
        "policy_loss": "forking_tokens(share=0.5)",
        "collapse": ["repetition"],
        "validation": {"groups": 2, "every": 2},
        "trainer": bandit["trainer"] | {"steps": 2},
    }
    file, run = tmp_path / "experiment.yaml", tmp_path / "run"
    file.write_text(json.dumps(settings))
    program = ("-m", "uncollapse.cli.main")
    call(installed, *program, "train", file, "--run-dir", run)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = records[-1]
    assert last["step"] == 2
    assert 0.4 <= last["actor/forking"] <= 0.65  # a share of 0.5, and ties
    assert 0 <= last["collapse/repetition"] <= 1
    # a random model does not know the words
    assert (last["train/success"], last["train/share_of_turns_invalid"]) == (0, 1)
    manifest = json.loads((run / "manifest.json").read_text())
    assert {f"uncollapse-{name}" for name in PACKAGES} <= {plugin["distribution"] for plugin in manifest["plugins"]}
    lines = call(installed, *program, "lengths", run).splitlines()
    assert lines[0] == f"step\t{run}"
    assert [line.split("\t")[0] for line in lines[1:]] == ["1", "2"]
    assert float(lines[-1].split("\t")[1]) == pytest.approx(last["train/response_length"], abs=0.05)
    call(installed, *program, "lengths", tmp_path, code=2)
    assert "repetition" in call(installed, *program, "detect", run, "--detector", "repetition")


@pytest.mark.slow
def test_the_script_trains_prints_a_table_trains_further_and_sweeps(installed, tmp_path):
    lines = call(installed, EXAMPLES / "compose_in_python.py", tmp_path).splitlines()
    first = next(number for number, line in enumerate(lines) if line.split()[:1] == ["step"])
    table = [line.split() for line in lines[first : first + 5]]
    assert table[0] == ["step", "reward", "entropy", "gradient"]
    assert [row[0] for row in table[1:4]] == ["0", "1", "2"]
    assert all(0 < float(row[2]) < 5 for row in table[2:4])
    assert lines[first + 4].startswith("success after 3 records")
    assert lines[first + 5] == "success after 4 records"
    assert lines[-3].startswith("2 runs: 2 success, in ")
    rows = [line.split() for line in lines[-2:]]
    assert [row[:3] for row in rows] == [["0.0", "0", "success"], ["0.01", "0", "success"]]
    assert all(0 <= float(row[3]) <= 1 for row in rows)


def test_the_calculator_answers_what_it_is_asked(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "uncollapse-calculator")
    from calculator.arithmetic import value_of
    from calculator.world import Calculator

    env = Calculator(price=0.1).make(3)
    task = env.initial_observation().removeprefix("What is ").removesuffix("?")
    called = env.step(f"calc: {task}")
    assert (called.reward, called.done, called.metrics) == (-0.1, False, {"tool_called": 1.0})
    assert called.observation == str(value_of(task))
    wrong = env.step("calc: __import__('os').getcwd()")
    assert wrong.observation == "The calculator says: only whole numbers, +, -, * and parentheses"
    done = env.step(f"answer: {called.observation}")
    assert (done.reward, done.done, done.success) == (1.0, True, True)
    assert (value_of("-(2 + 3) * 4"), value_of("17 * 23 + 5")) == (-20, 396)


def test_the_detector_measures_repeated_phrases(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "uncollapse-repetition")
    from repetition.detector import METRIC, Repetition

    sampled = rollouts()
    session = Repetition(length=2, most=0.3, window=2).start(None)
    one_word, all_differ = torch.full((8, 7), 7), torch.arange(7).expand(8, 7)
    assert sampled.mask.sum(1).tolist() == [5, 2, 3, 1, 5, 3, 1, 4]
    # of 4, 1, 2, 0, 4, 2, 0 and 3 phrases of two tokens all but the first are repeated
    expected = (3 / 4 + 0 + 1 / 2 + 0 + 3 / 4 + 1 / 2 + 0 + 2 / 3) / 8
    assert session.measure(attrs.evolve(sampled, tokens=one_word), None)[METRIC] == pytest.approx(expected)
    assert session.measure(attrs.evolve(sampled, tokens=all_differ), None)[METRIC] == 0
    assert [session.judge(step, {METRIC: 0.4}) is None for step in (1, 2)] == [True, False]
