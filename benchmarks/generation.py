"""Tokens a second of the ``hf`` engine are compared with ``model.generate``: same model, prompts and process.

    python benchmarks/generation.py [--rows 128] [--tokens 64] [--rounds 5]

Nothing ends early, so that both sample the same number of tokens. The prompts are ragged and all different, which is
the engine's worst case; ``--groups 8`` makes equal prompts of 8 groups, as in a first turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM
from uncollapse.core.components import Sampling
from uncollapse.plugins.rollout.engine_hf import HfSession

VOCABULARY = 300


class NoTokenizer:
    """Nothing ends a response."""

    eos_token_id = None
    chat_template = None


def small_model() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return Qwen2ForCausalLM(config).eval()


def padded(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--groups", type=int, default=0, help="groups of equal prompts; 0: all prompts differ")
    parser.add_argument("--prompt", type=int, default=120, help="tokens of the longest prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = small_model()
    distinct = options.groups or options.rows
    lengths = torch.randint(options.prompt // 2, options.prompt + 1, (distinct,)).tolist()
    prompts = [torch.randint(0, VOCABULARY, (length,)).tolist() for length in lengths]
    prompts = [prompts[row * distinct // options.rows] for row in range(options.rows)]
    ids, mask = padded(prompts)
    engine = HfSession(model, NoTokenizer(), batch=options.rows)
    config = GenerationConfig(
        do_sample=True, max_new_tokens=options.tokens, min_new_tokens=options.tokens, top_k=0, pad_token_id=0,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip

    def ours() -> None:
        engine.generate(prompts, Sampling(1.0, options.tokens), seed=0)

    def theirs() -> None:
        with torch.inference_mode():
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            logprobs = torch.stack(output.logits, 1).log_softmax(-1)
            logprobs.gather(2, output.sequences[:, ids.shape[1] :, None])

    ours(), theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(options.rounds)]
    sampled = options.rows * options.tokens
    engine_s, peer_s = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"hf engine      {sampled / engine_s:10,.0f} tokens/s")
    print(f"model.generate {sampled / peer_s:10,.0f} tokens/s")
    print(f"ratio          {peer_s / engine_s:10.2f}   (above 1: the engine is faster)")


if __name__ == "__main__":
    main()
