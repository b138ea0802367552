"""JSON Lines files that survive a crash: rewrites are atomic, and a line that was cut off is never read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lc_jax.provenance import describe_changes

_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")  # matches those of valid pairs as well


def dumps(value: Any, indent: int | None = None) -> str:
    """Returns strict JSON that every parser reads.

    NaN and infinities, which JSON does not have, become null; halves of surrogate pairs, which are no text, U+FFFD.
    """
    text = json.dumps(_without_nan(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def parse_value(text: str, place: str) -> Any:
    """Parses JSON strictly.

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
    if _SURROGATE_ESCAPE.search(text) and not _is_writable(value):
        raise ValueError(f"{place}: an escape \\ud8xx is half of a surrogate pair, which is no text; correct it.")
    return value


class _DoubleKey(Exception):
    """Raised for a key that an object has twice (its argument); no ValueError, which the parser raises otherwise."""


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
    """Parses a line of JSON Lines.

    Raises:
      ValueError: see `parse_value`; or it is no object.
    """
    row = parse_value(line, place)
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a row is a JSON object, {{...}}.")
    return row


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as strict JSON, atomically."""
    _replace(path, dumps(value, indent=1) + "\n")


def _replace(path: Path, text: str) -> None:
    """Writes a file atomically: a complete temporary file replaces `path`; at an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_jsonl(path: Path, *, allow_partial_line: bool = False) -> list[dict[str, Any]]:
    """Reads a JSONL file that this program wrote (`rows.load_rows` reads those of users).

    Args:
      allow_partial_line: leave out a last line that was cut off when its writer was killed.

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
            if not allow_partial_line or number < len(lines):  # no newline after it: the writer was killed here
                raise
    return rows


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a JSONL file atomically."""
    _replace(path, "".join(dumps(row) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends rows to a file whose last line is complete (see `truncate_partial_line`)."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(dumps(row) + "\n" for row in rows))


def truncate_partial_line(path: Path) -> list[dict[str, Any]]:
    """Removes a partial last line, so that `append_jsonl` can resume, and returns the rows; [] without a file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return []
    rows = read_jsonl(path, allow_partial_line=True)
    write_jsonl(path, rows)
    return rows


def resume(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of an earlier run with the same settings, which are stored in PATH.settings.json.

    Raises:
      ValueError: that run had other settings.
    """
    settings_path, new = path.with_name(path.name + ".settings.json"), json.loads(json.dumps(settings))
    rows = truncate_partial_line(path)
    if rows and settings_path.exists():
        changed = describe_changes(json.loads(settings_path.read_text()), new)
        if changed:
            raise ValueError(f"{path} holds rows of other settings: {changed}. Remove it, or name another.")
    write_jsonl(settings_path, [new])
    return rows


def sort_jsonl(path: Path, keys: tuple[str, ...]) -> None:
    """Sorts a finished file by `keys`."""
    write_jsonl(path, sorted(read_jsonl(path), key=lambda row: tuple(row[key] for key in keys)))
