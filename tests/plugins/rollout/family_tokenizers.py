"""Small tokenizers of the kinds that public model families use, trained on a few lines."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "<think>go Up then Down</think><answer>Up || Down</answer> Turn 1:\nState:\nat 0\nActions left: 3\nReward:\n-0.1",
    "You are a helpful assistant. Walk to the goal; the user asks, the system answers, again and again.\n\n  #_#  P ",
    "Ärger über naïve façades, 12345 + 67890 = ? Good luck!  don't  stop\n\n\nsystem user assistant model 2026-11-30",
]
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN = (
    r"(?i:'[smtd]|'re|'ve|'ll)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _bytes(pattern: str) -> Tokenizer:
    """Byte-level BPE, as of GPT-2, Llama 3, Qwen."""
    words = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    words.train_from_iterator(CORPUS * 3, trainer)
    return words


def _pieces(scheme: str) -> Tokenizer:
    """BPE over pieces that begin with a mark for the space, and bytes for the rest, as of Llama 2 and Gemma.

    ``scheme``: ``always`` and ``first`` say which texts without a space get the mark; ``legacy`` is the older spelling.
    """
    rest = [f"<0x{byte:02X}>" for byte in range(256)]
    words = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if scheme == "legacy":
        words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif scheme == "plain":
        words.normalizer = normalizers.Replace(" ", "▁")
    else:
        words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    words.decoder = decoders.Sequence(steps if scheme == "plain" else [*steps, decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *rest], show_progress=False)
    texts = [" " + piece for line in CORPUS * 3 for piece in line.split(" ")]  # merges do not cross words
    words.train_from_iterator(texts, trainer)
    return words


def _unigram() -> Tokenizer:
    words = Tokenizer(models.Unigram())
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    words.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = sorted({letter for line in CORPUS for letter in line} | set("<>|/_▁[]"))
    words.train_from_iterator(
        CORPUS * 3,
        trainers.UnigramTrainer(
            vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>",
            initial_alphabet=alphabet, show_progress=False,
        ),
    )  # fmt: skip
    return words


@cache
def trained(kind: str) -> str:
    """A tokenizer's file."""
    if kind in ("gpt2", "qwen"):
        return _bytes(_GPT2 if kind == "gpt2" else _QWEN).to_str()
    state = json.loads((_unigram() if kind == "unigram" else _pieces(kind)).to_str())
    state["added_tokens"] = state["added_tokens"][:3]  # the pieces of bytes are no control tokens
    return json.dumps(state)
