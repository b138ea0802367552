"""Reads the JSON of servers, whatever its shape: text from content, counts from usage, a line for what is no reply."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from lc_jax.types import Reply, Usage

Read = Callable[[Mapping[str, Any]], Reply]


class Malformed(ValueError):
    """Raised for a response that is no reply: not JSON, JSON of another shape, or an error under status 200."""

    def __init__(self, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.status = status  # the HTTP status that an error in the body names; 0: none


def one_line(text: object, limit: int = 200) -> str:
    """Returns `text` on one line, cut to `limit` characters."""
    words = " ".join(str(text).split())
    return words if len(words) <= limit else f"{words[:limit]}..."


def no_reply(body: object) -> Malformed:
    """Returns the error for JSON that is no reply, with the message that it holds."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if not error:
        return Malformed(f"the server sent JSON of another shape than a reply: {one_line(body)}")
    message = error.get("message") or error if isinstance(error, Mapping) else error
    code = error.get("code") if isinstance(error, Mapping) else 0
    status = code if isinstance(code, int) and 400 <= code < 600 else 0
    return Malformed(f"the server sent an error in place of a reply: {one_line(message)}", status)


def tolerant(read: Read) -> Read:
    """Decorates a reader of replies: JSON that is no reply raises Malformed, and no other error."""

    @functools.wraps(read)
    def wrapper(body: Mapping[str, Any]) -> Reply:
        try:
            return read(body)
        except (AttributeError, LookupError, TypeError, ValueError):
            raise no_reply(body) from None

    return wrapper


def read_line(read: Read, body: Any) -> Reply:
    """Returns the reply in a line of a batch job's results; a failed one for JSON that is no reply."""
    try:
        return read(body)
    except Malformed as error:
        return Reply("failed", detail=str(error))


def text_of(content: Any) -> str:
    """Returns the text of a message's content: a string, None, or a list of parts, of which reasoning is left out."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [content] if isinstance(content, Mapping) else content
    texts = (part if isinstance(part, str) else part.get("text") for part in parts if not is_reasoning(part))
    return "".join(text for text in texts if isinstance(text, str))


def is_reasoning(part: Any) -> bool:
    """Returns whether a part of a message's content is not text: thinking, references, tool calls."""
    return isinstance(part, Mapping) and part.get("type") not in ("text", "output_text")


def count(value: Any) -> int:
    """Returns a number of tokens; 0 where a server leaves it out or writes something else."""
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1e12 else 0


def finished(text: str, usage: Usage, cut_off: str, detail: str = "") -> Reply:
    """Returns the reply of a model that did not refuse.

    Args:
      cut_off: the reason why the text is not whole; "" if it is.
      detail: why there is no text, if there is none.
    """
    if cut_off:
        return Reply("truncated", text, cut_off, usage)
    if not text.strip():
        return Reply("invalid", text, detail or "the reply is empty", usage)
    return Reply("ok", text, "", usage)


def read_json(response: Any) -> Any:
    """Returns the JSON of an HTTP response.

    Raises:
      Malformed: what came is not JSON.
    """
    try:
        return response.json()
    except (ValueError, RecursionError):
        text = one_line(response.content[:300].decode("utf-8", "replace"), 100)
        raise Malformed(f"{response.url} sent no JSON but {text!r}") from None
