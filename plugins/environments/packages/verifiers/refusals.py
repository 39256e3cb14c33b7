"""Environments of the package verifiers that need what is not here are refused before anything is played."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import Any

from .....core.errors import RequestError
from ...dataset_values import question_of


def refuse_env(env: Any, where: str) -> None:
    """Raise RequestError for an environment with other agents than the policy, or that brings up servers."""
    from verifiers.v1.env import Env

    roles = list(env._agent_specs)
    if len(roles) != 1:
        what = f"it has {len(roles)} agents ({', '.join(roles)}), and there is only one policy"
        raise RequestError(what, where, "choose an environment with one agent")
    if type(env).start is not Env.start:
        raise RequestError("it starts resources for all episodes (Env.start), which are not here", where)


def refuse_tasks(env: Any, tasks: Sequence[Any], where: str) -> None:
    """Raise RequestError for tasks that need a sandbox, a paid judge, or another text than the policy's."""
    from verifiers.v1.envs.single_agent import SingleAgentEnv
    from verifiers.v1.session import hook_boundary
    from verifiers.v1.types import Response
    from verifiers.v1.utils.decorators import discover_decorated

    first, single = tasks[0], isinstance(env, SingleAgentEnv)
    if type(first).NEEDS_CONTAINER:
        raise RequestError(f"{type(first).__name__} needs a sandbox (NEEDS_CONTAINER), and here is none", where)
    for judge in first.config.judges:
        if "pinference.ai" in judge.base_url:
            fix = "give the judge a base_url of your own, or use the environment dataset with the verifier judge"
            raise RequestError(f"the judge {judge.id} asks a paid service", where, fix)
    if any(hook_boundary(hook, allow_trace=False) is Response for hook in discover_decorated(first, "intercept")):
        what = "it rewrites responses (@intercept), and the tokens that were sampled are those that train"
        raise RequestError(what, where, "leave the hook out")
    if single and not (first.hooks("reward") or first.config.judges):
        raise RequestError("its tasks give no reward", where, "give the task a method with @vf.reward")
    for task in tasks:
        _refuse_task(task, single, f"{where}, task {task.data.idx}")


def _refuse_task(task: Any, single: bool, where: str) -> None:
    from verifiers.v1.runtimes import SubprocessConfig
    from verifiers.v1.utils.compile import resolve_runtime_config

    try:
        resolve_runtime_config(SubprocessConfig(), task)
    except ValueError as error:
        raise RequestError(f"the task needs a sandbox: {error}", where) from error
    prompt = task.data.prompt
    if prompt is None:
        if single:
            raise RequestError("the task has no prompt", where, "give each task a prompt")
        return
    try:
        question_of(prompt if isinstance(prompt, str) else [message.model_dump() for message in prompt])
    except ValueError as error:
        raise RequestError(f"the prompt cannot be shown: {error}", where) from error


def told(error: BaseException) -> str:
    """Return the type of an exception and the beginning of what it says."""
    words = [word for word in str(error).split() if word.strip("*")]
    return shorten(": ".join(filter(None, (type(error).__name__, " ".join(words)))), 300)
