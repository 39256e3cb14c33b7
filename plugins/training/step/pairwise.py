"""A scorer gives the log-prob of every continuation after every prompt, and reads each prompt only once.

Prompts are taken in lexicographic order. The keys and values of one prompt are cut to the beginning that the next one
shares, so that a common system prompt, or a conversation that another one continues, is read once as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ....core.components import Scores
from ....core.errors import RequestError
from ..processes.ranks import Ranks
from .batch import Batch, parts
from .stages import score

Tokens = tuple[int, ...]


class Scorer:
    """A scorer lets detectors score with the policy as it is, in evaluation mode and without gradients.

    Every method is called on all ranks and gives all of them the same result.
    """

    def __init__(self, engine: Any, size: int, ranks: Ranks, budget: int = 0) -> None:
        """Set how many rows a forward pass of a call has.

        Args:
            engine: the policy's train engine.
            size: the number of rows.
            ranks: the ranks of the run.
            budget: the number of tokens of packed rows, in place of ``size``, unless it is 0.
        """
        self._engine = engine
        self._size = size
        self._ranks = ranks
        self._budget = budget

    def __call__(self, batch: Batch) -> Scores:
        """Return log-probs and entropies of the tokens on the batch's mask."""
        return score(self._engine, batch, self._size, self._ranks, budget=self._budget)

    @torch.no_grad()
    def pairwise(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], micro_batch: int = 32
    ) -> Tensor:
        """Return the log-prob (nats, at the rollout's temperature) of every continuation after every prompt.

        Each rank reads a share of the prompts. No entropies are computed, and the head sees the continuations' own
        positions only.

        Args:
            prompts: token ids, at least one each. Equal ones are read once.
            continuations: token ids. Equal ones are scored once.
            micro_batch: continuations per forward pass.

        Returns:
            [prompts, continuations] float64, on the CPU.

        Raises:
            ValueError: a prompt is empty.
            RequestError: the model keeps something other than keys and values of the tokens it has read (recurrent and
                linear-attention models): that cannot be cut to a common prefix.
        """
        module = self._engine.module
        _check(module.language_model.config)
        rows = {prompt: row for row, prompt in enumerate(sorted({tuple(prompt) for prompt in prompts}))}
        by_length = sorted({tuple(continuation) for continuation in continuations}, key=lambda c: (len(c), c))
        columns = {continuation: column for column, continuation in enumerate(by_length)}
        if () in rows:
            raise ValueError("a prompt is empty: the first token of a continuation needs one before it")
        logprobs = torch.zeros(len(rows), len(columns), dtype=torch.float64, device=self._ranks.device)
        if logprobs.numel():
            training = module.training
            try:
                self._fill(logprobs, list(rows), by_length, micro_batch)
            finally:
                module.train(training)
            self._ranks.sum(logprobs)
        wanted_rows = [rows[tuple(prompt)] for prompt in prompts]
        wanted_columns = [columns[tuple(continuation)] for continuation in continuations]
        return logprobs.cpu()[wanted_rows][:, wanted_columns]

    def _fill(self, logprobs: Tensor, prompts: list[Tokens], continuations: list[Tokens], micro_batch: int) -> None:
        """Fill in this rank's rows of ``logprobs``, in as many forward passes as every other rank makes."""
        batches = []
        for part in parts(range(len(continuations)), micro_batch):
            padded = _batch([(0, *continuations[column]) for column in part])
            batches.append((part, padded.to(self._ranks.device)))
        size = self._ranks.size
        bounds = [len(prompts) * rank // size for rank in range(size + 1)]
        plans = [_plan(prompts[start:end]) for start, end in pairwise(bounds)]
        passes = [sum(bool(new) + len(batches) for _, new in plan) for plan in plans]
        rank = self._ranks.rank
        prefix = Prefix()
        for row, (shared, new) in enumerate(plans[rank], bounds[rank]):
            prefix.cut(shared)
            if new:
                self._engine.score(_batch([new], scored=False), entropy="none", cache=prefix)
            if prefix.get_seq_length() != shared + len(new):
                raise _refusal(self._engine.module.language_model.config, "no keys and values")
            prefix.grows = False
            for part, batch in batches:
                batch.tokens[:, 0] = prompts[row][-1]  # its hidden state predicts the first token of each continuation
                scores = self._engine.score(batch, entropy="none", cache=prefix)
                logprobs[row, part] = scores.logprobs.double().sum(1)
            prefix.grows = True
        for _ in range(max(passes) - passes[rank]):
            # a sharded model is gathered by all ranks together, so that none may stop early
            self._engine.score(batches[0][1], entropy="none", cache=Prefix())


class Prefix(Cache):
    """The keys and values of one row of tokens, which any number of rows may continue."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.grows = True
        """Whether the keys and values of continuing rows are kept."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the prefix with the new states of every row. Copies for many rows live as long as needed."""
        while len(self.layers) <= layer_idx:
            self.layers.append(DynamicLayer())
        layer: Any = self.layers[layer_idx]
        keys, values = (
            new if old is None else torch.cat([old.expand(len(new), -1, -1, -1), new], dim=-2)
            for old, new in ((layer.keys, key_states), (layer.values, value_states))
        )
        if self.grows:
            layer.keys, layer.values = keys, values
            layer.is_initialized = True
        return keys, values

    def cut(self, length: int) -> None:
        """Drop all but the first ``length`` tokens."""
        layer: Any
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]


def _plan(prompts: Sequence[Tokens]) -> list[tuple[int, Tokens]]:
    """Return for each prompt how many tokens of the one before it stay, and which tokens are read after these.

    The last token of a prompt is never read here: it is the first one of each continuation's row.
    """
    cached: Tokens = ()
    plan = []
    for prompt in prompts:
        pairs = enumerate(zip(cached, prompt[:-1], strict=False))
        shared = next((index for index, (old, new) in pairs if old != new), min(len(cached), len(prompt) - 1))
        cached = prompt[:-1]
        plan.append((shared, cached[shared:]))
    return plan


def _batch(rows: Sequence[Tokens], scored: bool = True) -> Batch:
    """Return right-padded rows, of which all tokens but the first of each row are scored, or none."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
    positions = torch.arange(tokens.shape[1])
    mask = (positions > 0) & (positions < lengths[:, None]) & scored
    return Batch(tokens=tokens, mask=mask, lengths=lengths)


def shares_prompts(config: Any) -> bool:
    """Return whether the cache of a model can be cut to a prefix and continued by many rows."""
    return not _unshared(config)


def _unshared(config: Any) -> list[str]:
    layers = {type(layer) for layer in DynamicCache(config=config).layers} - {DynamicLayer, DynamicSlidingWindowLayer}
    return sorted(layer.__name__ for layer in layers)


def _check(config: Any) -> None:
    if layers := _unshared(config):
        raise _refusal(config, layers[0])


def _refusal(config: Any, kept: str) -> RequestError:
    return RequestError(
        f"a model of type {config.model_type} cannot share prompts: it keeps {kept} of the tokens that it has read",
        "model.path",
        "use a model with plain attention, or leave out the detector that compares prompts (mutual_information)",
    )
