"""Typed cells of rows: texts, lists, labels and conversations.

A conversation is a list, or the text of one, of records of role and content, or (ShareGPT) of from and value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lc_jax.data.columns import column, is_missing, row_id
from lc_jax.data.questions import question_from
from lc_jax.data.rows import Row
from lc_jax.prompts.parsing import parse_list
from lc_jax.types import Message, PromptText, Question

_LABELS = {"true": 1.0, "false": 0.0}
ROLES = ("system", "user", "assistant")
# Roles in ShareGPT's `conversations`.
_SHAREGPT = {"human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant", "model": "assistant"}


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
    """Returns the messages in a column; see `read_messages`."""
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


# --- conversations ---------------------------------------------------------------------------------------------------


class MessagesError(ValueError):
    """Raised for a cell that holds no messages; `reason` has no message number, so that rows can be grouped by it."""

    def __init__(self, reason: str, number: int = 0) -> None:
        super().__init__(f"message {number} {reason}" if number else reason)
        self.reason = f"a message {reason}" if number else reason


def read_messages(value: Any) -> tuple[Message, ...]:
    """Parses the messages in a cell; content in parts, as in providers' APIs, is joined.

    Raises:
      MessagesError: it holds something else.
    """
    value = value.tolist() if hasattr(value, "tolist") else value  # a cell of a Parquet file is an array
    try:
        turns = parse_list(value) if isinstance(value, str) else value
    except ValueError:
        turns = None
    if not isinstance(turns, list | tuple) or not turns:
        raise MessagesError("not a list of {role, content}")
    return tuple(_parse_message(turn, number) for number, turn in enumerate(turns, 1))


def _parse_message(turn: Any, number: int) -> Message:
    if not isinstance(turn, Mapping):
        raise MessagesError("is no record of role and content", number)
    role, content = _cell(turn, "role", "from"), _cell(turn, "content", "value")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    if not isinstance(role, str) or not isinstance(content, str):
        raise MessagesError("lacks role or content as text", number)
    name = _SHAREGPT.get(role.lower(), role.lower())
    if name not in ROLES:
        raise MessagesError(f"has role {role!r}, which is none of {', '.join(ROLES)}", number)
    return Message(name, content)


def _cell(turn: Mapping[str, Any], *names: str) -> Any:
    return next((cell for name in names if not is_missing(cell := column(turn, name))), None)


def parse_messages(value: Any, where: str) -> tuple[Message, ...]:
    """Parses messages as `read_messages` does, with `where` (the row) in errors.

    Raises:
      ValueError: it holds something else; the message names `where` and what is wrong.
    """
    try:
        return read_messages(value)
    except MessagesError as error:
        raise ValueError(f"{where}: `messages`: {error}.") from error
