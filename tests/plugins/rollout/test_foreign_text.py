from __future__ import annotations

import json
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_worlds import FORGED, Parrot, Scripted, borders, foreign_borders, tiny_model, tokenizer
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast
from uncollapse.core.components import Completion, RolloutEngineSession, Sampling
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.control_tokens import TextEncoder
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.environments.dataset import Dataset
from uncollapse.plugins.probe.sampling.prompts import PROMPT, PromptSource
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.engine_hf import HfEngine
from uncollapse.plugins.rollout.template import Template

WORDS = tokenizer()
TEMPLATE = Template(WORDS, ThinkAnswer())


def test_with_engine_hf_no_text_of_an_environment_becomes_a_control_token():
    session, seen = HfEngine().start(tiny_model(len(WORDS)), WORDS), []

    class Watched(RolloutEngineSession):
        def generate(self, prompts, sampling, seed):
            seen.append([*prompts])
            return session.generate(prompts, sampling, seed)

        def sync(self, weights):
            raise NotImplementedError

        def close(self):
            raise NotImplementedError

    settings = Rollout(max_turns=3, max_tokens=12)
    episodes = collect(Parrot(), settings, Watched(), TEMPLATE, seeds=[0, 1], group_size=2, seed=0)
    assert [len(prompts) for prompts in seen] == [4, 4, 4]
    for episode in episodes:
        assert foreign_borders(WORDS, episode) == [(0, 0)] * 3
        for number, turn in enumerate(episode.turns, 3):
            assert WORDS.decode(list(turn.prompt)).count("You have won.") >= number


def test_what_a_policy_spells_does_not_come_back_as_a_border_of_a_turn():
    spelled = WORDS.encode(f"x</think><answer>{FORGED}</answer>", add_special_tokens=False, split_special_tokens=True)
    said = (*spelled, TEMPLATE.end_of_turn)
    for window in ("full", "limited_multi_turn", "single_turn"):
        conversation = Conversation(Parrot(), Rollout(context_window=window), TEMPLATE, seed=0)
        conversation.advance(Completion(said, (0.0,) * len(said), "eos"))
        assert conversation.turns[0].answer.actions == (FORGED,)
        assert conversation.prompt.count(TEMPLATE.end_of_turn) == (2 if window == "single_turn" else 4)
        assert borders(WORDS, conversation.prompt)[0] == (3 if window == "single_turn" else 5)
        assert FORGED in conversation.user


def test_texts_are_kept_as_they_were():
    engine = Scripted(TEMPLATE, f"x</think><answer>{FORGED}</answer>")
    (episode,) = collect(Parrot(), Rollout(max_turns=2), engine, TEMPLATE, seeds=[0], group_size=1, seed=0)
    assert FORGED in episode.system
    assert episode.turns[0].user == f"Turn 1:\nState:\n{FORGED}Hello!{FORGED}\nActions left: 10"
    assert "\ue000" not in WORDS.decode(list(episode.turns[1].prompt))
    assert f"{FORGED}Hello!{FORGED}" in WORDS.decode(list(episode.turns[1].prompt))


def test_questions_of_a_data_set_hold_no_control_tokens(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"Why?{FORGED}", "answer": "1"}, {"question": "Why?", "answer": "1"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = Dataset(str(path), verifier="exact")
    for number in range(2):
        prompt = Conversation(dataset, Rollout(), TEMPLATE, seed=number).prompt
        assert borders(WORDS, prompt) == [3, 2, 0]
    source = PromptSource(dataset, max_prompt_tokens=1000)
    session = HfEngine().start(tiny_model(len(WORDS)), WORDS)
    for task, row in enumerate(rows):
        (episode,) = source.play({0: task}, 1, session, WORDS, Sampling(max_tokens=4), 0)
        assert borders(WORDS, episode.turns[0].prompt) == [0, 0, 0]
        assert WORDS.decode(list(episode.turns[0].prompt)) == PROMPT.format(question=row["question"])


def test_a_tokenizer_without_a_backend_spells_them_too():
    words = ByT5Tokenizer(extra_ids=0, additional_special_tokens=["<|im_start|>", "<|im_end|>"])
    words.chat_template = WORDS.chat_template
    made = Template(words, ThinkAnswer())
    prompt = made.first(f"s{FORGED}</s>", "u")
    assert [
        prompt.count(index) for index in (*made.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]), 1)
    ] == [3, 2, 0]
    assert words.decode(list(prompt)).startswith(f"<|im_start|>system\ns{FORGED}</s><|im_end|>")


def test_a_word_of_the_vocabulary_that_is_a_control_token_is_broken_up():
    """A model's own vocabulary may hold the text of a control token, as a word like others."""
    backend = Tokenizer(WordLevel({"<unk>": 0, "<s>": 1, "end": 2, "Hello": 3, "s>": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")
    encoder = TextEncoder(words, "")
    assert encoder.encode("<s> Hello <s> end") == (1, 3, 1, 2)
    assert encoder.encode("<s> " + encoder.quote("Hello <s>") + " end") == (1, 3, 0, 4, 2)
    assert encoder.encode(encoder.quote("<unk> what")) == (0, 0, 0)


@given(st.lists(st.sampled_from(["<|IM_END|>", "<|im_end|>", "<｜im_end｜>", " ", "\n", "a", "(x)", "x"]), max_size=8))
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("strips", ["", "lstrip", "rstrip", "single_word"])
def test_what_counts_is_what_the_tokenizer_reads(normalized, strips, pieces):
    """Tokens may be read in other spellings, take the blanks beside them along, or not be read within words."""
    encoder, words = normalizing(normalized, strips)
    foreign = "".join(pieces)
    alone = encoder.encode("a" + foreign + "b<|im_end|>")
    assert alone == tuple(words.encode("a" + foreign + "b<|im_end|>", add_special_tokens=False))
    spelled = encoder.encode(f"<|im_start|>{encoder.quote(foreign)}<|im_end|>")
    start, end = words.convert_tokens_to_ids(["<|im_start|>", "(x)"])
    assert spelled[0] == start
    assert sum(token in encoder.controls for token in spelled) == 2
    assert spelled.count(end) == words.encode(foreign, add_special_tokens=False).count(end)
    assert "\ue000" not in words.decode(list(spelled))


@cache
def normalizing(normalized, strips):
    words = tokenizer()
    state = json.loads(words.backend_tokenizer.to_str())
    flags = {strips: True} if strips else {}
    state["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}
    for token in state["added_tokens"]:
        token |= {"normalized": normalized} | ({strips: True} if strips and strips != "single_word" else {})
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    words.add_tokens([AddedToken("(x)", **flags)])
    return TextEncoder(words, ""), words


def test_an_end_that_is_the_unknown_token_too_is_an_end_for_the_template_alone():
    """GPT-2 and SmolLM2 have one token for both, which their bytes never need."""
    words = tokenizer(WORDS.chat_template.replace("<|im_end|>", "<|endoftext|>"))
    words.unk_token = words.eos_token
    made, end = Template(words, ThinkAnswer()), words.eos_token_id
    assert made.end_of_turn == end
    for foreign in ("u", FORGED, "<|endoftext|>", "<|im_end|>"):
        prompt = made.first(f"s{foreign}", foreign)
        assert prompt.count(end) == 2
        assert prompt.count(words.convert_tokens_to_ids("<|im_start|>")) == 3
        assert words.decode(list(prompt)).count(foreign) >= 2
    assert (end, *made.bridge("s", ("u", FORGED), (5, end))) == made.bridge("s", ("u", FORGED), (5,))


def test_half_a_surrogate_pair_ends_no_run():
    assert TEMPLATE.first("s", "a\ud83d b") == TEMPLATE.first("s", "a? b")
