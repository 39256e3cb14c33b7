"""A batch as the detailed log shows it: statistics, sequences with their texts, tokens, tensors.

Shape letters: ``S`` sequences (episodes), ``B`` rows, ``T`` tokens. A sequence is one row, or one row per turn; a token
that was sampled stands on the mask of one row only.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from ..estimation.tokens import SampledTokens
from ..sampling.samples import Sample

MAX_PROMPTS = 100
"""Prompts whose sequences and tokens are logged, the first ones of the batch."""
PERCENTILES = (10, 25, 50, 75, 90)
E_FIELDS = (
    "response_text", "prompt_length", "generation_length", "sequence_logprob", "rb_entropy", "importance_weight",
    "advantage",
)  # fmt: skip
U_FIELDS = ("response_text", "generation_length", "sequence_logprob", "rb_entropy", "reward", "advantage")


@attrs.frozen(eq=False, kw_only=True)
class LoggedBatch:
    """What the probe knows of the batch E or U; ``None`` is what was not computed, and is logged as null."""

    name: Literal["E_batch", "U_batch"]
    sample: Sample
    tokenizer: Any
    logprobs: Tensor | None = None
    """[B, T] nats: of each sampled token; not read off the mask."""
    entropies: Tensor | None = None
    """[B, T] nats: of the distribution that each sampled token was drawn from; not read off the mask."""
    advantages: Tensor | None = None
    """[S]; those of E are 0 unless given, because no gradient step is made on E."""
    importance_weights: Tensor | None = None
    """[S]: probability of the sequence after the update over that before it, not shifted or normalised."""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that there is, by name."""
        sample, rollouts, groups_S = self.sample, self.sample.rollouts, self.sample.rollouts.groups_of_episodes()
        known = {name: getattr(rollouts, name) for name in ("tokens", "mask", "lengths", "episodes")}
        known |= {
            "groups": groups_S,
            "prompt_ids": torch.tensor([sample.tasks[group] for group in groups_S.tolist()]),
            "prompt_lengths": torch.tensor([len(episode.turns[0].prompt) for episode in sample.episodes]),
            "generation_lengths": sample.lengths,
            "rewards": sample.rewards,
        }
        own = ("logprobs", "entropies", "advantages", "importance_weights")
        known |= {name: getattr(self, name) for name in own}
        return {name: tensor.detach().cpu() for name, tensor in known.items() if tensor is not None}

    def advantages_S(self) -> Tensor | None:
        if self.advantages is None and self.name == "E_batch":
            return torch.zeros(len(self.sample.episodes))
        return self.advantages

    def groups(self) -> list[list[int]]:
        """The sequences of each of the first prompts."""
        groups: dict[int, list[int]] = {}
        for index, group in enumerate(self.sample.rollouts.groups_of_episodes().tolist()):
            groups.setdefault(group, []).append(index)
        return list(groups.values())[:MAX_PROMPTS]


def spread(values: Tensor) -> dict[str, float | None]:
    """Mean, standard deviation of the sample (``None`` of a single value), least and greatest."""
    values = values.double()
    std = values.std().item() if values.numel() > 1 else None
    return {"mean": values.mean().item(), "std": std, "min": values.min().item(), "max": values.max().item()}


def statistics(batch: LoggedBatch) -> dict[str, Any]:
    """Sizes, lengths in tokens, advantages and rewards.

    ``G``, responses per prompt, is ``None`` where prompts have different numbers of them.
    """
    known, advantages = batch.tensors(), batch.advantages_S()
    sizes = known["groups"].unique(return_counts=True)[1]
    lengths = known["generation_lengths"].double()
    moments = spread(advantages) if advantages is not None else {"mean": None, "std": None}
    percentiles = lengths.quantile(torch.tensor(PERCENTILES, dtype=torch.float64) / 100)
    return {
        "num_prompts": len(sizes),
        "num_sequences": len(lengths),
        "G": int(sizes[0]) if bool((sizes == sizes[0]).all()) else None,
        "avg_prompt_length": known["prompt_lengths"].double().mean().item(),
        "max_sequence_length": int(known["lengths"].max()),
        **_named(spread(lengths), "generation_length"),
        "generation_length_percentiles": percentiles.tolist(),
        "avg_advantages": moments["mean"],
        "std_advantages": moments["std"],
        **_named(spread(known["rewards"]), "reward"),
    }


def _named(values: Mapping[str, float | None], what: str) -> dict[str, float | None]:
    return {f"{'avg' if key == 'mean' else key}_{what}": value for key, value in values.items()}


def sequences(batch: LoggedBatch) -> list[dict[str, Any]]:
    """Prompts and responses with what was measured of them: of E a record per sequence, of U one per prompt."""
    known, episodes = batch.tensors(), batch.sample.episodes
    tokens = SampledTokens(batch.sample.rollouts)

    def sums(values: Tensor | None) -> list[float | None]:
        return _items(None if values is None else tokens.total(tokens.of(values)), len(episodes))

    columns = {
        "response_text": [episode.response for episode in episodes],
        "prompt_length": known["prompt_lengths"].tolist(),
        "generation_length": known["generation_lengths"].tolist(),
        "sequence_logprob": sums(known.get("logprobs")),
        "rb_entropy": sums(known.get("entropies")),
        "importance_weight": _items(batch.importance_weights, len(episodes)),
        "reward": known["rewards"].tolist(),
        "advantage": _items(batch.advantages_S(), len(episodes)),
    }

    def prompt(index: int) -> dict[str, Any]:
        text = batch.tokenizer.decode(list(episodes[index].turns[0].prompt))
        return {"prompt_id": int(known["prompt_ids"][index]), "prompt_text": text}

    def response(index: int) -> dict[str, Any]:
        return {name: columns[name][index] for name in (E_FIELDS if batch.name == "E_batch" else U_FIELDS)}

    if batch.name == "E_batch":
        return [prompt(index) | response(index) for members in batch.groups() for index in members]
    return [
        prompt(members[0]) | {"responses": [{"response_id": n} | response(index) for n, index in enumerate(members)]}
        for members in batch.groups()
    ]


def tokens(batch: LoggedBatch) -> list[dict[str, Any]]:
    """A record per row, by sequence; its padding is left out, so that ``attention_mask`` is 1 throughout.

    Log-probs and entropies are ``None`` where the token was not sampled.
    """
    known = batch.tensors()
    text = functools.cache(lambda token: batch.tokenizer.decode([token]))

    def record(row: int) -> dict[str, Any]:
        length = int(known["lengths"][row])
        ids, sampled = known["tokens"][row, :length].tolist(), known["mask"][row, :length].tolist()

        def on_mask(name: str) -> list[float | None]:
            measured = _items(known[name][row] if name in known else None, length)
            return [value if on else None for value, on in zip(measured, sampled, strict=False)]

        return {
            "tokens": ids,
            "token_texts": [text(token) for token in ids],
            "token_logprobs": on_mask("logprobs"),
            "rb_entropies": on_mask("entropies"),
            "attention_mask": [1] * length,
            "sampled_mask": [int(on) for on in sampled],
        }

    return [
        {"prompt_id": int(known["prompt_ids"][index]), "response_id": number, **record(int(row))}
        for members in batch.groups()
        for number, index in enumerate(members)
        for row in (known["episodes"] == index).nonzero()
    ]


def _items(values: Tensor | None, size: int) -> list[float | None]:
    return [None] * size if values is None else values.tolist()
