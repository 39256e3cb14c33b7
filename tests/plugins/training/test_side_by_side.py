"""Runs side by side on one GPU: how many fit, what each is held to, and what is refused before it starts."""

import attrs
import pytest
import torch
import uncollapse
from click.testing import CliRunner
from transformers import Qwen2Config
from uncollapse.cli.main import main
from uncollapse.core.compose.identity import config_hash
from uncollapse.core.errors import RequestError
from uncollapse.core.gpu_share import VARIABLE
from uncollapse.core.yaml import dumps
from uncollapse.plugins.rollout.engine_vllm.engine import VllmEngine
from uncollapse.plugins.training.memory import cards
from uncollapse.plugins.training.memory.cards import Card
from uncollapse.plugins.training.memory.fitting import GIB, USABLE, Request
from uncollapse.plugins.training.memory.own_place import engine_within, require_memory
from uncollapse.plugins.training.memory.side_by_side import most_runs, require_runs, share_of
from uncollapse.plugins.training.processes.ranks import Ranks

SHAPE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 4}
ON_GPU = Ranks(0, 1, torch.device("cuda", 0))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of which there is nothing but the configuration."""
    path = tmp_path_factory.mktemp("small") / "model"
    Qwen2Config(**SHAPE, num_key_value_heads=2, vocab_size=1000, tie_word_embeddings=True).save_pretrained(path)
    return {
        "model": {"path": str(path)},
        "environment": "bandit",
        "rollout": {"groups": 8, "group_size": 8, "max_context": 256, "engine": "hf(batch=8)"},
        "trainer": {"mini_batch": 32, "micro_batch": 8, "score_batch": 8},
        "validation": {"every": 0},
        "advantage": "grpo",
    }


def request(base, *overrides):
    return Request(uncollapse.compose(base, overrides))


def with_vllm(request, **parameters):
    named = request.experiment.rollout.engine
    engine = attrs.evolve(named, component=VllmEngine(**parameters))
    rollout = attrs.evolve(request.experiment.rollout, engine=engine)
    return attrs.evolve(request, experiment=attrs.evolve(request.experiment, rollout=rollout))


@pytest.fixture
def card(monkeypatch):
    """A GPU in place of the one that torch sees, and the fraction of it that torch was held to."""
    held = []

    def have(total, free=None):
        there = Card("GPU of the test", total, total if free is None else free)
        monkeypatch.setattr(cards, "card_of", lambda _: there)
        monkeypatch.setattr(cards, "visible_cards", lambda: [there])
        return held

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda part, device: held.append(part))
    monkeypatch.delenv(VARIABLE, raising=False)
    return have


# --- how many fit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [1, 2, 7])
def test_as_many_fit_as_have_room_for_their_fullest_phase(base, runs):
    asked = request(base)
    need = asked.plan(0).fullest.total  # hf takes the same of any GPU
    share = -(-need * 100 // 95) + 2**20
    assert most_runs([asked], runs * share) == runs
    assert most_runs([asked], runs * share - runs * 3 * 2**20) == runs - 1
    require_runs([("", asked)], runs, runs * share)


def test_the_largest_of_different_runs_decides(base):
    small, large = request(base), request(base, "trainer.micro_batch=32", "model.dtype=float32")
    memory = 5 * share_of(int(large.plan(0).fullest.total / USABLE) + 2**21, 1)
    alone = [most_runs([each], memory) for each in (small, large)]
    assert alone[0] > alone[1] == most_runs([small, large], memory) == 5
    with pytest.raises(RequestError) as refused:
        require_runs([("a small one", small), ("a large one", large)], 6, memory)
    assert refused.value.where.startswith("a large one: policy backward: gradients ")
    assert refused.value.fix.startswith("--per-gpu 5, the most that fit\n")
    assert "--set trainer.micro_batch=4" in refused.value.fix


@pytest.mark.parametrize("parameters", [{"gpu_memory_utilization": 0.3}, {"kv_cache_gib": 2.0, "sleep": False}])
def test_an_engine_gets_a_part_of_each_share_and_not_of_the_whole_gpu(base, parameters):
    """Five runs on a GPU of 100 GiB, whose engines would take 150 % of it by their default share."""
    asked = with_vllm(request(base), **parameters)
    share = share_of(100 * GIB, 5)
    rollout = next(phase for phase in asked.plan(share).phases if phase.name == "rollout")
    assert rollout.total <= USABLE * share
    assert most_runs([asked], 100 * GIB) >= 5
    if "kv_cache_gib" not in parameters:
        assert rollout.items["engine"] == int(0.3 * 20 * GIB)


def test_what_does_not_fit_even_alone_says_so(base):
    with pytest.raises(RequestError, match=r"^1 run does not fit a GPU with 1\.0 GiB: the share of each is 1\.0 GiB"):
        require_runs([("", request(base))], 1, GIB)


# --- a run that starts ------------------------------------------------------------------------------------------------


def test_a_run_alone_may_take_what_is_free(base, card):
    asked = request(base)
    need = asked.plan(0).fullest.total
    assert card(80 * GIB, need) == []
    require_memory(asked.experiment, ON_GPU)
    held = card(80 * GIB, need - 1)
    with pytest.raises(RequestError, match=rf"needs {need / GIB:.1f} GiB per GPU and .* are free\n") as refused:
        require_memory(asked.experiment, ON_GPU)
    assert refused.value.where.endswith(", in a GPU of 80.0 GiB")
    assert refused.value.exit_code == 2
    assert refused.value.fix.startswith("end what else runs on the GPU (nvidia-smi lists it)\n")
    assert refused.value.fix.endswith(f"{VARIABLE}=all trains all the same")
    assert held == []  # without a share, torch may take what it finds


def test_a_run_is_held_to_its_share(base, card, monkeypatch):
    asked = with_vllm(request(base), kv_cache_gib=2.0, sleep=False)
    held = card(80 * GIB)
    monkeypatch.setenv(VARIABLE, "20")
    require_memory(asked.experiment, ON_GPU)
    plan = asked.plan(20 * GIB)
    resting = plan.phases[-1].items["engine"]
    assert plan.beside == resting + 0.75 * GIB + (0.75 + 1.5) * GIB
    assert held == [pytest.approx((20 * GIB - plan.beside) / (80 * GIB))]
    assert 0.95 * (20 * GIB - plan.beside) > plan.fullest.total - plan.beside  # all of the trainer's plan is in it
    monkeypatch.setenv(VARIABLE, "4")
    with pytest.raises(RequestError) as refused:
        require_memory(asked.experiment, ON_GPU)
    assert refused.value.where.endswith(", in its share of 4.0 GiB")


def test_whoever_knows_that_rows_stay_short_may_begin_all_the_same(base, card, monkeypatch):
    asked = request(base)
    plan = asked.plan(0)
    card(plan.fullest.total - 1)
    with pytest.raises(RequestError):
        require_memory(asked.experiment, ON_GPU)
    monkeypatch.setenv(VARIABLE, "all")
    require_memory(asked.experiment, ON_GPU)
    card(plan.fullest_at_least.least - 1)
    with pytest.raises(RequestError, match="needs at least"):
        require_memory(asked.experiment, ON_GPU)


def test_the_engine_of_a_run_in_a_share_is_another_one_and_the_run_is_the_same(base, card, monkeypatch):
    experiment = with_vllm(request(base), gpu_memory_utilization=0.3).experiment
    before = config_hash(experiment)
    card(80 * GIB)
    assert engine_within(experiment, ON_GPU) == (experiment.rollout.engine, [])
    assert engine_within(experiment, Ranks(0, 1, torch.device("cpu"))) == (experiment.rollout.engine, [])
    monkeypatch.setenv(VARIABLE, "20")
    named, notes = engine_within(experiment, ON_GPU)
    share = int(0.3 * 20 * GIB)
    assert named.component.gpu_memory_utilization == pytest.approx(share / (80 * GIB))
    assert 5 < named.component.kv_cache_gib < 6
    assert notes == [
        f"engine in 20.0 GiB: gpu_memory_utilization 0.075, kv_cache_gib {named.component.kv_cache_gib:.3g}"
    ]
    assert named.params == experiment.rollout.engine.params
    assert config_hash(experiment) == before


# --- the command ------------------------------------------------------------------------------------------------------


def test_doctor_says_how_many_runs_fit_and_what_to_change(base, tmp_path, card):
    config = tmp_path / "small.yaml"
    config.write_text(dumps(base))

    def doctor(*arguments):
        return CliRunner().invoke(main, ["doctor", "-e", str(config), *arguments])

    memory = ["--gpu-gib", "24"]
    most = most_runs([request(base)], 24 * GIB)
    assert most > 2
    last = doctor(*memory).output.splitlines()[-1]
    assert last == f"side by side: {most} such runs fit a GPU of 24.0 GiB (uncollapse sweep run ... --per-gpu {most})"
    fits = doctor(*memory, "--per-gpu", "2")
    assert fits.exit_code == 0, fits.output
    assert "95% of each of 2 shares of 24.0 GiB: 12.0 GiB" in fits.output
    assert doctor(*memory, "--per-gpu", "auto").output.count(f"each of {most} shares") == 1
    over = doctor(*memory, "--per-gpu", str(most + 1))
    assert over.exit_code == 2
    assert f"error: {most + 1} runs side by side do not fit a GPU with 24.0 GiB" in over.output
    assert f"--per-gpu {most}, the most that fit" in over.output
    card(24 * GIB, GIB)  # what is here, whoever uses it now
    assert doctor().output.splitlines()[-1] == last
    for wrong in ("0", "-1", "1.5", "many", "1000"):
        refused = doctor(*memory, "--per-gpu", wrong)
        assert refused.exit_code == 2 and "--per-gpu" in refused.output
    alone = CliRunner().invoke(main, ["doctor", "--per-gpu", "2"])
    assert alone.exit_code == 2 and "name one with -e" in alone.output


@pytest.mark.slow
def test_gpus_are_looked_at_by_another_process():
    """Where torch sees none, that is said in place of a number."""
    assert cards.cards_by_id([]) == []
    with pytest.raises(RequestError, match=r"torch sees 0 of 1 GPUs|cannot be read"):
        cards.cards_by_id(["no-such-gpu"])
