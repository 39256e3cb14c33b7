"""The engine ``hf`` samples with a Hugging Face causal language model, usually the module that trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from transformers import DynamicCache, StopStringCriteria

from ...core.components import Completion, EngineMemory, RolloutEngine, RolloutEngineSession, Sampling, SamplingLoad
from ...core.errors import RunError
from .template import end_ids

_REASONS = ("length", "eos", "stop")


@attrs.frozen
class HfEngine(RolloutEngine):
    """Sample with the trainer's own Hugging Face model, so that there are no weights to copy.

    log p(token) = log_softmax(logits / temperature) in fp32, over the whole vocabulary: no top-k or top-p, so the
    sampler's log-probs are those of a training pass at the same temperature, up to the rounding of the forward pass.
    Temperature 0 takes the likeliest token and reports its log-prob at temperature 1.

    A response ends with an end-of-turn token (of the generation config, the tokenizer or the chat template), a stop
    string, or after ``max_tokens``. Prompts are left padded, with position ids that skip the padding. Equal prompts
    are read once. Rows that have ended leave the batch once they are half of it.

    Every prompt has its own random numbers, drawn from the seed and inverted through the distribution function: the
    same seed and prompts give the same completions, and ``batch`` changes them only where rounding does.
    """

    greedy: ClassVar[bool] = True

    batch: int = attrs.field(default=128, validator=[attrs.validators.ge(1), attrs.validators.le(1 << 18)])
    """The largest number of conversations in a forward pass; it bounds the memory of the key-value cache."""

    def start(self, model: Any, tokenizer: Any, *, max_context: int | None = None) -> HfSession:
        """Return a session on ``model``. The cache grows with the conversations, whatever ``max_context`` is."""
        return HfSession(model, tokenizer, self.batch)

    def memory(self, load: SamplingLoad) -> EngineMemory:
        """Return the memory of at most ``batch`` conversations, which are sampled at once."""
        return super().memory(attrs.evolve(load, rows=min(self.batch, load.rows)))

    def smaller(self) -> Iterator[Mapping[str, Any]]:
        """Yield half of the batch, a quarter of it, and so on."""
        batch = self.batch
        while batch > 1:
            batch //= 2
            yield {"batch": batch}


class HfSession(RolloutEngineSession):
    """The engine in a run. Dropout is off while it samples; afterwards the model is in the mode that it was in."""

    def __init__(self, model: Any, tokenizer: Any, batch: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch = batch
        self.end_ids = end_ids(model, tokenizer)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        """Sample one completion for each prompt, in order.

        Raises:
            RunError: the model's logits are NaN.
        """
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same numbers on every device
        uniforms_N_T = torch.rand(len(prompts), sampling.max_tokens, generator=generator, dtype=torch.float64)
        uniforms_N_T = uniforms_N_T.to(self.model.device)
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))  # little padding within a batch
        completions: dict[int, Completion] = {}
        with _evaluating(self.model), torch.no_grad():
            for start in range(0, len(prompts), self.batch):
                chunk = by_length[start : start + self.batch]
                sampled = self._sample([tuple(prompts[index]) for index in chunk], sampling, uniforms_N_T[chunk])
                completions.update(zip(chunk, sampled, strict=True))
        return [completions[index] for index in range(len(prompts))]

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy full tensors into the model, by name. Not needed when the model is the trainer's own.

        Raises:
            RunError: the model has no tensor of that name and shape.
        """
        tensors = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in weights:
                if name not in tensors or tensors[name].shape != tensor.shape:
                    raise RunError(
                        f"the sampling model has no weight {name} of shape {tuple(tensor.shape)}",
                        "rollout engine hf",
                        "start the engine with a model of the same architecture as the trainer's",
                    )
                tensors[name].copy_(tensor)

    def close(self) -> None:
        del self.model

    def _sample(self, prompts: list[tuple[int, ...]], sampling: Sampling, uniforms_N_T: Tensor) -> list[Completion]:
        """Sample a batch of prompts until all rows have ended; ``L`` counts the tokens of prompt and response."""
        logits_N_V, cache, mask_N_L = self._prefill(prompts)
        if bool(logits_N_V.isnan().any()):
            raise RunError("the model's logits are NaN", "rollout engine hf", "the policy diverged: lower trainer.lr")
        device = logits_N_V.device
        rows, width = mask_N_L.shape
        mask_N_L = torch.cat([mask_N_L, mask_N_L.new_ones(rows, sampling.max_tokens)], dim=1)
        positions_N = mask_N_L[:, :width].sum(1)
        end_ids_N = torch.tensor(self.end_ids, dtype=torch.long, device=device)
        stop_strings = StopStringCriteria(self.tokenizer, list(sampling.stop)) if sampling.stop else None

        tokens_N_T = torch.zeros(rows, sampling.max_tokens, dtype=torch.long, device=device)
        logprobs_N_T = torch.zeros(rows, sampling.max_tokens, device=device)
        lengths_N = torch.full((rows,), sampling.max_tokens, device=device)
        reasons_N = torch.zeros(rows, dtype=torch.long, device=device)
        # n of the N rows are still in the batch; of these, running_n have not ended
        alive_n = torch.arange(rows, device=device)
        running_n = torch.ones(rows, dtype=torch.bool, device=device)

        for step in range(sampling.max_tokens):
            if step:
                logits_N_V = self._forward(
                    tokens_N_T[alive_n, step - 1, None],
                    mask_N_L[:, : width + step],
                    (positions_N + step - 1)[:, None],
                    cache,
                )
            token_n, logprob_n = _draw(logits_N_V, sampling.temperature, uniforms_N_T[alive_n, step])
            tokens_N_T[alive_n, step] = token_n
            logprobs_N_T[alive_n, step] = logprob_n
            reason_n = torch.isin(token_n, end_ids_N).long()
            if stop_strings is not None:
                stopped_n = stop_strings(tokens_N_T[alive_n, : step + 1], None)
                reason_n = torch.where((reason_n == 0) & stopped_n, 2, reason_n)
            ended_n = running_n & (reason_n > 0)
            lengths_N[alive_n[ended_n]] = step + 1
            reasons_N[alive_n[ended_n]] = reason_n[ended_n]
            running_n = running_n & ~ended_n
            left = int(running_n.sum())
            if left == 0:
                break
            # copying the cache costs, so that rows only leave once half of them have ended
            if 2 * left <= len(alive_n):
                cache.batch_select_indices(running_n.nonzero().flatten())
                alive_n = alive_n[running_n]
                mask_N_L = mask_N_L[running_n]
                positions_N = positions_N[running_n]
                running_n = running_n[running_n]

        return [
            Completion(tuple(tokens[:length]), tuple(logprobs[:length]), _REASONS[reason])
            for tokens, logprobs, length, reason in zip(
                tokens_N_T.tolist(), logprobs_N_T.tolist(), lengths_N.tolist(), reasons_N.tolist(), strict=True
            )
        ]

    def _prefill(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, DynamicCache, Tensor]:
        """Read left-padded prompts; return next-token logits [N, V], the cache and the mask [N, L].

        Equal prompts are read once.
        """
        distinct = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        width = max(map(len, distinct))
        device = self.model.device
        ids = torch.tensor([(0,) * (width - len(prompt)) + prompt for prompt in distinct], device=device)
        lengths = torch.tensor([len(prompt) for prompt in distinct], device=device)
        mask = (torch.arange(width, device=device) >= width - lengths[:, None]).long()
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        rows = torch.tensor([distinct[prompt] for prompt in prompts], device=device)
        if len(distinct) < len(prompts):
            cache.batch_select_indices(rows)
        return logits[rows], cache, mask[rows]

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]


def _draw(logits_N_V: Tensor, temperature: float, uniforms_N: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the next token of each row, where the distribution function exceeds its uniform number, and its log-prob."""
    logprobs_N_V = (logits_N_V.float() / (temperature or 1.0)).log_softmax(-1)
    if temperature == 0:
        token = logprobs_N_V.argmax(-1)
    else:
        below_N_V = logprobs_N_V.exp().cumsum(-1, dtype=torch.float64)
        below_N_V /= below_N_V[:, -1:].clone()
        token = torch.searchsorted(below_N_V, uniforms_N[:, None], right=True)[:, 0]
    return token, logprobs_N_V.gather(1, token[:, None])[:, 0]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
