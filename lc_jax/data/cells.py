"""Typed cells of rows of training data: texts, lists, labels and conversations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lc_jax.data.columns import column, is_missing, row_id
from lc_jax.data.messages import MessagesError, read_messages
from lc_jax.data.questions import question_from
from lc_jax.data.rows import Row
from lc_jax.prompts.parsing import parse_list
from lc_jax.types import Message, PromptText, Question

_LABELS = {"true": 1.0, "false": 0.0}


class Dropped(Exception):
    """Raised for a row that makes no example; the message is the reason."""


def text_in(row: Row, name: str) -> str:
    """Returns the text in a column; a number as text."""
    value = column(row, name)
    if is_missing(value):
        raise Dropped(f"missing {name}")
    if isinstance(value, list | tuple | Mapping):
        raise Dropped(f"{name} is not text")
    return str(value)


def list_in(row: Row, name: str) -> list[Any]:
    """Returns the list in a column, parsed where it is text.

    Differs: data_preprocessor.py evaluates the cell, which fails at nan and at cells that are lists already.
    """
    value = column(row, name)
    if isinstance(value, (list, tuple, np.ndarray)):
        return list(value)
    try:
        return parse_list(text_in(row, name))
    except ValueError as error:
        raise Dropped(f"unparsable {name}") from error


def id_in(row: Row) -> str:
    """Returns the id of a row."""
    name = row_id(row)
    if not name:
        raise Dropped("missing question_id")
    return name


def question_in(row: Row) -> Question:
    """Returns the question of a row with its answer."""
    try:
        return question_from(row)
    except ValueError as error:
        raise Dropped(f"{error} (join it on question_id)") from error


def number_in(value: Any) -> float:
    """Returns the number in a cell; NaN, which is in no range, if there is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def label_in(row: Row, name: str = "label") -> float:
    """Returns the probability in a column: a number in [0, 1], or true or false."""
    value = column(row, name)
    if is_missing(value) or value == "":
        raise Dropped(f"missing {name}")
    label = _LABELS.get(str(value).strip().lower(), number_in(value))
    if not 0.0 <= label <= 1.0:
        raise Dropped(f"{name} is no probability: give numbers in [0, 1], true or false")
    return label


def conversation_in(row: Row, name: str) -> tuple[Message, ...]:
    """Returns the messages in a column; see `messages.read_messages`."""
    value = column(row, name)
    if is_missing(value) or (isinstance(value, str | list | tuple) and not value):
        raise Dropped(f"missing {name}")
    try:
        return read_messages(value)
    except MessagesError as error:
        raise Dropped(f"{name}: {error.reason}") from error


def demonstration_in(row: Row) -> tuple[PromptText, str]:
    """Returns prompt and target of a row: `prompt` and `completion`, or a conversation and its last message.

    `prompt` and `completion` may be conversations themselves.
    """
    for name in ("messages", "conversations"):
        if not is_missing(column(row, name)):
            messages = conversation_in(row, name)
            if messages[-1].role != "assistant":
                raise Dropped(f"{name}: the last message is not the assistant's")
            if len(messages) == 1:
                raise Dropped(f"{name}: nothing comes before the assistant's message")
            if not messages[-1].content.strip():
                raise Dropped(f"{name}: the assistant's message is empty")
            return messages[:-1], messages[-1].content
    prompt = column(row, "prompt")
    source: PromptText = conversation_in(row, "prompt") if isinstance(prompt, list) else text_in(row, "prompt")
    target = column(row, "completion")
    completion = (
        conversation_in(row, "completion")[-1].content if isinstance(target, list) else text_in(row, "completion")
    )
    if not source or not completion:
        raise Dropped("empty prompt" if not source else "empty completion")
    return source, completion
