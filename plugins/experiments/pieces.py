"""A byte-level tokenizer is trained, whose pieces are the frequent texts of one environment and its conversations."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from .tokenizer import END, PAD, START

_TOOLS = (
    "{% if tools %}{{ '\\n# Tools' }}{% for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}"
    '{{ \'\\nCall them by <tool_call>{"name": NAME, "arguments": OBJECT}</tool_call>\' }}{% endif %}'
)
_TEMPLATE = (
    "{% set system = messages[0].role == 'system' %}"
    "{% if system or tools %}" + f"{START}system" + "{% if system %}{{ '\\n' + messages[0].content }}{% endif %}"
    f"{_TOOLS}{END}" + "{{ '\\n' }}{% endif %}"
    "{% for message in messages %}{% if message.role != 'system' %}"
    f"{START}" + "{{ message.role + '\\n' + message.content }}" + f"{END}" + "{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}" + f"{START}assistant" + "{{ '\\n' }}{% endif %}"
)
"""ChatML with tools in the format ``hermes``. A call is what the assistant's message says; each result is a message."""
_LONGEST = 200
"""The number of bytes of the longest piece: a schema is a few of them."""


def build_pieces(texts: Iterable[str], tags: Iterable[str] = (), size: int = 512) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with a ChatML template that describes tools; any text is encoded and decoded unchanged.

    Each digit is a token, so that numbers are read and copied digit by digit. Everything else may be joined, over
    blanks and lines too: what a dialogue always says is a few pieces. The same texts give the same pieces.

    Args:
        tags: texts that become one token each.
        size: the number of pieces, the 256 bytes and the tags included.
    """
    marks = [PAD, START, END]
    more = [tag for tag in dict.fromkeys(tags) if tag not in marks]
    tokenizer = Tokenizer(BPE())
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_alone])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(more),
        min_frequency=2,
        show_progress=False,
        special_tokens=marks,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=_LONGEST,
    )
    border = re.compile("|".join(map(re.escape, sorted([*marks, *more], key=len, reverse=True))))
    tokenizer.train_from_iterator((part for text in texts for part in border.split(text) if part), trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in more])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
