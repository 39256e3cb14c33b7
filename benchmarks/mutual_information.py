"""N reasonings are scored after N prompts, on shared prefixes and as N x N full sequences, by one model in one process.

    python benchmarks/mutual_information.py [--samples 64] [--prompt 400] [--reasoning 40]

Both go through the policy that trains: fp32, no gradients, no entropies, only the reasonings' positions reach the head.
The model has the proportions of a large one (the MLP is 5.4 times as wide as the hidden state, the head a tenth of the
work). Full sequences are scored with as many rows per pass as is fastest for them. Two sets of prompts: all different
from the first token on, and turns of conversations that continue each other. Seconds are those of the processor, on one
thread, so that others on the machine count little. Ends with 1 if the first set is less than 5 times faster, or if a
log-prob differs by more than 1e-4 nats.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from uncollapse.core.components import Scores
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.processes.ranks import Ranks
from uncollapse.plugins.training.step.batch import Batch
from uncollapse.plugins.training.step.pairwise import Scorer

VOCABULARY = 500
ROWS = (2, 4, 8, 16, 64)
"""Full sequences per pass, to choose from."""
Tokens = list[list[int]]


class Engine:
    """The policy, as a backend would call it; counts the tokens that it reads."""

    def __init__(self, policy: Policy) -> None:
        self.module, self.tokens = policy.eval(), 0

    @torch.no_grad()
    def score(self, batch: Batch, **options: object) -> Scores:
        self.tokens += batch.tokens.numel()
        return Scores(**self.module(batch, **options))


def small_model(max_length: int) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=688,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_length,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config)


def full_sequences(engine: Engine, prompts: Tokens, reasonings: Tokens, rows: int) -> Tensor:
    """[prompts, reasonings]: every pair a row of its own, sorted by length."""
    pairs = sorted(
        ((p, r) for p in range(len(prompts)) for r in range(len(reasonings))),
        key=lambda pair: len(prompts[pair[0]]) + len(reasonings[pair[1]]),
    )
    logprobs_N_N = torch.zeros(len(prompts), len(reasonings), dtype=torch.float64)
    for start in range(0, len(pairs), rows):
        chosen = pairs[start : start + rows]
        sequences = [prompts[p] + reasonings[r] for p, r in chosen]
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        width = int(lengths.max())
        tokens = torch.tensor([sequence + [0] * (width - len(sequence)) for sequence in sequences])
        positions = torch.arange(width)
        starts = torch.tensor([len(prompts[p]) for p, _ in chosen])
        mask = (positions >= starts[:, None]) & (positions < lengths[:, None])
        logprobs = engine.score(Batch(tokens=tokens, mask=mask, lengths=lengths), entropy="none").logprobs
        assert logprobs is not None
        for (p, r), total in zip(chosen, logprobs.double().sum(1), strict=True):
            logprobs_N_N[p, r] = total
    return logprobs_N_N


def timed(engine: Engine, call: Callable[[], Tensor]) -> tuple[float, int, Tensor]:
    engine.tokens, started = 0, time.process_time()
    result = call()
    return time.process_time() - started, engine.tokens, result


def compare(name: str, engine: Engine, prompts: Tokens, reasonings: Tokens, rows: int) -> tuple[float, float]:
    """Prints and returns how many times faster shared prefixes are, and the largest difference in nats."""
    scorer = Scorer(engine, rows, Ranks(0, 1, torch.device("cpu")))
    ours_s, ours_tokens, ours = timed(engine, lambda: scorer.pairwise(prompts, reasonings))
    theirs_s, theirs_tokens, theirs = timed(engine, lambda: full_sequences(engine, prompts, reasonings, rows))
    difference = float((ours - theirs).abs().max())
    print(f"{name}: {len(prompts)} prompts of {min(map(len, prompts))}-{max(map(len, prompts))} tokens")
    print(f"  full sequences   {theirs_s:8.2f} s  {theirs_tokens:10,d} tokens read")
    print(f"  shared prefixes  {ours_s:8.2f} s  {ours_tokens:10,d} tokens read")
    print(f"  ratio            {theirs_s / ours_s:8.2f}    largest difference {difference:.1e} nats")
    return theirs_s / ours_s, difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64, help="prompts, and reasonings")
    parser.add_argument("--prompt", type=int, default=400, help="tokens of a prompt")
    parser.add_argument("--reasoning", type=int, default=40, help="tokens of a reasoning")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    engine = Engine(Policy(small_model(2 * options.prompt + options.reasoning), 1.0))

    def draw(length: int) -> list[int]:
        return torch.randint(0, VOCABULARY, (length,)).tolist()

    def trial(rows: int) -> float:
        return timed(engine, lambda: full_sequences(engine, different[:8], reasonings[:16], rows))[0]

    different = [draw(options.prompt) for _ in range(options.samples)]
    reasonings = [draw(options.reasoning) for _ in range(options.samples)]
    conversations: Tokens = []
    system = draw(options.prompt // 4)
    while len(conversations) < options.samples:  # four turns each, 400 tokens on average
        prompt = system
        for _ in range(4):
            prompt = prompt + draw(options.prompt * 3 // 10)
            conversations.append(prompt)
    trial(ROWS[0])
    rows = min(ROWS, key=trial)
    print(f"{options.samples} reasonings of {options.reasoning} tokens; full sequences in passes of {rows} rows")
    ratio, first = compare("different prompts", engine, different, reasonings, rows)
    turns = conversations[: options.samples]
    _, second = compare("turns of conversations", engine, turns, reasonings, rows)
    sys.exit(ratio < 5 or max(first, second) > 1e-4)


if __name__ == "__main__":
    main()
