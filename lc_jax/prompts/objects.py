"""Replies as objects: JSON under a schema, where a model can be held to one, or what a wording asks for by itself.

Either way `stated` gives a parser the same value as the plain form does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lc_jax.prompts.literals import parse_object, unfence
from lc_jax.prompts.prompt import Invalid


def schema(name: str, value: Mapping[str, Any]) -> str:
    """The JSON schema of an object whose one member `name` holds what the JSON schema `value` describes."""
    return json.dumps(
        {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}
    )


def members(reply: str) -> dict[str, Any] | None:
    """The members of the object that a reply opens with, in order; None if it opens with none.

    A code fence around the object and prose after it are ignored.

    Raises:
      Invalid: what opens as an object is none, or is empty, or cannot be written as UTF-8.
    """
    text = unfence(reply)
    if not text.startswith("{"):
        return None
    try:
        found = parse_object(text)
        json.dumps(found, ensure_ascii=False).encode()  # an escape may have made half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise Invalid(f"it opens with a brace, but is no JSON object: {text[:60]!r}") from error
    if not found:
        raise Invalid("the JSON object is empty")
    return found


def stated(reply: str) -> Any:
    """What a reply states: an object's last member (what stands before it is reasoning), or the text itself, stripped.

    Raises:
      Invalid: see `members`; or the text cannot be written as UTF-8.
    """
    found = members(reply)
    if found is not None:
        return list(found.values())[-1]
    text = unfence(reply)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Invalid("it holds half of a surrogate pair") from error
    return text


def labelled(text: str, word: str) -> str:
    """What follows a label such as "Answers:", at the start of `text` or on the one line that has such a label.

    Args:
      word: a pattern for the label's word. At the start it stands alone; on a later line others may stand around it.
    """
    if "\n" not in text:
        return re.sub(rf"\A(?:possible )?(?:{word})[ \t]*:[ \t]*", "", text, flags=re.IGNORECASE)
    label = rf"^[^:\n]{{0,100}}\b(?:{word})\b[^:\n]{{0,100}}:[ \t]*(.*)"
    found = re.findall(label, text, re.IGNORECASE | re.MULTILINE)
    return str(found[0]).strip() if len(found) == 1 else text
