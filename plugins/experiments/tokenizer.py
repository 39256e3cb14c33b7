"""A word-level tokenizer is built, whose vocabulary is the words of one environment and its conversations."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, START, END = "<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>"
_TAGS = ("<think>", "</think>", "<answer>", "</answer>", "||")
_WORD = r"</?(?:think|answer)>|\|\||[A-Za-z][a-z0-9]*|\S"
"""Pattern of a token: a tag, ``||``, a word (``Turn``, ``Pr1``, ``Wr1c2``), or else one character."""
_CHATML = (
    "{% for message in messages %}"
    f"{START}" + "{{ message['role'] }}\n{{ message['content'] }}" + f"{END}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + f"{START}assistant\n" + "{% endif %}"
)


def build_tokenizer(texts: Iterable[str], tags: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """Build a tokenizer with a ChatML template that knows every word of ``texts``, every digit and every ASCII sign.

    ``tags`` are texts that become one token each, beside those of ``<think>`` and ``<answer>``.

    White space separates words and is not kept: decoding puts one blank between tokens, so that answers must be read
    without regard to white space. Numbers are spelled digit by digit, so that no limit or reward is unknown. The ids
    depend on the set of words alone, not on their order.
    """
    more = [tag for tag in dict.fromkeys(tags) if tag not in _TAGS]
    longest_first = sorted(map(re.escape, more), key=len, reverse=True)
    splitter = pre_tokenizers.Split(Regex("|".join([*longest_first, _WORD])), behavior="removed", invert=True)
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    words |= {"system", "user", "assistant", *string.digits, *string.punctuation}
    vocabulary = [PAD, UNKNOWN, START, END, *_TAGS, *more, *sorted(words - {*_TAGS, *more})]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[START],
        chat_template=_CHATML,
        clean_up_tokenization_spaces=False,
    )
