"""The example package, installed as a user would install it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import uncollapse
from uncollapse.core.errors import RunError
from uncollapse.core.registry import Registry

SOURCE = Path(uncollapse.__file__).parent / "examples" / "uncollapse-example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A directory to put on the path, with the package installed into it."""
    directory = tmp_path_factory.mktemp("installed")
    copy = shutil.copytree(SOURCE, tmp_path_factory.mktemp("source") / "package")  # building writes beside the source
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(directory), str(copy)], check=True)
    return directory


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "uncollapse.cli.main", *arguments],
        env=os.environ | {"PYTHONPATH": str(installed)},
        cwd=installed,
        capture_output=True,
        text=True,
        check=True,
    )


def load_registry(path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.syspath_prepend(path)
    from uncollapse.core import plugins

    return Registry(plugins.discover())


def test_its_names_are_listed_with_their_distribution(installed):
    listed = json.loads(run(installed, "list", "--json").stdout)
    mine = {(entry["kind"], entry["name"]): entry for entry in listed if entry["distribution"] == "uncollapse-example"}
    assert mine.keys() == {("rollout_filter", "median_up"), ("kl", "jeffreys")}
    assert {entry["version"] for entry in mine.values()} == {"0.2.0"}
    assert mine["kl", "jeffreys"]["target"] == "uncollapse_example.kl:Jeffreys"
    (line,) = (line for line in run(installed, "list", "kl").stdout.splitlines() if "jeffreys" in line)
    assert line.split() == [
        *("jeffreys", "uncollapse-example", "0.2.0"),
        *["half", "the", "symmetrised", "divergence,", "never", "negative"],
    ]


def test_its_plugin_is_loaded_with_its_source(installed):
    reported = json.loads(run(installed, "plugins", "--json").stdout)
    (plugin,) = (plugin for plugin in reported if plugin["distribution"] == "uncollapse-example")
    source = installed / "uncollapse_example" / "plugin.py"
    assert (plugin["name"], plugin["status"], plugin["version"]) == ("example", "loaded", "0.2.0")
    assert (plugin["source"], plugin["source_sha256"]) == (str(source), sha256(source.read_bytes()).hexdigest())
    assert plugin["registers"] == {"rollout_filter": ["median_up"], "kl": ["jeffreys"]}


def test_show_states_the_bias_of_its_kl_variant(installed):
    shown = run(installed, "show", "kl", "jeffreys").stdout
    assert "value_bias     none for half of Jeffreys' divergence" in shown
    assert "gradient_bias  that of KL(ref || policy) is exact" in shown


def test_both_names_train_two_steps(installed, bandit, tmp_path):
    from uncollapse.core.yaml import dumps

    chosen = {"filter": {"select": "median_up"}, "kl": {"estimator": "jeffreys", "coef": 0.05}}
    trainer = {**bandit["trainer"], "steps": 2}
    (tmp_path / "mine.yaml").write_text(dumps({**bandit, **chosen, "trainer": trainer, "validation": {"every": 0}}))
    run(installed, "train", str(tmp_path / "mine.yaml"), "--run-dir", str(tmp_path / "run"))
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics] == [1, 2]
    assert metrics[0]["actor/kl"] == 0  # the policy is still the reference
    assert metrics[1]["actor/kl"] > 0
    made_by = json.loads((tmp_path / "run" / "manifest.json").read_text())["components"]
    assert made_by["filter.select"]["distribution"] == made_by["kl.estimator"]["distribution"] == "uncollapse-example"


def test_median_up(installed, monkeypatch):
    registry = load_registry(installed, monkeypatch)
    keep = registry.create("rollout_filter", "median_up")
    assert keep.select(torch.tensor([0.4, 0.1, 0.3, 0.2])).tolist() == [True, False, True, False]
    assert keep.select(torch.tensor([0.4, 0.1, 0.3])).tolist() == [True, False, True]
    assert keep.select(torch.zeros(3)).tolist() == [True] * 3
    assert keep.select(torch.zeros(0)).tolist() == []
    others = registry.create("rollout_filter", "median_up", include_zero=False)
    assert others.select(torch.tensor([0.0, 0.0, 0.0, 0.1, 0.3])).tolist() == [False, False, False, False, True]
    assert others.select(torch.zeros(3)).tolist() == [False] * 3
    with pytest.raises(RunError, match="NaN"):
        keep.select(torch.tensor([0.1, float("nan")]))


def test_jeffreys_by_exact_enumeration(installed, monkeypatch):
    """Every token of a small vocabulary, weighted with its probability, as both docstring and biases state."""
    variant = load_registry(installed, monkeypatch).create("kl", "jeffreys")
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(7, dtype=torch.float64, generator=generator, requires_grad=True)
    policy_V = logits.log_softmax(0)
    reference_V = torch.randn(7, dtype=torch.float64, generator=generator).log_softmax(0)

    p_V, q_V, r_V = policy_V.detach().exp(), reference_V.exp(), (policy_V - reference_V).detach()
    terms_V = variant(policy_V, reference_V)
    forward, backward = (p_V * r_V).sum(), (q_V * -r_V).sum()
    torch.testing.assert_close((p_V * terms_V).sum().detach(), (forward + backward) / 2)
    assert bool((terms_V >= 0).all())

    (sampled,) = torch.autograd.grad((p_V * terms_V).sum(), logits, retain_graph=True)
    (of_backward,) = torch.autograd.grad((q_V * (reference_V - policy_V)).sum(), logits, retain_graph=True)
    (of_forward_under_reference,) = torch.autograd.grad((q_V * r_V * policy_V).sum(), logits)
    torch.testing.assert_close(sampled, (of_backward + of_forward_under_reference) / 2)
