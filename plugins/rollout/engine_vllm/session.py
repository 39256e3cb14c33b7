"""The session of a vLLM engine queues requests, returns completions, takes weights, sleeps and wakes."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....core.components import Completion, RolloutEngineSession, Sampling
from ....core.errors import RESUME, RunError, UncollapseError
from ..fingerprint import fingerprint, mismatches
from .pack_weights import buckets, packed, write_adapter

if TYPE_CHECKING:
    from ..fingerprint import Fingerprint
    from .place import Place
    from .watched import Watched

KEY = "rollout.engine: vllm"
SHUTDOWN_S = 3.0
"""Seconds that the engine's process may take to end before it is killed."""


class VllmSession(RolloutEngineSession):
    """A vLLM engine in a run, with its process."""

    single_requests = True

    def __init__(
        self,
        llm: Any,
        watched: Watched,
        tokenizer: Any,
        ends: list[int],
        place: Place,
        folder: tempfile.TemporaryDirectory[str],
        lora: Any,
    ) -> None:
        self.llm = llm
        self.tokenizer = tokenizer
        self.place = place
        self.lora = lora
        self._watched = watched
        self.adapter = lora is not None
        """Whether :meth:`sync` takes the tensors of a LoRA adapter, instead of a whole model's."""
        self._ends = ends
        self._folder = folder
        self._asleep = False
        self._syncs = 0
        self._request: Any = None
        self._keys: dict[str, int] = {}
        self._stops: dict[str, Any] = {}

    # --- sampling ---------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        """Sample one completion for each prompt, in order. The seed of each follows from ``seed`` and its index."""
        for index, prompt in enumerate(prompts):
            digest = hashlib.sha256(repr((seed, index)).encode()).digest()
            self.submit(index, prompt, sampling, int.from_bytes(digest[:8], "big") >> 1)
        completions: dict[int, Completion] = {}
        while len(completions) < len(prompts):
            completions.update(self.finished())
        return [completions[index] for index in range(len(prompts))]

    def submit(self, key: int, prompt: Sequence[int], sampling: Sampling, seed: int) -> None:
        """Queue a prompt, whose completion :meth:`finished` returns under ``key``.

        Raises:
            RunError: the engine has no weights yet, or sleeps.
        """
        if self._asleep or not self._syncs:
            raise RunError("the vLLM engine was asked before it was sent the policy", KEY, "call sync() first")
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=seed,
            logprobs=0,
            flat_logprobs=True,
            stop_token_ids=self._ends,
            detokenize=False,
            output_kind=RequestOutputKind.CUMULATIVE if sampling.stop else RequestOutputKind.FINAL_ONLY,
        )
        name = str(key)
        with failures("failed"):
            self.llm.add_request(name, {"prompt_token_ids": list(prompt)}, parameters, lora_request=self._request)
        self._keys[name] = key
        if sampling.stop:
            from transformers import StopStringCriteria

            self._stops[name] = StopStringCriteria(self.tokenizer, list(sampling.stop))

    def finished(self) -> list[tuple[int, Completion]]:
        """Wait until a request is done, and return all that are; the others go on meanwhile."""
        while not (done := self.poll()):
            pass
        return done

    def poll(self) -> list[tuple[int, Completion]]:
        """Let the engine do one step, and return the requests that are done, if any."""
        done: list[tuple[int, Completion]] = []
        for output in self._call("step"):
            name = output.request_id
            sampled = output.outputs[0]
            if name not in self._keys:  # a stop string has ended it, and it was aborted
                continue
            end = self._stop_at(name, sampled.token_ids)
            if end is None and not output.finished:
                continue
            if end is not None and not output.finished:
                self._call("abort_request", [name])
            elif sampled.finish_reason in ("abort", "error"):  # cut off, so that it is not what the policy samples
                raise died()
            done.append((self._keys.pop(name), self._completion(sampled, end)))
            self._stops.pop(name, None)
        return done

    def _stop_at(self, name: str, tokens: Sequence[int]) -> int | None:
        """Return the number of tokens up to the end of the first stop string; ``None`` without one."""
        criteria = self._stops.get(name)
        if criteria is None:
            return None
        ids = torch.tensor(list(tokens))[None]
        ends = (end for end in range(1, len(tokens) + 1) if bool(criteria(ids[:, :end], None)[0]))
        return next(ends, None)

    def _completion(self, sampled: Any, end: int | None) -> Completion:
        tokens = tuple(sampled.token_ids)[:end]
        flat = sampled.logprobs  # at each position the first log-prob is that of the sampled token
        logprobs = tuple(flat.logprobs[first] for first in flat.start_indices[: len(tokens)])
        ended = "eos" if tokens and tokens[-1] in self._ends else "length"
        return Completion(tokens, logprobs, "stop" if end is not None else ended)

    # --- weights ----------------------------------------------------------------------------------------------------

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Wake up, take the trainer's weights by Hugging Face name, and drop the cache of the old ones.

        After the first time, checksums of the weights on both sides are compared.

        Raises:
            RunError: the checksums differ.
        """
        if self._asleep:
            torch.cuda.empty_cache()  # the engine cannot use memory that torch keeps for later
            self._call("wake_up", ["weights"])
        if self.adapter:
            self._load_adapter(weights)
        else:
            self._load(weights)
        if self._asleep:
            self._call("wake_up", ["kv_cache"])
            self._asleep = False
        if not self._call("reset_prefix_cache"):
            raise RunError("the vLLM engine kept the cache of the old weights", KEY, "sync between rollouts only")
        self._syncs += 1

    def sleep(self) -> bool:
        """Give the GPU's memory back if ``sleep`` is set, and return whether the engine sleeps."""
        if self.place.sleeps and not self._asleep:
            self._call("sleep", 1 if self.adapter else 2)
            self._asleep = True
        return self._asleep

    def _load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        shapes: dict[str, list[int]] = {}
        sent: dict[str, Fingerprint] = {}
        for tensors, last in buckets(weights):
            if self._syncs == 0:
                shapes |= {name: list(tensor.shape) for name, tensor in tensors}
                sent |= fingerprint(tensors)
            with packed(tensors, self.place.trainer, self._folder.name) as message:
                self.rpc("uncollapse_receive", message, last, self._asleep)
        if self._syncs == 0:
            for of_worker in self.rpc("uncollapse_fingerprint", shapes):
                self._compare(sent, of_worker)

    @staticmethod
    def _compare(sent: dict[str, Fingerprint], held: dict[str, Fingerprint]) -> None:
        wrong = mismatches({name: sent[name] for name in held}, held)
        if wrong or not held:
            reason = f"holds another {wrong[0]} than it was sent" if wrong else "holds nothing that could be compared"
            raise RunError(
                f"after the weights were sent, the vLLM engine {reason}",
                KEY,
                "it would not sample from the policy: set rollout.engine=hf, and report the model and vLLM's version",
            )

    def _load_adapter(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        from vllm.lora.request import LoRARequest

        previous = self._request
        number = self._syncs + 1
        directory = Path(self._folder.name) / f"adapter-{number}"
        write_adapter(directory, self.lora, weights)
        self._request = LoRARequest(f"policy-{number}", number, str(directory))
        if previous is not None:
            self._call("remove_lora", previous.lora_int_id)
            shutil.rmtree(previous.lora_path)
        self._call("add_lora", self._request)

    # --- the process ------------------------------------------------------------------------------------------------

    def rpc(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every worker, and return their results."""
        return self._call("collective_rpc", method, None, arguments)

    def _call(self, method: str, *arguments: Any) -> Any:
        with failures("failed"):
            return self._watched(getattr(self.llm, method), *arguments)

    def close(self) -> None:
        """End the engine's process. A second call does nothing."""
        self._watched.end(lambda: self.llm.engine_core.shutdown(timeout=SHUTDOWN_S), SHUTDOWN_S)
        self._folder.cleanup()


def died() -> RunError:
    """Return the error of a run whose engine has died."""
    return RunError(
        "the vLLM engine's process has died",
        KEY,
        f"its last words stand above; continue from the last checkpoint with {RESUME}",
    )


RAISE = re.compile(r"no available memory for the cache|increas\w+ .?gpu_memory_utilization|KV cache is needed", re.I)
"""Messages of vLLM whose cause is a share of the GPU that is too small."""


def advice(words: str) -> str:
    """Return how to mend a failure of vLLM; where its message leaves that open, both ways."""
    more = "raise gpu_memory_utilization, or lower rollout.max_context"
    less = "lower gpu_memory_utilization, max_num_seqs or rollout.max_context"
    if RAISE.search(words):
        return f"its share of the GPU holds too little cache: {more}"
    if "out of memory" in words or "less than desired GPU memory utilization" in words:
        return f"the GPU has too little free memory: {less}"
    return f"see vLLM's own words above; where they ask for more cache, {more}; where memory is short, {less}"


@contextmanager
def failures(what: str) -> Iterator[None]:
    """Turn whatever vLLM raises in the block into one error."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise died() from error
    except UncollapseError:
        raise
    except Exception as error:  # vLLM passes on what failed in the engine's process as a plain Exception
        reason = shorten(str(error), 400) or type(error).__name__  # pydantic's first line says only where
        raise RunError(
            f"the vLLM engine {what}: {reason}",
            KEY,
            advice(str(error)),
        ) from error
