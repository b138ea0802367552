"""Replies as objects: JSON under a schema, where a model can be held to one, or what a wording asks for by itself.

Either way `stated` gives a parser the same value as the plain form does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lc_jax.prompts.literals import parse_object, unfence
from lc_jax.prompts.prompt import Invalid, Parser


def schema(name: str, value: Mapping[str, Any], *, reasoning: bool = False) -> str:
    """The JSON schema of an object whose member `name` holds what the JSON schema `value` describes.

    Args:
      reasoning: whether a text `reasoning` precedes it.
    """
    properties = {"reasoning": {"type": "string"}, name: value} if reasoning else {name: value}
    return json.dumps(
        {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
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
        parts = parse_object(text)
        json.dumps(parts, ensure_ascii=False).encode()  # an escape may have made half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise Invalid(f"it opens with a brace, but is no JSON object: {text[:60]!r}") from error
    if not parts:
        raise Invalid("the JSON object is empty")
    return parts


def stated(reply: str) -> Any:
    """What a reply states: an object's last member (what stands before it is reasoning), or the text itself, stripped.

    Raises:
      Invalid: see `members`; or the text cannot be written as UTF-8.
    """
    parts = members(reply)
    if parts is not None:
        return list(parts.values())[-1]
    text = unfence(reply)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Invalid("it holds half of a surrogate pair") from error
    return text


# Markdown around words, but not the asterisks of M*A*S*H or 2**8.
_EMPHASIS = re.compile(r"(?<![\w*`])(\*{1,3}|`)(?=\S)([^\n]{0,500}?\S)\1(?![\w*`])")
_BOXED = re.compile(r"\$*\\boxed\{(?:\\text\{)?([^{}]*)\}?\}\$*")
_JSON_LIST = re.compile(r"[\w \t:]{0,40}\[")
_ANSWER_TAGS = re.compile(r"<answer>(.*)</answer>", re.IGNORECASE | re.DOTALL)
_FINAL_ANSWER = re.compile(
    r"^[#\s]*(?:the |my )?final answer[ \t]*(?:is\b[ \t]*:?|:|$)\s*(.+)$", re.IGNORECASE | re.MULTILINE
)


def without_markup(text: str) -> str:
    """Removes Markdown emphasis, code marks, answer tags and LaTeX boxes around the words of a short answer.

    A JSON list stays as it is: its strings are quoted already.
    """
    if _JSON_LIST.match(text):
        return text
    tagged = _ANSWER_TAGS.search(text)
    text = _EMPHASIS.sub(r"\2", tagged[1] if tagged else text).strip()
    boxed = _BOXED.findall(text)
    return str(boxed[0]).strip() if len(boxed) == 1 else text


def labelled(text: str, word: str) -> str:
    """Returns what follows a label such as "Answers:" or "Final answer:", without Markdown emphasis.

    The label opens `text`, or is on the one line that has such a label; a line "Final answer: ..." has precedence.

    Args:
      word: a pattern for the label's word. At the start it stands alone; on a later line others may stand around it.
    """
    text = without_markup(text)
    final = _FINAL_ANSWER.findall(text)
    if len(final) == 1:
        return str(final[0]).strip()
    if "\n" not in text:
        start = rf"\A(?:(?:possible |final )?(?:{word})|answer)[ \t]*:[ \t]*"
        return re.sub(start, "", text, flags=re.IGNORECASE)
    label = rf"^[^:\n]{{0,100}}\b(?:{word})\b[^:\n]{{0,100}}:[ \t]*(.*)"
    texts = re.findall(label, text, re.IGNORECASE | re.MULTILINE)
    return str(texts[0]).strip() if len(texts) == 1 else text


def after_reasoning(parser: Parser, word: str) -> Parser:
    """Returns `parser` for replies that reason first: it reads what the last line with the label states.

    Of an object it reads the member of that name, or the last one. A reply without the label is Invalid, because its
    reasoning could pass for an answer.

    Args:
      word: a pattern for the label, which opens a line: "answers?" for "Answers: A; B".
    """
    label = re.compile(rf"^[#>\s]*(?:{word})[ \t]*:\s*(\S.*)$", re.IGNORECASE | re.MULTILINE)

    def parse(reply: str, fields: Mapping[str, str]) -> Any:
        parts = members(reply)
        if parts is not None:
            name = next((key for key in parts if re.fullmatch(word, key, re.IGNORECASE)), list(parts)[-1])
            return parser(json.dumps({name: parts[name]}), fields)
        statements = label.findall("\n".join(map(without_markup, unfence(reply).splitlines())))
        if not statements:
            raise Invalid(f"no line begins with the label {word.removesuffix('?').capitalize()!r} and a colon")
        return parser(statements[-1].strip(), fields)

    return parse
