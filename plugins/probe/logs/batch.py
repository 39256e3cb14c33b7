"""The detailed log shows a batch as statistics, sequences with their texts, tokens and tensors.

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
"""Number of prompts whose sequences and tokens are logged, the first ones of the batch."""
PERCENTILES = (10, 25, 50, 75, 90)
E_FIELDS = (
    "response_text", "prompt_length", "generation_length", "sequence_logprob", "rb_entropy", "importance_weight",
    "advantage",
)  # fmt: skip
U_FIELDS = ("response_text", "generation_length", "sequence_logprob", "rb_entropy", "reward", "advantage")


@attrs.frozen(eq=False, kw_only=True)
class LoggedBatch:
    """A logged batch is E or U with what was computed of it; what was not is ``None``, and is logged as null."""

    name: Literal["E_batch", "U_batch"]
    sample: Sample
    tokenizer: Any
    logprobs: Tensor | None = None
    """Log-probs of the sampled tokens: [B, T] nats; not read off the mask."""
    entropies: Tensor | None = None
    """Entropies of the distributions that the tokens were drawn from: [B, T] nats; not read off the mask."""
    advantages: Tensor | None = None
    """Advantages of the sequences: [S]; those of E are 0 by default, because no gradient step is made on E."""
    importance_weights: Tensor | None = None
    """Probabilities of the sequences after the update over those before it, not shifted or normalised: [S]."""

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that was computed, by name."""
        sample, rollouts = self.sample, self.sample.rollouts
        groups_S = rollouts.groups_of_episodes()
        tensors = {name: getattr(rollouts, name) for name in ("tokens", "mask", "lengths", "episodes")}
        tensors |= {
            "groups": groups_S,
            "prompt_ids": torch.tensor([sample.tasks[group] for group in groups_S.tolist()]),
            "prompt_lengths": torch.tensor([len(episode.turns[0].prompt) for episode in sample.episodes]),
            "generation_lengths": sample.lengths,
            "rewards": sample.rewards,
        }
        measured = ("logprobs", "entropies", "advantages", "importance_weights")
        tensors |= {name: getattr(self, name) for name in measured}
        return {name: tensor.detach().cpu() for name, tensor in tensors.items() if tensor is not None}

    def advantages_S(self) -> Tensor | None:
        """Return the advantages of the sequences: [S]."""
        if self.advantages is None and self.name == "E_batch":
            return torch.zeros(len(self.sample.episodes))
        return self.advantages

    def groups(self) -> list[list[int]]:
        """Return the sequences of each of the first prompts."""
        groups: dict[int, list[int]] = {}
        for index, group in enumerate(self.sample.rollouts.groups_of_episodes().tolist()):
            groups.setdefault(group, []).append(index)
        return list(groups.values())[:MAX_PROMPTS]


def spread(values: Tensor) -> dict[str, float | None]:
    """Return mean, standard deviation of the sample (``None`` for a single value), least and greatest value."""
    values = values.double()
    std = values.std().item() if values.numel() > 1 else None
    return {"mean": values.mean().item(), "std": std, "min": values.min().item(), "max": values.max().item()}


def statistics(batch: LoggedBatch) -> dict[str, Any]:
    """Return sizes, lengths in tokens, advantages and rewards.

    ``G``, responses per prompt, is ``None`` where prompts have different numbers of them.
    """
    tensors, advantages = batch.tensors(), batch.advantages_S()
    sizes = tensors["groups"].unique(return_counts=True)[1]
    lengths = tensors["generation_lengths"].double()
    moments = spread(advantages) if advantages is not None else {"mean": None, "std": None}
    percentiles = lengths.quantile(torch.tensor(PERCENTILES, dtype=torch.float64) / 100)
    return {
        "num_prompts": len(sizes),
        "num_sequences": len(lengths),
        "G": int(sizes[0]) if bool((sizes == sizes[0]).all()) else None,
        "avg_prompt_length": tensors["prompt_lengths"].double().mean().item(),
        "max_sequence_length": int(tensors["lengths"].max()),
        **_named(spread(lengths), "generation_length"),
        "generation_length_percentiles": percentiles.tolist(),
        "avg_advantages": moments["mean"],
        "std_advantages": moments["std"],
        **_named(spread(tensors["rewards"]), "reward"),
    }


def _named(values: Mapping[str, float | None], what: str) -> dict[str, float | None]:
    return {f"{'avg' if key == 'mean' else key}_{what}": value for key, value in values.items()}


def sequences(batch: LoggedBatch) -> list[dict[str, Any]]:
    """Return prompts and responses with what was measured of them: a record per sequence of E, or per prompt of U."""
    tensors, episodes = batch.tensors(), batch.sample.episodes
    tokens = SampledTokens(batch.sample.rollouts)

    def sums(values: Tensor | None) -> list[float | None]:
        return _items(None if values is None else tokens.total(tokens.of(values)), len(episodes))

    columns = {
        "response_text": [episode.response for episode in episodes],
        "prompt_length": tensors["prompt_lengths"].tolist(),
        "generation_length": tensors["generation_lengths"].tolist(),
        "sequence_logprob": sums(tensors.get("logprobs")),
        "rb_entropy": sums(tensors.get("entropies")),
        "importance_weight": _items(batch.importance_weights, len(episodes)),
        "reward": tensors["rewards"].tolist(),
        "advantage": _items(batch.advantages_S(), len(episodes)),
    }

    def prompt(index: int) -> dict[str, Any]:
        text = batch.tokenizer.decode(list(episodes[index].turns[0].prompt))
        return {"prompt_id": int(tensors["prompt_ids"][index]), "prompt_text": text}

    def response(index: int) -> dict[str, Any]:
        return {name: columns[name][index] for name in (E_FIELDS if batch.name == "E_batch" else U_FIELDS)}

    records = []
    for members in batch.groups():
        # prompts of E have few responses, mostly one, and are repeated; those of U have many, and are not
        if batch.name == "E_batch":
            records += [prompt(index) | response(index) for index in members]
        else:
            responses = [{"response_id": number} | response(index) for number, index in enumerate(members)]
            records.append(prompt(members[0]) | {"responses": responses})
    return records


def tokens(batch: LoggedBatch) -> list[dict[str, Any]]:
    """Return a record per row, by sequence; its padding is left out, so that ``attention_mask`` is 1 throughout.

    Log-probs and entropies are ``None`` where the token was not sampled.
    """
    tensors = batch.tensors()
    text = functools.cache(lambda token: batch.tokenizer.decode([token]))

    def record(row: int) -> dict[str, Any]:
        length = int(tensors["lengths"][row])
        ids, sampled = tensors["tokens"][row, :length].tolist(), tensors["mask"][row, :length].tolist()

        def on_mask(name: str) -> list[float | None]:
            measured = _items(tensors[name][row] if name in tensors else None, length)
            return [value if on else None for value, on in zip(measured, sampled, strict=False)]

        return {
            "tokens": ids,
            "token_texts": [text(token) for token in ids],
            "token_logprobs": on_mask("logprobs"),
            "rb_entropies": on_mask("entropies"),
            "attention_mask": [1] * length,
            "sampled_mask": [int(on) for on in sampled],
        }

    records = []
    for members in batch.groups():
        for number, index in enumerate(members):
            # with a row for each turn a sequence has several rows
            for row in (tensors["episodes"] == index).nonzero():
                prompt_id = int(tensors["prompt_ids"][index])
                records.append({"prompt_id": prompt_id, "response_id": number, **record(int(row))})
    return records


def _items(values: Tensor | None, size: int) -> list[float | None]:
    return [None] * size if values is None else values.tolist()
