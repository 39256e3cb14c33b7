import json
import sys
from pathlib import Path

import attrs
import pytest
import torch
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.errors import RequestError
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.environments.dataset import Dataset
from uncollapse.plugins.environments.frozen_lake import FrozenLake
from uncollapse.plugins.probe.sampling.cache import drawn, load, sample_key, save
from uncollapse.plugins.probe.sampling.prompts import PromptSource
from uncollapse.plugins.probe.sampling.samples import draw
from uncollapse.plugins.probe.sampling.sources import EnvironmentSource
from uncollapse.plugins.rollout.engine_hf import HfEngine
from uncollapse.plugins.training.processes.ranks import Ranks

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from rollout_worlds import LLAMA3, tiny_model, tokenizer

WORDS = tokenizer()
ONE = Ranks(0, 1, torch.device("cpu"))
PROMPTS = PromptSource.named("arithmetic", max_prompt_tokens=400)
LAKES = EnvironmentSource(FrozenLake(), ThinkAnswer(), Rollout(max_turns=2))
HOW = {"prompts": 3, "responses": 2, "with_replacement": True, "seed": 1, "temperature": 1.0, "max_tokens": 6}


@pytest.fixture(scope="module")
def engine():
    return HfEngine().start(tiny_model(len(WORDS)), WORDS)


@pytest.mark.parametrize("source", [PROMPTS, LAKES], ids=["prompts", "environment"])
def test_episodes_and_rows_come_back_as_they_were(source, engine, tmp_path):
    path = tmp_path / "batches" / "E.json"
    first = drawn(path, source, engine, WORDS, policy="p", ranks=ONE, **HOW)
    again = drawn(path, source, None, WORDS, policy="p", ranks=ONE, **HOW)  # there is no engine to sample with
    assert again.episodes == first.episodes
    assert again.tasks == first.tasks
    for field in attrs.fields(type(first.rollouts)):
        one, other = getattr(first.rollouts, field.name), getattr(again.rollouts, field.name)
        assert (one is None) == (other is None)
        if isinstance(one, dict):  # rewards by name, which these sources do not have
            assert one == other == {}
            continue
        assert one is None or (one.dtype == other.dtype and torch.equal(one, other)), field.name


def test_texts_of_any_kind_come_back(engine, tmp_path):
    sample = draw(PROMPTS, engine, WORDS, ranks=ONE, **HOW)
    odd = '\ud800 \u2028 \x00 \U0001f600 "quoted" \\'
    turn = attrs.evolve(sample.episodes[0].turns[0], response=odd)
    episodes = [attrs.evolve(sample.episodes[0], turns=(turn,), metrics={"x": 0.1}), *sample.episodes[1:]]
    save(tmp_path / "E.json", {}, attrs.evolve(sample, episodes=episodes))
    assert load(tmp_path / "E.json", {}, PROMPTS).episodes == episodes


@pytest.mark.parametrize(
    ("name", "was", "value"),
    [
        ("policy", '"p"', "q"),
        ("prompts", "3", 4),
        ("responses", "2", 1),
        ("with_replacement", "true", False),
        ("seed", "1", 2),
        ("temperature", "1.0", 0.7),
        ("max_tokens", "6", 7),
        ("chunk", "128", 64),
    ],
)
def test_another_draw_is_refused_by_name(engine, tmp_path, name, was, value):
    path = tmp_path / "E.json"
    given = {"policy": "p", **HOW}
    drawn(path, PROMPTS, engine, WORDS, ranks=ONE, **given)
    with pytest.raises(RequestError) as caught:
        drawn(path, PROMPTS, engine, WORDS, ranks=ONE, **{**given, name: value})
    assert caught.value.what.endswith(f"in another way: {name} {was}, now {json.dumps(value)}")
    assert caught.value.where == str(path)


@attrs.frozen
class Loud(ThinkAnswer):
    """The same with a sign at the end of every turn."""

    sign: str = "!"

    def ask(self, *given):
        return f"{super().ask(*given)}{self.sign}"


@pytest.mark.parametrize(
    ("source", "other", "item"),
    [
        (PROMPTS, attrs.evolve(PROMPTS, max_prompt_tokens=390), "source.max_prompt_tokens 400, now 390"),
        (LAKES, EnvironmentSource(FrozenLake(size=5), ThinkAnswer(), LAKES.rollout), "source.parameters.size 4, now 5"),
        (
            LAKES,
            EnvironmentSource(FrozenLake(), ThinkAnswer(), Rollout(max_turns=3)),
            "source.rollout.max_turns 2, now 3",
        ),
        (
            EnvironmentSource(FrozenLake(), Loud(), LAKES.rollout),
            EnvironmentSource(FrozenLake(), Loud("?"), LAKES.rollout),
            'source.wording.sign "!", now "?"',
        ),
    ],
)
def test_another_source_is_refused_by_name(engine, tmp_path, source, other, item):
    drawn(tmp_path / "E.json", source, engine, WORDS, policy="p", ranks=ONE, **HOW)
    with pytest.raises(RequestError, match="in another way") as caught:
        drawn(tmp_path / "E.json", other, engine, WORDS, policy="p", ranks=ONE, **HOW)
    assert caught.value.what.endswith(f"way: {item}")


def key(source, words=WORDS, **how):
    return sample_key(source, words, "p", **{**HOW, **how})


def test_what_decides_a_sample_is_in_the_key(tmp_path):
    path = tmp_path / "sums.jsonl"
    keys = []
    for number in (1, 2):
        directory = tmp_path / str(number)
        directory.mkdir()
        path = directory / "sums.jsonl"
        path.write_text(json.dumps({"question": "1 + 1?", "answer": str(number)}) + "\n")
        keys.append(key(PromptSource.named(str(path))))
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"source.content", "source.dataset.path"}
    environment = EnvironmentSource(Dataset("arithmetic"), ThinkAnswer(), Rollout())
    assert key(environment)["source.content"] == key(PROMPTS)["source.content"]
    assert key(PROMPTS, tokenizer(eos="<|other|>"))["tokenizer"] != key(PROMPTS)["tokenizer"]
    assert key(PROMPTS, tokenizer(LLAMA3))["tokenizer"] != key(PROMPTS)["tokenizer"]


def test_what_decides_nothing_is_not_in_the_key():
    padded = tokenizer()
    padded.pad_token = padded.eos_token
    padded(["a", "b c"], padding=True, truncation=True, max_length=3)
    assert key(PROMPTS, padded) == key(PROMPTS)
    rollout = attrs.evolve(LAKES.rollout, groups=3, group_size=5, seed=7, temperature=0.3, max_tokens=9)
    assert key(attrs.evolve(LAKES, rollout=rollout)) == key(LAKES)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "3",
        '{"key": {}}',
        '{"key": 3, "tasks": [], "episodes": []}',
        '{"key": {}, "tasks": [0], "episodes": [3]}',
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "E.json"
    path.write_text(content)
    with pytest.raises(RequestError, match="is not a saved sample"):
        load(path, {}, PROMPTS)
