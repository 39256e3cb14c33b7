"""A running vLLM engine: requests in, completions out as they are done, weights in, sleep and wake."""

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
from .transfer import buckets, packed, write_adapter

if TYPE_CHECKING:
    from ..fingerprint import Fingerprint
    from .place import Place
    from .watched import Watched

KEY = "rollout.engine: vllm"
SHUTDOWN_S = 3.0
"""How long the engine's process may take to end before it is killed."""


class VllmSession(RolloutEngineSession):
    """Owns the engine's process."""

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
        self.llm, self.tokenizer, self.place, self.lora = llm, tokenizer, place, lora
        self._watched = watched
        self.adapter = lora is not None
        """Whether :meth:`sync` takes the tensors of a LoRA adapter rather than a whole model's."""
        self._ends, self._folder = ends, folder
        self._asleep = False
        self._syncs = 0
        self._request: Any = None
        self._keys: dict[str, int] = {}
        self._stops: dict[str, Any] = {}

    # --- sampling ---------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        """One completion per prompt, in order; each prompt's seed follows from ``seed`` and its place."""
        for index, prompt in enumerate(prompts):
            digest = hashlib.sha256(repr((seed, index)).encode()).digest()
            self.submit(index, prompt, sampling, int.from_bytes(digest[:8], "big") >> 1)
        completions: dict[int, Completion] = {}
        while len(completions) < len(prompts):
            completions.update(self.finished())
        return [completions[index] for index in range(len(prompts))]

    def submit(self, key: int, prompt: Sequence[int], sampling: Sampling, seed: int) -> None:
        """Queue a prompt; its completion comes from :meth:`finished` under ``key``.

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
        """What is done: waits until at least one is; the others go on meanwhile."""
        done: list[tuple[int, Completion]] = []
        while not done:
            for output in self._call("step"):
                name, sampled = output.request_id, output.outputs[0]
                if name not in self._keys:  # ended by a stop string; what was on its way is dropped
                    continue
                end = self._stop_at(name, sampled.token_ids)
                if end is None and not output.finished:
                    continue
                if end is not None and not output.finished:
                    self._call("abort_request", [name])
                elif sampled.finish_reason in ("abort", "error"):  # cut off: not what the policy would have said
                    raise died()
                done.append((self._keys.pop(name), self._completion(sampled, end)))
                self._stops.pop(name, None)
        return done

    def _stop_at(self, name: str, tokens: Sequence[int]) -> int | None:
        """How many tokens there are up to the end of the first stop string; ``None`` without one."""
        criteria = self._stops.get(name)
        if criteria is None:
            return None
        ids = torch.tensor(list(tokens))[None]
        ends = (end for end in range(1, len(tokens) + 1) if bool(criteria(ids[:, :end], None)[0]))
        return next(ends, None)

    def _completion(self, sampled: Any, end: int | None) -> Completion:
        tokens = tuple(sampled.token_ids)[:end]
        of_sampled = sampled.logprobs  # flat: the sampled token's is the first of each position
        logprobs = tuple(of_sampled.logprobs[first] for first in of_sampled.start_indices[: len(tokens)])
        ended = "eos" if tokens and tokens[-1] in self._ends else "length"
        return Completion(tokens, logprobs, "stop" if end is not None else ended)

    # --- weights ----------------------------------------------------------------------------------------------------

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Wake up, take over the trainer's weights by Hugging Face name, and forget the cache of the old ones.

        After the first time the checksums of what both sides hold are compared.

        Raises:
            RunError: they differ.
        """
        if self._asleep:
            torch.cuda.empty_cache()  # what torch keeps for itself, the engine cannot have
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
        """Give the GPU's memory back, if that is wanted; whether :meth:`sync` must come before the next request."""
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
            for held in self.rpc("uncollapse_fingerprint", shapes):
                self._compare(sent, held)

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

        previous, number = self._request, self._syncs + 1
        directory = Path(self._folder.name) / f"adapter-{number}"
        write_adapter(directory, self.lora, weights)
        self._request = LoRARequest(f"policy-{number}", number, str(directory))
        if previous is not None:
            self._call("remove_lora", previous.lora_int_id)
            shutil.rmtree(previous.lora_path)
        self._call("add_lora", self._request)

    # --- the process ------------------------------------------------------------------------------------------------

    def rpc(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every worker."""
        return self._call("collective_rpc", method, None, arguments)

    def _call(self, method: str, *arguments: Any) -> Any:
        with failures("failed"):
            return self._watched(getattr(self.llm, method), *arguments)

    def close(self) -> None:
        """End the engine's process; does nothing the second time."""
        self._watched.end(lambda: self.llm.engine_core.shutdown(timeout=SHUTDOWN_S), SHUTDOWN_S)
        self._folder.cleanup()


def died() -> RunError:
    return RunError(
        "the vLLM engine's process has died",
        KEY,
        f"its last words stand above; continue from the last checkpoint with {RESUME}",
    )


RAISE = re.compile(r"no available memory for the cache|increas\w+ .?gpu_memory_utilization|KV cache is needed", re.I)
"""What vLLM says where its own share of the GPU is too small."""


def advice(words: str) -> str:
    """How to mend what vLLM says; where that does not tell, both ways with the words that tell them apart."""
    more = "raise gpu_memory_utilization, or lower rollout.max_context"
    less = "lower gpu_memory_utilization, max_num_seqs or rollout.max_context"
    if RAISE.search(words):
        return f"its share of the GPU holds too little cache: {more}"
    if "out of memory" in words or "less than desired GPU memory utilization" in words:
        return f"the GPU has too little free memory: {less}"
    return f"see vLLM's own words above; where they ask for more cache, {more}; where memory is short, {less}"


@contextmanager
def failures(what: str) -> Iterator[None]:
    """What vLLM raises becomes one error."""
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
