"""Rows of a data set: one file, a folder of files, a hub data set by name, or the embedded world."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lc_jax.data import files, geonames
from lc_jax.data.files import Place
from lc_jax.data.memo import memoise

Row = Mapping[str, Any]

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[^@]+))?(?:@(?P<revision>.+))?")
MINIATURE = "miniature"  # the embedded world, whose splits are data sets of their own
_NONE = ("", "none", "null")  # spellings of an empty setting
_SEPARATORS = re.compile(r"\.|-\d")  # after the name of a split: train.csv, train-00000-of-00002.parquet


class HubUnreachable(ValueError):
    """Raised if the hub does not answer, so that it is unknown whether it has a data set."""


def optional(setting: Any) -> Any:
    """Returns a setting, or None if it is empty: "", None, "None", "none" or "null"."""
    return None if setting is None or (isinstance(setting, str) and setting.strip().lower() in _NONE) else setting


def load_rows(source: str | Path, split: str | None = None, flag: str = "") -> list[dict[str, Any]]:
    """Loads all rows of a data set.

    Args:
      source: a file (JSON lines, JSON, CSV with any usual delimiter, each also .gz, .bz2 or .xz; Parquet; see
        `files.stream_file`), a folder of such files, or a hub data set as "owner/name", "owner/name:config" or
        "owner/name:config@revision", or a local copy of one as "folder:config"; "miniature", the embedded world; or
        "geonames:TOPIC", questions about places (data/geonames.py).
      split: in a folder the files whose names begin with it, on the hub the split itself; a file has none.
      flag: the flag of the source, for messages; "" if unknown.

    Text stays text: "None", "NA" and "nan" in a CSV cell are words; only an empty cell is missing (None).

    Raises:
      FileNotFoundError: no such file, or no such split in the folder.
      HubUnreachable: the hub does not answer.
      ValueError: no source, a file that cannot be read or that holds no rows, or an unavailable hub data set; the
        message names the remedy.
    """
    if optional(source) is None:
        raise ValueError("No data: the setting of the source is empty; give a file, a folder or a hub data set.")
    check_source(source, flag)
    path, text = Path(source), str(source)
    if text == MINIATURE:
        from lc_jax.miniature import world

        questions = [dataclasses.asdict(question) for question in world.build().questions(split or "")]
        return [{"paragraph_generation_prompt": row.pop("prompt"), **row} for row in questions]
    if topic := geonames.topic_of(text):
        return geonames.rows(topic)
    local, _, config = text.partition(":")
    if path.is_file() or path.is_dir():
        paths = _files(path, split)
    elif config and Path(local).is_dir():
        paths = _split_files(Path(local), split, config)
    else:
        return _hub_rows(text, split)
    rows = [row for file in paths for _, row in files.stream_file(file)]
    if not rows:
        raise ValueError(_no_rows(source, paths))
    return rows


def _no_rows(source: str | Path, paths: Sequence[Path]) -> str:
    """Returns the message for a data set whose files hold no rows."""
    names = list(dict.fromkeys(name for path in paths for name in files.columns_of(path)))
    if not names:
        return f"{source} holds no rows: it is empty."
    return f"{source} holds no rows: it has a header only, with the columns {names}; put rows below it."


def is_local(source: str | Path) -> bool:
    """Returns whether a data set is local: a file, a folder, "folder:config", the embedded world or geonames."""
    path, (folder, _, config) = Path(source), str(source).partition(":")
    if str(source) == MINIATURE or geonames.topic_of(str(source)):
        return True
    return path.is_file() or path.is_dir() or (bool(config) and Path(folder).is_dir())


def check_source(source: str | Path, flag: str = "") -> None:
    """Checks the source of `load_rows` without reading it or asking the hub.

    Args:
      flag: the flag of the source, for messages; "" if unknown.

    Raises:
      FileNotFoundError: it is neither a file or folder nor written as the hub's names are.
    """
    text, where = str(source), f"{flag}: " if flag else ""
    if is_local(source):
        return
    if Path(source).is_absolute() or text.startswith(".") or is_data_file(Path(source)):
        raise FileNotFoundError(f"{where}No file or folder {text}{_near(Path(source)) or '.'}")
    if not _HUB_NAME.fullmatch(text):
        raise FileNotFoundError(
            f"{where}No file or folder {text}{_near(Path(source))}; a data set of the hub is called namespace/name."
        )


def _near(path: Path) -> str:
    """Returns "; did you mean ...?" for a file in the same folder with a similar name; "" if there is none."""
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1, cutoff=0.75)
    return f"; did you mean {path.with_name(near[0])}?" if near else ""


@memoise
def load_placed_rows(path: str | Path) -> list[tuple[Place, dict[str, Any]]]:
    """Loads the rows of a user's file, each with its place for messages.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read, or holds no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file {str(path)!r}; give one in the config.")
    rows = list(files.stream_file(path))
    if not rows:
        raise ValueError(_no_rows(path, [path]))
    return rows


def stream_rows(path: Path, split: str | None = None) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yields the rows of a file or folder with their places; JSON lines and CSV are streamed row by row."""
    for file in _files(path, split):
        yield from files.stream_file(file)


def _files(path: Path, split: str | None) -> list[Path]:
    return [path] if path.is_file() else _split_files(path, split)


def place_of(source: str | Path, split: str | None, index: int) -> str:
    """Returns the place of row `index`, from 0, of `load_rows(source, split)`, for messages; reads the file again."""
    path = Path(source)
    if not (path.is_file() or path.is_dir()):
        return f"{source}, row {index + 1}"
    place, _ = next(itertools.islice(stream_rows(path, split), index, None))
    return str(place)


def is_data_file(path: Path) -> bool:
    """Returns whether a file's name has the ending of a data file."""
    return path.name.lower().endswith(files.ENDINGS)


def data_files(folder: Path) -> list[Path]:
    """Returns the data files under a folder, sorted: by their endings, or, if none has one, those without any ending.

    Raises:
      FileNotFoundError: there are none; the message lists what is there.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    data_paths = [path for path in paths if is_data_file(path)] or [path for path in paths if "." not in path.name]
    if not data_paths:
        names = [str(path.relative_to(folder)) for path in paths]
        raise FileNotFoundError(
            f"{folder} holds no data files ({', '.join(files.FORMATS)}); it holds {names[:5] or 'nothing'}."
        )
    return data_paths


def _split_files(folder: Path, split: str | None, config: str = "") -> list[Path]:
    """Returns the data files of a split in a folder; train.csv and train-00000-of-00002.parquet both belong to "train".

    Args:
      config: the data set among several in the folder: its subfolders of that name, or else files that begin with it.
    """
    splits = {path: _SEPARATORS.split(path.name)[0] for path in data_files(folder)}
    if config:
        inside = [path for path in splits if config in path.relative_to(folder).parts[:-1]]
        prefixes = (f"{config}_", f"{config}-")
        own = [path for path in splits if splits[path] == config or splits[path].startswith(prefixes)]
        rest = {path: splits[path].removeprefix(config).strip("_") or "train" for path in own}
        splits = {path: splits[path] for path in inside} or rest
        if not splits:
            raise FileNotFoundError(f"{folder} holds neither a folder {config} nor files of that name.")
    names = sorted(set(splits.values()))
    if split is None and len(names) != 1:
        raise FileNotFoundError(f"{folder} holds the splits {names}; say which one.")
    paths = [path for path in splits if split is None or splits[path] == split]
    if not paths:
        raise FileNotFoundError(f"{folder} has no split {split!r}; it holds {names}.")
    return paths


def _connection_fault(name: str) -> str:
    """Returns why the hub does not answer within ten seconds; "" if it does, whatever it says of the data set.

    Other errors, such as an invalid name, are left to `load_dataset`.
    """
    from huggingface_hub import HfApi, constants

    try:
        HfApi().dataset_info(name, timeout=10)
    except Exception as error:
        if _is_connection_error(error) and not constants.HF_HUB_OFFLINE:
            return f"{constants.ENDPOINT} does not answer: {' '.join(str(error).split()) or type(error).__name__}"
    return ""


def _is_connection_error(error: Exception) -> bool:
    """Returns whether an error is a failure of the connection."""
    # Errors of several HTTP libraries, which need not be installed: the names of their classes decide.
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"TransportError", "ConnectionError", "TimeoutError"})


@contextlib.contextmanager
def _offline(datasets: Any, is_offline: bool) -> Iterator[None]:
    """Makes the hub's clients read their cache only, since they retry each file for a minute without a connection."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = is_offline or before[0]
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _hub_rows(source: str, split: str | None) -> list[dict[str, Any]]:
    remedy = "Pass a local path instead."
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"There is no file or folder {source}; hub data sets need: pip install datasets.") from error
    match = _HUB_NAME.fullmatch(source)
    assert match is not None
    fault = _connection_fault(match["name"])
    try:
        with _offline(datasets, bool(fault)):
            loaded = datasets.load_dataset(match["name"], match["config"], split=split, revision=match["revision"])
    except Exception as error:  # the hub client raises errors of many packages: offline, gated, renamed, script, split
        reason = fault or f"{type(error).__name__}: {' '.join(str(error).split())}"
        kind = HubUnreachable if fault or _is_connection_error(error) else ValueError
        raise kind(f"{source} is not a local path and could not be loaded from the hub ({reason}). {remedy}") from error
    if isinstance(loaded, dict):
        if len(loaded) != 1:
            raise ValueError(f"{source} has the splits {sorted(loaded)}; say which one.")
        loaded = next(iter(loaded.values()))
    if not len(loaded):
        raise ValueError(f"{source} holds no rows; its columns are {loaded.column_names}.")
    return loaded.to_list()
