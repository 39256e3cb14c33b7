"""One probe is timed against the same numbers computed as the research code did: same model, samples and process.

    OMP_NUM_THREADS=2 python benchmarks/probe_speed.py [--model sokoban|wide] [--checkpoint DIR]

The probe: an update from 32 prompts x 8 responses, its entropy change predicted on 256 prompts with the conditional
variance, and measured at four learning rates. ``sokoban`` is a LoRA checkpoint of tiny-sokoban, which is trained unless
one is given; ``wide`` a random Qwen2 with LoRA, a larger vocabulary and random tokens. Sampling is on neither side.

The peer works as that code did (probe_peer.py). Both sides must agree before a time is printed. They take turns; the
ratio is of the medians.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median

import attrs
import probe_checkpoint
import torch
from peft import LoraConfig, get_peft_model
from probe_peer import AGAIN, Numbers, Peer, Task
from transformers import Qwen2Config, Qwen2ForCausalLM
from uncollapse.core.components import Rollouts
from uncollapse.core.registry import registry
from uncollapse.estimators.variance.entropy_change import predicted_change
from uncollapse.plugins.probe import OfflineEntropyProbe
from uncollapse.plugins.probe.checkpoint.adam_state import AdamSettings, AdamState, Coverage
from uncollapse.plugins.probe.estimation.clock import Clock
from uncollapse.plugins.probe.estimation.directions import PreconditionedGradient
from uncollapse.plugins.probe.estimation.measured_change import Weighting
from uncollapse.plugins.probe.estimation.measurement import Measurement
from uncollapse.plugins.probe.estimation.step import Step
from uncollapse.plugins.probe.estimation.update import make_update
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.losses import PolicyObjective

UNIT = "per_sequence"
CLOCKS = ("all", "cpu")


# --- ours -------------------------------------------------------------------------------------------------------------


def measurement_of(task: Task, rows: int, clock: Clock) -> Measurement:
    sizes = {"size": rows, "forward_size": 4 * rows, "ranks": task.ranks}  # as the configuration has it
    objective = PolicyObjective(registry().create("policy_loss", "ppo"))
    with clock("update direction"):
        update = make_update(task.U, advantage=registry().create("advantage", "dr_grpo"), objective=objective)
        step = Step(task.policy, update, PreconditionedGradient(task.adam), **sizes)
        step.direction  # noqa: B018 - computed here
    return Measurement(task.policy, task.E, step, eta=task.etas[0], **sizes)


def with_etas(task: Task, rows: int) -> Task:
    """Four learning rates around the one whose log-weights have a standard deviation of 0.1."""
    middle = 0.1 / float(measurement_of(task, rows, Clock()).predicted_sums["S1"].std())
    return attrs.evolve(task, etas=tuple(middle * factor for factor in (0.5, 1, 2, 4)))


def ours(task: Task, rows: int, clock: Clock) -> Numbers:
    measurement = measurement_of(task, rows, clock)
    with clock("prediction"):
        terms = attrs.evolve(measurement.prediction_terms(UNIT), eta=1.0)
        slope = predicted_change(terms).value
    with clock("conditional variance"):
        per_prompt = measurement.terms(UNIT, {"s_N"}, Weighting())["s_N"]
    with clock("truth"):
        truth_terms = measurement.truth_terms(UNIT)
        changes = [measurement.truth(eta, Weighting()).change(truth_terms)[0] for eta in task.etas]
    return Numbers(slope, per_prompt, torch.tensor(task.etas), torch.tensor(changes))


# --- models -----------------------------------------------------------------------------------------------------------


def sokoban(options: argparse.Namespace) -> Task:
    checkpoint = options.checkpoint or probe_checkpoint.train(Path(tempfile.mkdtemp(prefix="probe-")) / "lora")
    batches = {"B_E": options.prompts_E, "B_U": options.prompts_U, "G": 8}
    session = OfflineEntropyProbe({"batch_config": batches, "learning_rate": 1e-4}).session(checkpoint)
    U, E = session.draw_U(), session.draw_E(options.prompts_E)
    print(f"sampling, on neither side: {U.seconds + E.seconds:.1f} s")
    return Task(session.policy, session.adam, E.rollouts, U.rollouts)


def wide(options: argparse.Namespace) -> Task:
    torch.manual_seed(0)
    E = random_rollouts(options.prompts_E, 1, options.vocabulary)
    U = random_rollouts(options.prompts_U, 8, options.vocabulary)
    return Task(*random_model(options.vocabulary, options.layers, options.hidden), E, U)


def random_model(vocabulary: int, layers: int, hidden: int) -> tuple[Policy, AdamState]:
    """A random Qwen2 with a LoRA adapter that does something, and second moments to go with it."""
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=1024,
        bos_token_id=None, eos_token_id=None, initializer_range=0.1,
    )  # fmt: skip
    model = get_peft_model(Qwen2ForCausalLM(config), LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    policy = Policy(model, 1.0).to(start_ranks().device).eval()
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        torch.nn.init.normal_(parameter, std=0.02)
    moments = {name: 1e-4 * torch.rand(p.shape) for name, p in trained.items()}
    settings = AdamSettings(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    return policy, AdamState(
        step=dict.fromkeys(trained, 100.0),
        exp_avg=moments,
        exp_avg_sq={name: moment.square() for name, moment in moments.items()},
        max_exp_avg_sq=None,
        settings=dict.fromkeys(trained, settings),
        base_lr=None,
        coverage=Coverage(len(trained), len(trained), len(trained), "names"),
    )


def random_rollouts(prompts: int, responses: int, vocabulary: int) -> Rollouts:
    """Rows of 200 to 400 random tokens, of which the last 50 to 150 count as sampled."""
    count = prompts * responses
    lengths = torch.randint(200, 401, (count,))
    position = torch.arange(int(lengths.max()))
    mask = (position < lengths[:, None]) & (position >= (lengths - torch.randint(50, 151, (count,)))[:, None])
    rewards = torch.rand(count)
    return Rollouts(
        tokens=torch.randint(0, vocabulary, mask.shape) * (position < lengths[:, None]),
        mask=mask,
        turns=torch.where(mask, 0, -1),
        logprobs=torch.zeros(mask.shape),
        rewards=torch.where(position == lengths[:, None] - 1, rewards[:, None], 0.0),
        episodes=torch.arange(count),
        groups=torch.arange(prompts).repeat_interleave(responses),
        raw_rewards_E=rewards,
        group_ids_P=torch.arange(prompts),
        lengths=lengths,
    )


MODELS: dict[str, Callable[[argparse.Namespace], Task]] = {"sokoban": sokoban, "wide": wide}


# --- comparing --------------------------------------------------------------------------------------------------------


def agree(one: Numbers, other: Numbers) -> None:
    """Stops the benchmark unless both are the same to the rounding of float32, far below a standard error."""
    error = one.conditional_se
    gaps = {
        "slope": abs(one.slope - other.slope) / error,
        "X_n . Y-bar": float((one.per_prompt - other.per_prompt).abs().max() / one.per_prompt.abs().max()),
        "standard error": abs(one.conditional_se / other.conditional_se - 1),
    }
    if max(gaps.values()) > 1e-4 or bool(((one.changes - other.changes).abs() > 1e-3 * error * one.etas).any()):
        raise SystemExit(f"the two sides disagree, so no time counts: {gaps}, {one.changes} and {other.changes}")


def timed(run: Callable[[Clock], Numbers], device: torch.device) -> tuple[Numbers, dict[str, float]]:
    """What a side computes; its seconds in all and by phase, and its processor time."""
    clock = Clock()
    started, cpu = time.perf_counter(), time.process_time()
    found = run(clock)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return found, {"all": time.perf_counter() - started, "cpu": time.process_time() - cpu, **clock.seconds}


def compare(task: Task, options: argparse.Namespace) -> None:
    """Both sides in turns, and the ratios."""
    sides: dict[str, Callable[[Clock], Numbers]] = {"peer": lambda clock: Peer(task, clock).run()}
    for rows in options.rows:
        sides[f"ours, {rows} rows"] = partial(ours, task, rows)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    found: dict[str, Numbers] = {}
    for _ in range(options.rounds):
        for name, run in sides.items():
            found[name], seconds = timed(run, task.ranks.device)
            times[name].append(seconds)
            agree(found["peer"], found[name])
    peer = times["peer"]
    for name, own in times.items():
        phases = ", ".join(f"{phase} {median(t[phase] for t in own):.2f}" for phase in own[0] if phase not in CLOCKS)
        print(f"{name}: {median(t['all'] for t in own):.2f} s, cpu {median(t['cpu'] for t in own):.2f} s ({phases})")
        if name != "peer":
            wall, cpu = (median(t[clock] for t in peer) / median(t[clock] for t in own) for clock in CLOCKS)
            kept = median(t["all"] - t[AGAIN] for t in peer) / median(t["all"] for t in own)
            print(f'    peer / ours: {wall:.1f}, of cpu time {cpu:.1f}; {kept:.1f} without "{AGAIN}"')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="sokoban")
    parser.add_argument("--checkpoint", type=Path, help="of a run, for sokoban; by default one is trained")
    parser.add_argument("--prompts-E", type=int, default=256)
    parser.add_argument("--prompts-U", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=16384, help="of the wide model")
    parser.add_argument("--layers", type=int, default=6, help="of the wide model")
    parser.add_argument("--hidden", type=int, default=256, help="of the wide model")
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[8, 1, 32],
        help="of our passes with a gradient; those without take four times as many",
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    print(f"{date.today()}; torch {torch.__version__}, {torch.get_num_threads()} thread(s)", end="; ")
    print(f"load average {probe_checkpoint.load()}")
    task = with_etas(MODELS[options.model](options), options.rows[0])
    E, U, parameters = task.E, task.U, sum(p.numel() for p in task.policy.parameters())
    lengths = torch.cat([E.lengths, U.lengths]).double()
    print(
        f"{options.model} on {task.ranks.device}: {parameters:,} parameters; {len(E.tokens)} rows of E, "
        f"{len(U.tokens)} of U, of {lengths.mean():.0f} tokens (at most {lengths.max():.0f}), "
        f"{E.mask.sum(1).double().mean():.0f} of them sampled; eta {', '.join(f'{eta:.1e}' for eta in task.etas)}"
    )
    compare(task, options)
    print(f"load average at the end {probe_checkpoint.load()}")


if __name__ == "__main__":
    main()
