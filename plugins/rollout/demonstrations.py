"""Demonstrations are conversations that an environment's demonstrator plays, in the tokens that a policy would have to
sample.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count

from ...core.components import Answer, Completion, Dialogue, Env, Environment, Setting
from ...core.compose.experiment import Rollout
from ...core.errors import RequestError, RunError
from ...core.stable_random import seeded
from .borders import name_of
from .conversation import Conversation
from .dialogue import setting_of
from .episode import Episode
from .template import Template


def demonstrator_of(environment: Environment) -> Environment:
    """Return the environment whose episodes can be demonstrated.

    Raises:
        RequestError: it has no demonstrator.
    """
    if environment.demonstrated is None:
        raise RequestError(
            f"nobody demonstrates the environment {name_of(environment)}",
            "model.build",
            "set it to tiny_qwen2, which has learnt nothing; or give model.path",
        )
    return environment.demonstrated


def demonstrations(
    environment: Environment, rollout: Rollout, template: Template, seed: int, noise: float
) -> Iterator[Episode]:
    """Yield episodes of ``environment.demonstrated``, without end; a share ``noise`` of the actions are mistakes.

    Raises:
        RequestError: nobody demonstrates the environment; or the dialogue does not read what the demonstrator means.
        RunError: the demonstrator broke its contract.
    """
    world = demonstrator_of(environment)
    for number in count(1_000_000 * seed):
        rng = seeded("demonstration", noise, number)
        conversation = Conversation(world, rollout, template, number)
        while conversation.stop is None:
            conversation.advance(_completion(conversation, noise, rng))
        yield conversation.episode()


def _completion(conversation: Conversation, noise: float, rng: random.Random) -> Completion:
    """Return the demonstrator's next response, as if it had been sampled."""
    template, setting = conversation.template, conversation.setting
    thought, actions = demonstrated(conversation.env, setting, noise, rng)
    text = template.dialogue.respond(thought, actions, setting)
    tokens = sampled_tokens(template, text, f"{type(conversation.env).__name__}.demonstrate")
    completion = Completion(tokens, (0.0,) * len(tokens), "eos")
    _require_read(conversation, text, completion)
    return completion


def sampled_tokens(template: Template, text: str, where: str) -> tuple[int, ...]:
    """Return the tokens that a policy would have to sample to say ``text``, the end of its turn included.

    Raises:
        RequestError: the text holds half a character, or a token that would end the turn before its end.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"a demonstrated answer is no text: {error.reason}: {text!r}", where, "mend it") from error
    tokens = tuple(template.tokenizer.encode(text.removeprefix(template.tag), add_special_tokens=False))
    ends = {template.end_of_turn, template.tokenizer.eos_token_id}
    if early := [token for token in tokens if token in ends]:
        what = f"a demonstrated answer says {template.tokenizer.decode(early[:1])!r}, which ends an answer: {text!r}"
        raise RequestError(what, where, "leave the token out of what is demonstrated")
    return (*tokens, template.end_of_turn or 0)


def demonstrated(env: Env, setting: Setting, noise: float, rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """Return what an episode's demonstrator thinks and does next.

    Raises:
        RunError: it is no thought with some, and not too many, of the actions that there are.
    """
    most = setting.max_actions_per_turn
    said = env.demonstrate(most, noise, rng)
    match said:
        case (str(thought), tuple(actions)) if 0 < len(actions) <= most and all(isinstance(a, str) for a in actions):
            if setting.actions is None or setting.tools or {*actions} <= {*setting.actions}:
                return thought, actions
    what = f"{type(env).__name__}: demonstrate gave {said!r}, not a thought and 1 to {most} of its actions"
    raise RunError(what, fix="return a text and a tuple of actions, as step takes them")


def _require_read(conversation: Conversation, text: str, completion: Completion) -> None:
    """Check that the dialogue reads the demonstrator's text, and reads it alike from its tokens.

    Raises:
        RequestError: it does not; a tokenizer of words, for example, drops white space.
    """
    dialogue, setting = conversation.dialogue, conversation.setting
    response = conversation.template.decode(completion)
    read, meant = (dialogue.parse(each, setting) for each in (response, text))
    understood = meant.valid or meant.calls
    if not understood or (read.valid, read.actions) != (meant.valid, meant.actions):
        raise RequestError(
            f"the dialogue {name_of(dialogue)} does not read {response!r}, spelled in tokens, as the demonstrator "
            "meant it",
            "dialogue",
            "choose another dialogue; with the tokenizer of words of cloned_qwen2 set it to pieces, or read answers "
            "without regard to white space and list in tags what is one word",
        )


def everything_said(
    environment: Environment, rollout: Rollout, dialogue: Dialogue, seed: int, episodes: int = 300
) -> Iterator[str]:
    """Yield texts with every word of the conversations: messages of random play, and the demonstrator's responses.

    Numbers need not occur, since the tokenizer spells them. Actions must have names.
    """
    world, setting = demonstrator_of(environment), setting_of(environment, rollout)
    actions = environment.actions or ()
    yield dialogue.system(setting)
    for answer in (Answer(), Answer(actions=actions, parsed=len(actions))):
        yield dialogue.summary(answer)
        yield dialogue.outcome(0.0, answer, setting)
    for number in range(episodes):
        rng = seeded("vocabulary", seed, number)
        env = world.make(number)
        yield dialogue.ask(1, env.initial_observation(), rollout.max_actions, setting)
        for _ in range(rollout.max_actions):
            yield dialogue.respond(*demonstrated(env, setting, 0.5, rng), setting)
            step = env.step(rng.choice(actions))
            yield step.observation
            if step.done:
                break
