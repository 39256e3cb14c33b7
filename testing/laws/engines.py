"""The laws of rollout engines are tried on a tiny random model, which is made here."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...core.components import Sampling
from ...core.compose.blame import confined
from ...core.compose.named import Named
from ...plugins.rollout.engine_borders import CheckedEngine
from ..problems import laws, require

PROMPTS = ((5, 6, 7), (8, 9, 10, 11, 12), (5, 6, 7), (20,))
SAMPLING = Sampling(temperature=1.0, max_tokens=6)


@functools.cache
def tiny_model() -> tuple[Any, Any]:
    """Make a random Qwen2 of 20,000 parameters and a word-level tokenizer with a chat template."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from ...plugins.experiments.tokenizer import build_tokenizer

    tokenizer = build_tokenizer([" ".join(f"w{number}" for number in range(60))])
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen2ForCausalLM(config).eval(), tokenizer


@contextmanager
def _serving(named: Named) -> Iterator[CheckedEngine]:
    """Start the engine with the tiny model, and close it at the end."""
    model, tokenizer = tiny_model()
    named.component.require(1)
    with confined(named, "start"):
        session = named.component.start(model, tokenizer, max_context=64)
    engine = CheckedEngine(named, session)
    try:
        yield engine
    finally:
        engine.close()


def _completes(named: Named) -> None:
    """An engine gives each prompt one completion of plausible tokens and log-probs."""
    with _serving(named) as engine:
        engine.generate(PROMPTS, SAMPLING, 0)


def _repeats_itself(named: Named) -> None:
    """An engine gives the same completions for the same seed and prompts."""
    with _serving(named) as engine:
        first = [completion.tokens for completion in engine.generate(PROMPTS, SAMPLING, 3)]
        second = [completion.tokens for completion in engine.generate(PROMPTS, SAMPLING, 3)]
        require(named, "generate", first == second, "gave other completions for the same seed and prompts")


def _tells_the_models_log_probs(named: Named) -> None:
    """An engine reports the log-probs of the model at the sampling temperature."""
    model, _ = tiny_model()
    with _serving(named) as engine:
        sampling = Sampling(temperature=0.7, max_tokens=6)
        for prompt, completion in zip(PROMPTS, engine.generate(PROMPTS, sampling, 1), strict=True):
            tokens_1_T = torch.tensor([[*prompt, *completion.tokens]])
            with torch.no_grad():
                logits_N_V = model(tokens_1_T).logits[0, len(prompt) - 1 : -1].float() / 0.7
            expected_N = logits_N_V.log_softmax(-1).gather(1, tokens_1_T[0, len(prompt) :, None])[:, 0]
            error = float((expected_N - torch.tensor(completion.logprobs)).abs().max())
            what = f"gave log-probs that are off the model's by up to {error:.2g} nats at temperature 0.7"
            # engines compute with other kernels than this model, so digits differ
            require(named, "generate", error < 1e-2, what)


LAWS = {"rollout_engine": laws(_completes, _repeats_itself, _tells_the_models_log_probs)}
