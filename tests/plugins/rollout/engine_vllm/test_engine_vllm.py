"""One engine process at a time, held against the trainer's own model."""

import os
import time

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from rollout_worlds import CHATML, Counter, Parrot, foreign_borders, tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM
from uncollapse.core.components import Sampling
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.errors import RequestError, RunError
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.engine_hf import HfEngine
from uncollapse.plugins.rollout.engine_vllm.engine import VllmEngine
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.training.assemble import Untrained
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.weights.engine_weights import EngineWeights

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm")
WORDS = tokenizer(CHATML)
PROMPTS = [[1, 2, 3], [40, 50, 60, 70, 80], [1, 2, 3, 4], [9] * 40]


def model(seed=0):
    """Heads of 32: vLLM's CPU kernels know nothing smaller."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.1,
        eos_token_id=WORDS.eos_token_id,
    )
    return Qwen2ForCausalLM(config).eval()


def children():
    return [child for child in psutil.Process().children(recursive=True) if "resource_tracker" not in _line(child)]


def _line(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def sync(session, network):
    EngineWeights(session, Untrained(Policy(network, 1.0)), own_weights=True).fresh()


def teacher_forced(network, prompt, completion, temperature):
    """The trainer's own log-probs of what was sampled."""
    ids = torch.tensor([[*prompt, *completion.tokens]])
    with torch.no_grad():
        logprobs = (network(ids).logits.double() / temperature).log_softmax(-1)[0]
    return [float(logprobs[len(prompt) + at - 1, token]) for at, token in enumerate(completion.tokens)]


@pytest.fixture(scope="module")
def network():
    return model()


@pytest.fixture(scope="module")
def session(network):
    session = VllmEngine().start(network, WORDS, max_context=1024)
    sync(session, network)
    yield session
    session.close()


def test_greedy_tokens_are_those_of_the_trainers_model_and_so_are_their_logprobs(session, network):
    ours = HfEngine().start(network, WORDS).generate(PROMPTS, Sampling(0.0, 24), 0)
    theirs = session.generate(PROMPTS, Sampling(0.0, 24), 0)
    for own, other in zip(ours, theirs, strict=True):
        assert other.tokens == own.tokens
        assert other.stop_reason == own.stop_reason
        assert other.logprobs == pytest.approx(own.logprobs, abs=1e-3)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_logprobs_are_those_at_the_sampling_temperature(session, network, temperature):
    for prompt, completion in zip(PROMPTS, session.generate(PROMPTS, Sampling(temperature, 16), 3), strict=True):
        assert completion.logprobs == pytest.approx(teacher_forced(network, prompt, completion, temperature), abs=1e-3)


def test_a_request_with_its_seed_is_the_same_whoever_runs_beside_it(session):
    sampling = Sampling(1.0, 16)
    session.submit(7, PROMPTS[0], sampling, seed=11)
    ((_, alone),) = session.finished()
    for key, prompt in enumerate(PROMPTS * 3):
        session.submit(key, prompt, sampling, seed=11 if key == 4 else 100 + key)
    together = {}
    while len(together) < 12:
        together |= dict(session.finished())
    assert together[4] == alone
    assert len({completion.tokens for key, completion in together.items() if PROMPTS[key % 4] == PROMPTS[0]}) == 3


def test_a_stop_string_ends_a_response_as_it_does_with_hf(session, network):
    sampling = Sampling(0.0, 24)
    whole = session.generate(PROMPTS[:1], sampling, 0)[0]
    stop = WORDS.decode(list(whole.tokens[4:6]))
    stopping = Sampling(0.0, 24, stop=(stop,))
    ours = HfEngine().start(network, WORDS).generate(PROMPTS[:1], stopping, 0)[0]
    theirs = session.generate(PROMPTS[:1], stopping, 0)[0]
    assert (theirs.tokens, theirs.stop_reason) == (ours.tokens, "stop")
    assert len(theirs.logprobs) == len(theirs.tokens) < len(whole.tokens)
    assert session.generate(PROMPTS[:1], sampling, 0)[0] == whole  # what was cut off is not in the way


def test_conversations_play_at_their_own_pace_and_train_on_what_was_sampled(session, network):
    rollout = Rollout(max_turns=3, max_tokens=8, max_context=1024)
    template = Template(WORDS, ThinkAnswer())
    play = {"seed": 5, "temperature": 1.0, "group_size": 2}
    episodes = collect(Counter(), rollout, session, template, seeds=[3, 4], **play)
    again = collect(Counter(), rollout, session, template, seeds=[4], **play)
    assert [(e.seed, e.member) for e in episodes] == [(3, 0), (3, 1), (4, 0), (4, 1)]
    assert [e.turns for e in again] == [e.turns for e in episodes[2:]]  # nobody's noise depends on the others
    assert max(len(episode.turns) for episode in episodes) == 3
    for turn in (turn for episode in episodes for turn in episode.turns):
        own = teacher_forced(network, turn.prompt, turn, 1.0)
        assert turn.logprobs == pytest.approx(own, abs=1e-3)


def test_no_text_of_an_environment_becomes_a_control_token(session, monkeypatch):
    seen, add_request = [], session.llm.add_request
    monkeypatch.setattr(
        session.llm,
        "add_request",
        lambda name, prompt, *rest, **how: seen.append(prompt) or add_request(name, prompt, *rest, **how),
    )
    rollout = Rollout(max_turns=2, max_tokens=8, max_context=1024)
    (episode,) = collect(Parrot(), rollout, session, Template(WORDS, ThinkAnswer()), seeds=[0], group_size=1, seed=0)
    assert foreign_borders(WORDS, episode) == [(0, 0)] * 2
    assert seen == [{"prompt_token_ids": list(turn.prompt)} for turn in episode.turns]


def test_new_weights_are_taken_over_and_the_old_cache_is_forgotten(session, network):
    before = session.generate(PROMPTS, Sampling(0.0, 8), 0)
    other = model(seed=1)
    sync(session, other)
    ours = HfEngine().start(other, WORDS).generate(PROMPTS, Sampling(0.0, 8), 0)
    theirs = session.generate(PROMPTS, Sampling(0.0, 8), 0)
    assert [c.tokens for c in theirs] == [c.tokens for c in ours] != [c.tokens for c in before]
    sync(session, network)
    assert session.generate(PROMPTS, Sampling(0.0, 8), 0) == before


def test_an_engine_that_holds_other_weights_than_it_was_sent_is_found_out(session, network):
    sent = {"model.norm.weight": (3.0, 1.0)}
    with pytest.raises(RunError, match=r"another model\.norm\.weight than it was sent"):
        session._compare(sent, {"model.norm.weight": (3.0, 1.1)})
    with pytest.raises(RunError, match="nothing that could be compared"):
        session._compare(sent, {})
    held = session.rpc("uncollapse_fingerprint", {"model.norm.weight": [128], "model.embed_tokens.weight": [999, 128]})
    assert list(held[0]) == ["model.norm.weight"]
    assert held[0]["model.norm.weight"][0] == pytest.approx(float(network.model.norm.weight.double().sum()))


@pytest.mark.parametrize("lora", ["adapter", "merged"])
def test_an_adapter_is_sent_alone_or_merged(lora, tmp_path):
    model().save_pretrained(tmp_path)
    base = Qwen2ForCausalLM.from_pretrained(tmp_path).eval()
    network = get_peft_model(base, LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM"))
    session = VllmEngine(lora=lora).start(network, WORDS, max_context=256)
    try:
        for seed in (1, 2):
            torch.manual_seed(seed)
            for name, parameter in network.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(parameter, std=0.2)
            sync(session, network)
            for prompt, completion in zip(PROMPTS, session.generate(PROMPTS, Sampling(1.0, 12), seed), strict=True):
                own = teacher_forced(network, prompt, completion, 1.0)
                assert completion.logprobs == pytest.approx(own, abs=1e-3)
                with network.disable_adapter():
                    assert completion.logprobs != pytest.approx(
                        teacher_forced(network, prompt, completion, 1.0), abs=0.05
                    )
    finally:
        session.close()


def test_a_closed_engine_leaves_no_process(network):
    before = children()
    session = VllmEngine().start(network, WORDS, max_context=256)
    assert len(children()) > len(before)
    started = time.monotonic()
    session.close()
    session.close()
    assert time.monotonic() - started < 60  # it waited for more than two minutes when it was not told to end
    assert children() == before


def test_an_engine_that_dies_is_one_error(network):
    session = VllmEngine().start(network, WORDS, max_context=256)
    sync(session, network)
    session.submit(0, PROMPTS[0], Sampling(1.0, 200), 0)
    for child in children():
        child.kill()
    with pytest.raises(RunError, match="process has died") as caught:
        session.finished()
    assert "--resume" in str(caught.value)
    session.close()


def test_what_vllm_refuses_to_start_with_is_one_error(network):
    with pytest.raises(RequestError, match="serves no rows of 5000 tokens with a model that has 1024 positions"):
        VllmEngine().start(network, WORDS, max_context=5000)
    with pytest.raises(RequestError, match="does not divide the model's 4 attention heads") as caught:
        VllmEngine(tensor_parallel=3).start(network, WORDS)
    assert "1, 2, 4" in str(caught.value)
    if not torch.cuda.is_available():
        small = Qwen2Config(**{**network.config.to_dict(), "num_attention_heads": 8, "num_key_value_heads": 8})
        assert small.hidden_size // 8 == 16
        with pytest.raises(RequestError, match="no attention for heads of 16"):
            VllmEngine().start(Qwen2ForCausalLM(small), WORDS)
    network_of_no_name = type("Unheard", (Qwen2ForCausalLM,), {})(network.config)
    with pytest.raises(RequestError, match="does not know the architecture Unheard"):
        VllmEngine().start(network_of_no_name, WORDS)


def test_the_launchers_ranks_and_variables_are_left_alone(network, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_PORT", "12345")
    before = dict(os.environ)
    session = VllmEngine().start(network, WORDS, max_context=256)
    session.close()
    assert {name: os.environ[name] for name in before} == before
