"""What is known of entities: pages by title, cut into passages, in one SQLite file (paper section 6, biographies).

`build` makes the file from rows of title and text and goes on where it was stopped: how many rows have been read is
committed together with what they held. `Knowledge` reads only a file that is whole.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
import sqlite3
import unicodedata
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lc_jax.data.growing import fingerprint
from lc_jax.data.rows import MINIATURE, Row, data_files, stream_rows

PASSAGE_WORDS = 180  # of a passage: about the published 256 tokens
BATCH = 1000  # rows a transaction
_HEAD = 1 << 16  # bytes of the source by which it is known again
_REDIRECT = re.compile(r"\s*#redirect\s*:?\s*\[\[([^]|#]+)", re.IGNORECASE)
_TAGS = re.compile(r"</?s>")
_TABLES = """
create table if not exists meta (name text primary key, value text) without rowid;
create table if not exists pages (title text primary key, key text, passages text);
create index if not exists pages_by_key on pages (key);
create table if not exists redirects (key text, target text, primary key (key, target)) without rowid;
"""
_BUILDER = "configs/build_knowledge.py"
_REMEDY = f"run {_BUILDER} with the same output, it goes on where it was stopped"


class NoPage(LookupError):
    """No page, or no single one, is about an entity; the message says why."""


@dataclasses.dataclass(frozen=True)
class Page:
    """What is known of one entity."""

    title: str
    passages: tuple[str, ...]


def normal(title: str) -> str:
    """The form in which titles are compared: without case, composed or decomposed, underscores as spaces."""
    folded = unicodedata.normalize("NFKC", title.replace("_", " ")).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def cut(text: str, num_words: int = PASSAGE_WORDS) -> list[str]:
    """A text as passages of `num_words` words, the last one shorter; [] of an empty text."""
    words = text.split()
    return [" ".join(words[start : start + num_words]) for start in range(0, len(words), num_words)]


def _truncated(path: Path) -> bool:
    """Whether a file is shorter than its own header says."""
    with path.open("rb") as file:
        header = file.read(100)
    page_size = int.from_bytes(header[16:18]) or 1
    page_size = 65536 if page_size == 1 else page_size
    return len(header) < 100 or path.stat().st_size < page_size * int.from_bytes(header[28:32])


def _get(database: sqlite3.Connection, name: str, default: Any = None) -> Any:
    row = database.execute("select value from meta where name = ?", (name,)).fetchone()
    return json.loads(row[0]) if row else default


def _put(database: sqlite3.Connection, **values: Any) -> None:
    rows = [(name, json.dumps(value)) for name, value in values.items()]
    database.executemany("insert or replace into meta values (?, ?)", rows)


def _text(row: Row) -> str:
    """The text of a row, the sentences of a list (FActScore) joined; "" where there is none."""
    text = row.get("text")
    if isinstance(text, list | tuple):
        return " ".join(sentence for sentence in text if isinstance(sentence, str))
    return text if isinstance(text, str) else ""


def _redirects(row: Row) -> Iterator[tuple[str, str]]:
    """(from, to) of a row: `redirect` names where its title leads, `redirects` the titles that lead to it.

    A list called `redirect` (Cirrus dumps) holds titles that lead to the row's.
    """
    title, target = row["title"], row.get("redirect")
    found = _REDIRECT.match(_text(row))
    if isinstance(target, str) and target:
        yield title, target
    elif found:
        yield title, found[1]
    others = [*(target if isinstance(target, list | tuple) else ()), *(row.get("redirects") or ())]
    for other in others:
        name = other.get("title") if isinstance(other, Mapping) else other
        if isinstance(name, str):
            yield name, title


def _add(database: sqlite3.Connection, row: Row, num_words: int) -> str:
    """Keeps what a row holds; what it was, to be counted."""
    title = row.get("title")
    if "title" not in row and isinstance(row.get("index"), Mapping):
        return "index lines"  # every other line of a Cirrus dump
    if not isinstance(title, str) or not normal(title):
        return "without title"
    redirects = [(normal(name), target) for name, target in _redirects(row)]
    database.executemany("insert or ignore into redirects values (?, ?)", redirects)
    if any(name == normal(title) for name, _ in redirects):
        return "redirects"
    text = _text(row)
    passages = cut(text, num_words)
    if not passages:
        is_other = bool(row.get("text")) and not text
        return "with text that is neither text nor a list of sentences" if is_other else "without text"
    page = (title, normal(title), json.dumps(passages, ensure_ascii=False))
    new = database.execute("insert or ignore into pages values (?, ?, ?)", page).rowcount
    return "pages" if new else "same title again"


def _known_by(source: Path) -> str:
    """What a source is recognised by: the names of its files and the beginning of the first."""
    if str(source) == MINIATURE:
        return MINIATURE
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"No file or folder {source} to build a knowledge store from.")
    with files[0].open("rb") as file:
        head = hashlib.sha256(file.read(_HEAD)).hexdigest()
    return fingerprint([*(path.name for path in files), head])


def _begin(path: Path, recipe: Mapping[str, Any]) -> sqlite3.Connection:
    """The store at `path`, new or begun under the same recipe."""
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = path.with_name(path.name + "-journal")  # of a killed build: what it was writing is rolled back
    if path.exists() and path.stat().st_size and not journal.exists() and _truncated(path):
        raise ValueError(f"{path} is cut off or no knowledge store: remove it and build it again.")
    database = sqlite3.connect(path)
    try:
        database.executescript(_TABLES)
        begun = _get(database, "recipe", recipe)
        changed = [name for name in recipe if begun.get(name) != recipe[name]]
        if changed:
            raise ValueError(
                f"{path} was begun with another {' and '.join(changed)}: remove it or name another output."
            )
        with database:
            _put(database, recipe=recipe)
    except sqlite3.DatabaseError as error:
        database.close()
        raise ValueError(f"{path} is no knowledge store ({error}): remove it or name another output.") from error
    except ValueError:
        database.close()
        raise
    return database


def _rows(source: Path) -> Iterator[Row]:
    if str(source) == MINIATURE:
        from lc_jax.miniature import world

        return iter(world.build().pages())
    if source.is_dir():  # all files are one source, whatever their names
        return (row for path in data_files(source) for _, row in stream_rows(path))
    return _documents(source) if _is_sqlite(source) else (row for _, row in stream_rows(source))


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _documents(path: Path) -> Iterator[Row]:
    """The rows of an SQLite table documents (title, text), in the order in which they were written.

    FActScore puts tags around sentences and between paragraphs, which are left out.
    """
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        try:
            for title, text in database.execute("select title, text from documents order by rowid"):
                yield {"title": title, "text": _TAGS.sub(" ", text) if isinstance(text, str) else text}
        except sqlite3.Error as error:
            raise ValueError(f"{path} has no table documents (title, text) that can be read: {error}.") from error


def build(source: str | Path, path: str | Path, *, passage_words: int = PASSAGE_WORDS) -> dict[str, int]:
    """Makes the store at `path`, or goes on with it; how many rows were pages, redirects or of no use, over all runs.

    Args:
      source: a file or folder of rows with `title` and `text` (or a list of sentences) and, where there are any,
        `redirect` (the title that this one leads to) or `redirects` (titles, or records with a title, that lead here;
        in Cirrus dumps called `redirect`); a text "#REDIRECT [[...]]" is one as well. Or an SQLite file with a table
        documents (title, text), as FActScore's. Or "miniature".

    Raises:
      FileNotFoundError: there is no source.
      ValueError: `path` was begun from another source, or is no store; a source that cannot be read to its end, where
        the store can go on once it is mended; a source without a single page.
    """
    source, path = Path(source), Path(path)
    recipe = {"source": _known_by(source), "passage_words": passage_words}
    with contextlib.closing(_begin(path, recipe)) as database:
        counts = collections.Counter(_get(database, "counts", {}))
        if _get(database, "complete"):
            return dict(counts)
        rows: Iterable[Row] = itertools.islice(_rows(source), counts.total(), None)
        fresh = iter(tqdm(rows, desc=path.name, unit=" rows", initial=counts.total(), mininterval=5, delay=5))
        while batch := list(itertools.islice(fresh, BATCH)):
            with database:
                counts.update(_add(database, row, passage_words) for row in batch)
                _put(database, counts=counts)
        if not counts["pages"]:
            raise ValueError(f"{source} has no row with a title and a text: {dict(counts)}.")
        with database:
            _put(database, complete=True)
    return dict(counts)


class Knowledge:
    """The pages of a store that is whole.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is half built, cut off, or none.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"No knowledge store {str(path)!r}: build it with {_BUILDER}.")
        if self.path.with_name(self.path.name + "-journal").exists():
            raise ValueError(f"{path} is being built, or was and was stopped: {_REMEDY}.")
        if _truncated(self.path):
            raise ValueError(
                f"{path} is cut off or no knowledge store: copy it again, or remove it and build it again."
            )
        self.database = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)
        self._finalizer = weakref.finalize(self, self.database.close)
        try:
            complete = _get(self.database, "complete")
        except sqlite3.Error as error:
            raise ValueError(f"{path} is no knowledge store ({error}): build one with {_BUILDER}.") from error
        if not complete:
            raise ValueError(f"{path} is half built: {_REMEDY}.")

    def __enter__(self) -> Knowledge:
        return self

    def __exit__(self, *_: object) -> None:
        self._finalizer()

    def _column(self, query: str, value: str) -> list[str]:
        return [row[0] for row in self.database.execute(query, (value,))]

    def find(self, entity: str) -> Page:
        """The page about `entity`: of the very title, or of the one title that differs in case or Unicode form only.

        Raises:
          NoPage: there is none, there are several, or redirects lead nowhere.
        """
        name, passed = entity, set[str]()
        while True:
            key = normal(name)
            titles = self._column("select title from pages where key = ? order by title", key)
            if name in titles or len(titles) == 1:
                return self._page(name if name in titles else titles[0])
            targets = [] if titles else self._column("select target from redirects where key = ? order by target", key)
            several = titles or targets
            if len(several) > 1:
                raise NoPage(f"{entity!r} may be any of {several[:5]}")
            if not targets:
                raise NoPage(f"no page {entity!r}{self._near(key)}")
            if key in passed:
                raise NoPage(f"redirects from {entity!r} go in a circle")
            passed.add(key)
            name = targets[0]

    def _near(self, key: str) -> str:
        """Pages of the same name with a remark in brackets, for a message."""
        query = "select title from pages where key >= ? and key < ? order by key limit 5"
        near = [row[0] for row in self.database.execute(query, (f"{key} (", f"{key} )"))]
        return f"; there are {near}" if near else ""

    def _page(self, title: str) -> Page:
        passages = self._column("select passages from pages where title = ?", title)[0]
        return Page(title, tuple(json.loads(passages)))
