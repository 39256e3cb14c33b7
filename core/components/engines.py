"""Base classes of what trains, watches and records: heads, backends, detectors, trackers, launchers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from .component import Component
from .detector_memory import DetectorLoad, DetectorMemory

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from ..runs.directory import RunDirectory
    from .data import Rollouts, Scores, TokenScores, Verdict, Wanted
    from .dialogue import Dialogue
    from .environment import Environment


class TokenHead(Component):
    """A token head computes log-probs, and other statistics of tokens, from hidden states. Kind ``token_head``.

    It never holds the logits of all tokens at once, so that its memory does not grow with tokens times vocabulary.
    """

    __slots__ = ()

    gives: ClassVar[frozenset[str]] = frozenset({"second_moments", "collision_probs"})
    """Which of these two it can compute: an experiment that needs one that it cannot is refused."""

    @abstractmethod
    def on(self, device: torch.device) -> TokenHead:
        """Return the head that computes on ``device``: this one, or another one that it chooses.

        Raises:
            RequestError: it cannot compute there, or needs a library that is not installed.
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
        """Compute statistics of softmax(cap * tanh(h W^T / cap) / temperature), in fp32 from the logits on.

        Log-probs always have a gradient in ``hidden_N_H`` and ``weight_V_H``; entropies and second moments have one
        where ``gradient`` is asked for.

        Args:
            hidden_N_H: [N, H] last hidden states, each of which predicts one target.
            weight_V_H: [V, H] the output embedding, in the same dtype.
            targets_N: [N] int64 token ids.
            temperature: one number, or a tensor [N]; no gradient flows into it.
            softcap: Gemma 2's soft cap of the logits, applied before the temperature; ``None`` applies none.
            entropy: whether to compute ``entropies``.
            second_moment: whether to compute ``second_moments``.
            collision_prob: whether to compute ``collision_probs``; it is given only where they are wanted.

        Raises:
            RequestError: it cannot compute a gradient that is asked for. It must never leave out a term of one.
        """


class TrainBackend(Component):
    """A training backend owns the optimizer and the communication between processes. Kind ``train_backend``."""

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
        """Return an engine that trains ``module``.

        Args:
            module: the model; ``module(batch, **options)`` returns the fields of :class:`Scores` as a dict.
            optimizer: the ``trainer`` or the ``critic`` section of the experiment.
            zero_stage: the ZeRO stage that is asked for, 0 to 3.
            dtype: the model's dtype, ``float32`` or ``bfloat16``.
            ranks: which process of the run this is, and how it talks to the others.
            offload: what is kept in the machine's memory, as in ``trainer.offload``.
            own_lr: first part of parameter names -> their base learning rate, where it is not the optimizer's. It is
                given only for a critic that shares the policy's trunk.
        """


class TrainEngine(ABC):
    """A model that trains: the policy or the critic."""

    __slots__ = ()

    module: torch.nn.Module
    """The model, which computes the fields of :class:`Scores`."""
    stage: int
    """The ZeRO stage; with 3, ``module`` holds no whole tensors. 0 for a backend without ZeRO."""
    steps_begun: int
    """The number of optimizer steps that have begun. It grows before weights or moments change: if it is the same after
    an error, they have not changed."""

    @abstractmethod
    def score(self, batch: Any, **options: object) -> Scores:
        """Run a forward pass without gradients; ``options`` are passed to the module."""

    @abstractmethod
    def update(
        self,
        micro_batches: Sequence[Any],
        loss: Callable[[Scores, Any], tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]],
        lr_scale: float,
        **options: Any,
    ) -> dict[str, float]:
        """Take one optimizer step on the sum of ``loss(scores, micro_batch)`` over all micro-batches and ranks.

        Args:
            micro_batches: those of this rank.
            loss: what gives the loss of a micro-batch, and metrics as (sum, count) pairs.
            lr_scale: the factor of the base learning rate in this step.
            options: passed to the module, except for ``only``: the first part of the names of the parameters that
                change, which is given for a critic head that trains alone.

        Returns:
            The mean of each metric over all micro-batches and ranks.
        """

    @abstractmethod
    def weights(self, trained: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor of the module in full with its name; with ``trained``, only the parameters that train."""

    def fp32_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the fp32 weights behind every parameter that trains and has another type, in full with its name."""
        yield from self.optimizer_state()["master"].items()

    @abstractmethod
    def optimizer_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the optimizer, as full tensors on the CPU.

        It is ``{state: {parameter name: {step, exp_avg, exp_avg_sq}}, param_groups, master}``.
        """

    def live_optimizer_state(self) -> dict[str, Any]:
        """Return the same for those who only read it before the next step: tensors may be the optimizer's own.

        They lie on the device where that saves a copy; by default they are those of :meth:`optimizer_state`.
        """
        return self.optimizer_state()

    @abstractmethod
    def load_optimizer_state(self, saved: dict[str, Any]) -> None:
        """Go on from what :meth:`optimizer_state` returned."""

    @abstractmethod
    def close(self) -> None:
        """Give all memory back, so that the process can train something else."""


class CollapseDetector(Component):
    """A detector watches a run for signs of collapse and may stop it. Kind ``collapse``."""

    __slots__ = ()

    fatal: ClassVar[bool] = True
    """Whether an error of the detector ends the run; otherwise the run goes on without the detector."""

    @abstractmethod
    def start(self, context: Any) -> CollapseSession:
        """Return the session that watches one run.

        ``context.experiment`` is the composed experiment, and ``context.tokenizer`` the policy's tokenizer. The
        latter is ``None`` where ``uncollapse detect`` replays detectors over a finished run.
        """

    def memory(self, load: DetectorLoad) -> DetectorMemory:
        """Return at least the memory that it takes of each GPU, for the check before a run. By default none."""
        return DetectorMemory()

    def smaller(self) -> Iterator[Mapping[str, Any]]:
        """Yield values of its parameters with which it takes less memory, smallest change first; by default none."""
        yield from ()


class CollapseSession(ABC):
    """A detector in a run."""

    __slots__ = ()

    @abstractmethod
    def measure(self, rollouts: Rollouts, scorer: Any) -> dict[str, float]:
        """Return metrics of this step's rollouts. It is called in every step, on all ranks, before the filter.

        A detector that needs ``scorer`` may call ``scorer(batch)``, which gives :class:`Scores`, and
        ``scorer.pairwise(prompts, continuations)``, which gives the log-prob of each continuation after each prompt, as
        a [prompts, continuations] tensor; both are token ids.
        """

    def before_update(self, update: Any) -> dict[str, float]:
        """Return metrics just before the policy is updated. It is called on all ranks, in every step with an update.

        ``update`` is a ``plugins.training.step.pending.PendingUpdate``. It holds the policy and its optimizer's state,
        the rows with their advantages and weights, the loss and the learning rate. None of that may be changed.
        """
        return {}

    def after_update(self, update: Any) -> dict[str, float]:
        """Return metrics just after the policy was updated; ``update`` is the object that :meth:`before_update` got."""
        return {}

    @abstractmethod
    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        """Return a verdict if the run has collapsed, else ``None``.

        A verdict stops the run unless its ``stop`` is false. It reads nothing but the logged metrics, so that it can be
        replayed over a finished run.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs; what JSON can hold."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""


class Tracker(Component):
    """A tracker sends the metrics of a run elsewhere. Kind ``tracker``.

    The object that ``start`` returns implements any of the runtime hooks (``run_started``, ``step_finished``, ...),
    which are called on rank 0. An error is reported once, and the hook is called again at the next step; with
    ``strict_trackers`` the error ends the run. After a kill a step may be reported a second time, with the same
    numbers.
    """

    __slots__ = ()

    @abstractmethod
    def start(self, run: RunDirectory) -> object:
        """Return the object whose hooks are called. ``run`` is the directory of the run."""


class Launcher(Component):
    """A launcher runs the jobs of a sweep on slots. Kind ``launcher``."""

    __slots__ = ()

    gpus_per_job: int = 1
    """GPUs, and so processes, of each job."""

    per_gpu: int | None = None
    """Jobs that share a GPU; ``None`` where each job has GPUs of its own, and none can be shared."""

    def gpus_here(self) -> list[str] | None:
        """Return the ids of the GPUs that it uses on this machine; ``None`` if jobs run on other machines.

        Raises:
            RequestError: as :meth:`describe`.
        """
        return None

    @abstractmethod
    def run(
        self,
        jobs: Sequence[Any],
        on_start: Callable[[Any], None] | None = None,
        on_finish: Callable[[Any, int], Any] | None = None,
    ) -> list[int]:
        """Run all jobs and return the last exit code of each, in order. A job that fails raises nothing.

        ``on_start(job)`` is called when a job starts, and ``on_finish(job, exit_code)`` when it has ended. If
        ``on_finish`` returns a job, that one is run in place of the ended one, after those that already wait.

        Raises:
            RequestError: there is no place to run jobs; raised before any has started.
        """

    @abstractmethod
    def describe(self) -> list[str]:
        """Return where jobs would run, one line for each slot.

        Raises:
            RequestError: there is no place to run jobs.
        """


class ModelBuilder(Component):
    """A model builder makes a model where none has been downloaded. Kind ``model_builder``.

    Its model is made once and kept in the cache, under a hash of all that it depends on.
    """

    __slots__ = ()

    for_any_task: ClassVar[bool] = False
    """Whether the model does not depend on environment and dialogue; it is then kept once for all of them."""

    def sources(self) -> Sequence[Path]:
        """Return the files that the model is made from; another content makes another model. By default none."""
        return ()

    @abstractmethod
    def build(self, directory: Path, environment: Environment, dialogue: Dialogue) -> None:
        """Write a Hugging Face model and tokenizer (with chat template) into an empty ``directory``.

        ``environment`` and ``dialogue`` are those of the experiment, which the model must be able to read and answer.
        """


class Dialect(Component):
    """A dialect writes a point of a sweep as another program spells it, for ``uncollapse sweep show --as NAME``.

    Kind ``dialect``.
    """

    __slots__ = ()

    @abstractmethod
    def keys(self, point: Any, sweep: Any) -> Mapping[str, str]:
        """Return the program's keys with their values for one prepared point."""

    @abstractmethod
    def words(self, keys: Mapping[str, str]) -> str:
        """Return the command line that gives these keys to the program."""
