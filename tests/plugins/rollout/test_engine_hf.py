from __future__ import annotations

import pytest
import torch
from rollout_worlds import tiny_model, tokenizer
from uncollapse.core.components import Sampling
from uncollapse.core.errors import RunError
from uncollapse.plugins.rollout.engine_hf import HfEngine

TOKENIZER = tokenizer()
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [20, 21, 22], [5, 6, 7, 8, 9, 10, 11], [40, 41, 42, 43]]


def session(model=None, batch: int = 128):
    return HfEngine(batch=batch).start(model or tiny_model(len(TOKENIZER)), TOKENIZER)


def teacher_forced(model, prompt, completion, temperature):
    """[T] log-probs of the completion's tokens by one pass over the unpadded sequence."""
    ids = torch.tensor([[*prompt, *completion.tokens]])
    with torch.no_grad():
        logprobs = (model.eval()(input_ids=ids).logits[0].double() / temperature).log_softmax(-1)
    tokens = torch.tensor(completion.tokens)
    return logprobs[len(prompt) - 1 : -1].gather(1, tokens[:, None])[:, 0]


@pytest.mark.parametrize(("temperature", "at"), [(1.0, 1.0), (0.5, 0.5), (1.7, 1.7), (0.0, 1.0)])
@pytest.mark.parametrize("batch", [128, 2])
def test_logprobs_are_those_of_a_teacher_forced_pass(temperature, at, batch):
    model = tiny_model(len(TOKENIZER))
    engine = session(model, batch)
    engine.end_ids = list(range(0, len(TOKENIZER), 8))  # rows end at different times, so that the cache is compacted
    completions = engine.generate(PROMPTS, Sampling(temperature, max_tokens=24), seed=3)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        expected = teacher_forced(model, prompt, completion, at)
        torch.testing.assert_close(torch.tensor(completion.logprobs).double(), expected, atol=1e-4, rtol=0)
    if temperature:
        assert len({len(completion.tokens) for completion in completions}) > 1


def test_greedy_takes_the_likeliest_token():
    model = tiny_model(len(TOKENIZER))
    engine = session(model)
    engine.end_ids = []
    for prompt, completion in zip(PROMPTS, engine.generate(PROMPTS, Sampling(0.0, max_tokens=6), seed=0), strict=True):
        ids = torch.tensor([[*prompt, *completion.tokens]])
        with torch.no_grad():
            best = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert completion.tokens == tuple(best.tolist())
        assert completion.stop_reason == "length"


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tokens_follow_the_distribution(temperature):
    model = tiny_model(len(TOKENIZER))
    draws = 4000
    completions = session(model, draws).generate([PROMPTS[0]] * draws, Sampling(temperature, max_tokens=1), seed=1)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].double()
    probs = (logits / temperature).softmax(-1)
    counts = torch.bincount(torch.tensor([completion.tokens[0] for completion in completions]), minlength=len(probs))
    likely = probs * draws >= 5
    rest = 1 - probs[likely].sum()
    observed = torch.cat([counts[likely].double(), (draws - counts[likely].sum()).double()[None]])
    expected = torch.cat([probs[likely], rest[None]]) * draws
    chi2 = ((observed - expected) ** 2 / expected).sum()
    freedom = len(observed) - 1
    assert abs(chi2 - freedom) < 5 * (2 * freedom) ** 0.5


def test_the_same_seed_gives_the_same_completions_whatever_the_batch():
    model = tiny_model(len(TOKENIZER))
    sampling = Sampling(1.0, max_tokens=12)
    tokens = [[c.tokens for c in session(model, batch).generate(PROMPTS, sampling, seed)] for batch, seed in
              [(128, 5), (128, 5), (2, 5), (128, 6)]]  # fmt: skip
    assert tokens[0] == tokens[1] == tokens[2]
    assert tokens[0] != tokens[3]
    assert tokens[0][0] != tokens[0][3]  # equal prompts share the reading of the prompt, not the noise


def test_the_end_token_is_part_of_the_completion_and_nothing_follows():
    engine = session()
    engine.end_ids = list(range(100))
    completions = engine.generate(PROMPTS * 4, Sampling(1.0, max_tokens=8), seed=0)
    assert {completion.stop_reason for completion in completions} == {"eos", "length"}
    for completion in completions:
        ended = [token < 100 for token in completion.tokens]
        assert not any(ended[:-1])
        assert ended[-1] == (completion.stop_reason == "eos")
        assert len(completion.tokens) == len(completion.logprobs) <= 8


def test_stop_strings_are_part_of_the_completion():
    model = tiny_model(len(TOKENIZER))
    engine = session(model)
    engine.end_ids = []
    text = TOKENIZER.decode(engine.generate([PROMPTS[2]], Sampling(0.0, max_tokens=12), seed=0)[0].tokens)
    stop = next(piece for piece in text.replace("\ufffd", " ").split() if piece.isascii())
    (completion,) = engine.generate([PROMPTS[2]], Sampling(0.0, max_tokens=12, stop=(stop,)), seed=0)
    sampled = TOKENIZER.decode(completion.tokens)
    assert completion.stop_reason == "stop"
    assert text.startswith(sampled)
    assert stop in sampled
    assert stop not in TOKENIZER.decode(completion.tokens[:-1])


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_while_sampling_and_the_mode_is_put_back(training):
    model = tiny_model(len(TOKENIZER))
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train(training)
    (completion,) = session(model).generate([PROMPTS[0]], Sampling(1.0, max_tokens=6), seed=0)
    assert model.training is training
    expected = teacher_forced(model, PROMPTS[0], completion, 1.0)
    torch.testing.assert_close(torch.tensor(completion.logprobs).double(), expected, atol=1e-4, rtol=0)


def test_the_model_can_train_afterwards():
    model = tiny_model(len(TOKENIZER)).train()
    session(model).generate(PROMPTS, Sampling(1.0, max_tokens=3), seed=0)
    model(input_ids=torch.tensor([PROMPTS[0]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_sync_copies_by_name():
    source, target = tiny_model(len(TOKENIZER), seed=1), tiny_model(len(TOKENIZER), seed=2)
    engine = session(target)
    engine.sync(source.state_dict().items())
    sampling = Sampling(1.0, max_tokens=8)
    assert engine.generate(PROMPTS, sampling, 0) == session(source).generate(PROMPTS, sampling, 0)
    with pytest.raises(RunError, match=r"no weight model\.other"):
        engine.sync([("model.other", torch.zeros(2))])


def test_a_diverged_model_says_so():
    model = tiny_model(len(TOKENIZER))
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(RunError, match="NaN"):
        session(model).generate(PROMPTS, Sampling(), seed=0)


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="batch"):
        HfEngine(batch=0)
    assert HfEngine.greedy
