"""Settings by dotted key, and those in which experiments differ."""

from uncollapse.core.compose.config import compose, to_dict
from uncollapse.core.compose.flat import differing, flat

BASE = {"environment": "sokoban", "model": {"path": "some/model"}, "trackers": ["jsonl"]}


def test_a_component_is_one_word_under_its_key():
    settings = flat(to_dict(compose(BASE, ["filter.select=top_p(0.9)", "model.lora={rank: 4}"])))
    assert settings["filter.select"].startswith("top_p(")
    assert (settings["model.lora.rank"], settings["kl.coef"], settings["model.build"]) == ("4", "0.0", "null")


def test_only_what_differs_and_counts_is_told():
    changes = (["kl.coef=0.01"], ["seed=1", "trackers=[jsonl, progress]"], ["model.lora={rank: 4}"])
    first, second, third = differing(compose(BASE, words) for words in changes)
    assert first == {"kl.coef": "0.01", "seed": "0", "model.lora": "null"}
    assert second == {"kl.coef": "0.0", "seed": "1", "model.lora": "null"}
    assert third["model.lora.rank"] == "4"
    assert "trackers" not in second
    assert differing([compose(BASE)]) == [{}]
