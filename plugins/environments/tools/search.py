"""The tool set ``search`` has one tool, which finds passages of a local corpus by their words (BM25)."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs.validators import and_, ge, le, matches_re, min_len

from ....core.components import Tool, Toolset, ToolsetSession
from ....core.errors import MissingExtraError
from .search_corpus import Corpus, Passage, digest_of

_WORD = re.compile(r"\w+")
_NOTHING = "Nothing was found."


class Index:
    """An index finds passages by their words. It is built once, and any number of threads may ask it.

    Words are compared without regard to case. A passage d has the score of BM25 as Lucene computes it, the sum over
    the words w of a query of idf(w) * tf / (tf + k1 * (1 - b + b * |d| / mean |d|)), where tf is how often w occurs in
    d, idf(w) = ln(1 + (N - df + 0.5) / (df + 0.5)), df of N passages have w, k1 = 1.5 and b = 0.75. Of passages with
    equal scores the first comes first. Words of the title count.

    Source: Robertson and Zaragoza 2009; Lucene's variant as in Kamphuis et al. 2020; computed by bm25s (Lù 2024).
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        """Build the index. Raises MissingExtraError if bm25s is not installed."""
        require_package()
        import bm25s

        self.passages = tuple(passages)
        self._bm25 = bm25s.BM25(k1=1.5, b=0.75, method="lucene", dtype="float64")
        self._bm25.index([words(passage.shown) for passage in self.passages], show_progress=False)

    def scores(self, query: str) -> Any:
        """Return the score of each passage, in their order, as an array; 0 for those with no word of the query."""
        import numpy

        known = [word for word in words(query) if word in self._bm25.vocab_dict]
        return self._bm25.get_scores(known) if known else numpy.zeros(len(self.passages))

    def find(self, query: str, most: int) -> list[Passage]:
        """Return the passages with the best scores above 0, best first."""
        import numpy

        scores = self.scores(query)
        found = numpy.flatnonzero(scores > 0)
        # sorted as they stand where scores are equal
        best = found[numpy.argsort(-scores[found], kind="stable")[:most]]
        return [self.passages[number] for number in best]


def words(text: str) -> list[str]:
    """Return the words of a text, in which case does not matter."""
    return _WORD.findall(text.casefold())


def listed(passages: Sequence[Passage]) -> str:
    """Write the passages that were found, best first."""
    return "\n".join(f"[{number}] {passage.shown}" for number, passage in enumerate(passages, 1)) or _NOTHING


class SearchSession(ToolsetSession):
    """The searches of an episode."""

    def __init__(self, index: Index, k: int) -> None:
        self.index, self.k = index, k

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        query = str(arguments["query"])
        if not words(query):
            raise ValueError("the query has no words")
        return listed(self.index.find(query, self.k))


@attrs.frozen
class Search(Toolset):
    """One tool, ``search``, which finds the passages of a corpus that have the words of a query, by BM25.

    The corpus is a local file or folder. Each line of a .jsonl file is a text; in .txt and .md files each paragraph is
    one. Texts that are longer than ``characters`` are cut into several passages. The index is built once in each
    process.
    """

    corpus: str = attrs.field(validator=min_len(1))
    """File (.jsonl, .txt, .md), or folder with such files."""
    k: int = attrs.field(default=3, validator=and_(ge(1), le(100)))
    """Largest number of passages that are found."""
    characters: int = attrs.field(default=500, validator=and_(ge(20), le(100_000)))
    """Largest number of characters of a passage."""
    text: str = "text"
    """Column of the texts in a .jsonl file."""
    title: str = "title"
    """Column of their titles, which stand before each passage; a text may have none."""
    tool: str = attrs.field(default="search", validator=matches_re(r"[A-Za-z_][A-Za-z0-9_]{0,63}"))
    """Name of the tool, so that one experiment can search several corpora."""
    about: str = "a collection of texts"
    """Description of the corpus for the model: ``Search {about} for passages with the words of a query.``"""

    def __attrs_post_init__(self) -> None:
        require_package()
        _forget_changed(self._place)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tool, with its schema."""
        query = {"type": "string", "description": "The words to look for."}
        schema = {
            "name": self.tool,
            "description": f"Search {self.about} for passages with the words of a query.",
            "parameters": {"type": "object", "properties": {"query": query}, "required": ["query"]},
        }
        return (Tool(self.tool, json.dumps(schema, ensure_ascii=False)),)

    @property
    def digest(self) -> str:
        """Hash of the passages."""
        return digest_of(_index(self._place).passages)

    def start(self, seed: int, member: int) -> SearchSession:
        """Begin an episode. Raises RequestError if the corpus cannot be read."""
        return SearchSession(_index(self._place), self.k)

    @property
    def _place(self) -> Corpus:
        return Corpus(self.corpus, self.text, self.title, self.characters)


_LOCK = threading.Lock()
_INDICES: dict[Corpus, tuple[object, Index]] = {}
"""Corpus -> the state of its files when it was read, and its index."""


def _index(corpus: Corpus) -> Index:
    """Return the index of a corpus, and build it if there is none yet."""
    with _LOCK:
        if corpus not in _INDICES:
            _INDICES[corpus] = corpus.state, Index(corpus.passages())
        return _INDICES[corpus][1]


def _forget_changed(corpus: Corpus) -> None:
    """Read a corpus again that has changed. This is done when an experiment is composed, and never during a run.

    Raises:
        RequestError: there is no such corpus.
    """
    with _LOCK:
        state = corpus.state
        if corpus in _INDICES and _INDICES[corpus][0] != state:
            del _INDICES[corpus]


def require_package() -> None:
    """Raise MissingExtraError if bm25s is not installed."""
    if importlib.util.find_spec("bm25s") is None:
        raise MissingExtraError("bm25s is not installed", "toolset: search", "pip install 'uncollapse[search]'")
