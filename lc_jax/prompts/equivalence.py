"""The judge of answers: whether candidates mean the same as the true ones, up to ten in one request (section 5)."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lc_jax.prompts.parsing import Invalid, leading_list, object_members, strip_markup, unfence
from lc_jax.prompts.prompt import Prompt, read_template, schema

BATCH = 10  # comparisons a request
_LABEL = re.compile(r"\A[#\s]*(?:final )?(?:verdicts?|answers?)[ \t]*:\s*", re.IGNORECASE)
_LINE = re.compile(r"(?:[-*]\s+)?(?:([0-9]+)\s*[.:)]\s*)?(yes|no|true|false)\.?", re.IGNORECASE)
_VERDICTS = {"yes": True, "true": True, "no": False, "false": False}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A candidate answer and the true one."""

    question: str
    answer: str  # the true answer
    candidate: str


def join_comparisons(comparisons: Sequence[Comparison]) -> str:
    """Returns the prompt's field `comparisons`: one JSON object a line.

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
    match = _LINE.fullmatch(strip_markup(str(line)).strip())
    if match is None or (match[1] and int(match[1]) != number):
        raise Invalid(f"verdict {number} is not yes or no: {str(line)[:60]!r}")
    return _VERDICTS[match[2].lower()]


def _lines(reply: str) -> list[Any]:
    """Returns the verdicts one by one: lines, or a list, or the members of an object."""
    parts = object_members(reply)
    if parts is not None:
        values = list(parts.values())
        return values[0] if len(values) == 1 and isinstance(values[0], list) else values
    text = unfence(reply)
    if not text.startswith("["):
        text = _LABEL.sub("", strip_markup(text))
        lines = [line for line in text.splitlines() if line.strip()]
        return lines if all(map(_LINE.fullmatch, lines)) else text.split("\n\n")[0].splitlines()
    return leading_list(text)


def _parse(reply: str, fields: Mapping[str, str]) -> list[bool]:
    """Returns one verdict for each comparison of the request, in order.

    Raises:
      Invalid: also for the whole batch if it has a verdict too few or too many.
    """
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
