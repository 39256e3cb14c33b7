"""The example of the documentation: train tiny-sokoban with LoRA, then probe its checkpoint."""

import json

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main


def run(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.slow
def test_train_with_lora_and_probe_the_checkpoint(tmp_path):
    settings = ("model.lora={rank: 8}", "trainer.steps=2", "trainer.lr=2e-3", "validation.every=0")
    flags = [part for setting in (*settings, "validation.before_train=false") for part in ("--set", setting)]
    run("train", "tiny-sokoban", "--run-dir", tmp_path / "lora", *flags)
    truth = ("--set", "importance.enabled=true", "--set", "importance.symmetric=true")
    run("probe", "single", "--checkpoint", tmp_path / "lora", "--be", 64, "--bu", 4, *truth, "--results", tmp_path)
    (file,) = tmp_path.glob("single_run/*/BE064_BU004/results.json")
    found = json.loads(file.read_text())
    assert found["checkpoint"]["adapter"]
    assert found["learning_rate"] == 2e-3  # what the run trained with
    assert found["integrity"]["adam_coverage"] == 1
    assert found["integrity"]["param_hash_before"] == found["integrity"]["param_hash_after"]
    assert found["integrity"]["sampler_gap"] < 1e-3
    assert found["batches"]["E"]["avg_generation_length"] > 10  # of several turns: the run's own environment is played
    slope = found["truth"][0]["symmetric_fd"]["finite_difference"]
    error = found["deltaH1_se"] / found["learning_rate"]
    assert found["bars_dot"] == pytest.approx(slope, abs=0.5 * error)  # one sample: they differ by third orders alone
    assert found["deltaH1_se"] > 0
