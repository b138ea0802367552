"""Tokens of a response that state a confidence: percentages, numbers after "confidence" and the like, words for it.

The text decides, not the tokens, so that any tokenizer will do. A percentage that is no confidence ("78% of the air")
counts as one: no rule tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from lc_jax.short_answers.probabilities import PERCENTAGE, WORD

_PATTERN = re.compile(
    rf"{PERCENTAGE}|{WORD}|\b(?:confidence|probability|certainty|chance)\b\D{{0,20}}?(?P<number>\d+(?:\.\d+)?)",
    re.IGNORECASE,
)
_CONTEXT = 8  # tokens before one with which it is decoded: enough for the bytes of a character and a leading space


def spans(text: str) -> list[tuple[int, int]]:
    """Returns the characters [start, end) of each statement of confidence in a text, in order."""
    return [match.span("number" if match["number"] else 0) for match in _PATTERN.finditer(text)]


def pieces(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """Returns the text that each token adds to that of the tokens before it.

    Args:
      decode: from token ids to text, without special tokens.
    """
    texts = []
    for i in range(len(tokens)):
        before = decode(tokens[max(0, i - _CONTEXT) : i])
        texts.append(decode(tokens[max(0, i - _CONTEXT) : i + 1])[len(before) :])
    return texts


def mask(
    responses: Sequence[Sequence[int]], decode: Callable[[Sequence[int]], str], length: int
) -> Bool[np.ndarray, "B T"]:
    """Returns whether each token of B responses has a character of a statement of confidence.

    Args:
      decode: see `pieces`.
      length: T, at least that of the longest response.
    """
    is_confidence = np.zeros((len(responses), length), bool)
    for row, tokens in enumerate(responses):
        texts = pieces(tokens, decode)
        ends = np.cumsum([0, *map(len, texts)])
        for start, end in spans("".join(texts)):
            is_confidence[row, : len(tokens)] |= (ends[:-1] < end) & (ends[1:] > start)
    return is_confidence
