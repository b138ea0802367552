"""Parsers of replies to the published wordings, which ask for other forms than ours: reasoning first, labels, headings.

Reference: auto_annotations/prompt_processing_utils.py. Differs: a reply is read as data, never run as Python, and its
values are checked as those of our own prompts are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lc_jax.prompts import correctness, equivalence, extract, forecast, in_context, query
from lc_jax.prompts.literals import unfence
from lc_jax.prompts.objects import after_reasoning, members, stated
from lc_jax.prompts.prompt import Invalid, Parser

_HEADINGS = re.compile(r"\A(?:\s*#{1,6} [^\n]*(?:\n|\Z))+")
_STATEMENT = re.compile(r"^[#*\s]*My Statement\b[#*:\s]*$", re.IGNORECASE | re.MULTILINE)
_PARAGRAPH = re.compile(r"\A[#*\s]*Paragraph(?: [0-9]+)?[ \t]*:[*\s]*", re.IGNORECASE)
_REASONING = re.compile(r"\W*reasoning\b", re.IGNORECASE)
_NUMBER = re.compile(r"answer ([0-9]+)", re.IGNORECASE)


def _without_headings(reply: str) -> str:
    """A reply without the Markdown headings that open it; wordings open the assistant's turn with such a heading."""
    return _HEADINGS.sub("", unfence(reply.replace("\r\n", "\n"))).strip()


def _headed(parser: Parser) -> Parser:
    return lambda reply, fields: parser(_without_headings(reply), fields)


def _labelled(parser: Parser, word: str) -> Parser:
    """Returns `parser` for reasoning and then a labelled answer, as lines or as members of an object.

    One line without a label is an answer by itself, as a shortened wording may ask for.

    Args:
      word: a pattern for the label.
    """
    read = after_reasoning(parser, word)

    def parse(reply: str, fields: Mapping[str, str]) -> Any:
        text = _without_headings(reply)
        try:
            return read(text, fields)
        except Invalid:
            if "\n" in text or _REASONING.match(text) or re.match(word, text, re.IGNORECASE):
                raise
            return parser(text, fields)

    return parse


def _one_line_of_answers(reply: str, fields: Mapping[str, str]) -> list[str]:
    """Answers between semicolons; a full stop at the end of the line is not part of the last one."""
    line = reply.strip()
    return extract.PROMPT.parser(line[:-1] if line.endswith(".") and len(line) > 1 else line, fields)


def _verdicts(reply: str, fields: Mapping[str, str]) -> list[bool]:
    """The verdicts of {"Answer 1": "Yes", "Answer 2": "No", ...}; an explanation may follow."""
    text = _without_headings(reply)
    parts = members(text)
    if parts is None:
        return equivalence.PROMPT.parser(text, fields)
    for number, name in enumerate(parts, 1):
        key = _NUMBER.fullmatch(name.strip())
        if key is None or int(key[1]) != number:
            raise Invalid(f"member {number} is called {name[:60]!r}, not 'Answer {number}'")
    return equivalence.PROMPT.parser(json.dumps(list(parts.values())), fields)


def _whole_text(reply: str, fields: Mapping[str, str]) -> str:
    """A text of one or several paragraphs, without what opens or announces it."""
    text = stated(reply)
    if not isinstance(text, str):
        raise Invalid(f"text was asked for, not {str(text)[:60]}")
    text = _STATEMENT.split(text)[-1]
    text = _PARAGRAPH.sub("", _without_headings(text)).strip()
    if not text:
        raise Invalid("the reply holds no text")
    return text


def _first_paragraph(reply: str, fields: Mapping[str, str]) -> str:
    """What a base model wrote up to the first blank line; it goes on with examples of its own."""
    return in_context.first_paragraph(_PARAGRAPH.sub("", _without_headings(reply)))


_EXTRACT = _labelled(_one_line_of_answers, r"list of answers[^:\n]*")
_FORECAST = _labelled(forecast.PROMPT.parser, r"answer probability[^:\n]*")
# By name of the wording; replies to all others are read as those to ours.
PARSERS: dict[str, Parser] = {
    "extract": _EXTRACT,
    "eval_extract": _EXTRACT,
    "forecast": _FORECAST,
    "eval_forecast": _FORECAST,
    "correctness": _labelled(correctness.PROMPT.parser, r"context is correct[^:\n]*"),
    "equivalence": _verdicts,
    "query": _headed(query.PROMPT.parser),
    "clue": _headed(query.CLUE.parser),
    "summarize": _whole_text,
    "claude_distill": _whole_text,
    "uncertainty": _whole_text,
    "in_context": _first_paragraph,
    "confident_in_context": _first_paragraph,
    "vendor_confident_in_context": _whole_text,
}
