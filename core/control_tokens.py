"""Foreign text is encoded as plain text: a control token that is spelled in it never becomes the token."""

from __future__ import annotations

import json
import re
import secrets
from functools import cached_property, lru_cache
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import Unigram

_CACHED = 4096  # a text of a conversation is asked for again every turn
_PIPED = re.compile(r"<[|｜].*[|｜]>")


class TextEncoder:
    """An encoder turns text into token ids, and keeps the text of a template apart from foreign text in it.

    :meth:`quote` is called on foreign text before a template sees it: whatever the tokenizer would read as a control
    token is replaced by a quotation that no tokenizer knows. The text that the template then writes goes to
    :meth:`encode`: control tokens that the template wrote become tokens, and quoted ones plain pieces. A text without
    quotations is encoded by the tokenizer as it is.

    A *control token* is an added token that is marked as special, or looks like one (``<|...|>``), or whose text
    occurs in ``source`` (``<think>``, ``<tool_call>``). Other added tokens, such as runs of spaces, are plain words.
    """

    def __init__(self, tokenizer: Any, source: str) -> None:
        self.tokenizer = tokenizer
        self._texts = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        """Token id -> text, for every added token."""
        special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        special.update(tokenizer.all_special_ids)
        marks = {index for index, text in self._texts.items() if _is_markup(text) and text in source}
        piped = {index for index, text in self._texts.items() if _PIPED.fullmatch(text)}
        self._unknown = _unknown_ids(tokenizer)
        self.controls = frozenset(special | marks | piped) - self._unknown
        """Ids of the control tokens, without the unknown token, which stands for words outside the vocabulary."""
        named = self.controls | (self._unknown & self._texts.keys())
        self._names = {index: f"\ue002{index}x{secrets.token_hex(8)}\ue003" for index in named}
        self._open, self._close = f"\ue000{secrets.token_hex(8)}\ue001", "\ue001"
        self._quotation = re.compile(f"{self._open}([0-9a-f]+){self._close}")

        self.quote = lru_cache(_CACHED)(self._quote)
        """A function ``quote(text)`` that puts a quotation in the place of each control token in the text."""

    def _quote(self, text: str) -> str:
        text = text.encode(errors="replace").decode()  # half of a surrogate pair is no character
        parts, end = [], 0
        for _, start, stop in self._spans(text):
            parts += [text[end:start], self._open, text[start:stop].encode().hex(), self._close]
            end = stop
        return "".join([*parts, text[end:]])

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text that may hold quotations."""
        if self._open not in text:
            return tuple(self.tokenizer.encode(text, add_special_tokens=False))
        parts, end = [], 0
        for index, start, stop in self._spans(text):
            parts += [self._plain(text[end:start]), self._names[index]]
            end = stop
        renamed = "".join([*parts, self._plain(text[end:])])
        return tuple(self._encode_fast(renamed) if self._is_fast else self._encode_slow(renamed))

    def encode_alone(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a whole text, with what the tokenizer adds, such as a token for its beginning."""
        before, after = self._around
        return (*before, *self.encode(text), *after)

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The token ids that the tokenizer adds before and after a text."""
        text = self.encode("a")
        whole = list(self.tokenizer("a")["input_ids"])
        start = next(start for start in range(len(whole) + 1) if tuple(whole[start : start + len(text)]) == text)
        return whole[:start], whole[start + len(text) :]

    def _plain(self, text: str) -> str:
        return self._quotation.sub(lambda quoted: bytes.fromhex(quoted[1]).decode(), text)

    @property
    def _is_fast(self) -> bool:
        return getattr(self.tokenizer, "backend_tokenizer", None) is not None

    def controls_in(self, text: str) -> list[int]:
        """Return the control tokens that the tokenizer reads in ``text``, and the unknown token where it is spelled."""
        return [index for index, _, _ in self._spans(text)]

    def _spans(self, text: str) -> list[tuple[int, int, int]]:
        """Return id, start and end of each control token in ``text``."""
        if not self._is_fast:
            texts = {self._texts[index]: index for index in self._names if index in self._texts}
            longest_first = sorted(texts, key=len, reverse=True)
            matches = re.finditer("|".join(map(re.escape, longest_first)), text) if texts else ()
            return [(texts[match[0]], match.start(), match.end()) for match in matches]
        if self._names.keys().isdisjoint(self.tokenizer.encode(text, add_special_tokens=False)):
            return []
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [(index, start, stop) for index, (start, stop) in spans if self._is_control(index, text[start:stop])]

    def _is_control(self, index: int, text: str) -> bool:
        return index in self.controls or (index in self._names and text.strip() == self._texts[index])

    # --- encoding with the control tokens under other names ---------------------------------------------------------

    @cached_property
    def _renamed(self) -> tuple[Tokenizer, dict[int, int]]:
        """The tokenizer with other names for its control tokens, and each added token's id by its id in that copy.

        Tokens are found by id, since one that takes blanks along may be reported with them in its name.
        """
        backend = self.tokenizer.backend_tokenizer
        state = json.loads(backend.to_str())
        state |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        tokens, ids = [], {}
        for index, token in sorted(backend.get_added_tokens_decoder().items()):
            name = self._names.get(index, token.content)
            kept = {key: getattr(token, key) for key in ("single_word", "lstrip", "rstrip", "special")}
            normalized = token.normalized and index not in self._names  # a normalizer could change the new name
            tokens.append(AddedToken(name, normalized=normalized, **kept))
            ids[name] = index
        copy = Tokenizer.from_str(json.dumps(state))
        copy.add_tokens(tokens)  # all at once: each call builds the search for all of them anew
        return copy, {index: ids[token.content] for index, token in copy.get_added_tokens_decoder().items()}

    def _encode_fast(self, text: str) -> list[int]:
        """Return the ids of a text in which control tokens have their new names, and everything else is plain."""
        copy, ids = self._renamed
        encoding = copy.encode(text, add_special_tokens=False)
        mapped = [ids.get(index, index) for index in encoding.ids]
        for before_id, index, (start, stop) in zip(encoding.ids, mapped, encoding.offsets, strict=True):
            if before_id in ids or not self._is_control(index, text[start:stop]):
                continue
            # the model's own vocabulary holds a piece that is spelled like a control token: break it up
            middle = start + 1 if stop - start > 1 else stop
            before = self._encode_fast(text[:middle] if middle < stop else text[:start])
            border = next(iter(self._names.values()))  # what comes now does not begin a text
            return before + self._encode_fast(border + text[middle:])[1:]
        return mapped

    def _encode_slow(self, text: str) -> list[int]:
        by_name = {name: index for index, name in self._names.items()}
        ids: list[int] = []
        for part in re.split("(\ue002[^\ue003]*\ue003)", text):
            if part in by_name:
                ids.append(by_name[part])
            elif part:
                ids += self.tokenizer.encode(part, add_special_tokens=False, split_special_tokens=True)
        return ids


def _unknown_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids for words that a vocabulary lacks: the tokenizer's, and that of the model behind it."""
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    ids: set[Any] = {tokenizer.unk_token_id}
    if model is not None and getattr(model, "unk_token", None) is not None:
        ids.add(model.token_to_id(model.unk_token))
    if isinstance(model, Unigram):  # it keeps the number to itself
        ids.add(json.loads(tokenizer.backend_tokenizer.to_str())["model"]["unk_id"])
    return frozenset(ids - {None})


def _is_markup(text: str) -> bool:
    return any(not (letter.isalnum() or letter.isspace() or letter in "_▁Ġ") for letter in text)
