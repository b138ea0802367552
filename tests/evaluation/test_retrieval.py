"""Passages of a page by their words and by an encoder; the encoder's vectors are kept as plain numbers."""

import concurrent.futures
import contextlib
import sqlite3
import sys
import types

import numpy as np
import pytest

from lc_jax.data.pages import Page
from lc_jax.evaluation import retrieval
from tests.recorded import load

PAGE = Page(
    "Ada Lovelace",
    (
        "She was born in London in 1815, the only child of Lord Byron.",
        "Her notes on the Analytical Engine hold what is called the first program.",
        "She married William King in 1835 and became Countess of Lovelace.",
        "She died of cancer in 1852.",
    ),
)


class Counting:
    """A model whose vectors count three letters, in place of a sentence-transformers one."""

    def __init__(self, name):
        if name == "none":
            raise OSError("none is not a folder\nand more")
        self.texts = []

    def encode(self, texts, show_progress_bar, convert_to_numpy):
        self.texts += texts
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], np.float32)


@pytest.fixture
def library(monkeypatch):
    module = types.SimpleNamespace(SentenceTransformer=Counting)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)


def test_bm25_finds_the_words_of_a_claim(tmp_path):
    bm25 = retrieval.load("bm25", tmp_path / "v")
    queries = ["Ada Lovelace married in 1835", "Ada Lovelace wrote the FIRST PROGRAM", "Ada Lovelace", "Ω", ""]
    passages = retrieval.top(bm25, PAGE, queries, 2)
    assert passages[0][0] == PAGE.passages[2]
    assert passages[1][0] == PAGE.passages[1]
    assert all(len(texts) == 2 for texts in passages)
    assert passages[3] == passages[4] == list(PAGE.passages[:2])  # nothing speaks for any: in the order of the page
    assert retrieval.top(bm25, Page("A", ("one",)), ["one"]) == [["one"]]
    assert retrieval.top(bm25, Page("!", ("?",)), ["?"]) == [["?"]]
    assert retrieval.top(bm25, PAGE, []) == []
    assert not (tmp_path / "v").exists()


def test_vectors_are_kept_and_nothing_is_encoded_twice(tmp_path, library):
    encoder = retrieval.load("model", tmp_path / "sub" / "v.sqlite")
    page = Page("t", ("aaa", "bbb", "ccc", "cc"))
    queries = ["t c", "t b", "t c"]
    passages = retrieval.top(encoder, page, queries, 3)
    assert [texts[0] for texts in passages] == ["ccc", "bbb", "ccc"]
    assert passages[1] == ["bbb", "aaa", "ccc"]  # the earlier of equals first
    assert sorted(encoder.model.texts) == ["t aaa", "t b", "t bbb", "t c", "t cc", "t ccc"]
    again = retrieval.load("model", tmp_path / "sub" / "v.sqlite")
    assert retrieval.top(again, page, queries, 3) == passages
    assert again.model.texts == []
    other = retrieval.load("another model", tmp_path / "sub" / "v.sqlite")
    retrieval.top(other, page, ["t c"], 3)
    assert len(other.model.texts) == 5
    with contextlib.closing(sqlite3.connect(tmp_path / "sub" / "v.sqlite")) as database:
        rows = [row[0] for row in database.execute("select vector from vectors")]
    assert {len(row) for row in rows} == {12}  # three float32 and nothing else: no pickle


def test_any_thread_may_close_the_vectors(tmp_path, library):
    """The garbage collector runs in any thread."""
    encoder = retrieval.load("model", tmp_path / "v.sqlite")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(encoder.cache.close).result()


def test_another_model_in_the_same_folder_is_another_one(tmp_path, library):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"one")
    first = retrieval.load(str(folder), tmp_path / "v").name
    assert retrieval.load(str(folder), tmp_path / "v").name == first
    (folder / "model.safetensors").write_bytes(b"other")
    assert retrieval.load(str(folder), tmp_path / "v").name != first


def test_what_cannot_be_had_says_what_to_do(tmp_path, library, monkeypatch):
    with pytest.raises(ValueError, match=r"'none' is no sentence-transformers model .*\(none is not a folder\): give"):
        retrieval.load("none", tmp_path / "v")
    (tmp_path / "v").write_bytes(b"\x80\x04pickle" * 100)
    with pytest.raises(ValueError, match=r"cannot keep vectors .*: remove it"):
        retrieval.load("model", tmp_path / "v")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'lc_jax\[retrieval\]'; or give --config.retriever=bm25"):
        retrieval.load("model", tmp_path / "w")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bm52", "did you mean bm25? "),
        ("BM25", "did you mean bm25? "),
        ("gtr-t5-large", "did you mean sentence-transformers/gtr-t5-large? "),
        ("./no/folder", ""),
        ("", ""),
    ],
)
def test_a_name_that_is_no_retriever_is_refused_before_it_is_needed(name, hint):
    with pytest.raises(ValueError, match=r"^--config\.retriever=") as caught:
        retrieval.check_name(name)
    assert str(caught.value).startswith(f"--config.retriever={name}: {hint}Give bm25, the folder of a sentence-")


def test_bm25_folders_and_names_of_the_hub_are_retrievers(tmp_path):
    for name in ("bm25", str(tmp_path), "sentence-transformers/gtr-t5-large", "me/my-encoder"):
        retrieval.check_name(name)


def test_the_published_order_of_passages(golden):
    """Inner products, best first, five of each page, with the encoder of the recording in place of a real one."""
    recorded = load(golden / "eval_pipeline.json")["factscore_prompts"]

    class Recorded:
        def vectors(self, texts):
            rows = [[len(t), 50 * t.count("topic 1"), sum(map(ord, t)) % 97] for t in texts]
            return np.array(rows, np.float64)

        def scores(self, texts, queries):
            return self.vectors(queries) @ self.vectors(texts).T

    for key, expected in recorded["top5"].items():
        entity, query = key.split("#")
        page = Page(entity, tuple(recorded["docs"][entity]))
        assert retrieval.top(Recorded(), page, [query.strip()]) == [expected]
