from __future__ import annotations

from itertools import islice

import attrs
import pytest
import torch
import uncollapse
from transformers import AutoModelForCausalLM
from uncollapse.core.components import Completion
from uncollapse.core.compose.experiment import Reward
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.errors import RequestError
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.environments.bandit import Bandit
from uncollapse.plugins.environments.common import seeded, split_of
from uncollapse.plugins.environments.sokoban_demonstrator import think
from uncollapse.plugins.environments.sokoban_rules import parse as board_of
from uncollapse.plugins.experiments.cloned_qwen2 import ClonedQwen2
from uncollapse.plugins.experiments.cloning import clone
from uncollapse.plugins.experiments.tokenizer import build_tokenizer
from uncollapse.plugins.rollout import rows
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.demonstrations import demonstrations, everything_said
from uncollapse.plugins.rollout.dialogue import setting_of
from uncollapse.plugins.rollout.engine_hf import HfEngine
from uncollapse.plugins.rollout.rows import episode_metrics
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.training.networks.models import load_tokenizer


@pytest.fixture(scope="module")
def experiment():
    return uncollapse.compose("tiny-sokoban")


@pytest.fixture(scope="module")
def environment(experiment):
    return experiment.environment.component


@pytest.fixture(scope="module")
def tokenizer(environment, experiment):
    return build_tokenizer(everything_said(environment, experiment.rollout, ThinkAnswer(), seed=0))


@pytest.fixture(scope="module")
def built(tmp_path_factory, environment):
    directory = tmp_path_factory.mktemp("model")
    ClonedQwen2(steps=3, batch=4).build(directory, environment, ThinkAnswer())
    return directory


def test_the_builder_says_what_the_experiment_says(experiment):
    builder = experiment.model.build.component
    names = ("max_turns", "max_actions_per_turn", "max_actions", "max_tokens")
    assert [getattr(builder, name) for name in names] == [getattr(experiment.rollout, name) for name in names]


def test_full_size_sokoban_composes_to_the_published_settings():
    experiment = uncollapse.compose("sokoban")
    assert experiment.model.path == "Qwen/Qwen2.5-3B"
    assert (experiment.rollout.groups, experiment.rollout.group_size) == (8, 16)
    trainer = experiment.trainer
    assert (trainer.steps, trainer.mini_batch, trainer.micro_batch, trainer.score_batch) == (400, 32, 4, 8)
    assert (trainer.lr, experiment.critic.lr, trainer.save_every) == (1e-6, 1e-5, -1)
    assert (experiment.kl.coef, experiment.kl.placement, experiment.entropy.coef) == (0.001, "loss", 0.001)
    assert (experiment.validation.groups, experiment.validation.every) == (512, 10)
    assert experiment.validation.temperature == 0.5


def test_the_model_loads_and_is_small(built):
    model = AutoModelForCausalLM.from_pretrained(built)
    assert model.config.model_type == "qwen2"
    assert model.dtype == torch.float32
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert model.generation_config.eos_token_id == load_tokenizer(built).convert_tokens_to_ids("<|im_end|>")


def test_the_tokenizer_survives_saving(built, tokenizer):
    loaded = load_tokenizer(built)
    text = "<think>box is Up target is Left</think><answer>Up || Left</answer>"
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.unk_token_id not in loaded.encode(text)
    assert Template(loaded, ThinkAnswer()).end_of_turn == loaded.eos_token_id


def test_equal_parameters_give_equal_weights(built, tmp_path, environment):
    torch.manual_seed(123)  # the global generator must not matter
    before = torch.get_rng_state()
    ClonedQwen2(steps=3, batch=4).build(tmp_path / "again", environment, ThinkAnswer())
    assert torch.equal(torch.get_rng_state(), before)
    ClonedQwen2(steps=3, batch=4, seed=1).build(tmp_path / "other", environment, ThinkAnswer())
    first, again, other = (
        AutoModelForCausalLM.from_pretrained(path).state_dict()
        for path in (built, tmp_path / "again", tmp_path / "other")
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("hidden", "layers"), [(64, 2), (128, 3)])
def test_cloning_gives_the_weights_of_plain_pytorch_bit_for_bit(tokenizer, environment, experiment, hidden, layers):
    """The documentation's figures were measured on start models that these lines made."""
    steps, lr = 4, 4e-3
    builder = ClonedQwen2(steps=steps, batch=4, hidden=hidden, layers=layers, noisy_share=0.5)
    template = Template(tokenizer, ThinkAnswer())
    cloned, plain = (builder._model(tokenizer) for _ in range(2))
    losses = clone(cloned, builder._batches(environment, experiment.rollout, template), steps, lr)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=lr, weight_decay=0.0)
    for step, batch in enumerate(builder._batches(environment, experiment.rollout, template)):
        optimizer.param_groups[0]["lr"] = lr * (min(1.0, (step + 1) / 20) * (1 - 0.9 * step / steps))
        predicts = batch.mask[:, 1:]
        hidden = plain.get_decoder()(batch.tokens, use_cache=False).last_hidden_state
        logits = plain.get_output_embeddings()(hidden[:, :-1][predicts])
        loss = torch.nn.functional.cross_entropy(logits, batch.tokens[:, 1:][predicts])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        assert losses[step] == pytest.approx(loss.item(), rel=1e-6)
    expected = plain.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in cloned.state_dict().items())


def test_a_model_that_is_not_cloned_is_the_random_one(tmp_path, environment, tokenizer):
    ClonedQwen2(steps=0).build(tmp_path, environment, ThinkAnswer())
    built = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    random = ClonedQwen2()._model(tokenizer).state_dict()
    assert all(torch.equal(tensor, random[name]) for name, tensor in built.items())


def test_an_environment_that_nobody_demonstrates_is_not_cloned(tmp_path):
    with pytest.raises(RequestError, match=r"(?s)nobody demonstrates the environment Bandit.*tiny_qwen2"):
        ClonedQwen2(steps=1).build(tmp_path, Bandit(), ThinkAnswer())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cloning_on_a_gpu_needs_one(tmp_path, environment):
    with pytest.raises(RequestError, match=r"(?s)no GPU to clone on.*model\.build\.device"):
        ClonedQwen2(steps=1, device="cuda").build(tmp_path, environment, ThinkAnswer())


def test_the_first_weights_have_the_asked_for_spread(tokenizer):
    weight = ClonedQwen2(hidden=128, initializer=0.03)._model(tokenizer).model.layers[0].mlp.up_proj.weight
    assert float(weight.detach().std()) == pytest.approx(0.03, rel=0.02)


@pytest.mark.parametrize("word", ["<think>", "</think>", "<answer>", "</answer>", "||", "<|im_start|>", "<|im_end|>"])
def test_tags_are_single_tokens(tokenizer, word):
    assert len(tokenizer.encode(word, add_special_tokens=False)) == 1
    assert len(tokenizer.encode(f"Up{word}Up", add_special_tokens=False)) == 3


def test_the_vocabulary_does_not_depend_on_the_order_of_the_texts(environment, experiment):
    texts = list(everything_said(environment, experiment.rollout, ThinkAnswer(), seed=0))
    assert build_tokenizer(texts).get_vocab() == build_tokenizer(reversed(texts)).get_vocab()


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("window", ["full", "single_turn"])
def test_no_prompt_holds_an_unknown_word(tokenizer, environment, experiment, split, window):
    """Random answers, valid and not, in rooms that the vocabulary was not read from."""
    environment = attrs.evolve(environment, split=split)
    rollout = attrs.evolve(experiment.rollout, context_window=window)
    template = Template(tokenizer, ThinkAnswer())
    for seed in range(5_000, 5_100):
        rng = seeded("test", seed)
        conversation = Conversation(environment, rollout, template, seed)
        while conversation.stop is None:
            assert tokenizer.unk_token_id not in conversation.prompt
            answer = " || ".join(rng.choices([*environment.actions, "Sokoban"], k=rng.randint(0, 3)))
            tokens = tuple(
                tokenizer.encode(f"box</think><answer>{answer}</answer><|im_end|>", add_special_tokens=False)
            )
            conversation.advance(Completion(tokens, (0.0,) * len(tokens), "eos"))


def test_decoding_keeps_what_answers_are_read_from(tokenizer, environment, experiment):
    dialogue, setting = ThinkAnswer(), setting_of(environment, experiment.rollout)
    for number in range(100):
        rng = seeded("test", number)
        text = dialogue.respond(*environment.make(number).demonstrate(2, 0.5, rng), setting)
        decoded = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
        assert dialogue.parse(decoded, setting) == dialogue.parse(text, setting)
        assert dialogue.parse(text, setting).valid


def test_the_thought_names_directions():
    board = board_of(["#####", "#P__#", "#__O#", "#X__#", "#####"])
    assert think(board) == "box is Down target is Up Right"


def test_clean_demonstrations_solve_their_rooms(tokenizer, environment, experiment):
    episodes = list(
        islice(
            demonstrations(environment, experiment.rollout, Template(tokenizer, ThinkAnswer()), seed=3, noise=0.0), 60
        )
    )
    assert all(episode.success for episode in episodes)
    assert all(turn.answer.valid and 1 <= turn.answer.parsed <= 2 for episode in episodes for turn in episode.turns)
    assert max(len(turn.tokens) for episode in episodes for turn in episode.turns) <= experiment.rollout.max_tokens
    assert len({turn.response for episode in episodes for turn in episode.turns}) > 20


def test_noisy_demonstrations_stay_readable_and_fail_more(tokenizer, environment, experiment):
    template = Template(tokenizer, ThinkAnswer())
    episodes = list(islice(demonstrations(environment, experiment.rollout, template, seed=3, noise=0.6), 100))
    assert all(turn.answer.valid for episode in episodes for turn in episode.turns)
    assert 0.2 < episode_metrics(episodes)["success"] < 0.9


def test_demonstrations_are_of_the_split(environment, tokenizer, experiment, monkeypatch):
    starts = []
    first = Conversation.__init__

    def spy(self, *args, **kwargs):
        first(self, *args, **kwargs)
        starts.append(self.env.key)

    monkeypatch.setattr(Conversation, "__init__", spy)
    list(
        islice(
            demonstrations(environment, experiment.rollout, Template(tokenizer, ThinkAnswer()), seed=0, noise=0.0), 60
        )
    )
    assert len(starts) == 60
    assert {split_of(key) for key in starts} == {"train"}


def test_only_what_a_policy_samples_is_learnt(tokenizer, environment, experiment):
    template = Template(tokenizer, ThinkAnswer())
    episodes = list(islice(demonstrations(environment, experiment.rollout, template, seed=0, noise=0.3), 8))
    batch = rows.build(episodes, experiment.rollout, Reward())
    episodes = rows.in_order(episodes)
    think_id, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<think>", "<|im_end|>"))
    for row, episode in enumerate(episodes):
        learnt = batch.tokens[row][batch.mask[row]].tolist()
        assert learnt == [token for turn in episode.turns for token in turn.tokens]
        assert think_id not in learnt  # the forced tag is prompt
        assert learnt.count(end) == len(episode.turns)  # the end of the turn is learnt
        starts = (batch.mask[row, 1:] & ~batch.mask[row, :-1]).nonzero().flatten()
        assert (batch.tokens[row][starts] == think_id).all()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_warm_start_leaves_something_to_learn(tmp_path, experiment, environment, seed):
    attrs.evolve(experiment.model.build.component, seed=seed).build(tmp_path, environment, ThinkAnswer())
    tokenizer, model = load_tokenizer(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    engine = HfEngine().start(model, tokenizer)
    validation = attrs.evolve(environment, split="validation")
    success = {
        temperature: episode_metrics(
            collect(
                validation,
                experiment.rollout,
                engine,
                Template(tokenizer, ThinkAnswer()),
                seeds=range(123, 123 + 512),
                group_size=1,
                seed=1,
                temperature=temperature,
            )
        )["success"]
        for temperature in (1.0, 0.0)
    }
    assert 0.2 <= success[1.0] <= 0.6
    assert success[0.0] >= success[1.0] + 0.1


def test_a_model_that_is_cloned_from_a_solver_is_refused_without_one():
    with pytest.raises(
        CompositionError, match=r"clones a demonstrator, and the environment bandit has none: .*tiny_qwen2"
    ):
        uncollapse.compose("tiny-sokoban", ("environment=bandit", "validation.environment=null"))
