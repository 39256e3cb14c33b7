"""Base classes of what plays, trains, watches and records: environments, backends, detectors, launchers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from .component import Component

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from ..runs.directory import RunDirectory
    from .data import Rollouts, Scores, Step, TokenScores, Verdict, Wanted
    from .dialogue import Dialogue


class Env(ABC):
    """One episode. Used once: there is no reset. Observations and actions are text."""

    __slots__ = ()

    place: str = ""
    """Which task it is, for messages; empty where the number of the task says so."""

    @abstractmethod
    def initial_observation(self) -> str: ...

    @abstractmethod
    def step(self, action: str) -> Step:
        """Raises ValueError on an action that ``Environment.actions`` does not list; free text is never an error."""


class Environment(Component):
    """Kind ``environment``: makes episodes. Must be picklable."""

    __slots__ = ()

    instruction: str
    """What the task is, for the system message (with the legend of symbols, if there are any)."""
    actions: tuple[str, ...] | None
    """The names of the actions, matched without regard to case; ``None`` for free text."""
    tasks: int | None = None
    """The number of distinct tasks (seed modulo this); ``None`` where tasks are generated without end."""

    @abstractmethod
    def make(self, seed: int, member: int = 0) -> Env:
        """``seed`` fixes the task (members of a group share it and see the same first prompt), ``member`` the noise."""

    @property
    def digest(self) -> str | None:
        """A hash of data that the parameters do not determine, such as a file's; ``None`` where there is none."""
        return None


class TokenHead(Component):
    """Kind ``token_head``: statistics of next-token distributions from hidden states, never all logits at once."""

    __slots__ = ()

    @abstractmethod
    def on(self, device: torch.device) -> TokenHead:
        """The head that computes on ``device``: this one, or the one that it stands for.

        Raises RequestError if it cannot compute there, or needs a library that is not installed.
        """

    @abstractmethod
    def __call__(
        self,
        hidden_N_H: Tensor,
        weight_V_H: Tensor,
        targets_N: Tensor,
        *,
        temperature: float | Tensor = 1.0,
        softcap: float | None = None,
        entropy: Wanted = "value",
        second_moment: Wanted = "none",
        collision_prob: Wanted = "none",
    ) -> TokenScores:
        """Of softmax(cap * tanh(h W^T / cap) / temperature), in fp32 from the logits on.

        Whatever is asked for with ``gradient``, and always the log-probs, can be differentiated in hidden and weight. A
        head that cannot do that raises RequestError; it never leaves a term of a gradient out.

        Args:
            hidden_N_H: last hidden states, one for each target that they predict.
            weight_V_H: the output embedding, in the same dtype.
            targets_N: int64 token ids.
            temperature: one for all rows, or a tensor [N] with one for each; no gradient flows into it.
            softcap: Gemma 2's soft cap of the logits, before the temperature; ``None`` has none.
            entropy: whether ``entropies`` are wanted.
            second_moment: whether ``second_moments`` are wanted.
            collision_prob: whether ``collision_probs`` are wanted; given only where they are.
        """


class TrainBackend(Component):
    """Kind ``train_backend``: owns the optimizer and the processes' communication."""

    __slots__ = ()

    @abstractmethod
    def start(
        self,
        module: torch.nn.Module,
        optimizer: Any,
        *,
        zero_stage: int,
        dtype: str,
        ranks: Any,
        offload: str = "none",
        own_lr: Mapping[str, float] | None = None,
    ) -> TrainEngine:
        """``module(batch, **options)`` returns the fields of :class:`Scores` as a dict.

        ``optimizer``: the ``trainer`` or ``critic`` section; ``ranks``: this process among those of the run;
        ``offload``: as in the ``trainer`` section. ``own_lr`` is given only for a critic that shares the policy's
        trunk: the base learning rate of parameters whose names begin so, where it is not the optimizer's.
        """


class TrainEngine(ABC):
    """One trained model (the policy or the critic)."""

    __slots__ = ()

    module: torch.nn.Module
    stage: int
    """ZeRO's: with 3, ``module`` holds no whole tensors. 0 for a backend without ZeRO."""
    steps_begun: int
    """Optimizer steps that were begun, counted before weights or moments change: an error leaves them whole or not."""

    @abstractmethod
    def score(self, batch: Any, **options: object) -> Scores:
        """A forward pass without gradients; ``options`` go to the module."""

    @abstractmethod
    def update(
        self,
        micro_batches: Sequence[Any],
        loss: Callable[[Scores, Any], tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]],
        lr_scale: float,
        **options: Any,
    ) -> dict[str, float]:
        """One optimizer step on the sum of ``loss(scores, micro_batch)`` over all micro-batches and ranks.

        ``options`` go to the module, but for ``only``, which a detached critic that trains alone gives: the start of
        the names that take the step.
        """

    @abstractmethod
    def weights(self, trained: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the module in full, by name; or only the parameters that train."""

    @abstractmethod
    def optimizer_state(self) -> dict[str, Any]:
        """``{state: {parameter name: {step, exp_avg, exp_avg_sq}}, param_groups, master}``, full tensors on the CPU."""

    @abstractmethod
    def load_optimizer_state(self, saved: dict[str, Any]) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Hold no memory any longer, so that the process can train something else."""


class CollapseDetector(Component):
    """Kind ``collapse``: watches a run and may stop it."""

    __slots__ = ()

    fatal: ClassVar[bool] = True
    """Whether the run ends where the detector fails; otherwise it is left out from then on."""

    @abstractmethod
    def start(self, context: Any) -> CollapseSession:
        """``context.experiment`` is the composed experiment, ``context.tokenizer`` the policy's.

        A detector that only judges is also replayed over a finished run, where there is no tokenizer.
        """


class CollapseSession(ABC):
    """What a detector does in a run."""

    __slots__ = ()

    @abstractmethod
    def measure(self, rollouts: Rollouts, scorer: Any) -> dict[str, float]:
        """Metrics of this step's rollouts, before the filter. Called on all ranks alike, in every step.

        ``scorer(batch)`` gives :class:`Scores`, and ``scorer.pairwise(prompts, continuations)`` the [prompts,
        continuations] log-probs of token ids after token ids; both are for detectors that need the scorer.
        """

    def before_update(self, update: Any) -> dict[str, float]:
        """Metrics just before the policy is updated, in every step that does so. Called on all ranks alike.

        ``update`` is a ``plugins.training.step.pending.PendingUpdate``: the policy and its optimizer's state, rows
        with advantages and weights, the loss, the learning rate. Nothing of it may be changed.
        """
        return {}

    def after_update(self, update: Any) -> dict[str, float]:
        """Metrics just after the policy was updated; given the same object as :meth:`before_update`."""
        return {}

    @abstractmethod
    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        """A verdict stops the run. Sees nothing but the logged metrics, so that it can be replayed offline."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Tracker(Component):
    """Kind ``tracker``: what ``start`` returns is registered on the run's own plugin manager.

    It implements any of the runtime hooks (``run_started``, ``step_finished``, ...); they are called on rank 0.
    One that raises is reported once and called again at the next step, unless the experiment has ``strict_trackers``.
    After a kill a step may be told again, with the same numbers.
    """

    __slots__ = ()

    @abstractmethod
    def start(self, run: RunDirectory) -> object:
        """``run``: the :class:`~uncollapse.core.runs.directory.RunDirectory`."""


class Launcher(Component):
    """Kind ``launcher``: runs the jobs of a sweep on slots."""

    __slots__ = ()

    gpus_per_job: int = 1
    """GPUs, and so processes, of each job."""

    @abstractmethod
    def run(
        self,
        jobs: Sequence[Any],
        on_start: Callable[[Any], None] | None = None,
        on_finish: Callable[[Any, int], Any] | None = None,
    ) -> list[int]:
        """-> the last exit code of each job, in order; never raises because a job failed.

        ``on_start(job)`` and ``on_finish(job, exit_code)`` are called as jobs come and go. A job that ``on_finish``
        returns takes the place of the one that has ended, at the end of the queue.
        """

    @abstractmethod
    def describe(self) -> list[str]:
        """-> where jobs would run, one line per slot. Both raise RequestError, before anything starts."""


class ModelBuilder(Component):
    """Kind ``model_builder``: makes a small model on the spot where no downloaded one exists."""

    __slots__ = ()

    @abstractmethod
    def build(self, directory: Path, environment: Environment, dialogue: Dialogue) -> None:
        """Write a Hugging Face model and tokenizer (with chat template) into an empty ``directory``.

        ``environment`` and ``dialogue`` are the experiment's: what the model is going to read and to say.
        """


class Dialect(Component):
    """Kind ``dialect``: a point of a sweep in the words of another program, for ``uncollapse sweep show --as NAME``."""

    __slots__ = ()

    @abstractmethod
    def keys(self, point: Any, sweep: Any) -> Mapping[str, str]:
        """The program's keys and values of one prepared point."""

    @abstractmethod
    def words(self, keys: Mapping[str, str]) -> str:
        """These keys as the program is given them on a command line."""
