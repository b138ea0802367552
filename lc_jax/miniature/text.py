"""Grammar of the miniature world's paragraphs: one sentence a fact, with or without percentages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# kind of fact -> its sentence; {} holds the answer, or answers joined by " or ".
SENTENCES = {
    "country": "It lies in {}.",
    "population": "It has {} people.",
    "clock": "It keeps the time of {}.",
}
PATTERNS = {
    kind: re.compile(re.escape(sentence).replace(r"\{\}", r"([^.]*?)"), re.IGNORECASE)
    for kind, sentence in SENTENCES.items()
}


def plain(answers: Mapping[str, str]) -> str:
    """Writes a paragraph that states one answer per kind with certainty."""
    return " ".join(SENTENCES[kind].format(answer) for kind, answer in answers.items())


def hedged(answers: Mapping[str, Sequence[tuple[str, int]]]) -> str:
    """Writes a paragraph that gives each kind's answers with percentages."""
    return " ".join(
        SENTENCES[kind].format(" or ".join(f"{answer} ({percent}%)" for answer, percent in listed))
        for kind, listed in answers.items()
    )
