"""Rows of a table, wherever it lies: JSON lines, JSON, CSV or Parquet, one file or a folder, or the hub."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

Row = Mapping[str, Any]

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[^@]+))?(?:@(?P<revision>.+))?")
MINIATURE = "miniature"  # the embedded world, whose splits are data sets of their own
_LONGEST_CELL = 2**31 - 1  # characters of one CSV cell; Python's own limit is 131,072


def load_rows(source: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """All rows of a data set.

    Args:
      source: a file (.jsonl, .json, .csv, each also .gz; .parquet), a folder of such files, or a hub data set as
        "owner/name", "owner/name:config" or "owner/name:config@revision", or a local copy of one as "folder:config"; or
        "miniature", the embedded world.
      split: in a folder the files whose names begin with it, on the hub the split itself.

    Text stays text: "None", "NA" and "nan" in a CSV cell are words; only an empty cell is missing (None).

    Raises:
      FileNotFoundError: no such file, or no such split in the folder.
      ValueError: a file that cannot be read, or a hub data set that cannot be had; the message names the remedy.
    """
    path = Path(source)
    if str(source) == MINIATURE:
        from lc_jax.miniature import world

        asked = [dataclasses.asdict(question) for question in world.build().questions(split or "")]
        return [{"paragraph_generation_prompt": row.pop("prompt"), **row} for row in asked]
    if path.is_file() or path.is_dir():
        return list(stream_rows(path, split))
    text = str(source)
    local, _, config = text.partition(":")
    if config and Path(local).is_dir():
        return [row for file in _split_files(Path(local), split, config) for row in _file_rows(file)]
    if path.is_absolute() or text.startswith(".") or text.endswith(_SUFFIXES) or not _HUB_NAME.fullmatch(text):
        raise FileNotFoundError(f"No file or folder {text}.")
    return _hub_rows(text, split)


def stream_rows(path: Path, split: str | None = None) -> Iterator[dict[str, Any]]:
    """`load_rows` of a file or folder, row by row: of JSON lines and CSV only one row is held at a time."""
    for file in [path] if path.is_file() else _split_files(path, split):
        yield from _file_rows(file)


def _split_files(folder: Path, split: str | None, config: str = "") -> list[Path]:
    """The data files of one split in a folder; train.csv and train-00000-of-00002.parquet both belong to "train".

    Args:
      config: of several data sets in the folder the one in folders, or else files, whose name it is (begins with).
    """
    files = sorted(path for path in folder.rglob("*") if path.name.endswith(_SUFFIXES) and path.is_file())
    splits = {path: re.split(r"\.|-\d", path.name)[0] for path in files}
    if config:
        inside = [path for path in files if config in path.relative_to(folder).parts[:-1]]
        beside = [
            path for path in files if splits[path] == config or splits[path].startswith((f"{config}_", f"{config}-"))
        ]
        rest = {path: splits[path].removeprefix(config).strip("_") or "train" for path in beside}
        splits = {path: splits[path] for path in inside} or rest
        if not splits:
            raise FileNotFoundError(f"{folder} holds neither a folder {config} nor files of that name.")
    known = sorted(set(splits.values()))
    if split is None and len(known) != 1:
        raise FileNotFoundError(f"{folder} holds the splits {known}; say which one.")
    chosen = [path for path in splits if split is None or splits[path] == split]
    if not chosen:
        raise FileNotFoundError(f"{folder} has no split {split!r}; it holds {known}.")
    return chosen


def _open(path: Path) -> IO[str]:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


def _file_rows(path: Path) -> Iterator[dict[str, Any]]:
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    readers = {"jsonl": _jsonl_rows, "json": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows}
    if kind not in readers:
        raise ValueError(f"{path}: not one of the file types {list(_SUFFIXES)}.")
    try:
        yield from readers[kind](path)
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read and may be cut off; fetch it again. ({error})") from error


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: not a JSON object.")
            yield row


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """A list of objects, or an object with one such list (BioASQ: {"questions": [...]})."""
    with _open(path) as file:
        try:
            rows = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error}).") from error
    if isinstance(rows, dict) and len(rows) == 1:
        rows = next(iter(rows.values()))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: neither a list of JSON objects nor an object that holds just one.")
    yield from rows


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_LONGEST_CELL)
    with _open(path) as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(f"{path}, line {reader.line_num}: more or fewer cells than the header.")
                yield {name: value or None for name, value in row.items()}
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(f"{path}: reading Parquet needs pyarrow; pip install pyarrow.") from error
    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        raise ValueError(f"{path} cannot be read and may be cut off; fetch it again. ({error})") from error
    yield from table.to_pylist()


def _hub_rows(source: str, split: str | None) -> list[dict[str, Any]]:
    remedy = "Pass a local path instead; where the rows hold their questions, --config.questions.source= (empty)."
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"There is no file or folder {source}; hub data sets need: pip install datasets.") from error
    found = _HUB_NAME.fullmatch(source)
    assert found is not None
    try:
        loaded = datasets.load_dataset(found["name"], found["config"], split=split, revision=found["revision"])
    except Exception as error:  # the hub client raises errors of many packages: offline, gated, renamed, script, split
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{source} is no local path and the hub does not give it ({reason}). {remedy}") from error
    if isinstance(loaded, dict):
        if len(loaded) != 1:
            raise ValueError(f"{source} has the splits {sorted(loaded)}; say which one.")
        loaded = next(iter(loaded.values()))
    return loaded.to_list()
