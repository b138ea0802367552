"""How confident is the author of each claim? The claim without its words of doubt, and a probability (section 6)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lc_jax.prompts import forecast
from lc_jax.prompts.literals import leading_list
from lc_jax.prompts.objects import schema, stated, without_markup
from lc_jax.prompts.prompt import Invalid, Prompt, read_template

_LINE = re.compile(r"Statement [0-9]+: (.*)")
# The published wording has each statement worked through in steps, of which these lines count.
_STEPS = re.compile(r"Core Claim:[ \t]*(.+)|Classification:[ \t]*(.+)|Probability:[ \t]*(.+)", re.IGNORECASE)


class Stated(NamedTuple):
    """A claim as such, and how sure its author is of it."""

    claim: str
    confidence: float  # in [0, 1]; 1 where no doubt is stated


def join_statements(statements: Sequence[str]) -> str:
    """The prompt's field `statements`: one statement a line, numbered. No statement may hold a line break."""
    return "\n".join(f"Statement {number}: {statement}" for number, statement in enumerate(statements, 1))


def split_statements(joined: str) -> list[str]:
    """Inverse of join_statements."""
    return [found[1] for line in joined.split("\n") if (found := _LINE.fullmatch(line))]


def _stated(item: Any) -> Stated:
    """Of {"claim": ..., "probability": ...} or [claim, probability]."""
    pair = [item.get("claim"), item.get("probability")] if isinstance(item, dict) else item
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str) or not pair[0].strip():
        raise Invalid(f"no claim with its probability: {str(item)[:60]}")
    return Stated(" ".join(pair[0].split()), forecast.PROMPT.parse(str(pair[1])))


def _worked_through(reply: str) -> list[dict[str, str]]:
    """The claims of a reply in the published form."""
    found: list[dict[str, str]] = []
    for claim, kind, probability in _STEPS.findall(reply):
        if claim:
            found.append({"claim": claim})
        elif not found:
            raise Invalid("a statement is classified before its claim is named")
        elif kind:
            found[-1] |= {"probability": "1"} if kind.strip().casefold().startswith("direct") else {}
        else:
            found[-1] = {"probability": probability} | found[-1]
    return found


def _parse(reply: str, fields: Mapping[str, str]) -> list[Stated]:
    """One Stated per statement of the request, in order. One too few or too many spoils the whole reply."""
    value = stated(reply)
    if isinstance(value, str):
        try:
            value = _worked_through(without_markup(value)) or leading_list(value)
        except ValueError as error:
            raise Invalid(str(error)) from error
    if not isinstance(value, list):
        raise Invalid(f"not a list of claims: {str(value)[:60]}")
    expected = len(split_statements(fields["statements"]))
    if len(value) != expected:
        raise Invalid(f"{expected} claims were asked for, the reply has {len(value)}")
    return list(map(_stated, value))


PROMPT = Prompt(
    read_template("confidence"),
    _parse,
    schema(
        "claims",
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"claim": {"type": "string"}, "probability": {"type": "number"}},
                "required": ["claim", "probability"],
                "additionalProperties": False,
            },
        },
    ),
)
