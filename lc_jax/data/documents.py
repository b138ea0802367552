"""FActScore's database of Wikipedia pages (enwiki-20230401.db): an SQLite table documents (title, text).

A text consists of passages of at most 256 tokens with SEPARATOR between them and sentence tags within. The table has no
column of normalised titles, so a title without an exact match is looked up in an index that is built once.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Int, UInt64

from lc_jax.data.pages import normalise_title, redirect_target, split_passages
from lc_jax.data.rows import Row

SEPARATOR = "####SPECIAL####SEPARATOR####"  # between the passages of a text
_MAX_WORDS = 256  # of a passage of 256 tokens; a longer part is a text that was not split
_TAGS = re.compile(r"</?s>")


def is_sqlite(path: Path) -> bool:
    """Returns whether a file has the header of an SQLite file."""
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def open_read_only(path: Path) -> sqlite3.Connection:
    """Opens an SQLite file read-only; bytes that are not UTF-8 are replaced.

    Any thread may close it, since the garbage collector runs in any.
    """
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    database.text_factory = lambda text: text.decode("utf-8", "replace")
    return database


def columns_of(database: sqlite3.Connection, table: str) -> list[str]:
    """Returns the columns of a table; [] if there is no such table."""
    return [row[0] for row in database.execute("select name from pragma_table_info(?)", (table,))]


def passages(text: str) -> list[str]:
    """Splits a text of the table into passages, without tags; parts that are too long are split further."""
    parts = (_TAGS.sub(" ", part).split() for part in text.split(SEPARATOR))
    return [
        passage
        for words in parts
        for passage in ([" ".join(words)] if len(words) <= _MAX_WORDS else split_passages(" ".join(words)))
        if passage
    ]


def rows(path: Path) -> Iterator[Row]:
    """Yields the rows of the table in the order of insertion, the passages of each joined.

    Raises:
      ValueError: there is no such table, or it cannot be read.
    """
    with contextlib.closing(open_read_only(path)) as database:
        try:
            for title, text in database.execute("select title, text from documents order by rowid"):
                plain = " ".join(passages(text)) if isinstance(text, str) else text
                yield {"title": title, "text": plain}
        except sqlite3.Error as error:
            raise ValueError(f"{path} has no table documents (title, text) that can be read: {error}.") from error


class Documents:
    """Pages of such a database; a page that only leads to another title counts as a redirect."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self._index: tuple[UInt64[np.ndarray, " N"], Int[np.ndarray, " N"]] | None = None

    def titles(self, name: str) -> list[str]:
        """Returns the exact title if there is such a page, else all that differ in case or Unicode form only."""
        return [title for title, text in self._texts(name) if passages(text) and not _target(text)]

    def targets(self, name: str) -> list[str]:
        """Returns the titles that pages of that title redirect to."""
        return sorted({target for _, text in self._texts(name) if (target := _target(text))})

    def near(self, name: str) -> list[str]:
        """Returns titles that are `name` with a remark in brackets, for a message."""
        return sorted(t for t in self._similar(name) if normalise_title(t).startswith(f"{normalise_title(name)} ("))[:5]

    def passages(self, title: str) -> list[str]:
        """Returns the passages of the page of a title."""
        return passages(self._text(title))

    def _texts(self, name: str) -> list[tuple[str, str]]:
        """Returns (title, text) of the exact title, else of all with the same normalised title, sorted."""
        if self.database.execute("select 1 from documents where title = ?", (name,)).fetchone():
            return [(name, self._text(name))]
        same = sorted(title for title in self._similar(name) if normalise_title(title) == normalise_title(name))
        return [(title, self._text(title)) for title in same]

    def _text(self, title: str) -> str:
        query = "select text from documents where title = ? order by rowid limit 1"
        row = self.database.execute(query, (title,)).fetchone()
        return row[0] if row and isinstance(row[0], str) else ""

    def _similar(self, name: str) -> list[str]:
        """Returns the titles with the same normalised title as `name`, apart from remarks in brackets."""
        hashes, places = self._load_index()
        title_hash = np.uint64(_hash(name))
        first, last = np.searchsorted(hashes, title_hash), np.searchsorted(hashes, title_hash, side="right")
        query = "select title from documents where rowid = ?"
        titles = {self.database.execute(query, (int(place),)).fetchone()[0] for place in places[first:last]}
        return [title for title in titles if _stem(title) == _stem(name)]

    def _load_index(self) -> tuple[UInt64[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """Returns hashes of all titles, ascending, and their row ids: 16 bytes a page, computed at the first use."""
        if self._index is None:
            logging.info("Reading all titles once, to compare them without case and Unicode form.")
            titles = self.database.execute("select rowid, title from documents where typeof(title) = 'text'")
            pairs = np.fromiter(((_hash(title), place) for place, title in titles), dtype="u8,i8")
            pairs = pairs[np.argsort(pairs["f0"])]
            self._index = pairs["f0"].copy(), pairs["f1"].copy()
        return self._index


def _target(text: str) -> str:
    return redirect_target(_TAGS.sub(" ", text))


def _stem(title: str) -> str:
    """Returns a normalised title without a remark in brackets: "mercury" for "Mercury (planet)"."""
    return normalise_title(title).partition(" (")[0]


def _hash(title: str) -> int:
    """Returns a 64-bit hash of a title's stem; the caller compares the stems too, since hashes collide."""
    return hash(_stem(title)) & 0xFFFFFFFFFFFFFFFF
