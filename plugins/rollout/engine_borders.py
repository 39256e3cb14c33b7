"""A wrapper checks what engines hand over: one completion per prompt, a log-prob per token, none too long."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from ...core.components import Completion, RolloutEngineSession, Sampling
from ...core.compose.blame import blaming, require_session, wrong
from ...core.compose.named import Named

ROUNDING = 1e-3
"""The largest log-prob in nats that still counts as 0, since bfloat16 logits are rounded."""
STOP_REASONS = ("eos", "stop", "length")
"""The reasons why a completion may end."""


class CheckedEngine(RolloutEngineSession):
    """An engine in a run that is checked: one completion per prompt, a log-prob per token, none too long.

    Raises:
        RunError: the engine raised an error or broke its contract; the message names it.
    """

    def __init__(self, named: Named, session: Any) -> None:
        require_session(named, "start", session, RolloutEngineSession)
        self.named, self.session = named, session
        self.single_requests, self.adapter = session.single_requests, session.adapter
        self._asked: dict[Any, Sampling] = {}

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        with blaming(self.named, "generate"):
            completions = self.session.generate(prompts, sampling, seed)
        if len(completions) != len(prompts):
            raise wrong(self.named, "generate", f"gave {len(completions)} completions for {len(prompts)} prompts")
        for completion in completions:
            self._check("generate", completion, sampling)
        return completions

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.session.sync(weights)

    def sleep(self) -> bool:
        return self.session.sleep()

    def close(self) -> None:
        self.session.close()

    def submit(self, key: Any, prompt: Sequence[int], sampling: Sampling, seed: int) -> None:
        self._asked[key] = sampling
        with blaming(self.named, "submit"):
            self.session.submit(key, prompt, sampling, seed)

    def finished(self) -> list[tuple[Any, Completion]]:
        return self._done("finished", self.session.finished)

    def poll(self) -> list[tuple[Any, Completion]]:
        return self._done("poll", self.session.poll)

    def _done(self, method: str, wait: Callable[[], list[tuple[Any, Completion]]]) -> list[tuple[Any, Completion]]:
        with blaming(self.named, method):
            done = wait()
        for key, completion in done:
            self._check(method, completion, self._asked.pop(key))
        return done

    def _check(self, method: str, completion: Completion, sampling: Sampling) -> None:
        tokens = completion.tokens
        logprobs = completion.logprobs
        if not 1 <= len(tokens) <= sampling.max_tokens:
            what = f"gave {len(tokens)} tokens, where 1 to {sampling.max_tokens} were asked for"
            raise wrong(self.named, method, what)
        if len(logprobs) != len(tokens):
            raise wrong(self.named, method, f"gave {len(logprobs)} log-probs for {len(tokens)} tokens")
        if completion.stop_reason not in STOP_REASONS:
            what = f"gave the stop reason {completion.stop_reason!r}; there are {', '.join(STOP_REASONS)}"
            raise wrong(self.named, method, what)
        if bad := [value for value in logprobs if not -math.inf < value <= ROUNDING]:
            raise wrong(self.named, method, f"gave the log-prob {bad[0]}, which is no log-prob of a sampled token")
