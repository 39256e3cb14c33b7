"""Micro-batches of packed rows within a token budget are timed against padded rows, in turns in one process.

    OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive python benchmarks/packing.py [--rows 128] [--micro-batch 8]

Lengths are log-normal, clipped to an eighth of ``--longest`` and to ``--longest``; tokens are random, and the second
half of each row trains. Memory is equal: the budget is what ``micro_batch`` padded rows of the longest kind would take,
and a pass without gradients takes twice that (``score_batch`` is twice ``micro_batch``). ``update`` is one PPO step on
all rows, forward, backward and AdamW (ZeRO 0; 1 in bfloat16); ``score`` computes log-probs and entropies of a random
Qwen2. ``cpu`` is processor time of all threads, which hardly depends on who else is busy. Seconds are medians; the
ratio is the median over pairs of neighbouring turns, which share whatever load there was. Tokens are real ones;
``filled`` is their share of all that the model was given. Where there is a GPU, all this runs on it (choose ``--dtype
bfloat16`` and a model of a size that is worth it), and the peak memory of both sides is printed too.

The second table needs no model: how long the ranks of an optimizer step wait for the slowest of each turn, if a row
costs L (1 + L / K): its linear layers and its attention. K is 12 times the hidden size in a plain transformer. Balanced
by tokens as we do, or by that very cost; rows as long as those of multi-turn agents.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from datetime import date
from importlib.metadata import version
from statistics import mean, median
from typing import Any

import torch
import uncollapse
from transformers import Qwen2Config, Qwen2ForCausalLM
from uncollapse.core.compose.experiment import Experiment
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.training.deepspeed_backend import DeepSpeed
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.networks.packing import enable_packing
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step import stages
from uncollapse.plugins.training.step.batch import Batch, shares
from uncollapse.plugins.training.step.budget import SCORE_FACTOR, by_tokens
from uncollapse.plugins.training.step.losses import PolicyObjective

VOCABULARY = 2000


def lengths(rows: int, middle: float, spread: float, longest: int, seed: int = 0) -> list[int]:
    """Log-normal, tokens."""
    normal = torch.randn(rows, generator=torch.Generator().manual_seed(seed))
    return (torch.tensor(middle).log() + spread * normal).exp().clamp(longest // 8, longest).long().tolist()


def random_rows(of: list[int]) -> Batch:
    """A batch whose old log-probs are those of a uniform policy."""
    generator = torch.Generator().manual_seed(1)
    lengths_B = torch.tensor(of)
    positions = torch.arange(max(of))[None]
    mask = (positions < lengths_B[:, None]) & (positions >= lengths_B[:, None] // 2)
    tokens = torch.randint(0, VOCABULARY, mask.shape, generator=generator)
    noise = torch.randn(mask.shape, generator=generator)
    uniform = -torch.tensor(VOCABULARY).log() * mask
    return Batch(tokens=tokens, mask=mask, lengths=lengths_B, old_logprobs=uniform, advantages=noise * mask)


def experiment_of(options: argparse.Namespace, budget: int) -> Experiment:
    with tempfile.TemporaryDirectory() as directory:
        return uncollapse.compose({
            "environment": "bandit",
            "model": {"path": directory, "dtype": "float32"},
            "rollout": {"groups": options.rows, "group_size": 1, "max_context": options.longest},
            "advantage": "reinforce_plus_plus",
            "critic": None,
            "collapse": [],
            "trainer": {
                "mini_batch": options.rows, "micro_batch": options.micro_batch, "token_budget": budget,
                "score_batch": SCORE_FACTOR * options.micro_batch, "zero_stage": 0, "lr": 0.0,
            },
        })  # fmt: skip


def measure(options: argparse.Namespace) -> None:
    ranks = start_ranks()
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(
        hidden_size=options.hidden, intermediate_size=3 * options.hidden, num_hidden_layers=options.layers,
        num_attention_heads=8, num_key_value_heads=2, vocab_size=VOCABULARY, tie_word_embeddings=True,
    )).to(ranks.device, getattr(torch, options.dtype))  # fmt: skip
    enable_packing(model)
    budget = options.micro_batch * options.longest
    settings = {"padded": experiment_of(options, 0), "packed": experiment_of(options, budget)}
    trainer = settings["padded"].trainer
    stage = int(options.dtype == "bfloat16")
    engine = DeepSpeed().start(Policy(model, 1.0), trainer, zero_stage=stage, dtype=options.dtype, ranks=ranks)
    batch = random_rows(lengths(options.rows, options.median, options.spread, options.longest))
    real = int(batch.lengths.sum())
    rows = list(range(len(batch)))
    shortest, middle, most = (int(of) for of in (batch.lengths.min(), batch.lengths.median(), batch.lengths.max()))
    print(f"{model.num_parameters():,} parameters; {options.rows} rows of {shortest}-{most} tokens (median {middle}), "
          f"{real:,} in all; micro-batches of {options.micro_batch} rows, or of {budget:,} tokens")  # fmt: skip

    def update(side: str) -> Any:
        return stages.update(engine, batch, [rows], PolicyObjective(Ppo()), settings[side], ranks, 1.0)

    def score(side: str) -> Any:
        own = settings[side].trainer
        return stages.score(engine, batch, own.score_batch, ranks, budget=SCORE_FACTOR * own.token_budget)

    for side, of in settings.items():
        own, own_budget = of.trainer, of.trainer.token_budget
        cut = shares(stages.weighted(batch, rows, of), rows, 1, own.micro_batch, own_budget)[0]
        given = [int(each.lengths.sum()) if own_budget else each.tokens.numel() for each in cut]
        print(f"{side}: {len(cut)} micro-batches of at most {max(given):,} tokens, {real / sum(given):.0%} filled")
    print(f"{'':14}{'padded s':>10}{'packed s':>10}{'padded tok/s':>14}{'packed tok/s':>14}{'padded s / packed s':>21}")
    for name, work in (("update", update), ("score", score)):
        for side in settings:  # the first passes pay for memory
            work(side)
        peaks: dict[str, float] = {}
        clocks = {name: time.perf_counter, f"{name}, cpu": time.process_time}
        seconds: dict[str, dict[str, list[float]]] = {clock: {"padded": [], "packed": []} for clock in clocks}
        for _ in range(options.repetitions):
            for side in ("padded", "packed"):
                started = {clock: now() for clock, now in clocks.items()}
                if ranks.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                work(side)
                if ranks.device.type == "cuda":
                    peaks[side] = torch.cuda.max_memory_allocated() / 2**30
                for clock, now in clocks.items():
                    seconds[clock][side].append(now() - started[clock])
        for clock, taken in seconds.items():
            pairs = sorted(padded / packed for padded, packed in zip(*taken.values(), strict=True))
            medians = [median(each) for each in taken.values()]
            print(f"{clock:14}" + "".join(f"{each:10.2f}" for each in medians)
                  + "".join(f"{real / each:14,.0f}" for each in medians)
                  + f"{median(pairs):21.2f}  ({' '.join(f'{pair:.2f}' for pair in pairs)})")  # fmt: skip
        if peaks:
            print(f"{'peak GiB':14}" + "".join(f"{peaks[side]:10.2f}" for side in settings))


def waiting() -> None:
    print("\nwaiting for the slowest rank, share of the time; mean of 100 optimizer steps of 200-3,600 tokens a row")
    print(f"{'ranks':>5}{'rows':>6}{'budget':>8}{'hidden size':>13}{'by tokens':>11}{'by cost':>9}")
    for ranks, rows, budget in ((2, 32, 8192), (8, 128, 8192), (8, 128, 16384), (8, 512, 16384)):
        for hidden in (896, 2048):
            lost: dict[bool, list[float]] = {False: [], True: []}
            for seed in range(100):
                of = dict(enumerate(lengths(rows, 800, 0.8, 3600, seed)))
                cost = {row: length + length**2 // (12 * hidden) for row, length in of.items()}
                for by_cost, found in lost.items():
                    limit = budget * sum(cost.values()) // sum(of.values()) if by_cost else budget
                    turns = zip(*by_tokens(cost if by_cost else of, ranks, limit), strict=True)
                    slowest = sum(max(sum(cost[row] for row in own) for own in turn) for turn in turns)
                    found.append(1 - sum(cost.values()) / ranks / slowest)
            print(f"{ranks:5}{rows:6}{budget:8}{hidden:13}{mean(lost[False]):11.1%}{mean(lost[True]):9.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--median", type=float, default=220)
    parser.add_argument("--spread", type=float, default=0.7)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    print(f"{date.today()}; {os.cpu_count()} cores, shared; {torch.get_num_threads()} threads; load average "
          + ", ".join(f"{load:.1f}" for load in os.getloadavg()))  # fmt: skip
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "deepspeed")))
    measure(options)
    waiting()
    print("load average at the end " + ", ".join(f"{load:.1f}" for load in os.getloadavg()))


if __name__ == "__main__":
    main()
