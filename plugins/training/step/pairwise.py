"""A scorer gives the log-prob of every continuation after every prompt, and reads each prompt only once.

Without a token budget, prompts are taken one after the other in lexicographic order. The keys and values of one are cut
to the beginning that the next one shares, so that a common system prompt, or a conversation that another one continues,
is read once as well. With a budget, as many prompts are read in one pass, and as many pairs scored in one, as it holds:
on a GPU a pass of few tokens takes as long as one of many.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import attrs
import torch
from torch import Tensor

from ....core.components import Scores
from ....core.errors import RequestError
from ..processes.ranks import Ranks
from .batch import Batch, parts
from .prefix import Prefix, unshared
from .stages import score

Tokens = tuple[int, ...]
Pair = tuple[int, int]
"""Number of a prompt in its block, and of a continuation."""
KEPT = 4
"""Number of kept tokens of a prompt that take as much memory in a pass as one that is read: they have keys and values
of one layer at a time, and no hidden states."""


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
            micro_batch: continuations per forward pass, where the scorer has no token budget.

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
        lengths = [len(continuation) for continuation in continuations]
        table = _batch([(0, *continuation) for continuation in continuations]).to(self._ranks.device)
        size = self._ranks.size
        bounds = [len(prompts) * rank // size for rank in range(size + 1)]
        plans = []
        for start, end in pairwise(bounds):
            blocks = _blocks(prompts, range(start, end), self._budget)
            plans.append([(block, block.passes(lengths, micro_batch, self._budget)) for block in blocks])
        passes = [sum((block.longest > 0) + len(scored) for block, scored in plan) for plan in plans]
        prefix = Prefix()
        for block, scored in plans[self._ranks.rank]:
            prefix = prefix if block.shared else Prefix()
            self._read(prefix, block)
            if prefix.get_seq_length() != block.shared + block.longest:
                raise _refusal(self._engine.module.language_model.config, "no keys and values")
            last = torch.tensor([prompts[row][-1] for row in block.rows], device=table.tokens.device)
            for pairs in scored:
                self._score(logprobs, prefix, block, pairs, table, last)
        for _ in range(max(passes) - passes[self._ranks.rank]):
            # a sharded model is gathered by all ranks together, so that none may stop early
            self._engine.score(table.take([0]), entropy="none", cache=Prefix())

    def _read(self, prefix: Prefix, block: Block) -> None:
        """Read the prompts of a block, less their last tokens, of which each continuation's row begins with one."""
        prefix.cut(block.shared)
        if block.longest:
            self._engine.score(_batch(block.heads, scored=False), entropy="none", cache=prefix)
            prefix.align([len(head) for head in block.heads])

    def _score(
        self, logprobs: Tensor, prefix: Prefix, block: Block, pairs: Sequence[Pair], table: Batch, last: Tensor
    ) -> None:
        """Score pairs of the prompts that ``prefix`` holds and of rows of ``table``."""
        number, column = torch.tensor(pairs).to(table.tokens.device).unbind(1)
        batch = table.take(column)
        batch.tokens[:, 0] = last[number]  # its hidden state predicts the first token of the continuation
        with prefix.continued(number if len(block.rows) > 1 else None):
            scores = self._engine.score(batch, entropy="none", cache=prefix)
        rows = torch.tensor(block.rows, device=number.device)[number]
        logprobs[rows, column] = scores.logprobs.double().sum(1)


@attrs.frozen
class Block:
    """A block is the prompts that are read in one pass, and what of it is known already."""

    rows: list[int]
    """Numbers of the prompts."""
    shared: int
    """Tokens that stay of the block before."""
    heads: list[Tokens]
    """Tokens that are read of each prompt: all after these but the last."""

    @property
    def longest(self) -> int:
        """Most tokens that are read of a prompt."""
        return max(map(len, self.heads))

    def passes(self, lengths: Sequence[int], micro_batch: int, budget: int) -> list[list[Pair]]:
        """Cut the pairs of all prompts with continuations of these ``lengths``, which rise, into forward passes.

        A pass has ``micro_batch`` pairs at most, or as many as a ``budget`` of tokens holds, padding included.
        """
        pairs = [(number, column) for column in range(len(lengths)) for number in range(len(self.rows))]
        if not budget:
            return [[pairs[index] for index in part] for part in parts(range(len(pairs)), micro_batch)]
        cut: list[list[Pair]] = [[]]
        for pair in pairs:
            # the first token of a row is the last one of its prompt
            tokens = 1 + lengths[pair[1]] + -(-self.longest // KEPT)
            if cut[-1] and (len(cut[-1]) + 1) * tokens > budget:
                cut.append([])
            cut[-1].append(pair)
        return cut


def _blocks(prompts: Sequence[Tokens], rows: Sequence[int], budget: int) -> list[Block]:
    """Return blocks of one prompt that share a beginning with the one before, or those that a budget of tokens holds.

    Args:
        prompts: in lexicographic order.
        rows: the numbers of those that are read.
        budget: tokens of a pass, padding included; 0 makes blocks of one.
    """
    if not budget:
        cached: Tokens = ()
        blocks = []
        for row in rows:
            head = prompts[row][:-1]
            pairs = enumerate(zip(cached, head, strict=False))
            shared = next((index for index, (old, new) in pairs if old != new), min(len(cached), len(head)))
            blocks.append(Block([row], shared, [head[shared:]]))
            cached = head
        return blocks
    together: list[list[int]] = []
    for row in sorted(rows, key=lambda row: len(prompts[row])):
        if not together or (len(together[-1]) + 1) * len(prompts[row]) > budget:
            together.append([])
        together[-1].append(row)
    return [Block(block, 0, [prompts[row][:-1] for row in block]) for block in together]


def _batch(rows: Sequence[Tokens], scored: bool = True) -> Batch:
    """Return right-padded rows, of which all tokens but the first of each row are scored, or none."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
    positions = torch.arange(tokens.shape[1])
    mask = (positions > 0) & (positions < lengths[:, None]) & scored
    return Batch(tokens=tokens, mask=mask, lengths=lengths)


def _check(config: Any) -> None:
    if layers := unshared(config):
        raise _refusal(config, layers[0])


def _refusal(config: Any, kept: str) -> RequestError:
    return RequestError(
        f"a model of type {config.model_type} cannot share prompts: it keeps {kept} of the tokens that it has read",
        "model.path",
        "use a model with plain attention, or leave out the detector that compares prompts (mutual_information)",
    )
