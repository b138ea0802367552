"""Probabilities in text: percentages, ranges, fractions, decimals and words."""

from __future__ import annotations

import re
from typing import NamedTuple


class Unreadable(ValueError):
    """A text that the rules cannot read; the message is the reason."""


# Words of probability (Wallsten 1990) with the paper's values, and their adverbs.
WORDS = {
    "almost impossible": 0.05,
    "doubtful": 0.1,
    "improbable": 0.1,
    "unlikely": 0.15,
    "possible": 0.3,
    "possibly": 0.3,
    "toss-up": 0.5,
    "a good chance": 0.65,
    "good chance": 0.65,
    "almost certain": 0.95,
    "almost certainly": 0.95,
    "likely": 0.75,
    "probable": 0.75,
    "probably": 0.75,
}

_NUMBER = r"(?<![\d.,/-])\d{1,6}(?:\.\d+|,\d{1,2})?(?![\d,])"  # "70", "70.5", "70,5"; no part of "1,000" or "-5"
_UNIT = r"\s*(?:%|per ?cent\b)"
_DASH = r"\s*(?:-|–|—|to\b)\s*"
_SECOND = r"\d{1,6}(?:\.\d+|,\d{1,2})?"
_BETWEEN = rf"between\s+{_NUMBER}(?:{_UNIT})?\s+and\s+{_SECOND}{_UNIT}"
SINGLE = rf"(?:{_BETWEEN}|{_NUMBER}{_UNIT})"  # no "60-70%": without a label the first number may be of the answer
_FIRST = r"(?<![\d.,/-])\d{1,3}(?:\.\d+|,\d{1,2})?(?![\d,])"  # no year
PERCENTAGE = rf"(?:(?:from\s+)?{_FIRST}(?:{_UNIT})?{_DASH}{_SECOND}{_UNIT}|{SINGLE})"
FRACTION = r"\b\d{1,4}\s+(?:out\s+of|in)\s+\d{1,4}\b"
WORD = rf"\b(?:{'|'.join(sorted(map(re.escape, WORDS), key=len, reverse=True))})\b"
BARE = r"(?<![\d.,/-])(?:0?\.\d+|1\.0+|\d{1,4}\s*/\s*\d{1,4})(?![\d/%])"  # "0.7", "7/10": only where one is expected
_DIGITS = re.compile(r"\d+(?:[.,]\d+)?|\.\d+")
_ROUNDING, _WORD_ROUNDING = 0.005, 0.025  # half a step: of whole percentages, and of words in steps of .05


class Probability(NamedTuple):
    """The value of a stated probability, and by how much it may be rounded."""

    value: float  # in [0, 1]
    rounding: float


def value_of(text: str) -> Probability:
    """Returns the value of a text that matches PERCENTAGE, FRACTION, WORD ("doubt" too) or BARE; of a range its middle.

    Raises:
      Unreadable: more than 100%, or a range or fraction that makes no sense.
    """
    word = (WORDS | {"doubt": WORDS["doubtful"]}).get(" ".join(text.lower().split()))
    if word is not None:
        return Probability(word, _WORD_ROUNDING)
    numbers = [float(number.replace(",", ".")) for number in _DIGITS.findall(text)]
    first, last = numbers[0], numbers[-1]
    # "50/50" and "40/60" are odds.
    is_odds = "/" in text and not (last <= 10 or last == 100)
    if len(numbers) == 2 and (first > last or last == 0 or is_odds):
        raise Unreadable(f"{text!r} is no range and no fraction")
    is_percentage = re.search(_UNIT, text, re.IGNORECASE) is not None
    if is_percentage and last > 100:
        raise Unreadable(f"{text!r} is over 100%")
    if is_percentage:
        return Probability(round((first + last) / 200, 12), _ROUNDING)
    return Probability(first / last if len(numbers) == 2 else first, _ROUNDING)
