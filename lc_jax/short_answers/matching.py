"""Equality of short answers, as in TriviaQA's evaluation (Joshi et al. 2017): normalisation, then exact match."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable

_SPACES = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))  # TriviaQA's
_ARTICLES = re.compile(r"\b(?:an?|the)\b")


def normalise_answer(answer: str) -> str:
    """Returns an answer in lower case, without punctuation, underscores, articles and surplus white space.

    Two answers with the same result count as equal, for rewards and for annotators by rule.

    Differs: Unicode forms are one (NFKC), and all Unicode punctuation becomes spaces, so that "São Tomé" equals itself
    in decomposed letters and “Hamlet” equals "Hamlet"; TriviaQA replaces ASCII punctuation and four more marks. An
    answer that consists of nothing else ("A", "The The", "!!!") keeps its words in lower case; by TriviaQA's rule all
    such answers would be equal to each other.
    """
    lower = unicodedata.normalize("NFKC", answer.translate({ord("´"): "'"})).lower()
    spaced = "".join(" " if unicodedata.category(c)[0] == "P" else c for c in lower.translate(_SPACES))
    words = _ARTICLES.sub(" ", spaced).split() or lower.split()
    return " ".join(words)


def matches(candidate: str, accepted: Iterable[str]) -> bool:
    """Returns whether a candidate equals one of the accepted answers (truth and aliases) after normalisation.

    An empty candidate equals none.
    """
    plain = normalise_answer(candidate)
    return bool(plain) and any(plain == normalise_answer(answer) for answer in accepted)
