"""Entities that biographies are written about: FActScore's lists of names, or rows with one name each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from lc_jax.data.columns import column, names_of
from lc_jax.data.rows import MINIATURE, is_data_file, load_rows

COLUMNS = ("entity", "title", "name", "topic")  # in order of precedence; FActScore's is `topic`
LIST = "prompt_entities.txt"  # FActScore's name of a list
SOURCE = (
    f"the paper's 500 are unlabeled/{LIST} in the data.zip that the README of https://github.com/shmsw25/FActScore "
    "links; name the file or the unpacked folder by --config.entities or LC_ENTITIES"
)


def entity_of(row: Mapping[str, Any]) -> str:
    """Returns the entity that a row is about; "" if it names none."""
    names = (column(row, name) for name in COLUMNS)
    return next((name.strip() for name in names if isinstance(name, str) and name.strip()), "")


def load_entities(source: str, split: str = "") -> list[str]:
    """Loads distinct entities in order.

    Args:
      source: a text file of names, one a line; rows with one of COLUMNS (see `load_rows`), such as FActScore's
        generations; FActScore's unpacked folder of data; or "miniature".
      split: of a folder; of FActScore's "unlabeled" (500 entities, the test set; the default) or "labeled" (183,
        the validation set).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is no text, or names no entity.
    """
    path, rows = Path(source), list[dict[str, Any]]()
    is_path = path.is_absolute() or source.startswith(".") or path.suffix == ".txt"
    if is_path and not path.exists():
        raise FileNotFoundError(f"No file or folder of entities {source}: {SOURCE}.")
    if path.is_dir():
        lists = (path / (split or "unlabeled") / LIST, path / LIST)
        path = next((file for file in lists if file.is_file()), path)
    if source == MINIATURE:
        from lc_jax.miniature import world

        names = [subject.description for subject in world.build().split(split)]
    elif path.is_file() and not is_data_file(path):
        names = _lines(path)
    else:
        rows = load_rows(source, split or None)
        names = [entity_of(row) for row in rows]
        if not all(names):
            logging.warning("%s: dropped %d rows without an entity.", source, names.count(""))
    entities = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not entities and rows:
        raise ValueError(f"{source}: no row has one of {list(COLUMNS)}; its columns are {names_of(rows)}.")
    if not entities:
        raise ValueError(f"{path} holds no name; give a file with one name a line.")
    return entities


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: give a file with one name a line; {SOURCE}.") from error
