"""What cannot fit is refused, with settings that really would."""

import itertools
import shlex

import attrs
import pytest
import torch
import uncollapse
from click.testing import CliRunner
from transformers import Qwen2Config
from uncollapse.cli.main import main
from uncollapse.core.errors import RequestError
from uncollapse.plugins.rollout.engine_vllm.engine import VllmEngine
from uncollapse.plugins.training.memory import cards, fitting
from uncollapse.plugins.training.memory.cards import Card
from uncollapse.plugins.training.memory.fitting import GIB, USABLE, Request, require, suggestions

SHAPE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of 0.5e9 parameters of which there is nothing but the configuration."""
    path = tmp_path_factory.mktemp("half") / "model"
    Qwen2Config(**SHAPE, num_key_value_heads=4, vocab_size=100_000, tie_word_embeddings=True).save_pretrained(path)
    return {
        "model": {"path": str(path)},
        "environment": "bandit",
        "rollout": {"groups": 8, "group_size": 8, "max_context": 1024, "engine": "hf(batch=8)"},
        "trainer": {"mini_batch": 32, "micro_batch": 8, "score_batch": 8},
        "validation": {"every": 0},
        "advantage": "grpo",
    }


def request(base, *overrides, ranks=1):
    return Request(uncollapse.compose(base, overrides), ranks)


def test_the_first_suggestion_is_the_cheapest(base):
    asked = request(base)
    made = asked.plan(0)
    backward = made.fullest
    assert backward.name == "policy backward"
    memory = int(backward.total / USABLE) - GIB
    found = suggestions(asked, memory)
    assert found[0] == "--set model.gradient_checkpointing=true"
    assert found[1] == "--set trainer.micro_batch=4 --set trainer.score_batch=4"
    assert not any("rollout.engine" in text for text in found)  # it is not the rollout that is too large
    with pytest.raises(RequestError) as refused:
        require(asked, memory)
    assert refused.value.what == (
        f"the experiment needs {backward.total / GIB:.1f} GiB per GPU and {USABLE * memory / GIB:.1f} GiB are there"
    )
    assert refused.value.where.startswith("policy backward on 1 GPU: activations ")
    assert refused.value.fix.startswith(found[0])
    assert refused.value.fix.endswith("(each KEY=VALUE is an override of compose() in Python)")


@pytest.mark.parametrize("gib", [40, 20, 12, 10, 8, 6, 4, 3, 2])
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_suggestion_fits(base, gib, ranks):
    asked = request(base, ranks=ranks)
    found = suggestions(asked, gib * GIB)
    assert found or gib < 4
    for text in found:
        words = shlex.split(text)
        overrides = [value for key, value in itertools.pairwise(words) if key == "--set"]
        count = int(words[words.index("--ranks") + 1]) if "--ranks" in words else ranks
        assert request(base, *overrides, ranks=count).plan(gib * GIB).fullest.total <= USABLE * gib * GIB, text


def test_a_combination_has_nothing_that_it_does_not_need(base):
    """12 GiB: neither checkpointing alone nor an adapter alone, but both; the micro-batch may stay."""
    memory = 8 * GIB
    asked = request(base)
    for change in ("model.gradient_checkpointing=true", "model.lora={rank: 16}", "trainer.micro_batch=1"):
        assert request(base, change).plan(memory).fullest.total > USABLE * memory
    for text in suggestions(asked, memory):
        parts = text.split(" --set ")
        for part in parts[1:]:
            fewer = [shlex.split(p.removeprefix("--set "))[0] for p in parts if p != part and "--ranks" not in p]
            assert "--ranks" in text or request(base, *fewer).plan(memory).fullest.total > USABLE * memory, (text, part)


def test_training_refuses_only_what_is_certain(base):
    asked = request(base)
    phase = asked.plan(0).fullest_at_least
    assert phase.name == "policy step"
    require(asked, phase.least, certain=True)
    with pytest.raises(RequestError, match="needs at least") as refused:
        require(asked, phase.least - 1, certain=True)
    assert refused.value.exit_code == 2
    with pytest.raises(RequestError):
        require(asked, phase.least)


def test_train_checks_before_it_loads_or_writes(base, tmp_path, monkeypatch):
    from uncollapse.plugins.training import train
    from uncollapse.plugins.training.processes.ranks import Ranks

    monkeypatch.setattr(train, "start_ranks", lambda: Ranks(0, 1, torch.device("cuda", 0)))
    monkeypatch.setattr(cards, "card_of", lambda _: Card("small", GIB, GIB))
    with pytest.raises(RequestError, match=r"needs .* and 0\.9 GiB are there") as refused:
        uncollapse.train(base, tmp_path / "run")
    assert refused.value.where.endswith(", in a GPU of 1.0 GiB")
    assert refused.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_an_engine_whose_share_is_too_small_is_told_how_large(base):
    experiment = uncollapse.compose(base)
    engine = attrs.evolve(experiment.rollout.engine, component=VllmEngine(0.01))
    asked = Request(attrs.evolve(experiment, rollout=attrs.evolve(experiment.rollout, engine=engine)))
    with pytest.raises(RequestError, match=r"does not hold its weights and one row: 2\.0 GiB") as refused:
        require(asked, 80 * GIB)
    assert refused.value.where == "rollout.engine.gpu_memory_utilization"
    assert refused.value.fix.startswith("set it to 0.07 or more")
    with pytest.raises(RequestError) as refused:
        require(asked, int(0.8 * GIB))  # no share of this one would do
    assert refused.value.fix.startswith("a GPU with more memory")


def test_ranks_that_cannot_be_are_not_suggested(base):
    asked = request(base, "rollout.groups=3", "rollout.group_size=32")
    assert not any("--ranks" in text for text in suggestions(asked, 10 * GIB))


def test_the_command(base, tmp_path):
    from uncollapse.core.yaml import dumps

    config = tmp_path / "half.yaml"
    config.write_text(dumps(base))

    def doctor(*arguments):
        return CliRunner().invoke(main, ["doctor", "-e", str(config), *arguments])

    table = doctor()
    assert table.exit_code == 0, table.output
    assert "ZeRO 2 on 1 GPU, rows of 1024 tokens" in table.output
    if not torch.cuda.is_available():
        assert "no GPU here: --gpu-memory GIB" in table.output
    totals = [line.split()[1:] for line in table.output.splitlines() if line.startswith("total ")]
    assert totals == [[f"{phase.total / GIB:.1f}" for phase in request(base).plan(0).phases]]
    assert len(totals[0]) == 5  # there is no critic
    lines = doctor("--gpu-memory", "80").output.splitlines()
    assert lines[-2].endswith("GiB, 95% of the GPU's 80.0 GiB")
    assert lines[-1].startswith("side by side: 3 such runs fit a GPU of 80.0 GiB")
    small = doctor("--gpu-memory", "4")
    assert small.exit_code == 2
    assert "error: the experiment needs" in small.output
    fits = doctor("--gpu-memory", "24", "--ranks", "2", "--set", "model.gradient_checkpointing=true")
    assert fits.exit_code == 0, fits.output
    assert "on 2 GPUs" in fits.output
    for memory in ("nan", "inf", "0", "-1"):
        wrong = doctor("--gpu-memory", memory)
        assert wrong.exit_code == 2 and "--gpu-memory" in wrong.output
    spread = doctor("--set", "rollout.engine=vllm(tensor_parallel=3)")
    assert spread.exit_code == 2
    assert "does not divide the model's" in spread.output
    both = doctor("--ranks", "2", "--set", "rollout.engine=vllm(tensor_parallel=2)")
    assert both.exit_code == 2
    assert "each of the 2 ranks starts an engine of its own" in both.output
    alone = CliRunner().invoke(main, ["doctor", "--gpu-memory", "80"])
    assert alone.exit_code == 2
    assert "name one with -e" in alone.output
    odd = doctor("--ranks", "3")
    assert odd.exit_code == 2
    assert "must be a multiple of 3" in odd.output
    missing = doctor("--set", f"model.path={tmp_path}/none")
    assert missing.exit_code == 2
    assert "there is no such directory" in missing.output


def test_rows_of_a_pass_are_named_only_where_detectors_do_not_pack_them(base):
    def named(*overrides):
        changes = fitting.smaller_detectors(request(base, "collapse=[entropy_forecast(folds=3)]", *overrides))
        return [" ".join(change.overrides) for change in changes]

    folds = "collapse.entropy_forecast.folds=2"
    assert named() == named("trainer.token_budget=2048") == [folds]
    rows = [f"trainer.micro_batch={count}" for count in (4, 2, 1)]
    recomputed = ("trainer.token_budget=2048", "model.gradient_checkpointing=true")
    assert named(*recomputed) == [*rows, f"{rows[-1]} {folds}"]


def test_every_step_of_the_ladder_is_tried():
    names = [step.__name__ for step in fitting.LADDER]
    same_update = ["checkpointing", "smaller_micro_batches", "smaller_detectors"]
    assert names == [*same_update, "offload", "more_ranks", "adapter", "smaller_engine"]
