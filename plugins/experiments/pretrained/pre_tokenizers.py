"""How text is split before byte-pair encoding, by the names that GGUF files have for it (``tokenizer.ggml.pre``).

Transformers 5.19 knows only some of these names, and gives other tokenizers like GPT-2's the split of GPT-2. A model
that was trained with another split would read some texts in tokens that it has never seen together. Source of the
rules: the table of pre-tokenizers of llama.cpp (``src/llama-vocab.cpp``), and the tokenizer.json of the models.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

DIGIT = "one digit"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
RULES = {
    **dict.fromkeys(("", "default", "gpt-2"), None),
    **dict.fromkeys(("smollm", "starcoder", "codeshell", "refact"), DIGIT),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe"), LLAMA_3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), QWEN_2),
}
"""Rule by name: a pattern of what stays together, ``DIGIT`` for GPT-2's after every digit has been split off, or
``None`` for GPT-2's."""


def split_as_trained(tokenizer: Any, pre: str) -> None:
    """Make a tokenizer that was read from a GGUF file split text as its model was trained.

    Tokenizers that are no byte-level ones are left as they are: SentencePiece has no such rule.
    """
    backend = tokenizer.backend_tokenizer
    if "ByteLevel" in repr(backend.pre_tokenizer):
        backend.pre_tokenizer = Sequence(_parts(RULES[pre]))


def keep_tokens(tokenizer: Any, size: int) -> None:
    """Drop tokens from ``size`` on, which transformers adds to those of the file: no embedding belongs to them.

    A class of tokenizers has special tokens of its own (``<|endoftext|>``), which the models of others, such as Llama
    3, do not know.
    """
    spelled = json.loads(tokenizer.backend_tokenizer.to_str())
    spelled["added_tokens"] = [token for token in spelled["added_tokens"] if token["id"] < size]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(spelled))


def _parts(rule: str | None) -> list[PreTokenizer]:
    if rule is None:
        return [ByteLevel(add_prefix_space=False)]
    if rule == DIGIT:
        return [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    return [Split(Regex(rule), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
