"""Conversations in cells: records of role and content, or (ShareGPT) of from and value, or the text of such a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lc_jax.data.columns import column, is_missing
from lc_jax.prompts.parsing import parse_list
from lc_jax.types import Message

ROLES = ("system", "user", "assistant")
# Roles in ShareGPT's `conversations`.
_SHAREGPT = {"human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant", "model": "assistant"}


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
