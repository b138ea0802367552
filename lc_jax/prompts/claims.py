"""The claims that a biography makes: each with its label, alternatives together (paper section 6, after FActScore)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lc_jax.prompts.parsing import Invalid, leading_list, object_members
from lc_jax.prompts.prompt import Prompt, read_template

OBJECTIVE, SUBJECTIVE, FULL_UNCERTAINTY = LABELS = ("Objective", "Subjective", "Full Uncertainty")
_BY_NAME = {label.casefold(): label for label in LABELS}
_HEADING = re.compile(r"\A\s*#[^\n]*\n")


class Claim(NamedTuple):
    """A claim of a biography."""

    text: str  # with the words of doubt that the biography has for it, on one line
    label: str  # one of LABELS


Group = list[Claim]  # alternatives of which at most one can be true; most claims are alone


def _pair(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _claim(item: Any) -> Claim | None:
    """Returns the claim of {"claim": ..., "label": ...} or [claim, label]; None if it has no words."""
    if isinstance(item, dict):
        item = [item.get("claim"), item.get("label")]
    if not _pair(item) or item[1].strip().casefold() not in _BY_NAME:
        raise Invalid(f"no claim with one of the labels {list(LABELS)}: {str(item)[:60]}")
    text = " ".join(item[0].split())
    return Claim(text, _BY_NAME[item[1].strip().casefold()]) if text else None


def _group(item: Any) -> Group:
    alternatives = item if isinstance(item, (list, tuple)) and not _pair(item) else [item]
    return [claim for claim in map(_claim, alternatives) if claim]


def _items(reply: str) -> list[Any]:
    """Returns the list that a reply is, or its object's last member; or an object's claims with their labels."""
    text = _HEADING.sub("", reply)
    parts = object_members(text)
    if parts is None:
        return leading_list(text)
    last = list(parts.values())[-1]
    return last if isinstance(last, list) else [[claim, label] for claim, label in parts.items()]


def _parse(reply: str, fields: Mapping[str, str]) -> list[Group]:
    """Returns groups of claims in order, [] if the biography makes none; blank claims and empty groups are left out."""
    text = reply.strip()
    items = [] if text in ("{}", "[]") else _items(text)
    return [group for group in map(_group, items) if group]


PROMPT = Prompt(
    read_template("claims"),
    _parse,
    json.dumps(
        {
            "type": "object",
            "properties": {
                "claims": {
                    "type": "array",
                    "items": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "claim": {"type": "string"},
                                "label": {"type": "string", "enum": list(LABELS)},
                            },
                            "required": ["claim", "label"],
                            "additionalProperties": False,
                        },
                    },
                }
            },
            "required": ["claims"],
            "additionalProperties": False,
        }
    ),
)
