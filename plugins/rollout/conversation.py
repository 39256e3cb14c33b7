"""A conversation plays one episode: it gives prompts, takes what was sampled, and asks the environment."""

from __future__ import annotations

import json

import attrs

from ...core.components import Answer, Call, Completion, Environment, Step
from ...core.compose.experiment import Rollout
from ...core.errors import RequestError
from .borders import name_of
from .dialogue import require_nameable, setting_of
from .episode import Episode, Turn
from .messages import Result, Said, text_of
from .template import Template
from .time_limit import TimeLimit


class Conversation:
    """An episode that is being played. Its ``prompt`` is the next turn's; :meth:`advance` takes what was sampled.

    A turn needs room for ``max_tokens`` after its prompt. An episode whose next turn could exceed ``max_context`` ends
    before it as truncated, so that no row is ever cut.

    Raises:
        RequestError: there is no room for the first turn.
        RunError: the environment, or the dialogue for reading an answer, takes longer than ``rollout.step_timeout``,
            here or in a later turn; or the environment has an action that the dialogue cannot name.
    """

    def __init__(
        self, environment: Environment, rollout: Rollout, template: Template, seed: int, member: int = 0
    ) -> None:
        self.rollout = rollout
        self.template = template
        self.seed = seed
        self.member = member
        self.dialogue = template.dialogue
        self.limit = TimeLimit(name_of(environment), rollout.step_timeout, seed, member)
        self.reading = TimeLimit(name_of(self.dialogue), rollout.step_timeout, seed, member, "dialogue")
        setting = self.limit("its instruction", setting_of, environment, rollout)
        require_nameable(environment, self.dialogue, setting)
        self.env = self.limit("a new episode", environment.make, seed, member)
        instruction = "\n\n".join(filter(None, (self.env.system_text, setting.instruction)))
        self.setting = attrs.evolve(setting, instruction=instruction)
        self.system = self.dialogue.system(self.setting)
        self.reply = self.dialogue.reply(self.setting)
        self.tools = self.dialogue.tools(self.setting)
        self.state = self.limit("the first observation", self.env.initial_observation).strip("\n")
        self.stop: str | None = None
        """The reason why the episode has ended; ``None`` while it runs."""
        self.executed = 0
        """The number of actions that were played."""
        self.turns: list[Turn] = []
        self.blocks: list[str] = []
        """The text of each turn about the environment, as the dialogue's ``ask`` gave it, or the results of calls."""
        self.said: list[Said] = []
        """What each turn says in a chat: the outcome of the turn before, then the turn's block; or results of calls."""
        self.results: tuple[Result, ...] = ()
        """The results of the calls in the last answer."""
        self.totals: dict[str, list[float]] = {}
        """The environment's metrics of each action, by name."""
        self._ask()
        if self._full():
            raise RequestError(
                f"the first prompt has {len(self.prompt)} tokens: no room for a turn of {rollout.max_tokens}",
                f"rollout.max_context: {rollout.max_context}",
                "raise rollout.max_context or lower rollout.max_tokens",
            )

    def advance(self, completion: Completion) -> None:
        """Take one sampled response: play its actions, and write the next prompt unless the episode is over."""
        response = self.template.decode(completion)
        answer = self.reading(f"the answer of turn {len(self.turns) + 1}", self.dialogue.parse, response, self.setting)
        observation = self.state
        reward, executed, done = self._play(answer)
        self.executed += executed
        self.turns.append(
            Turn(
                prompt=self.prompt,
                tokens=completion.tokens,
                logprobs=completion.logprobs,
                stop_reason=completion.stop_reason,
                user=self.user,
                response=response,
                answer=answer,
                executed=executed,
                reward=reward,
                penalty=0.0 if answer.valid else self.rollout.format_penalty,
                observation=observation,
            )
        )
        self.stop = done or self._exhausted()
        if self.stop is None:
            self._ask()
            if self._full():
                self.stop = "max_context"

    def _play(self, answer: Answer) -> tuple[float, int, str | None]:
        """Play an answer; return the rewards, the number of actions, and how the episode has ended, if it has."""
        reward = 0.0
        executed = 0
        results: list[Result] = []
        played: tuple[str | Call, ...] = answer.calls or answer.actions
        for each in played:
            call = each if isinstance(each, Call) else None
            observation = call.problem if call else ""
            step: Step | None = None
            if not observation:
                if executed == self.rollout.max_actions - self.executed:
                    break
                step = self._step(each)
                observation = self.state
                reward += step.reward
                executed += 1
            if call:
                results.append(Result(call.name, self.dialogue.result(call, observation, self.setting)))
            if step and step.done:
                return reward, executed, "success" if step.success else "done"
        self.results = tuple(results)
        return reward, executed, None

    def _step(self, played: str | Call) -> Step:
        """Play an action or a call."""
        what = f"a step in turn {len(self.turns) + 1}"
        if isinstance(played, Call) and not played.action:
            step = self.limit(what, self.env.call, played.name, json.loads(played.arguments))
        else:
            step = self.limit(what, self.env.step, played.action if isinstance(played, Call) else played)
        self._record(step)
        return step

    def episode(self) -> Episode:
        """Return the finished episode. Raises ValueError while it still runs."""
        if self.stop is None:
            raise ValueError("the episode has not ended")
        metrics = {name: sum(values) / len(values) for name, values in self.totals.items()}
        return Episode(self.seed, self.member, self.system, tuple(self.turns), self.stop, metrics)

    def _record(self, step: Step) -> None:
        self.state = step.observation.strip("\n")
        for name, value in step.metrics.items():
            self.totals.setdefault(name, []).append(float(value))

    def _exhausted(self) -> str | None:
        if self.executed >= self.rollout.max_actions:
            return "max_actions"
        return "max_turns" if len(self.turns) >= self.rollout.max_turns else None

    def _full(self) -> bool:
        return len(self.prompt) + self.rollout.max_tokens > self.rollout.max_context

    def _ask(self) -> None:
        """Write the user message of the next turn and the prompt that it ends."""
        if self.results:
            block = text_of(self.results)
            self.said.append(self.results if self.tools else block)
        else:
            actions_left = self.rollout.max_actions - self.executed
            block = self.dialogue.ask(len(self.turns) + 1, self.state, actions_left, self.setting)
            self.said.append(_lines(self._outcome(self.turns[-1]), block) if self.turns else block)
        self.blocks.append(block)
        start = self._window_start()
        if self.rollout.context_window == "single_turn":
            self.user = _lines(*self._history(start), block)
            self.prompt = self._first(self.user)
            return
        self.user = text_of(self.said[-1])
        if self.turns and start == 0:  # the tokens so far stay as they are: only what is new is encoded
            self.prompt += self._bridged(self.said, self.turns[-1])
            return
        shown = [text_of(self.said[start]), *self.said[start + 1 :]]
        self.prompt = self._first(text_of(shown[0]))
        for number, turn in enumerate(self.turns[start:], 2):
            self.prompt += self._bridged(shown[:number], turn)

    def _bridged(self, said: list[Said], turn: Turn) -> tuple[int, ...]:
        """Return what was sampled in ``turn``, and the tokens between it and the next response."""
        whole = [*(asked for asked, _ in self.env.earlier_turns), *said]
        return turn.tokens + self.template.bridge(self.system, whole, turn.tokens, self.reply, self.tools)

    def _first(self, user: str) -> tuple[int, ...]:
        """Return the prompt of the first turn that is shown."""
        return self.template.first(self.system, user, self.reply, self.tools, self.env.earlier_turns)

    def _window_start(self) -> int:
        """Return the first turn (from 0) that the next prompt shows."""
        size = self.rollout.window_turns
        if self.rollout.context_window == "full" or size < 0:
            return 0
        return max(0, len(self.turns) + 1 - size)

    def _history(self, start: int) -> list[str]:
        """Return the texts of the earlier turns that a ``single_turn`` window shows."""
        texts: list[str] = []
        # the block of the turn that is about to be asked has no turn yet
        for block, turn in zip(self.blocks[start:], self.turns[start:], strict=False):
            texts += [block, self.dialogue.summary(turn.answer), self._outcome(turn)]
        return texts

    def _outcome(self, turn: Turn) -> str:
        return self.dialogue.outcome(turn.reward, turn.answer, self.setting)


def _lines(*texts: str) -> str:
    """Join texts that each begin a new line; an empty one adds none."""
    return "\n".join(text for text in texts if text)
