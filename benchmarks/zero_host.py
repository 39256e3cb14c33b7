"""DeepSpeed's ZeRO stages cost the host time, seen in an optimizer step of a model too small to keep a device busy.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/zero_host.py [--layers 24] [--micro-batches 8]

A Qwen2 of many layers, each of a few thousand parameters, takes an optimizer step over ``--micro-batches`` parts of two
short rows, on one rank. So the time is that of Python, of launching operations, and of DeepSpeed's hooks, which a GPU
waits for as well unless its kernels take longer. The peer is plain torch in the same process: the same model,
log-probs, backward passes, clipping and AdamW. Milliseconds are medians; the ratio is the median over pairs of
neighbouring turns. ``2, as asked`` is ZeRO 2 with settings of one's own, which is not run as ZeRO 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from statistics import median

import attrs
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from uncollapse.core.compose.experiment import Trainer
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.training.deepspeed_backend import DeepSpeed
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.batch import Batch
from uncollapse.plugins.training.step.losses import PolicyObjective

ROWS, WIDTH, VOCABULARY = 2, 16, 200
CASES = {
    "0": (0, {}),
    "1": (1, {}),
    "2": (2, {}),
    "2, as asked": (2, {"zero_optimization": {"reduce_bucket_size": 500_000_000}}),
    "3": (3, {}),
}
"""ZeRO stage and DeepSpeed's settings."""


def model(layers: int) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = Qwen2Config(num_hidden_layers=layers, vocab_size=VOCABULARY, tie_word_embeddings=True, **sizes)
    return Qwen2ForCausalLM(config).to(start_ranks().device)


def batch() -> Batch:
    tokens = torch.randint(VOCABULARY, (ROWS, WIDTH), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(WIDTH).expand(ROWS, -1) >= WIDTH // 2
    whole = Batch(tokens=tokens, mask=mask, lengths=torch.full((ROWS,), WIDTH), advantages=mask.float())
    return attrs.evolve(whole, weights=TokenMean().weights(mask, 1))


def plain(options: argparse.Namespace) -> Callable[[], object]:
    """The step in plain torch."""
    own, rows = model(options.layers), batch().to(start_ranks().device)
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-5)
    targets = rows.tokens[:, 1:][rows.mask[:, 1:]][:, None]

    def step() -> None:
        for _ in range(options.micro_batches):
            hidden = own.model(input_ids=rows.tokens, use_cache=False).last_hidden_state[:, :-1][rows.mask[:, 1:]]
            logprobs = (hidden @ own.lm_head.weight.T).float().log_softmax(-1).gather(-1, targets)
            (-logprobs.sum()).backward()
        torch.nn.utils.clip_grad_norm_(own.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def ours(case: str, options: argparse.Namespace) -> Callable[[], object]:
    stage, settings = CASES[case]
    policy, trainer = Policy(model(options.layers), 1.0), Trainer(lr=1e-5)
    engine = DeepSpeed(settings).start(policy, trainer, zero_stage=stage, dtype="float32", ranks=start_ranks())
    rows = [batch()] * options.micro_batches
    return lambda: engine.update(rows, PolicyObjective(Ppo()), entropy="value")


def milliseconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--micro-batches", type=int, default=8)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    peer = plain(options)
    parameters = len(list(model(options.layers).parameters()))
    print(
        f"{options.layers} layers, {parameters} parameter tensors, {options.micro_batches} micro-batches; torch "
        f"{version('torch')}, DeepSpeed {version('deepspeed')}, {start_ranks().device}, {date.today()}"
    )
    print(f"{'ZeRO':<12} {'ms':>7} {'plain ms':>9} {'ratio':>6}")
    for case in CASES:
        own = ours(case, options)
        own(), peer()
        turns = [(milliseconds(own), milliseconds(peer)) for _ in range(options.turns)]
        mine, theirs = (median(times) for times in zip(*turns, strict=True))
        print(f"{case:<12} {mine:>7.0f} {theirs:>9.0f} {median(a / b for a, b in turns):>6.2f}", flush=True)


if __name__ == "__main__":
    main()
