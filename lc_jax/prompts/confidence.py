"""The author's confidence in each claim: the claim without its words of doubt, and a probability (paper section 6)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lc_jax.prompts import forecast
from lc_jax.prompts.parsing import Invalid, final_value, leading_list, strip_markup
from lc_jax.prompts.prompt import Prompt, read_template, schema

_LINE = re.compile(r"Statement [0-9]+: (.*)")
# The published wording has each statement worked through in steps, of which these lines count.
_STEPS = re.compile(r"Core Claim:[ \t]*(.+)|Classification:[ \t]*(.+)|Probability:[ \t]*(.+)", re.IGNORECASE)


class Stated(NamedTuple):
    """A claim as such, and how sure its author is of it."""

    claim: str
    confidence: float  # in [0, 1]; 1 where no doubt is stated


def join_statements(statements: Sequence[str]) -> str:
    """Returns the prompt's field `statements`: one statement a line, numbered. No statement may hold a line break."""
    return "\n".join(f"Statement {number}: {statement}" for number, statement in enumerate(statements, 1))


def split_statements(joined: str) -> list[str]:
    """Inverse of join_statements."""
    return [match[1] for line in joined.split("\n") if (match := _LINE.fullmatch(line))]


def _claim(item: Any) -> Stated:
    """Returns the claim of {"claim": ..., "probability": ...} or [claim, probability]."""
    pair = [item.get("claim"), item.get("probability")] if isinstance(item, dict) else item
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str) or not pair[0].strip():
        raise Invalid(f"no claim with its probability: {str(item)[:60]}")
    return Stated(" ".join(pair[0].split()), forecast.PROMPT.parse(str(pair[1])))


def _steps(reply: str) -> list[dict[str, str]]:
    """Returns the claims of a reply that works through each statement in steps, as the published wording asks."""
    claims: list[dict[str, str]] = []
    for claim, kind, probability in _STEPS.findall(reply):
        if claim:
            claims.append({"claim": claim})
        elif not claims:
            raise Invalid("a statement is classified before its claim is named")
        elif kind:
            claims[-1] |= {"probability": "1"} if kind.strip().casefold().startswith("direct") else {}
        else:
            claims[-1] = {"probability": probability} | claims[-1]
    return claims


def _parse(reply: str, fields: Mapping[str, str]) -> list[Stated]:
    """Returns one Stated for each statement of the request, in order.

    Raises:
      Invalid: also for the whole reply if it has a claim too few or too many.
    """
    value = final_value(reply)
    if isinstance(value, str):
        value = _steps(strip_markup(value)) or leading_list(value)
    if not isinstance(value, list):
        raise Invalid(f"not a list of claims: {str(value)[:60]}")
    expected = len(split_statements(fields["statements"]))
    if len(value) != expected:
        raise Invalid(f"{expected} claims were asked for, the reply has {len(value)}")
    return list(map(_claim, value))


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
