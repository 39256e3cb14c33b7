"""The tool ``search`` finds passages by BM25: scores are those of the formula, computed by hand."""

from __future__ import annotations

import math
import threading

import pytest
from uncollapse.core.errors import MissingExtraError, RequestError
from uncollapse.plugins.environments.tools import search as search_module
from uncollapse.plugins.environments.tools.search import Index, Search, words
from uncollapse.plugins.environments.tools.search_corpus import Corpus, Passage, parts

pytest.importorskip("bm25s")

TEXTS = (
    "the cat sat on the mat",
    "the dog ate the cat of the dog",
    "birds fly",
    "Cat, cat! Dog.",
    "a dog and a cat and a bird in 1987",
    "the cat sat on the mat",
)


def exact(query, number, k1=1.5, b=0.75):
    """The BM25 score of a text as its formula is written."""
    counted = [words(text) for text in TEXTS]
    mean = sum(map(len, counted)) / len(counted)
    own, score = counted[number], 0.0
    for word in words(query):
        having = sum(word in each for each in counted)
        idf = math.log(1 + (len(counted) - having + 0.5) / (having + 0.5))
        often = own.count(word)
        score += idf * often / (often + k1 * (1 - b + b * len(own) / mean)) if having else 0.0
    return score


@pytest.mark.parametrize("query", ["cat", "the dog", "CAT dog cat", "birds 1987", "zebra cat", "zebra", "mat?"])
def test_scores_and_ranking_are_those_of_the_formula(query):
    index = Index([Passage("", text) for text in TEXTS])
    scores = [exact(query, number) for number in range(len(TEXTS))]
    assert list(index.scores(query)) == pytest.approx(scores, abs=1e-12)
    best = sorted((n for n, score in enumerate(scores) if score > 0), key=lambda n: (-round(scores[n], 12), n))
    assert [passage.text for passage in index.find(query, 4)] == [TEXTS[number] for number in best[:4]]


def test_a_score_computed_by_hand():
    # 2 of 6 texts have "mat", once each; this one has 6 of their 35 words
    idf = math.log(1 + 4.5 / 2.5)
    by_hand = idf * 1 / (1 + 1.5 * (0.25 + 0.75 * 6 / (35 / 6)))
    assert Index([Passage("", text) for text in TEXTS]).scores("mat")[0] == pytest.approx(by_hand, abs=1e-12)


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "notes.jsonl"
    file.write_text(
        '{"title": "Amberwell", "text": "It sold 742 crates of pears."}\n'
        '{"text": "A crate of pears costs 38 shillings. ' + "Nothing else is known. " * 30 + '"}\n'
        '{"title": 3, "text": "..."}\n',
        encoding="utf-8",
    )
    return file


def find(query, **settings):
    return Search(**settings).start(0, 0).call("search", {"query": query})


def test_hits_are_listed_with_their_titles_and_long_texts_are_cut_into_passages(corpus):
    assert find("Amberwell", corpus=str(corpus)) == "[1] Amberwell: It sold 742 crates of pears."
    told = find("crate pears", corpus=str(corpus), characters=100)
    first, second = told.splitlines()
    assert first.startswith("[1] A crate of pears costs 38 shillings. Nothing else is")
    assert (len(first) <= 104, second) == (True, "[2] Amberwell: It sold 742 crates of pears.")
    assert find("known", corpus=str(corpus), characters=100, k=2).count("\n") == 1
    assert find("zebra", corpus=str(corpus)) == "Nothing was found."
    with pytest.raises(ValueError, match="the query has no words"):
        find(" ?! ", corpus=str(corpus))


def test_files_of_a_folder_are_read_by_paragraphs(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "birds.md").write_text("Birds fly.\n\nBirds\nsing.\n", encoding="utf-8")
    (tmp_path / "cats.txt").write_text("\ufeffCats sleep.", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    made = Corpus(str(tmp_path), "text", "title", 500).passages()
    assert made == (Passage("cats", "Cats sleep."), Passage("birds", "Birds fly."), Passage("birds", "Birds sing."))
    assert find("sing", corpus=str(tmp_path)) == "[1] birds: Birds sing."
    assert find("fly", corpus=str(tmp_path / "inner" / "birds.md")) == "[1] Birds fly."


def test_parts_end_between_words_and_never_are_too_long():
    text = "one two  three\nfour " + "x" * 25
    assert parts(text, 10) == ["one two", "three four", "x" * 10, "x" * 10, "x" * 5]
    assert "".join(parts(text, 7)) == "".join(text.split()).replace("onetwo", "one two")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.jsonl", None, "there is no such file or folder"),
        ("notes.pdf", "x", ".pdf cannot be read"),
        ("notes.jsonl", '{"txt": "x"}\n', "'text' is missing"),
        ("notes.jsonl", '{"text": null}\n', "'text' is None, not a text"),
        ("notes.jsonl", "no json\n", "line 1"),
        ("notes.txt", "...\n\n?", "the corpus holds no text"),
        ("notes.txt", b"\xff\xfe\xfa", "the corpus cannot be read"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_refused(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError) as refused:
        Search(str(tmp_path / name)).start(0, 0)
    assert said in str(refused.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"the folder holds no \.jsonl, \.txt or \.md file"):
        Search(str(tmp_path / "empty"))


def test_the_index_is_built_once_and_again_only_when_the_corpus_has_changed(corpus, monkeypatch):
    built = []
    monkeypatch.setattr(search_module, "Index", lambda passages: built.append(len(passages)) or Index(passages))
    toolset = Search(str(corpus))
    sessions = []
    threads = [threading.Thread(target=lambda: sessions.append(toolset.start(0, 0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(built), len({id(session.index) for session in sessions})) == (1, 1)
    digest = toolset.digest
    corpus.write_text('{"text": "other"}\n')
    assert (toolset.digest, len(built)) == (digest, 1)
    again = Search(str(corpus))
    assert again.digest != digest
    assert built[1:] == [1]


def test_several_corpora_have_tools_with_names_of_their_own(corpus):
    (tool,) = Search(str(corpus), tool="search_notes", about="notes about towns").tools
    assert tool.function["name"] == tool.name == "search_notes"
    assert tool.function["description"] == "Search notes about towns for passages with the words of a query."
    with pytest.raises(ValueError, match="tool"):
        Search(str(corpus), tool="search notes")


def test_a_missing_package_is_named_with_its_extra(corpus, monkeypatch):
    monkeypatch.setattr(search_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as missing:
        Search(str(corpus))
    assert missing.value.fix == "pip install 'uncollapse[search]'"
