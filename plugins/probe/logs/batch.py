"""A batch as the detailed log shows it: statistics, sequences with their texts, tokens, tensors.

Shape letters: ``S`` sequences, ``B`` rows, ``T`` tokens. A sequence is one row, or one row per turn; a token that was
sampled stands on the mask of one row only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from ....core.errors import RunError

MAX_PROMPTS = 100
"""Prompts whose sequences and tokens are logged, the first ones of the batch."""
PERCENTILES = (10, 25, 50, 75, 90)
E_FIELDS = (
    "response_text", "prompt_length", "generation_length", "sequence_logprob", "rb_entropy", "importance_weight",
    "advantage",
)  # fmt: skip
U_FIELDS = ("response_text", "generation_length", "sequence_logprob", "rb_entropy", "reward", "advantage")


def _tensor(value: Any) -> Tensor:
    return torch.as_tensor(value).detach().cpu()


def _optional(value: Any) -> Tensor | None:
    return None if value is None else _tensor(value)


@attrs.frozen(eq=False, kw_only=True)
class LoggedBatch:
    """What the probe knows of the batch E or U; ``None`` is what was not computed, and is logged as null.

    Tensors may be on any device, and may be given as lists. Log-probs and entropies are in nats.

    Raises:
        RunError: there is no sequence, a sequence has no row, or shapes disagree.
    """

    name: Literal["E_batch", "U_batch"]
    tokens: Tensor = attrs.field(converter=_tensor)
    """[B, T] int64, right padded."""
    mask: Tensor = attrs.field(converter=_tensor)
    """[B, T] bool: token t was sampled."""
    lengths: Tensor = attrs.field(converter=_tensor)
    """[B] tokens before the padding."""
    episodes: Tensor = attrs.field(converter=_tensor)
    """[B] int64: the sequence that a row belongs to, an index into [S]."""
    groups: Tensor = attrs.field(converter=_tensor)
    """[S] int64: sequences with one id answer one draw of a prompt; a prompt that was drawn twice has two ids."""
    prompt_ids: Tensor = attrs.field(converter=_tensor)
    """[S] int64: which prompt of the data set or environment it is."""
    prompt_texts: Sequence[str]
    """[S]."""
    response_texts: Sequence[str]
    """[S]."""
    prompt_lengths: Tensor = attrs.field(converter=_tensor)
    """[S] tokens before the first sampled one."""
    generation_lengths: Tensor = attrs.field(converter=_tensor)
    """[S] tokens sampled, of all turns."""
    logprobs: Tensor | None = attrs.field(default=None, converter=_optional)
    """[B, T]: of each sampled token; not read off the mask."""
    entropies: Tensor | None = attrs.field(default=None, converter=_optional)
    """[B, T]: of the distribution that each sampled token was drawn from; not read off the mask."""
    rewards: Tensor | None = attrs.field(default=None, converter=_optional)
    """[S]."""
    advantages: Tensor | None = attrs.field(default=None, converter=_optional)
    """[S]; those of E are 0 unless given, because no gradient step is made on E."""
    importance_weights: Tensor | None = attrs.field(default=None, converter=_optional)
    """[S]: probability of the sequence after the update over that before it, not shifted or normalised."""
    token_text: Callable[[int], str] | None = None
    """Id -> text of a token."""

    def __attrs_post_init__(self) -> None:
        sequences, rows = len(self.response_texts), len(self.tokens)
        expected: dict[str, tuple[int, ...]] = {"lengths": (rows,), "episodes": (rows,)}
        expected |= dict.fromkeys(("tokens", "mask", "logprobs", "entropies"), (rows, self.tokens.shape[-1]))
        for name, value in self.tensors().items():
            shape = expected.get(name, (sequences,))
            if tuple(value.shape) != shape:
                raise RunError(f"{self.name}.{name} has shape {tuple(value.shape)}, and must have {shape}")
        if len(self.prompt_texts) != sequences:
            raise RunError(f"{self.name} has {sequences} responses and {len(self.prompt_texts)} prompts")
        if not sequences or self.episodes.unique().tolist() != list(range(sequences)):
            raise RunError(f"the rows of {self.name} are not those of its {sequences} sequences")

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, by name."""
        return {name: value for name, value in attrs.asdict(self, recurse=False).items() if isinstance(value, Tensor)}

    def advantages_S(self) -> Tensor | None:
        if self.advantages is None and self.name == "E_batch":
            return torch.zeros(len(self.response_texts))
        return self.advantages


def spread(values: Tensor) -> dict[str, float | None]:
    """Mean, standard deviation of the sample (``None`` of a single value), least and greatest."""
    values = values.double()
    std = values.std().item() if values.numel() > 1 else None
    return {"mean": values.mean().item(), "std": std, "min": values.min().item(), "max": values.max().item()}


def statistics(batch: LoggedBatch) -> dict[str, Any]:
    """Sizes, lengths in tokens, advantages and, where there are any, rewards.

    ``G``, responses per prompt, is ``None`` where prompts have different numbers of them.
    """
    sizes = batch.groups.unique(return_counts=True)[1]
    lengths = batch.generation_lengths.double()
    advantages = batch.advantages_S()
    moments = spread(advantages) if advantages is not None else {"mean": None, "std": None}
    percentiles = lengths.quantile(torch.tensor(PERCENTILES, dtype=torch.float64) / 100)
    return {
        "num_prompts": len(sizes),
        "num_sequences": len(batch.response_texts),
        "G": int(sizes[0]) if bool((sizes == sizes[0]).all()) else None,
        "avg_prompt_length": batch.prompt_lengths.double().mean().item(),
        "max_sequence_length": int(batch.lengths.max()),
        **_named(spread(lengths), "generation_length"),
        "generation_length_percentiles": percentiles.tolist(),
        "avg_advantages": moments["mean"],
        "std_advantages": moments["std"],
        **(_named(spread(batch.rewards), "reward") if batch.rewards is not None else {}),
    }


def _named(values: Mapping[str, float | None], what: str) -> dict[str, float | None]:
    return {f"{'avg' if key == 'mean' else key}_{what}": value for key, value in values.items()}


def sequences(batch: LoggedBatch) -> list[dict[str, Any]]:
    """Prompts and responses with what was measured of them: of E a record per sequence, of U one per prompt."""
    size = len(batch.response_texts)
    columns = {
        "response_text": batch.response_texts,
        "prompt_length": batch.prompt_lengths.tolist(),
        "generation_length": batch.generation_lengths.tolist(),
        "sequence_logprob": _sums(batch, batch.logprobs),
        "rb_entropy": _sums(batch, batch.entropies),
        "importance_weight": _items(batch.importance_weights, size),
        "reward": _items(batch.rewards, size),
        "advantage": _items(batch.advantages_S(), size),
    }

    def prompt(index: int) -> dict[str, Any]:
        return {"prompt_id": int(batch.prompt_ids[index]), "prompt_text": batch.prompt_texts[index]}

    def response(index: int, names: Sequence[str]) -> dict[str, Any]:
        return {name: columns[name][index] for name in names}

    if batch.name == "E_batch":
        return [prompt(index) | response(index, E_FIELDS) for members in _groups(batch) for index in members]
    return [
        prompt(members[0])
        | {"responses": [{"response_id": n} | response(index, U_FIELDS) for n, index in enumerate(members)]}
        for members in _groups(batch)
    ]


def tokens(batch: LoggedBatch) -> list[dict[str, Any]]:
    """A record per row, by sequence; its padding is left out, so that ``attention_mask`` is 1 throughout.

    Log-probs and entropies are ``None`` where the token was not sampled.
    """
    rows_of: dict[int, list[int]] = {}
    for row, sequence in enumerate(batch.episodes.tolist()):
        rows_of.setdefault(sequence, []).append(row)
    text = functools.cache(batch.token_text) if batch.token_text is not None else None
    return [
        {"prompt_id": int(batch.prompt_ids[index]), "response_id": number, **_token_record(batch, row, text)}
        for members in _groups(batch)
        for number, index in enumerate(members)
        for row in rows_of[index]
    ]


def _token_record(batch: LoggedBatch, row: int, text: Callable[[int], str] | None) -> dict[str, Any]:
    length = int(batch.lengths[row])
    ids, sampled = batch.tokens[row, :length].tolist(), batch.mask[row, :length].tolist()

    def on_mask(values: Tensor | None) -> list[float | None]:
        measured = _items(None if values is None else values[row], length)
        return [value if on else None for value, on in zip(measured, sampled, strict=False)]

    return {
        "tokens": ids,
        "token_texts": [text(token) for token in ids] if text is not None else None,
        "token_logprobs": on_mask(batch.logprobs),
        "rb_entropies": on_mask(batch.entropies),
        "attention_mask": [1] * length,
        "sampled_mask": [int(on) for on in sampled],
    }


def _groups(batch: LoggedBatch) -> list[list[int]]:
    """The sequences of each of the first prompts."""
    groups: dict[int, list[int]] = {}
    for index, group in enumerate(batch.groups.tolist()):
        groups.setdefault(group, []).append(index)
    return list(groups.values())[:MAX_PROMPTS]


def _sums(batch: LoggedBatch, values: Tensor | None) -> list[float | None]:
    """[S] sums over the sampled tokens of all rows of each sequence."""
    size = len(batch.response_texts)
    if values is None:
        return [None] * size
    rows = torch.where(batch.mask.bool(), values.double(), 0.0).sum(1)
    return _items(rows.new_zeros(size).index_add_(0, batch.episodes, rows), size)


def _items(values: Tensor | None, size: int) -> list[float | None]:
    return [None] * size if values is None else values.tolist()
