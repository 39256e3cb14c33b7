"""One GRPO step is timed against TRL's ``GRPOTrainer``: same model, prompts, rewards, tokens and process, in turns.

    pip install trl datasets
    OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive python benchmarks/grpo_step.py [--model 0.85M] [--micro-batch 128]

A random Qwen3 in fp32 on the CPU answers single-turn prompts with exactly ``--tokens`` tokens: the end-of-sequence
token lies outside its vocabulary, so nothing ends early. Both sides sample at temperature 1 from the whole vocabulary,
scale advantages by the group's std, average the clipped loss over all tokens and take one AdamW step with clipping at
1; there is no reference model and no entropy bonus. Ours is the loop that ``uncollapse train`` runs, validation off.

TRL's trainer does its steps; after each of them a callback stops its clock, does one step of ours, and starts the clock
again. The first steps of both are not counted. TRL is given what is fast here rather than its defaults: no gradient
checkpointing, fp32, no logging. ``rollout`` is everything from prompts to rewards, ``generation`` the sampling within
it, ``update`` the rest of the step, ``cpu`` the processor time of a step, which hardly depends on who else is busy. The
seconds are medians; the ratio is the median over pairs of neighbouring steps, which share whatever load there was.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any, ClassVar

import attrs
import torch
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, PrinterCallback, Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from transformers.utils import logging
from uncollapse.core.components import Env, Environment, Step
from uncollapse.core.hookspecs import hookimpl

WARM_UP = 2
MODELS = {
    "0.35M": {"hidden_size": 128, "intermediate_size": 288, "num_hidden_layers": 2},
    "0.85M": {"hidden_size": 160, "intermediate_size": 256, "num_hidden_layers": 4},
}
WORDS = [f"word{index}" for index in range(280)]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: <answer>{% endif %}"
)


# --- the task ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Words(Environment):
    """Answer with words; the reward is the share of them that the prompt shows."""

    fewest: int = 10
    most: int = 50
    instruction: ClassVar[str] = "Answer with as many of these words as you can, in any order, and with no other word."
    actions: ClassVar[None] = None

    def make(self, seed: int, member: int = 0) -> WordsEnv:
        rng = random.Random(seed)
        return WordsEnv(rng.sample(WORDS, rng.randint(self.fewest, self.most)))


@attrs.frozen
class WordsEnv(Env):
    words: list[str]

    def initial_observation(self) -> str:
        return " ".join(self.words)

    def step(self, action: str) -> Step:
        said = action.split()
        return Step("", sum(word in self.words for word in said) / len(said), done=True)


@hookimpl
def register_environments(register: Callable[..., None]) -> None:
    register("words", Words, summary="answer with the words of the prompt")


def write_model(directory: str, sizes: dict[str, int]) -> int:
    """A random model and a word-level tokenizer that does not know the wording of the task; returns its parameters."""
    spelled = ["<pad>", "<unk>", "system", "user", "assistant", ":", "<answer>", "</answer>"]
    vocabulary = {word: index for index, word in enumerate([*spelled, *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"</?answer>|\w+|\S"), behavior="removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    config = Qwen3Config(
        **sizes, vocab_size=tokenizer.eos_token_id, num_attention_heads=4, num_key_value_heads=2,
        head_dim=sizes["hidden_size"] // 4, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model.num_parameters()


# --- the two sides ----------------------------------------------------------------------------------------------------


class Clock:
    """Seconds of each part of each step, and processor seconds of all threads in the whole step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.start()

    def start(self) -> None:
        self.part: dict[str, float] = {}
        self.started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        step, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        self.steps.append({**self.part, "step": step, "update": step - self.part["rollout"], "cpu": cpu})

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.part[name] = self.part.get(name, 0.0) + time.perf_counter() - started

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time every call of a method of this one object."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.time(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    def counted(self, name: str) -> list[float]:
        return [step[name] for step in self.steps[WARM_UP:]]


class Ours:
    """The training loop of uncollapse, one step at a time."""

    def __init__(self, experiment: Any) -> None:
        from uncollapse.plugins.training.assemble import assemble
        from uncollapse.plugins.training.processes.ranks import start_ranks
        from uncollapse.plugins.training.step.loop import Loop

        ranks = start_ranks()
        self.loop = Loop(experiment, assemble(experiment, ranks), ranks)
        self.clock = Clock()
        self.clock.watch(self.loop.parts.sampler.engine, "generate", "generation")
        self.tokens: list[int] = []
        self.rewards: list[float] = []

    def step(self) -> None:
        self.clock.start()
        metrics = self.loop.train_step()
        self.clock.part["rollout"] = self.loop.timings()["timing_s/rollout"]
        self.clock.stop()
        self.tokens.append(sum(len(turn.tokens) for episode in self.loop.episodes for turn in episode.turns))
        self.rewards.append(metrics["train/reward"])


class Theirs(TrainerCallback):
    """The trainer of TRL, with a step of ours after each of its own."""

    def __init__(self, experiment: Any, steps: int) -> None:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer
        from uncollapse.plugins.rollout.conversation import Conversation
        from uncollapse.plugins.rollout.template import Template
        from uncollapse.plugins.training.networks.models import load_tokenizer

        rollout, trainer, path = experiment.rollout, experiment.trainer, experiment.model.path
        environment, tokenizer = experiment.environment.component, load_tokenizer(path)
        template = Template(tokenizer, experiment.dialogue.component, rollout.think)
        rows, self.prompt_tokens, self.tokens, self.rewards = [], [], [], []
        for seed in range(rollout.seed, rollout.seed + steps * rollout.groups):
            first = Conversation(environment, rollout, template, seed)
            prompt = [{"role": "system", "content": first.system}, {"role": "user", "content": first.user}]
            ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
            if tuple(ids) != first.prompt:
                raise SystemExit("the two sides would read different prompts")
            rows.append({"prompt": prompt, "seed": seed})
            self.prompt_tokens.append(len(ids))

        def reward(completions: list[Any], completion_ids: list[Any], seed: list[int], **_: Any) -> list[float]:
            texts = [template.tag + message["content"] for (message,) in completions]
            answers = [template.dialogue.parse(text, first.setting) for text in texts]
            values = [
                environment.make(one).step(answer.actions[0]).reward if answer.valid else -rollout.format_penalty
                for answer, one in zip(answers, seed, strict=True)
            ]
            self.tokens.append(sum(map(len, completion_ids)))
            self.rewards.append(mean(values))
            return values

        config = GRPOConfig(
            output_dir=f"{path}/trl",
            per_device_train_batch_size=trainer.micro_batch,
            gradient_accumulation_steps=trainer.mini_batch // trainer.micro_batch,
            num_generations=rollout.group_size,
            max_completion_length=rollout.max_tokens,
            max_steps=steps,
            learning_rate=trainer.lr,
            weight_decay=trainer.weight_decay,
            max_grad_norm=trainer.grad_clip,
            lr_scheduler_type="constant",
            loss_type="dapo",
            scale_rewards="group",
            shuffle_dataset=False,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=steps + 1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        model = Qwen3ForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.trainer = GRPOTrainer(
            model, reward, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[self]
        )
        self.trainer.remove_callback(PrinterCallback)
        self.clock = Clock()
        self.clock.watch(self.trainer, "_generate_single_turn", "generation")
        self.clock.watch(self.trainer, "_generate_and_score_completions", "rollout")

    def run(self, ours: Ours) -> None:
        """All steps of both sides."""
        self.ours = ours
        self.trainer.train()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.clock.start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.stop()
        self.ours.step()
        self.clock.start()


# --- the comparison ---------------------------------------------------------------------------------------------------


def compare(options: argparse.Namespace) -> None:
    import uncollapse

    rows, steps = options.groups * options.group_size, options.steps + WARM_UP
    with tempfile.TemporaryDirectory() as directory:
        parameters = write_model(directory, MODELS[options.model])
        experiment = uncollapse.compose({
            "plugins": [str(Path(__file__).resolve())],
            "environment": {"name": "words", "fewest": options.words[0], "most": options.words[1]},
            "model": {"path": directory, "dtype": "float32"},
            "rollout": {
                "groups": options.groups, "group_size": options.group_size, "max_turns": 1, "think": False,
                "max_tokens": options.tokens, "max_context": 1024,
            },
            "advantage": "grpo",
            "policy_loss": "ppo(clip_low=0.2, clip_high=0.2, dual_clip=null)",
            "critic": None,
            "validation": {"every": 0},
            "trainer": {"steps": steps, "mini_batch": rows, "micro_batch": options.micro_batch, "zero_stage": 0},
        })  # fmt: skip
        theirs = Theirs(experiment, steps)  # first: it must not find the process group of ours
        ours = Ours(experiment)
        theirs.run(ours)

    sampled = rows * options.tokens
    if {*ours.tokens, *theirs.tokens} != {sampled}:
        raise SystemExit(f"the two sides sampled different numbers of tokens: {ours.tokens}, TRL {theirs.tokens}")
    print(
        f"{parameters:,} parameters; {options.groups} x {options.group_size} prompts of {min(theirs.prompt_tokens)}-"
        f"{max(theirs.prompt_tokens)} tokens a step; micro-batches of {options.micro_batch}"
    )
    print(f"sampled tokens a step: ours {ours.tokens[0]:,}, TRL {theirs.tokens[0]:,}", end="; ")
    print(f"mean reward: ours {mean(ours.rewards):.3f}, TRL {mean(theirs.rewards):.3f}")
    print(
        f"{'':12} {'ours s':>8} {'TRL s':>8} {'ours tok/s':>11} {'TRL tok/s':>11} {'TRL s / ours s':>15}  (each pair)"
    )
    for part in ("step", "rollout", "generation", "update", "cpu"):
        ours_s, theirs_s = (side.clock.counted(part) for side in (ours, theirs))
        ratios = sorted(other / one for one, other in zip(ours_s, theirs_s, strict=True))
        one, other = median(ours_s), median(theirs_s)
        rates = f"{sampled / one:>11,.0f} {sampled / other:>11,.0f}"
        spread = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{part:12} {one:>8.3f} {other:>8.3f} {rates} {median(ratios):>15.2f}  ({spread})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="0.35M", help="one a process: TRL must start in a fresh one")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--words", type=int, nargs=2, default=(10, 50), help="of the shortest and the longest prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=7, help="counted steps of each side")
    options = parser.parse_args()

    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    libraries = ("torch", "transformers", "trl", "accelerate", "deepspeed")
    print(f"{date.today()}; {os.cpu_count()} cores, shared; {torch.get_num_threads()} threads; load average {load()}")
    print(", ".join(f"{name} {version(name)}" for name in libraries))
    compare(options)
    print(f"load average at the end {load()}\n")


def load() -> str:
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())


if __name__ == "__main__":
    main()
