"""Which claims does a biography make? Each with its label, alternatives together (paper section 6, after FActScore)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lc_jax.prompts.literals import leading_list
from lc_jax.prompts.objects import members
from lc_jax.prompts.prompt import Invalid, Shot, few_shot

OBJECTIVE, SUBJECTIVE, FULL_UNCERTAINTY = LABELS = ("Objective", "Subjective", "Full Uncertainty")
_KNOWN = {label.casefold(): label for label in LABELS}
_HEADING = re.compile(r"\A\s*#[^\n]*\n")


class Claim(NamedTuple):
    """One claim of a biography."""

    text: str  # with the words of doubt that the biography has for it, on one line
    label: str  # one of LABELS


Group = list[Claim]  # alternatives of which at most one can be true; most claims stand alone


def _pair(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _claim(item: Any) -> Claim | None:
    """The claim of {"claim": ..., "label": ...} or [claim, label]; None where it has no words."""
    if isinstance(item, dict):
        item = [item.get("claim"), item.get("label")]
    if not _pair(item) or item[1].strip().casefold() not in _KNOWN:
        raise Invalid(f"no claim with one of the labels {list(LABELS)}: {str(item)[:60]}")
    text = " ".join(item[0].split())
    return Claim(text, _KNOWN[item[1].strip().casefold()]) if text else None


def _group(item: Any) -> Group:
    alternatives = item if isinstance(item, (list, tuple)) and not _pair(item) else [item]
    return [claim for claim in map(_claim, alternatives) if claim]


def _items(reply: str) -> list[Any]:
    """The list that a reply is, or holds as an object's last member; or an object's claims with their labels."""
    text = _HEADING.sub("", reply)
    found = members(text)
    if found is None:
        try:
            return leading_list(text)
        except ValueError as error:
            raise Invalid(str(error)) from error
    last = list(found.values())[-1]
    return last if isinstance(last, list) else [[claim, label] for claim, label in found.items()]


def _parse(reply: str, fields: Mapping[str, str]) -> list[Group]:
    """Groups of claims in order, [] of a biography that makes none; blank claims and empty groups are left out."""
    text = reply.strip()
    items = [] if text in ("{}", "[]") else _items(text)
    return [group for group in map(_group, items) if group]


def _shown(groups: Sequence[Sequence[tuple[str, str]]]) -> str:
    lines = [json.dumps([{"claim": c, "label": label} for c, label in group], ensure_ascii=False) for group in groups]
    return "[\n " + ",\n ".join(lines) + "\n]"


SHOTS = (
    Shot(
        {
            "entity": "Ada Lovelace",
            "generated_paragraph": "I am about 90% sure that Ada Lovelace was an English countess. She was born in "
            "1815 (80%), or else in 1816 (20%). She was a gifted mathematician who, I believe, wrote notes on Charles "
            "Babbage's Analytical Engine. I do not know where she went to school.",
        },
        _shown(
            [
                [("I am about 90% sure that Ada Lovelace was English.", OBJECTIVE)],
                [("I am about 90% sure that Ada Lovelace was a countess.", OBJECTIVE)],
                [
                    ("There is an 80% chance that Ada Lovelace was born in 1815.", OBJECTIVE),
                    ("There is a 20% chance that Ada Lovelace was born in 1816.", OBJECTIVE),
                ],
                [("Ada Lovelace was a mathematician.", OBJECTIVE)],
                [("Ada Lovelace was gifted.", SUBJECTIVE)],
                [("I believe that Ada Lovelace wrote notes on the Analytical Engine.", OBJECTIVE)],
                [("I believe that the Analytical Engine was Charles Babbage's.", OBJECTIVE)],
                [("I do not know where Ada Lovelace went to school.", FULL_UNCERTAINTY)],
            ]
        ),
    ),
    Shot(
        {"entity": "Jan Novotny", "generated_paragraph": "I am sorry, but I know nothing of Jan Novotny."},
        _shown([[("I know nothing of Jan Novotny.", FULL_UNCERTAINTY)]]),
    ),
)

PROMPT = few_shot(
    f"""\
Take the biography apart into atomic claims: short sentences that each say one thing and that can be understood by \
themselves.

- Name whom or what a claim is about; write no pronouns.
- Keep the words of doubt: what the biography says of its confidence in a claim ("I am 70% sure that", "probably") \
belongs into that claim, and into every part of a sentence that it covers.
- Label each claim: "{OBJECTIVE}" if an encyclopedia could show it to be true or false, "{SUBJECTIVE}" if it is a \
matter of opinion or praise, "{FULL_UNCERTAINTY}" if the author only says not to know something.
- Put claims of which at most one can be true (two possible years of birth) into one list together. Every other claim \
has a list of its own.
- Judge nothing: take wrong claims down as well.
- Reply with a JSON list of these lists, in the order of the biography, and nothing else; [] if there is no claim.""",
    "Entity: {entity}\n\nBiography: {generated_paragraph}\n\nClaims:",
    SHOTS,
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
