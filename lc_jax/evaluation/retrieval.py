"""Retrieval of a page's passages for a claim, by BM25 or a sentence encoder (paper section 6).

`load("bm25")` needs no download; every other name is a sentence-transformers model, from the hub or a folder.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
import sqlite3
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float

from lc_jax.data.pages import Page, normalise_title
from lc_jax.provenance import fingerprint

NUM_PASSAGES = 5  # for each claim, as published
BM25_NAME = "bm25"
ENCODERS = ("sentence-transformers/gtr-t5-large", "sentence-transformers/gtr-t5-base")  # suggested for misspelt names
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

Scores = Float[np.ndarray, "Q P"]


class Retriever(Protocol):
    """Scores texts by their relevance to queries."""

    def scores(self, texts: Sequence[str], queries: Sequence[str]) -> Scores:
        """Returns a score for each query and text; more is better, on a scale of each query's own."""
        ...


def top(retriever: Retriever, page: Page, queries: Sequence[str], number: int = NUM_PASSAGES) -> list[list[str]]:
    """Returns the `number` most relevant passages of a page for each query, best first; ties in the page's order."""
    if not queries:
        return []
    scores = retriever.scores([f"{page.title} {passage}" for passage in page.passages], queries)
    return [[page.passages[i] for i in row[:number]] for row in np.argsort(-scores, axis=1, kind="stable")]


class BM25:
    """Scores by BM25+ over the passages of a page, the variant of rank_bm25 without negative weights."""

    def scores(self, texts: Sequence[str], queries: Sequence[str]) -> Scores:
        from rank_bm25 import BM25Plus

        index = BM25Plus([_bm25_tokens(text) or [""] for text in texts])
        return np.stack([index.get_scores(_bm25_tokens(query)) for query in queries])


def _bm25_tokens(text: str) -> list[str]:
    return re.findall(r"\w+", normalise_title(text))


class Encoder:
    """Scores by inner products of a sentence-transformers model's vectors, cached in an SQLite file.

    With cached vectors a rerun retrieves the same passages to the last bit, so that it pays for no new reply.

    Raises:
      ValueError: the library, the model or the file cannot be used.
    """

    def __init__(self, model: str, cache: Path) -> None:
        check_installed(model)
        import sentence_transformers

        try:
            self.model = sentence_transformers.SentenceTransformer(model)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"--config.retriever={model!r} is no sentence-transformers model that can be had ({reason}): give a "
                f"folder, a name of the hub, or {BM25_NAME}."
            ) from error
        files = sorted(Path(model).rglob("*.safetensors")) if Path(model).is_dir() else []
        self.name = fingerprint([model, *((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)])
        cache.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.cache = sqlite3.connect(cache, check_same_thread=False)  # closed by garbage collection, in any thread
            weakref.finalize(self, self.cache.close)
            with self.cache:
                self.cache.execute(
                    "create table if not exists vectors (key text primary key, vector blob) without rowid"
                )
        except sqlite3.Error as error:
            raise ValueError(f"{cache} cannot keep vectors ({error}): remove it.") from error

    def _key(self, text: str) -> str:
        return hashlib.sha256(f"{self.name} {text}".encode()).hexdigest()

    def _cached(self, text: str) -> Float[np.ndarray, " D"] | None:
        row = self.cache.execute("select vector from vectors where key = ?", (self._key(text),)).fetchone()
        return np.frombuffer(row[0], "<f4") if row else None

    def vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "T D"]:
        """Returns the vectors of texts, float32 as from the model."""
        missing = [text for text in dict.fromkeys(texts) if self._cached(text) is None]
        if missing:
            vectors = self.model.encode(missing, show_progress_bar=False, convert_to_numpy=True)
            rows = [(self._key(text), row.astype("<f4").tobytes()) for text, row in zip(missing, vectors, strict=True)]
            with self.cache:
                self.cache.executemany("insert or ignore into vectors values (?, ?)", rows)
        cached = (self._cached(text) for text in texts)
        return np.stack([vector for vector in cached if vector is not None])

    def scores(self, texts: Sequence[str], queries: Sequence[str]) -> Scores:
        return self.vectors(queries) @ self.vectors(texts).T


def check_name(name: str) -> None:
    """Checks the name of a retriever without asking the hub.

    Raises:
      ValueError: it is neither "bm25", a folder, nor "owner/name"; the message has the nearest name.
    """
    if name == BM25_NAME or (name and Path(name).is_dir()) or (_HUB_NAME.fullmatch(name) and not name.startswith(".")):
        return
    near = difflib.get_close_matches(name, [BM25_NAME, *ENCODERS, *(e.partition("/")[2] for e in ENCODERS)], 1, 0.5)
    hint = f"did you mean {next(e for e in (BM25_NAME, *ENCODERS) if e.endswith(near[0]))}? " if near else ""
    raise ValueError(
        f"--config.retriever={name}: {hint}Give {BM25_NAME}, the folder of a sentence-transformers model, or its name "
        f"on the hub, such as {ENCODERS[0]}."
    )


def check_installed(name: str) -> None:
    """Checks that the library of a retriever is installed; loads nothing.

    Raises:
      ValueError: it is not.
    """
    if name != BM25_NAME and not _is_installed("sentence_transformers"):
        raise ValueError(
            f"--config.retriever={name!r} needs sentence-transformers: pip install 'lc_jax[retrieval]'; or give "
            f"--config.retriever={BM25_NAME}, which needs nothing."
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a module in sys.modules without a spec
        return True


def load(name: str, cache: Path) -> Retriever:
    """Returns the retriever `name`; `cache` is the file of an encoder's vectors.

    Raises:
      ValueError: see `Encoder`.
    """
    return BM25() if name == BM25_NAME else Encoder(name, cache)
