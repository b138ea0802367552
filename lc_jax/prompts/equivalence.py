"""Do candidate answers mean the same as the true ones? Up to ten comparisons in one request (paper section 5)."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lc_jax.prompts.literals import leading_list, unfence
from lc_jax.prompts.objects import members, schema, without_markup
from lc_jax.prompts.prompt import Invalid, Prompt, read_template

BATCH = 10  # comparisons a request
_LABEL = re.compile(r"\A[#\s]*(?:final )?(?:verdicts?|answers?)[ \t]*:\s*", re.IGNORECASE)
_LINE = re.compile(r"(?:[-*]\s+)?(?:([0-9]+)\s*[.:)]\s*)?(yes|no|true|false)\.?", re.IGNORECASE)
_VERDICTS = {"yes": True, "true": True, "no": False, "false": False}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One candidate held against the truth."""

    question: str
    answer: str  # the true answer
    candidate: str


def join_comparisons(comparisons: Sequence[Comparison]) -> str:
    """The prompt's field `comparisons`: one JSON object a line.

    Raises:
      ValueError: none, or more than BATCH.
    """
    if not 1 <= len(comparisons) <= BATCH:
        raise ValueError(f"A request takes 1 to {BATCH} comparisons, not {len(comparisons)}.")
    return "\n".join(json.dumps(dataclasses.asdict(item), ensure_ascii=False) for item in comparisons)


def split_comparisons(joined: str) -> list[Comparison]:
    """Inverse of join_comparisons."""
    return [Comparison(**json.loads(line)) for line in joined.split("\n") if line]


def _verdict(line: object, number: int) -> bool:
    found = _LINE.fullmatch(without_markup(str(line)).strip())
    if found is None or (found[1] and int(found[1]) != number):
        raise Invalid(f"verdict {number} is not yes or no: {str(line)[:60]!r}")
    return _VERDICTS[found[2].lower()]


def _lines(reply: str) -> list[Any]:
    """The verdicts one by one: lines, or a list, or the members of an object."""
    found = members(reply)
    if found is not None:
        values = list(found.values())
        return values[0] if len(values) == 1 and isinstance(values[0], list) else values
    text = unfence(reply)
    if not text.startswith("["):
        text = _LABEL.sub("", without_markup(text))
        lines = [line for line in text.splitlines() if line.strip()]
        return lines if all(map(_LINE.fullmatch, lines)) else text.split("\n\n")[0].splitlines()
    try:
        return leading_list(text)
    except ValueError as error:
        raise Invalid(str(error)) from error


def _parse(reply: str, fields: Mapping[str, str]) -> list[bool]:
    """One verdict per comparison of the request, in order. One too few or too many spoils the whole batch."""
    lines = _lines(reply)
    verdicts = [_verdict(line, number) for number, line in enumerate(lines, 1)]
    expected = len(split_comparisons(fields["comparisons"]))
    if len(verdicts) != expected:
        raise Invalid(f"{expected} verdicts were asked for, the reply has {len(verdicts)}")
    return verdicts


PROMPT = Prompt(
    read_template("equivalence"),
    _parse,
    schema("verdicts", {"type": "array", "items": {"type": "boolean"}}),
)
