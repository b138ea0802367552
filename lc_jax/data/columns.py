"""Cells of rows by column name, and ids of rows."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from lc_jax.data.rows import Row

ID_COLUMNS = ("question_id", "id", "qid", "questionid", "_id")  # in order of precedence
_WHOLE_NUMBER = re.compile(r"-?\d+(?:\.0+)?")


def is_missing(value: object) -> bool:
    """Returns whether a cell is None or NaN. An empty text is a value."""
    return value is None or (isinstance(value, float) and math.isnan(value))


@functools.lru_cache(maxsize=1024)
def _by_normalised_name(names: tuple[str, ...]) -> dict[str, str]:
    """Returns column names by their normalised names (no case, no outer spaces); ambiguous ones are left out."""
    keys = [name.strip().casefold() for name in names]
    return {key: name for key, name in zip(keys, names, strict=True) if keys.count(key) == 1}


def column(row: Row, name: str) -> Any:
    """Returns the cell of a column, None without one; an exact match precedes one that differs in case or spaces."""
    if name in row:
        return row[name]
    own = _by_normalised_name(tuple(row)).get(name.casefold())
    return None if own is None else row[own]


def at(row: Row, name: str) -> Any:
    """Returns a cell as `column` does; a dot in the name steps into a record."""
    value: Any = row
    for step in (name,) if name in row else name.split("."):
        value = column(value, step) if isinstance(value, Mapping) else None
    return value


def names_of(rows: Sequence[Row]) -> list[str]:
    """Returns the names of all columns, sorted, for messages."""
    return sorted({name for row in rows for name in row})


def rename(rows: Sequence[dict[str, Any]], columns: str, flag: str = "columns") -> list[dict[str, Any]]:
    """Adds columns with the published names to rows with other names: "question=ask,answer=solution.text".

    Args:
      flag: that gives `columns`, for messages.

    Raises:
      ValueError: not of that form, or no row has such a column; the message names it.
    """
    if not columns:
        return list(rows)
    pairs = [tuple(part.strip() for part in pair.partition("=")) for pair in columns.split(",")]
    for published, equals, theirs in pairs:
        if not (published and equals and theirs):
            raise ValueError(f"{flag}={columns}: write OURS=YOURS, with commas between.")
        if rows and all(is_missing(at(row, theirs)) for row in rows):
            names = names_of(rows)
            is_reversed = any(not is_missing(at(row, published)) for row in rows)
            remedy = f" Write OURS=YOURS; did you mean {theirs}={published}?" if is_reversed else ""
            raise ValueError(f"{flag}={columns}: no row has {theirs!r}; there are {names}.{remedy}")
    return [{**row, **{published: at(row, theirs) for published, _, theirs in pairs}} for row in rows]


# --- ids -------------------------------------------------------------------------------------------------------------


def id_text(value: Any) -> str:
    """Returns an id as text, "" for none; 7, 7.0, "7" and "7.0" (as spreadsheets write integers) are the same id."""
    if is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | Mapping):
        return json.dumps(value, sort_keys=True)
    text = str(value).strip()
    return text.partition(".")[0] if _WHOLE_NUMBER.fullmatch(text) else text


def row_id(row: Row) -> str:
    """Returns the id of a row, "" if it has none."""
    return next((text for name in ID_COLUMNS if (text := id_text(column(row, name)))), "")


def hashed_id(text: str) -> str:
    """Returns an id that is a hash of a text, the same in every file and run."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def distinct(ids: Sequence[str], source: object) -> list[str]:
    """Makes ids unique: the second row with the id "a" gets "a#2", the third "a#3", in order.

    Args:
      source: where the ids are from, for the log.
    """
    counts, names = Counter(ids), set(ids)
    several = [name for name, count in counts.items() if count > 1]
    if not several:
        return list(ids)
    logging.warning(
        "%s: %d ids are of several rows (%s ...), which are told apart as %s#2, %s#3 and so on.",
        source, len(several), ", ".join(several[:3]), several[0], several[0],
    )  # fmt: skip
    numbers: Counter[str] = Counter()
    unique_ids = []
    for name in ids:
        numbers[name] += 1
        unique = name
        while numbers[name] > 1 and (unique := f"{name}#{numbers[name]}") in names:
            numbers[name] += 1
        names.add(unique)
        unique_ids.append(unique)
    return unique_ids


def pair(ids: Sequence[str], others: Sequence[str], what: str, of: str) -> list[list[int]]:
    """Returns, for each of `ids`, the indices of its partners in `others`: rows with the same id.

    A row may have several partners, and several rows may share one. Equally many rows and partners are paired in order.

    Args:
      what, of: what `ids` and `others` are, for messages.

    Raises:
      ValueError: several rows and another number of partners have one id, so that nothing says which belong together;
        or no id has a partner.
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(others):
        places.setdefault(name, []).append(place)
    counts, numbers = Counter(ids), Counter[str]()
    unclear = [name for name in counts if counts[name] > 1 and len(places.get(name, ())) not in (0, 1, counts[name])]
    if unclear:
        raise ValueError(
            f"The id {unclear[0]!r} is of {counts[unclear[0]]} {what} and of {len(places[unclear[0]])} {of}: nothing "
            f"says which belong together; give them ids of their own ({len(unclear)} such ids)."
        )
    if ids and others and not places.keys() & counts.keys():
        raise ValueError(
            f"No id of the {of} is an id of the {what}: they are, for example, {others[0]!r} and {ids[0]!r}; give both "
            "the same question_id."
        )
    partners = []
    for name in ids:
        own = places.get(name, [])
        partners.append(own if counts[name] == 1 or len(own) <= 1 else [own[numbers[name]]])
        numbers[name] += 1
    return partners
