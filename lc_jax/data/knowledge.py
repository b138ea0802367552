"""Knowledge stores for checking biographies: pages by title, split into passages (paper section 6).

A store is one SQLite file, in FActScore's layout (lc_jax/data/documents.py) or in ours. `build` makes one from rows of
title and text and can be resumed: the number of rows read is committed together with their pages. `Knowledge` opens
complete files only.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import json
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lc_jax.data import documents
from lc_jax.data.documents import Documents, columns_of, is_sqlite, open_read_only
from lc_jax.data.pages import PASSAGE_WORDS, NoPage, Page, normalise_title, redirect_target, split_passages
from lc_jax.data.rows import MINIATURE, Row, data_files, stream_rows
from lc_jax.provenance import fingerprint

BATCH = 1000  # rows a transaction
_HEAD = 1 << 16  # bytes of the source in its fingerprint
_TABLES = """
create table if not exists meta (name text primary key, value text) without rowid;
create table if not exists pages (title text primary key, key text, passages text);
create index if not exists pages_by_key on pages (key);
create table if not exists redirects (key text, target text, primary key (key, target)) without rowid;
"""
_BUILDER = "configs/build_knowledge.py"
_SOURCES = f"build one with {_BUILDER}, or give FActScore's enwiki-20230401.db (--config.knowledge or LC_KNOWLEDGE)"
_REMEDY = f"run {_BUILDER} with the same output, it resumes where it was stopped"


def _is_truncated(path: Path) -> bool:
    """Returns whether an SQLite file is shorter than its own header says."""
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
    """Returns the text of a row, a list of sentences (FActScore) joined; "" if there is none."""
    text = row.get("text")
    if isinstance(text, list | tuple):
        return " ".join(sentence for sentence in text if isinstance(sentence, str))
    return text if isinstance(text, str) else ""


def _redirects(row: Row) -> Iterator[tuple[str, str]]:
    """Yields (from, to) of a row: `redirect` names where its title leads, `redirects` the titles that lead to it.

    A list called `redirect` (Cirrus dumps) holds titles that lead to the row's.
    """
    title, target, text_target = row["title"], row.get("redirect"), redirect_target(_text(row))
    if isinstance(target, str) and target:
        yield title, target
    elif text_target:
        yield title, text_target
    others = [*(target if isinstance(target, list | tuple) else ()), *(row.get("redirects") or ())]
    for other in others:
        name = other.get("title") if isinstance(other, Mapping) else other
        if isinstance(name, str):
            yield name, title


def _add(database: sqlite3.Connection, row: Row, num_words: int) -> str:
    """Inserts the page or redirects of a row; returns the kind of the row, for counts."""
    title = row.get("title")
    if "title" not in row and isinstance(row.get("index"), Mapping):
        return "index lines"  # every other line of a Cirrus dump
    if not isinstance(title, str) or not normalise_title(title):
        return "without title"
    redirects = [(normalise_title(name), target) for name, target in _redirects(row)]
    database.executemany("insert or ignore into redirects values (?, ?)", redirects)
    if any(name == normalise_title(title) for name, _ in redirects):
        return "redirects"
    text = _text(row)
    passages = split_passages(text, num_words)
    if not passages:
        is_other = bool(row.get("text")) and not text
        return "with text that is neither text nor a list of sentences" if is_other else "without text"
    page = (title, normalise_title(title), json.dumps(passages, ensure_ascii=False))
    new = database.execute("insert or ignore into pages values (?, ?, ?)", page).rowcount
    return "pages" if new else "same title again"


def _source_fingerprint(source: Path) -> str:
    """Returns a fingerprint of a source: the names of its files and the beginning of the first."""
    if str(source) == MINIATURE:
        return MINIATURE
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"No file or folder {source} to build a knowledge store from.")
    with files[0].open("rb") as file:
        head = hashlib.sha256(file.read(_HEAD)).hexdigest()
    return fingerprint([*(path.name for path in files), head])


def _open_store(path: Path, spec: Mapping[str, Any]) -> sqlite3.Connection:
    """Opens the store at `path`, a new one or one with the same `spec`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = path.with_name(
        path.name + "-journal"
    )  # of a build that was killed: SQLite rolls its last transaction back
    if path.exists() and path.stat().st_size and not journal.exists() and _is_truncated(path):
        raise ValueError(f"{path} is cut off or no knowledge store: remove it and build it again.")
    database = sqlite3.connect(path)
    try:
        if columns_of(database, "documents"):
            raise ValueError(f"{path} is FActScore's and can be read as it is: name another output.")
        database.executescript(_TABLES)
        old_spec = _get(database, "spec", spec)
        changed = [name for name in spec if old_spec.get(name) != spec[name]]
        if changed:
            raise ValueError(
                f"{path} was begun with another {' and '.join(changed)}: remove it or name another output."
            )
        with database:
            _put(database, spec=spec)
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
    return documents.rows(source) if is_sqlite(source) else (row for _, row in stream_rows(source))


def build(source: str | Path, path: str | Path, *, passage_words: int = PASSAGE_WORDS) -> dict[str, int]:
    """Builds the store at `path` or resumes it; returns the numbers of rows by kind over all runs.

    Args:
      source: a file or folder of rows with `title` and `text` (or a list of sentences) and, where there are any,
        `redirect` (the title that this one leads to) or `redirects` (titles, or records with a title, that lead here;
        in Cirrus dumps called `redirect`); a text "#REDIRECT [[...]]" is one as well. Or an SQLite file with a table
        documents (title, text), as FActScore's. Or "miniature".

    Raises:
      FileNotFoundError: there is no source.
      ValueError: `path` was begun from another source, or is no store; a source that cannot be read to its end (the
        store can be resumed once it is repaired); a source without a single page.
    """
    source, path = Path(source), Path(path)
    spec = {"source": _source_fingerprint(source), "passage_words": passage_words}
    with contextlib.closing(_open_store(path, spec)) as database:
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


class _OwnStore:
    """Pages of a store that `build` made."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database

    def _column(self, query: str, *values: str) -> list[str]:
        return [row[0] for row in self.database.execute(query, values)]

    def titles(self, name: str) -> list[str]:
        """Returns the titles that differ from `name` in case or Unicode form at most."""
        return self._column("select title from pages where key = ? order by title", normalise_title(name))

    def targets(self, name: str) -> list[str]:
        """Returns the titles that `name` leads to."""
        return self._column("select target from redirects where key = ? order by target", normalise_title(name))

    def near(self, name: str) -> list[str]:
        """Returns titles that are `name` with a remark in brackets, for a message."""
        key, query = normalise_title(name), "select title from pages where key >= ? and key < ? order by key limit 5"
        return self._column(query, f"{key} (", f"{key} )")

    def passages(self, title: str) -> list[str]:
        """Returns the passages of the page of a title."""
        passages: list[str] = json.loads(self._column("select passages from pages where title = ?", title)[0])
        return passages


class Knowledge:
    """Pages of a store, opened read-only: one that `build` has completed, or FActScore's.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is half built, cut off, or something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"No knowledge store {str(path)!r}: {_SOURCES}.")
        if self.path.with_name(self.path.name + "-journal").exists():
            raise ValueError(f"{path} is being built, or was and was stopped: {_REMEDY}.")
        if not is_sqlite(self.path):
            with self.path.open("rb") as file:
                begin = file.read(15).decode("ascii", "replace")
            raise ValueError(f"{path} is no knowledge store: no SQLite file, it begins with {begin!r}; {_SOURCES}.")
        if _is_truncated(self.path):
            raise ValueError(
                f"{path} is cut off or no knowledge store: copy it again, or remove it and build it again."
            )
        self.database = open_read_only(self.path)
        self._finalizer = weakref.finalize(self, self.database.close)
        try:
            self._store = self._open_by_content()
        except sqlite3.Error as error:
            raise ValueError(f"{path} is no knowledge store ({error}): {_SOURCES}.") from error

    def _open_by_content(self) -> _OwnStore | Documents:
        documents = columns_of(self.database, "documents")
        if {"title", "text"} <= set(documents):
            if not self.database.execute("select 1 from documents limit 1").fetchone():
                raise ValueError(f"{self.path} is no knowledge store: its table documents is empty; {_SOURCES}.")
            return Documents(self.database)
        if not columns_of(self.database, "meta"):
            what = f"its table documents has the columns {documents}" if documents else "it has no table documents"
            raise ValueError(f"{self.path} is no knowledge store: {what}; {_SOURCES}.")
        if not _get(self.database, "complete"):
            raise ValueError(f"{self.path} is half built: {_REMEDY}.")
        return _OwnStore(self.database)

    def __enter__(self) -> Knowledge:
        return self

    def __exit__(self, *_: object) -> None:
        self._finalizer()

    def find(self, entity: str) -> Page:
        """Returns the page about `entity`, by exact title or by the one that differs in case or Unicode form only.

        Raises:
          NoPage: there is none, there are several, or redirects lead nowhere.
        """
        name, visited = entity, set[str]()
        while True:
            titles = self._store.titles(name)
            if name in titles or len(titles) == 1:
                title = name if name in titles else titles[0]
                return Page(title, tuple(self._store.passages(title)))
            targets = [] if titles else self._store.targets(name)
            several = titles or targets
            if len(several) > 1:
                raise NoPage(f"{entity!r} may be any of {several[:5]}")
            if not targets:
                near = self._store.near(name)
                raise NoPage(f"no page {entity!r}" + (f"; there are {near}" if near else ""))
            if normalise_title(name) in visited:
                raise NoPage(f"redirects from {entity!r} go in a circle")
            visited.add(normalise_title(name))
            name = targets[0]
