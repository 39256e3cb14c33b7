"""A start model is warmed once, and kept in the cache by all that it depends on."""

from __future__ import annotations

import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from ....core.console.streams import say
from ....core.errors import RequestError
from ....core.files import content_sha256, replace_text
from ....core.paths import expanded
from ...rollout.borders import CheckedEnvironment
from ...rollout.collect import collect
from ...rollout.demonstrations import demonstrations
from ...rollout.dialogue import CheckedDialogue
from ...rollout.engine_hf import HfEngine
from ...rollout.rows import episode_metrics
from ...rollout.template import Template
from ..networks.models import load_policy, load_tokenizer
from .chats import read_chats
from .supervised import learn

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment
    from ...rollout.episode import Episode

RECORD = "warm_start.json"
"""File beside the warmed model: its settings, the loss of each step, and how the model plays afterwards."""


def identity(experiment: Experiment, base: str) -> dict[str, Any]:
    """Return all that a warmed model and its record depend on, as data that JSON can hold."""
    model, rollout, settings = experiment.model, experiment.rollout, experiment.model.warm_start
    assert settings is not None
    limits = (
        "max_turns",
        "max_actions_per_turn",
        "max_actions",
        "max_tokens",
        "max_context",
        "think",
        "context_window",
        "window_turns",
        "temperature",
    )
    aim = ("min_valid", "if_missed")
    return {
        "base": base,
        "warm_start": {name: value for name, value in attrs.asdict(settings).items() if name not in aim},
        "lora": model.lora and attrs.asdict(model.lora),
        "dtype": model.dtype,
        "dropout": model.dropout,
        "environment": [experiment.environment.name, attrs.asdict(experiment.environment.component)],
        "data": experiment.environment.component.digest,
        "dialogue": [experiment.dialogue.name, attrs.asdict(experiment.dialogue.component)],
        "rollout": {name: getattr(rollout, name) for name in limits},
        "file": settings.file and content_sha256(expanded(settings.file)),
    }


def warm(experiment: Experiment, base: Path | str, directory: Path) -> None:
    """Write a copy of the model ``base`` that has learnt from demonstrations into the empty ``directory``.

    With ``model.lora`` the adapter is trained, and merged into the copy: reinforcement learning begins with a new one.

    Raises:
        RequestError: nobody demonstrates the environment, its dialogue cannot say a demonstration, or the file of
            demonstrations holds none.
        RunError: a loss is not finite.
    """
    settings, rollout = experiment.model.warm_start, experiment.rollout
    assert settings is not None
    tokenizer = load_tokenizer(base)
    template = Template(tokenizer, CheckedDialogue(experiment.dialogue), rollout.think)
    shown = _demonstrations(experiment, template)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        policy = load_policy(attrs.evolve(experiment.model, dtype="float32"), base, 1.0).to(device)
        losses = learn(policy, shown, settings, rollout, experiment.trainer)
    record = {"demonstrations": len(shown), "losses": losses, **_tested(experiment, policy, tokenizer, template)}
    say(f"warm start: loss {losses[0]:.3f} to {losses[-1]:.3f} nats per token; {_told(record)}")
    merged: Any = policy.model if experiment.model.lora is None else policy.model.merge_and_unload()
    merged.to(getattr(torch, experiment.model.dtype)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    replace_text(directory / RECORD, json.dumps(record))


def _demonstrations(experiment: Experiment, template: Template) -> list[Episode]:
    settings, rollout = experiment.model.warm_start, experiment.rollout
    assert settings is not None
    if template.end_of_turn is None:
        what = "the chat template writes no token after an answer, so that no model can learn where to stop"
        raise RequestError(what, "model.warm_start", "use a model with another chat template, or no warm start")
    if settings.file is not None:
        return read_chats(settings.file, template, rollout.max_context, rollout.max_tokens)
    played = demonstrations(experiment.environment.component, rollout, template, settings.seed, settings.noise)
    shown = list(islice(played, settings.demonstrations))
    longest = max(len(turn.tokens) for episode in shown for turn in episode.turns)
    if longest > rollout.max_tokens:
        raise RequestError(
            f"a demonstrated response has {longest} tokens, and the run cuts responses after {rollout.max_tokens}",
            "rollout.max_tokens",
            f"set it to {longest} or more",
        )
    return shown


def _tested(experiment: Experiment, policy: Any, tokenizer: Any, template: Template) -> dict[str, float]:
    """Play ``tested`` tasks of the training set as training samples them, and return how it goes."""
    settings, rollout = experiment.model.warm_start, experiment.rollout
    assert settings is not None
    if not settings.tested:
        return {}
    environment = CheckedEnvironment(experiment.environment, weights=experiment.reward.weights)
    session = HfEngine().start(policy.model, tokenizer, max_context=rollout.max_context)
    seeds = range(rollout.seed, rollout.seed + settings.tested)
    episodes = collect(environment, rollout, session, template, seeds=seeds, group_size=1, seed=settings.seed)
    metrics = episode_metrics(episodes)
    return {"valid": 1 - metrics["share_of_turns_invalid"], "success": metrics["success"], "episodes": len(episodes)}


def _told(record: dict[str, Any]) -> str:
    if "valid" not in record:
        return "how the model plays was not tested"
    return (
        f"{record['valid']:.1%} of its turns are valid, and {record['success']:.1%} of {record['episodes']} episodes "
        "succeed"
    )


def require_aim(experiment: Experiment, directory: Path) -> None:
    """Compare the record of a warmed model with the aim, and warn if it was missed.

    Raises:
        RequestError: it was missed, and ``if_missed`` is ``stop``.
    """
    settings = experiment.model.warm_start
    assert settings is not None
    record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    if record.get("valid", 1.0) >= settings.min_valid:
        return
    what = f"the warm start missed its aim: {_told(record)}; model.warm_start.min_valid is {settings.min_valid}"
    if settings.if_missed == "stop":
        raise RequestError(what, "model.warm_start", "raise steps or lr, lower min_valid, or set if_missed: go_on")
    _warn(what)


@cache
def _warn(what: str) -> None:
    """Warn once in a process, which asks for its model more than once."""
    say(f"warning: {what}")
