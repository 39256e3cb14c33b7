"""A warm start: what is learnt, from whom, with which loss; and that it happens once."""

import json

import attrs
import pytest
import torch
import uncollapse
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM
from uncollapse.core.compose.experiment import WarmStart
from uncollapse.core.errors import RequestError
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.training.networks.models import load_policy, load_tokenizer
from uncollapse.plugins.training.networks.prepare import prepare_model
from uncollapse.plugins.training.warm_start.chats import read_chats
from uncollapse.plugins.training.warm_start.supervised import learn
from uncollapse.plugins.training.warm_start.warm import _demonstrations, _warn

TINY = {
    "environment": {"name": "dataset", "path": "arithmetic"},
    "validation.environment": {"split": "test"},
    "model.build": {"name": "tiny_qwen2", "hidden": 32, "layers": 1, "initializer": 0.1},
    "rollout.think": False,
    "rollout.max_turns": 1,
    "rollout.max_tokens": 64,
    "rollout.max_context": 1024,
}


def experiment(**warm):
    settings = {"steps": 4, "batch": 3, "demonstrations": 8, "lr": 1e-3, "tested": 2, **warm}
    return uncollapse.compose("tiny-sokoban", {**TINY, "model.warm_start": settings})


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNCOLLAPSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield experiment()


@pytest.fixture(scope="module")
def base(start):
    return prepare_model(start, warmed=False)


@pytest.fixture(scope="module")
def template(start, base):
    return Template(load_tokenizer(base), start.dialogue.component, False)


@pytest.fixture(scope="module")
def shown(start, template):
    return _demonstrations(start, template)


def test_demonstrations_are_the_right_answers_in_the_prompts_of_the_run(shown, template):
    assert len(shown) == 8
    assert all(episode.success for episode in shown)
    turn = shown[0].turns[0]
    assert template.tokenizer.decode(turn.tokens).startswith(turn.response.removeprefix(template.tag)[:20])
    assert turn.tokens[-1] == template.end_of_turn


def losses_by_hand(base, shown, warm):
    """The same steps in plain PyTorch: one row at a time, labels by hand."""
    import random

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=warm.lr, weight_decay=0.0)
    rng, queue, losses = random.Random(warm.seed), [], []
    for step in range(warm.steps):
        while len(queue) < warm.batch:
            queue += rng.sample(range(len(shown)), len(shown))
        chosen, queue = queue[: warm.batch], queue[warm.batch :]
        total, count = 0.0, 0
        for index in chosen:
            turn = shown[index].turns[-1]
            ids = torch.tensor([[*turn.prompt, *turn.tokens]])
            logits = model(ids).logits[0, len(turn.prompt) - 1 : -1]
            total = total + cross_entropy(logits, torch.tensor(turn.tokens), reduction="sum")
            count += len(turn.tokens)
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = warm.lr * min(1.0, step + 1) * (1 - 0.9 * step / warm.steps)
        optimizer.step()
        losses.append((total / count).item())
    return losses


@pytest.mark.parametrize(("token_budget", "micro_batch"), [(0, 2), (2048, 1)])
def test_the_losses_are_those_of_plain_supervised_steps(start, base, shown, token_budget, micro_batch):
    warm = start.model.warm_start
    trainer = attrs.evolve(start.trainer, token_budget=token_budget, micro_batch=micro_batch)
    policy = load_policy(attrs.evolve(start.model, dtype="float32"), base, 1.0)
    losses = learn(policy, shown, warm, start.rollout, trainer)
    assert losses == pytest.approx(losses_by_hand(base, shown, warm), rel=2e-4)
    assert losses[-1] < losses[0]


def test_it_happens_once_and_again_for_other_settings(start, base, monkeypatch):
    first = prepare_model(start)
    record = json.loads((first / "warm_start.json").read_text())
    assert len(record["losses"]) == 4
    assert {"valid", "success", "episodes"} <= set(record)
    assert first != base
    monkeypatch.setattr("uncollapse.plugins.training.warm_start.warm.warm", None)
    assert prepare_model(start) == first
    with pytest.raises(TypeError):
        prepare_model(experiment(seed=1))


def test_it_happens_again_when_the_rows_of_the_data_set_have_changed(start, base, tmp_path):
    file = tmp_path / "rows.jsonl"

    def warmed(answer):
        file.write_text(json.dumps({"question": "2 + 2?", "answer": answer}) + "\n")
        asked = {"environment": {"name": "dataset", "path": str(file)}, "validation.environment": {"split": "train"}}
        settings = {**TINY, **asked, "model.warm_start": {"steps": 1, "tested": 0, "demonstrations": 2}}
        return prepare_model(uncollapse.compose("tiny-sokoban", settings))

    assert warmed("4") != warmed("22")


def test_an_adapter_of_the_warm_start_is_merged(start, base, shown):
    lora = uncollapse.compose(
        "tiny-sokoban",
        {**TINY, "model.lora": {"rank": 2, "alpha": 4}, "model.warm_start": {"steps": 2, "tested": 0, "lr": 0.01}},
    )
    warmed = AutoModelForCausalLM.from_pretrained(prepare_model(lora)).state_dict()
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert set(warmed) == set(before)
    moved = {name for name in before if not torch.equal(before[name], warmed[name].to(before[name].dtype))}
    assert "model.layers.0.self_attn.q_proj.weight" in moved
    assert "model.embed_tokens.weight" not in moved
    change = warmed["model.layers.0.mlp.up_proj.weight"] - before["model.layers.0.mlp.up_proj.weight"]
    assert torch.linalg.matrix_rank(change.float(), rtol=1e-3) == 2


def test_an_aim_that_is_missed_stops_each_run_or_is_told_to_each(start, capsys, monkeypatch):
    with pytest.raises(RequestError, match="missed its aim"):
        prepare_model(experiment(min_valid=1.0, if_missed="stop", steps=1))
    monkeypatch.setattr("uncollapse.plugins.training.warm_start.warm.warm", None)  # the model is there
    for _ in range(2):
        _warn.cache_clear()  # as in another process
        prepare_model(experiment(min_valid=1.0, steps=1))
        assert "warning: the warm start missed its aim" in capsys.readouterr().err
    with pytest.raises(RequestError, match="missed its aim"):
        prepare_model(experiment(min_valid=0.99, if_missed="stop", steps=1))


def test_a_demonstration_that_the_run_would_cut_is_refused():
    settings = {**TINY, "rollout.max_tokens": 2, "model.warm_start": {"steps": 1}}
    with pytest.raises(RequestError, match=r"a demonstrated response has \d+ tokens, and the run cuts .* after 2"):
        prepare_model(uncollapse.compose("tiny-sokoban", settings))


def test_an_environment_that_nobody_demonstrates_is_refused():
    with pytest.raises(RequestError, match="nobody demonstrates the environment bandit"):
        uncollapse.compose("tiny-sokoban", {"environment": "bandit", "model.warm_start": {}})


def chats(tmp_path, *lines):
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(file)


def said(*texts, system=None):
    roles = ["user", "assistant"] * len(texts)
    first = [{"role": "system", "content": system}] if system else []
    return {"messages": first + [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}


def test_every_answer_of_a_chat_is_learnt_after_all_that_was_said_before(tmp_path, template):
    file = chats(tmp_path, said("2 + 2?", "4", "and 1 more?", "5", system="Be brief."), "", said("1 + 1?", "2"))
    first, second, third = read_chats(file, template, 1024, 512)
    written = [template.tokenizer.decode(turn.prompt) for turn in (first.turns[0], second.turns[0], third.turns[0])]
    assert "Be brief." in written[0] and "4" not in written[0]
    assert written[1].index("2 + 2?") < written[1].index("4") < written[1].index("and 1 more?")
    assert "Be brief." not in written[2]
    assert template.tokenizer.decode(second.turns[0].tokens[:-1]) == "5"
    assert second.turns[0].tokens[-1] == template.end_of_turn


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["{"], "that is no chat"),
        (["[]"], "that is no chat"),
        ([{"messages": [{"role": "user"}]}], "that is no chat"),
        ([said("only asked")], r"must alternate"),
        ([{"messages": [{"role": "tool", "content": "1"}]}], "roles are"),
        ([{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "2"}]}], "contents are texts"),
        ([said("2 + 2?", "4" * 3000)], "is short enough: rollout.max_tokens is 512 and, with .*max_context is 1024"),
        ([said("2 + 2?", "4" * 600)], "is short enough"),
        ([said("2" * 3000, "4")], "is short enough"),
        ([said("2 + 2?", "4<|im_end|>5")], r"says '<\|im_end\|>', which ends an answer"),
        ([said("2 + 2?", " ")], "an answer is empty"),
        ([said("2 + 2?", "4\ud800")], "is no text: surrogates not allowed"),
        (["[" * 100_000], "that is no chat: RecursionError"),
        ([{"messages": []}], "not none at all"),
        ([{"messages": [{"role": "user", "content": "?", "tool_calls": [1]}]}], "tool_calls are not learnt"),
        ([""], "holds no chats"),
    ],
)
def test_files_without_chats_are_refused_with_their_line(tmp_path, template, lines, what):
    with pytest.raises(RequestError, match=what):
        read_chats(chats(tmp_path, *lines), template, 1024, 512)


def test_answers_that_the_run_would_cut_are_left_out_and_counted(tmp_path, template, capsys):
    file = chats(tmp_path, said("1 + 1?", "2", "count", "1 " * 600), said("2 + 2?", "4"))
    assert [episode.turns[0].response for episode in read_chats(file, template, 1024, 512)] == ["2", "4"]
    assert "warning: 1 of 3 answers" in capsys.readouterr().err


def test_a_file_that_never_ends_is_not_read(start):
    with pytest.raises(RequestError, match="a device is in its place"):
        prepare_model(experiment(file="/dev/zero"))


def test_a_file_that_is_not_there_is_refused_before_anything_is_trained(start):
    with pytest.raises(RequestError, match=r"none\.jsonl"):
        prepare_model(experiment(file="none.jsonl"))


def test_off_and_demonstrations_are_words_for_whole_settings():
    warmed = uncollapse.compose("tiny-sokoban", {**TINY, "model.warm_start": "demonstrations"})
    assert warmed.model.warm_start == WarmStart()
    assert uncollapse.compose("smol-arithmetic", ["model.warm_start=off"]).model.warm_start is None


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"min_valid": 0.9, "tested": 0}, "min_valid = 0.9: is never compared"),
        ({"noise": 0.1, "file": "chats.jsonl"}, "noise = 0.1: is the share of mistakes of a demonstrator"),
    ],
)
def test_settings_that_nothing_reads_are_refused(settings, what):
    with pytest.raises(RequestError, match=what):
        experiment(**settings)


def test_the_settings_have_the_defaults_of_the_guide():
    assert WarmStart() == WarmStart(None, 480, 0.0, 60, 8, 5e-5, 64, 0.0, "go_on", 0)
