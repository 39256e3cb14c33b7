"""Prompts of a data set go raw to models without a chat template; they ask for reasoning, then a tagged answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import attrs
from attrs.validators import ge

from ....core.components import Answer, Completion, RolloutEngineSession, Sampling
from ....core.compose.experiment import Reward, Rollout
from ....core.compose.plain_data import plain
from ....core.control_tokens import TextEncoder
from ....core.errors import RequestError
from ...environments.dataset import Dataset
from ...environments.metrics import ACCEPTED
from ...rollout.episode import Episode, Turn
from ...verifiers.verifiers import tagged

PROMPT = (
    "Work out the problem below. Write your reasoning between <think> and </think>, "
    "then the final result alone between <answer> and </answer>.\n\n"
    "Problem: {question}\n\n"
    "Response: <think>"
)
"""Text that a model is given; its response begins with the ``<think>`` that ends it."""

NAMED: dict[str, dict[str, str]] = {"gsm8k_r1_template": {"path": "openai/gsm8k", "subset": "main"}}
"""Parameters of data sets, by ``dataset_name``; any other name is a path as ``dataset`` takes it."""


@attrs.frozen
class PromptSource:
    """A prompt source plays episodes of one turn: a prompt without chat template, and a response up to ``</answer>``.

    The reward is 1 if the response has exactly one ``<answer>...</answer>`` block and the data set's verifier finds it
    right, else 0, or the score between them. Prompts of more than ``max_prompt_tokens`` are left out.
    """

    dataset: Dataset
    max_prompt_tokens: int = attrs.field(default=200, validator=ge(1))

    stop: ClassVar[tuple[str, ...]] = ("</answer>",)

    @classmethod
    def named(
        cls, dataset_name: str, split: str = "train", max_prompt_tokens: int = 200, **parameters: Any
    ) -> PromptSource:
        """Return the source of a ``dataset_name`` of :data:`NAMED`, or of a path; ``parameters`` are the data set's."""
        defaults = NAMED.get(dataset_name, {"path": dataset_name})
        return cls(Dataset(**{**defaults, "split": split, **parameters}), max_prompt_tokens)

    @property
    def rollout(self) -> Rollout:
        return Rollout(max_turns=1)

    @property
    def reward(self) -> Reward:
        return Reward()

    @property
    def reward_names(self) -> tuple[str, ...]:
        return ()

    @property
    def reward_weights(self) -> dict[str, float]:
        return {}

    @property
    def shaping(self) -> None:
        """Shaping of the rewards: none, since a data set counts only whether a response is right."""

    def check(self) -> None:
        _ = self.dataset.tasks

    def tasks(self, tokenizer: Any) -> Sequence[int]:
        """Return the rows whose prompts are short enough. Raises RequestError if there is none."""
        return list(_prompts(self, tokenizer))

    def pool(self, tokenizer: Any) -> int:
        return len(_prompts(self, tokenizer))

    def left_out(self, tokenizer: Any) -> int:
        """Return the number of prompts that are too long."""
        return self.dataset.tasks - self.pool(tokenizer)

    def play(
        self,
        units: Mapping[int, int],
        responses: int,
        engine: RolloutEngineSession,
        tokenizer: Any,
        sampling: Sampling,
        seed: int,
    ) -> list[Episode]:
        prompts = _prompts(self, tokenizer)
        members = []
        for unit, task in units.items():
            members += [(unit, task, member) for member in range(responses)]
        completions = engine.generate(
            [prompts[task] for _, task, _ in members], attrs.evolve(sampling, stop=self.stop), seed
        )
        return [
            self._episode(unit, task, member, prompts[task], completion, tokenizer)
            for (unit, task, member), completion in zip(members, completions, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "prompts": PROMPT,
            "dataset": plain(self.dataset),
            "content": self.dataset.digest,
            "max_prompt_tokens": self.max_prompt_tokens,
        }

    def _episode(
        self, unit: int, task: int, member: int, prompt: tuple[int, ...], completion: Completion, tokenizer: Any
    ) -> Episode:
        sampled = completion.tokens[:-1] if completion.stop_reason == "eos" else completion.tokens
        response = "<think>" + tokenizer.decode(list(sampled), clean_up_tokenization_spaces=False)
        row = self.dataset.row(task)
        answer = tagged(response)
        score = self.dataset.verifier.component.verify(answer, row.answers) if answer else None
        turn = Turn(
            prompt=prompt,
            tokens=completion.tokens,
            logprobs=completion.logprobs,
            stop_reason=completion.stop_reason,
            user=PROMPT.format(question=row.question),
            response=response,
            answer=Answer(actions=(answer,), parsed=1) if answer else Answer(),
            executed=int(bool(answer)),
            reward=float(score or 0.0),
            penalty=0.0,
        )
        if score == 1:
            stop = "success"
        elif answer:
            stop = "done"
        else:
            stop = "max_turns"
        return Episode(unit, member, "", (turn,), stop, {ACCEPTED: float(bool(answer))})


@lru_cache(maxsize=8)
def _prompts(source: PromptSource, tokenizer: Any) -> dict[int, tuple[int, ...]]:
    """Return the token ids of each row's prompt, as the tokenizer encodes a text that stands alone.

    Control tokens in a question are spelled in plain pieces.
    """
    dataset, encoder = source.dataset, TextEncoder(tokenizer, PROMPT)
    questions = (encoder.quote(dataset.row(index).question) for index in range(dataset.tasks))
    encoded = [encoder.encode_alone(PROMPT.format(question=question)) for question in questions]
    if tokenizer.unk_token_id is not None and all(tokenizer.unk_token_id in ids for ids in encoded):
        raise RequestError(
            "the checkpoint's tokenizer has no tokens for words of the prompts",
            f"dataset {dataset.path}, split {dataset.split}",
            "leave dataset_name out to play the environment of the checkpoint's run, or probe a model of plain text",
        )
    kept = {index: ids for index, ids in enumerate(encoded) if len(ids) <= source.max_prompt_tokens}
    if not kept:
        raise RequestError(
            f"all {dataset.tasks} prompts are longer than {source.max_prompt_tokens} tokens",
            f"dataset {dataset.path}, split {dataset.split}",
            f"raise max_prompt_tokens: the shortest prompt has {min(map(len, encoded))} tokens",
        )
    return kept
