"""Rows of a data file: JSON lines, JSON, CSV or Parquet, compressed or not; its content tells the format."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from lc_jax.data.json_tables import records_of
from lc_jax.data.jsonl import parse_row, parse_value

FORMATS = ("jsonl", "ndjson", "json", "csv", "tsv", "parquet")
_OPENERS: dict[str, Callable[..., Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open, "lzma": lzma.open}
ENDINGS = (*(f".{name}" for name in FORMATS), *(f".{name}.{packer}" for name in FORMATS for packer in _OPENERS))
_MAX_CELL = 2**31 - 1  # characters of one CSV cell; Python's own limit is 131,072
_HEAD = 4096  # bytes from which a format is recognised
_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # Excel writes it before the header
_BYTE_ORDER_MARKS = ((b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"),
          (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))  # fmt: skip
# Magic bytes of unsupported formats, what such a file is, and what to do with it.
_UNSUPPORTED = (
    (b"\x28\xb5\x2f\xfd", "is packed by Zstandard", "unpack it with `zstd -d`"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook", "save the sheet as CSV"),
    (b"SQLite format 3\x00", "is an SQLite database", "export the table as CSV or JSON lines"),
    (b"ARROW1", "is an Arrow file", "save the table as Parquet or JSON lines"),
    (
        b"\xff\xff\xff\xff",
        "is an Arrow stream, as `datasets` saves",
        "save it with `to_json` or `to_parquet`",
    ),
    (b"\x89HDF\r\n", "is an HDF5 file", "save the table as CSV, JSON lines or Parquet"),
    (b"\x93NUMPY", "is a NumPy array", "save a table with named columns as CSV, JSON lines or Parquet"),
    (b"%PDF-", "is a PDF", "save its table as CSV"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself", "run `git lfs pull` in its repository"),
)


class Place(NamedTuple):
    """Position of a row in a file; `str()` formats it for messages."""

    path: Path
    unit: str  # "line" or "row"
    number: int  # from 1

    def __str__(self) -> str:
        return f"{self.path}, {self.unit} {self.number}"


def stream_file(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yields the rows of a file with their places; JSON lines and CSV are streamed row by row.

    Text stays text: "None", "NA" and "nan" in a CSV cell are words; only an empty cell is missing (None).

    Raises:
      ValueError: the file is of another kind, is damaged, or is not UTF-8 or (with a byte order mark) UTF-16; the
        message names place and remedy.
    """
    try:
        yield from _stream(path)
    except UnicodeDecodeError as error:
        raise ValueError(_encoding_problem(path, error)) from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is cut off or damaged: download or pack it again. ({error})") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error


def _stream(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    head = _head(path)
    _check_content(path, head)
    if head.startswith(b"PAR1"):
        yield from _number(path, "row", _parquet_rows(path))
        return
    kind = _ending(path)
    if kind == "parquet":
        raise ValueError(f"{path} is no Parquet file, which begins with PAR1: download or save it again.")
    with _open_text(path) as file:
        lines = [line for line in itertools.islice(file, 100) if line.strip()][:2]
    if not lines:
        return
    if _is_json(lines[0], kind):
        yield from _json_rows(path, lines, kind)
    elif kind in ("csv", "tsv"):
        yield from _csv_rows(path, lines[0], kind)
    elif kind in FORMATS:
        parse_row(lines[0], f"{path}, line 1")  # raises, with the reason
    else:
        raise ValueError(f"{path} is not of the formats {', '.join(FORMATS)} (each also .gz): save it as one.")


def columns_of(path: Path) -> list[str]:
    """Returns the columns of a CSV or Parquet file without rows; [] for an empty file or another format.

    Raises:
      ValueError: as in `stream_file`.
    """
    if _head(path).startswith(b"PAR1"):
        from pyarrow import parquet

        return parquet.read_schema(path).names
    with _open_text(path) as file:
        lines = [line for line in file if line.strip()]
    if not lines or _ending(path) not in ("csv", "tsv"):
        return []
    return [name for name in next(_csv_reader(iter(lines), lines[0], _ending(path))) if name]


# --- what a file is --------------------------------------------------------------------------------------------------


def _ending(path: Path) -> str:
    parts = path.name.lower().split(".")
    if len(parts) > 2 and parts[-1] in _OPENERS:
        parts.pop()
    return parts[-1] if len(parts) > 1 else ""


def _open_bytes(path: Path) -> IO[bytes]:
    """Opens a file, decompressed if its content says that it is compressed."""
    with path.open("rb") as file:
        start = file.read(6)
    for name, mark in (("gz", b"\x1f\x8b"), ("bz2", b"BZh"), ("xz", b"\xfd7zXZ\x00")):
        if start.startswith(mark):
            return _OPENERS[name](path, "rb")
    if path.suffix.lower() == ".lzma":
        return lzma.open(path, "rb")
    return path.open("rb")


def _head(path: Path) -> bytes:
    with _open_bytes(path) as file:
        return file.read(_HEAD)


def _check_content(path: Path, head: bytes) -> None:
    """Raises ValueError for files that hold no rows of text; the message says what they are."""
    for mark, what, remedy in _UNSUPPORTED:
        if head.startswith(mark) and not (mark == b"\xff\xff\xff\xff" and head[:4] == head[4:8]):
            raise ValueError(f"{path} {what}: {remedy}.")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
        if any(name.startswith("xl/") for name in names):
            raise ValueError(f"{path} is an Excel workbook: save the sheet as CSV.")
        raise ValueError(f"{path} is a zip archive (of {names[:3]}): unpack it and name a file or the folder.")
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise ValueError(
            f"{path} is a Python pickle, which can run code and is never loaded: "
            "save the table with `to_json(path, orient='records', lines=True)`."
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        raise ValueError(f"{path} is an HTML page, perhaps of a log-in or an error: download the data file itself.")
    if text.startswith(b"<?xml"):
        raise ValueError(f"{path} is XML: save its rows as CSV or JSON lines.")
    is_wide = any(head.startswith(mark) for mark, name in _BYTE_ORDER_MARKS if name != "utf-8-sig")
    if b"\x00" in head and not is_wide and not head.startswith(b"PAR1"):
        raise ValueError(f"{path} is binary, or UTF-16 without a byte order mark: save it as UTF-8.")


def _open_text(path: Path) -> IO[str]:
    file = _open_bytes(path)
    head = file.read(4)
    file.seek(0)
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), "utf-8")
    return io.TextIOWrapper(file, encoding=encoding, newline="")


def _encoding_problem(path: Path, error: UnicodeDecodeError) -> str:
    """Returns a message with the position, in the decompressed file, of the first byte that is not UTF-8."""
    if not error.encoding.lower().startswith("utf-8") and error.encoding != "utf-8-sig":
        return (
            f"{path} has the byte order mark of {error.encoding} but is not in it ({error.reason}): save it as UTF-8."
        )
    with _open_bytes(path) as file:
        position = 0
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as bad:
                where = f"byte {position + bad.start} (line {number}) is 0x{line[bad.start]:02x}"
                return (
                    f"{path}: {where}, which is not UTF-8; save it as UTF-8, "
                    f"for example with `iconv -f latin1 -t utf-8 {path.name}`."
                )
            position += len(line)
    return f"{path} is not UTF-8 ({error.reason}): save it as UTF-8."


def _is_json(line: str, kind: str) -> bool:
    start = line.lstrip("\ufeff \t")[:1]
    if kind not in ("csv", "tsv"):
        return start in ("{", "[")
    try:
        return start == "{" and isinstance(json.loads(line), dict)
    except ValueError:
        return False


# --- readers of the formats ------------------------------------------------------------------------------------------


def _number(path: Path, unit: str, rows: Iterator[dict[str, Any]]) -> Iterator[tuple[Place, dict[str, Any]]]:
    return ((Place(path, unit, number), row) for number, row in enumerate(rows, 1))


def _json_rows(path: Path, lines: list[str], kind: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yields rows of JSON lines if the first line is an object and more follow; else of one JSON document."""
    try:
        first = json.loads(lines[0])
    except (ValueError, RecursionError):
        first = None
    by_line = isinstance(first, dict) and (len(lines) > 1 or kind in ("jsonl", "ndjson"))
    looks_pretty = first is None and lines[0].strip() in ("{", "[")
    if by_line or (first is None and kind in ("jsonl", "ndjson", "csv", "tsv") and not looks_pretty):
        with _open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Place(path, "line", number), parse_row(line, f"{path}, line {number}")
        return
    with _open_text(path) as file:
        document = parse_value(file.read(), str(path))
    yield from _number(path, "row", records_of(document, path))


def _csv_reader(lines: Iterator[str], first: str, kind: str) -> Any:
    """Returns a CSV reader of `lines` with the delimiter of `first`, the first line that is not empty."""
    csv.field_size_limit(_MAX_CELL)
    separator = _SEPARATOR_LINE.fullmatch(first.lstrip("\ufeff"))
    if separator:
        while not next(lines).strip():
            pass
    delimiter = separator[1] if separator else "\t" if kind == "tsv" else _delimiter(first)
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _csv_rows(path: Path, first: str, kind: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    with _open_text(path) as file:
        reader = _csv_reader(file, first, kind)
        try:
            names = next(row for row in reader if row)
            double = sorted({name for name in names if name and names.count(name) > 1})
            if double:
                raise ValueError(f"{path}: the columns {double} are there more than once; rename them.")
            for cells in reader:
                if cells and len(cells) != len(names):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells, but the header has {len(names)} "
                        f"(delimiter {reader.dialect.delimiter!r}): put quotes around text that holds the delimiter."
                    )
                if cells:
                    row = {name: cell or None for name, cell in zip(names, cells, strict=True) if name}
                    yield Place(path, "line", reader.line_num), row
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error


def _delimiter(header: str) -> str:
    """Returns the most frequent delimiter in a header outside quotation marks; a comma if there is none."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(_DELIMITERS, key=lambda mark: (bare.count(mark), mark == ","))


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(f"{path}: reading Parquet needs pyarrow; pip install pyarrow.") from error
    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        raise ValueError(f"{path} is cut off or damaged: download or save it again. ({error})") from error
    double = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if double:
        raise ValueError(f"{path}: the columns {double} are there more than once; rename them.")
    for row in table.to_pylist():
        yield {name: _json_value(cell) for name, cell in row.items()}


def _json_value(cell: Any) -> Any:
    """Returns a cell as JSON types: dates, decimals and the like become text."""
    if isinstance(cell, dict):
        return {str(name): _json_value(item) for name, item in cell.items()}
    if isinstance(cell, list | tuple):
        return [_json_value(item) for item in cell]
    return cell if cell is None or isinstance(cell, str | int | float | bool) else str(cell)
