"""Rows of a JSON document: a list of objects, pandas' layouts, or the nesting of SQuAD, TriviaQA and BioASQ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Columns of a row: an object with one of them is a row itself, even if it contains a list of objects.
_ROW_KEYS = {"question", "body", "prompt", "messages", "conversations", "text", "paragraph_generation_prompt"}
_MESSAGE_KEYS = {"role", "content", "from", "value"}
_ID_KEYS = ("question_id", "id")


def records_of(document: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a JSON document.

    Args:
      document: a list of objects; an object that holds one such list (TriviaQA, BioASQ), SQuAD's data -> paragraphs ->
        qas among them; pandas' `to_json` with orient "records", "columns", "index", "split" or "table"; an object of
        lists of equal length; an object of rows by id; or one row.

    Raises:
      ValueError: it is none of these; the message describes the document.
    """
    if isinstance(document, Mapping):
        yield from _of_object(document, path)
        return
    if not isinstance(document, list):
        raise ValueError(f"{path} holds {_kind(document)}: give a list of JSON objects, or one object a line.")
    for number, item in enumerate(document, 1):
        if not isinstance(item, Mapping):
            raise ValueError(f"{path}, row {number}: {_kind(item)}, but a row is an object with named columns.")
        yield from _questions_of_article(item)


def _of_object(document: Mapping[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    values = list(document.values())
    if not document or _ROW_KEYS & {name.strip().casefold() for name, value in document.items() if _is_row_cell(value)}:
        yield from [dict(document)] if document else []
    elif isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):
        yield from _split_layout(document, path)
    elif all(isinstance(value, Mapping) for value in values):
        yield from _objects_by_name(document)
    elif all(isinstance(value, list) for value in values) and _are_columns(values):
        yield from (dict(zip(document, cells, strict=True)) for cells in zip(*values, strict=True))
    else:
        lists = [name for name, value in document.items() if _is_list_of_objects(value)]
        if len(lists) > 1:
            raise ValueError(f"{path} holds several lists of objects, {lists}: save one of them as a file of its own.")
        if lists:
            yield from records_of(document[lists[0]], path)
        elif any(isinstance(value, list) and value and isinstance(value[0], list) for value in values):
            raise ValueError(f"{path} holds lists of cells without column names: save it as a list of objects.")
        elif len(values) == 1 and values[0] == []:
            return
        else:
            yield dict(document)


def _is_row_cell(value: Any) -> bool:
    """Returns whether a value can be a cell of a row: text, or a conversation, but not a column of a table."""
    return isinstance(value, str) or (_is_list_of_objects(value) and bool(set(value[0]) & _MESSAGE_KEYS))


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _are_columns(values: list[list[Any]]) -> bool:
    """Returns whether lists are the columns of a table: of equal length, and not a single list of rows."""
    return len({len(value) for value in values}) == 1 and not (len(values) == 1 and _is_list_of_objects(values[0]))


def _split_layout(document: Mapping[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    names = document["columns"]
    for number, cells in enumerate(document["data"], 1):
        if not isinstance(cells, list) or len(cells) != len(names):
            raise ValueError(f"{path}, row {number}: not as many cells as there are columns ({len(names)}).")
        yield dict(zip(names, cells, strict=True))


def _objects_by_name(document: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields the rows of pandas' columns of cells by row number, or of rows by number or id."""
    inner = list(dict.fromkeys(name for value in document.values() for name in value))
    if inner and all(name.isdigit() for name in inner) and not all(name.isdigit() for name in document):
        yield from ({name: cells.get(row) for name, cells in document.items()} for row in inner)
        return
    are_row_numbers = list(document) == [str(number) for number in range(len(document))]
    for name, row in document.items():
        has_id = any(key in row for key in _ID_KEYS)
        yield dict(row) if has_id or are_row_numbers else {"id": name, **row}


def _questions_of_article(item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the questions of a SQuAD article with title and context; any other row unchanged."""
    paragraphs: Any = item.get("paragraphs")
    if not _is_list_of_objects(paragraphs) or not all("qas" in paragraph for paragraph in paragraphs):
        yield dict(item)
        return
    for paragraph in paragraphs:
        for question in paragraph["qas"]:
            yield {"title": item.get("title"), "context": paragraph.get("context"), **question}


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")
