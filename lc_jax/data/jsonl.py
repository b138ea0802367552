"""JSON Lines files that survive a crash: rewrites are atomic, and a line torn by a killed writer is never read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_NOTHING: tuple[Any, ...] = (None, "", "null", '""')  # how a setting says that there is none, in JSON and as it is
_OFF: tuple[Any, ...] = (
    *_NOTHING,
    False,
    [],
    "false",
    "0",
    "0.0",
    "[]",
    "{}",
)  # by which a new setting changes nothing
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_HALF_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")  # of whole pairs as well


def dumps(value: Any, indent: int | None = None) -> str:
    """Returns strict JSON that every parser reads.

    NaN and infinities, which JSON does not have, become null; halves of surrogate pairs, which are no text, U+FFFD.
    """
    text = json.dumps(_without_nan(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return text if text.isascii() else _HALF_PAIR.sub("\ufffd", text)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def parse_value(text: str, place: str) -> Any:
    """The value that `text` holds in JSON.

    Raises:
      ValueError: it is no JSON, an object has one key twice, or text in it cannot be written as UTF-8; the message
        begins with `place`.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_double_keys)
    except _DoubleKey as error:
        raise ValueError(f"{place}: the key {error.args[0]!r} is there twice; remove one.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not JSON ({error}).") from error
    if _HALF_ESCAPE.search(text) and not _is_writable(value):
        raise ValueError(f"{place}: an escape \\ud8xx is half of a surrogate pair, which is no text; correct it.")
    return value


class _DoubleKey(Exception):
    """The key is the argument. No ValueError, which the parser raises for everything else."""


def _without_double_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise _DoubleKey(next(name for name in names if names.count(name) > 1))
    return row


def _is_writable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_row(line: str, place: str) -> dict[str, Any]:
    """The row that a line of JSON Lines holds.

    Raises:
      ValueError: see `parse_value`; or it is no object.
    """
    row = parse_value(line, place)
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a row is a JSON object, {{...}}.")
    return row


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as strict JSON, all of it or nothing."""
    _replace(path, dumps(value, indent=1) + "\n")


def _replace(path: Path, text: str) -> None:
    """Writes a file: a temporary one takes the place of `path` when it is whole, and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_jsonl(path: Path, *, torn: bool = False) -> list[dict[str, Any]]:
    """Rows of a JSONL file that this program wrote (`rows.load_rows` reads those of users).

    Args:
      torn: leave out a last line that a killed writer has torn.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No JSONL file {str(path)!r}; give one in the config.")
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(parse_row(line, f"{path}, line {number}"))
        except ValueError:
            if not torn or number < len(lines):  # no newline after it: the writer was killed here
                raise
    return rows


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes all rows or nothing."""
    _replace(path, "".join(dumps(row) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows to a file whose last line is whole (see `repair`)."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(dumps(row) + "\n" for row in rows))


def repair(path: Path) -> list[dict[str, Any]]:
    """The rows that a former run left, a torn last line removed so that `append_jsonl` can go on; [] without a file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return []
    rows = read_jsonl(path, torn=True)
    write_jsonl(path, rows)
    return rows


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which settings are not what they were, in words; "" for none.

    A setting that one side lacks, since it is of another version, changes nothing where it is empty, 0 or false on the
    other. Values may be written in JSON; settings inside settings have dotted names.
    """
    old, new = dict(_leaves("", before)), dict(_leaves("", now))
    parts = []
    for name in {**old, **new}:
        values = [side[name] for side in (old, new) if name in side]
        is_new = len(values) == 1
        if all(value in (_OFF if is_new else _NOTHING) for value in values) or (not is_new and values[0] == values[1]):
            continue
        was, value = (repr(side[name]) if name in side else "no setting" for side in (old, new))
        parts.append(f"{name} was {was}, is {value}")
    return "; ".join(parts)


def _leaves(prefix: str, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(f"{prefix}{name}.", item)
        else:
            yield prefix + name, item


def resume(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that a former run with the same settings left, as `repair` does; they are noted in PATH.settings.json.

    Raises:
      ValueError: that run had other settings.
    """
    beside, now = path.with_name(path.name + ".settings.json"), json.loads(json.dumps(settings))
    rows = repair(path)
    if rows and beside.exists():
        changed = changes(json.loads(beside.read_text()), now)
        if changed:
            raise ValueError(f"{path} holds rows of other settings: {changed}. Remove it, or name another.")
    write_jsonl(beside, [now])
    return rows


def sort_jsonl(path: Path, keys: tuple[str, ...]) -> None:
    """Puts the finished file in the order of `keys`."""
    write_jsonl(path, sorted(read_jsonl(path), key=lambda row: tuple(row[key] for key in keys)))
