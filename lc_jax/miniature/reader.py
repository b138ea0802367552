"""The miniature world's reader: it knows how its paragraphs are written, and nothing of what is true.

It stands in for the API models of the method: merging paragraphs, listing answers, forecasting, comparing answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from lc_jax.miniature import text
from lc_jax.miniature.world import QUESTIONS
from lc_jax.types import Forecasts

MAX_ALTERNATIVES = (
    2  # answers that a summary names for one fact: the world has two candidates, and two percentages add up
)
# Words of probability (Wallsten 1990), as the paper reads them.
WORDS = {
    "almost impossible": 0.05,
    "doubtful": 0.1,
    "improbable": 0.1,
    "unlikely": 0.15,
    "possible": 0.3,
    "possibly": 0.3,
    "toss-up": 0.5,
    "a good chance": 0.65,
    "almost certain": 0.95,
    "almost certainly": 0.95,
    "likely": 0.75,
    "probable": 0.75,
    "probably": 0.75,
}
_WORD = "|".join(re.escape(word) for word in sorted(WORDS, key=len, reverse=True))
_HEDGE = re.compile(rf"^(?:({_WORD})\s+)?(.*?)(?:\s*\(\s*(?:(\d+(?:\.\d+)?)\s*%|({_WORD}))\s*\))?$", re.IGNORECASE)
_ASKED = {kind: re.compile(re.escape(q).replace(r"\{\}", ".+")) for kind, q in QUESTIONS.items()}


def kind_of(question: str) -> str | None:
    """Which kind of fact a question asks for; None when it is none of this world's."""
    return next((kind for kind, pattern in _ASKED.items() if pattern.fullmatch(question.strip())), None)


def has_sentence(paragraph: str) -> bool:
    """Returns whether a text holds a sentence of this world."""
    return any(pattern.search(paragraph) for pattern in text.PATTERNS.values())


def statements(paragraph: str, kind: str) -> Forecasts:
    """Returns the answers that a paragraph's sentence of one kind names, each with the probability that it states.

    Answers without a percentage or a word of probability share what is left equally.
    """
    sentence = text.PATTERNS[kind].search(paragraph)
    stated: dict[str, float | None] = {}
    for part in re.split(r"\s+or\s+", sentence[1]) if sentence else []:
        found = _HEDGE.match(part.strip())
        if not found or not found[2].strip() or "%" in found[2] or "(" in found[2]:
            continue
        word = (found[1] or found[4] or "").lower()
        prob = min(float(found[3]) / 100, 1.0) if found[3] else WORDS.get(word)
        stated.setdefault(found[2].strip(), prob)
    open_ended = [answer for answer, prob in stated.items() if prob is None]
    left = max(0.0, 1.0 - sum(prob for prob in stated.values() if prob is not None))
    probs = (left / len(open_ended) if prob is None else prob for prob in stated.values())
    return Forecasts(tuple(stated), tuple(probs))


def read(paragraph: str, question: str) -> Forecasts:
    """Everything that a paragraph answers to a question; nothing when it does not speak of it."""
    kind = kind_of(question)
    return statements(paragraph, kind) if kind else Forecasts((), ())


def extract(paragraph: str, question: str) -> list[str]:
    """Returns the answers that a paragraph offers, in its order."""
    return list(read(paragraph, question).answers)


def probability(paragraph: str, question: str, answer: str) -> float:
    """What a paragraph gives an answer: 0 when it does not name it."""
    found = read(paragraph, question)
    return next((p for a, p in zip(found.answers, found.probs, strict=True) if equivalent(a, answer)), 0.0)


def equivalent(one: str, other: str) -> bool:
    """Returns the same words, whatever their case, articles and punctuation."""
    return _normal(one) == _normal(other)


def _normal(answer: str) -> str:
    words = re.sub(r"[^\w\s]", "", answer.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def claims(paragraph: str) -> list[list[str]]:
    """Returns the sentences of a paragraph as claims, each with one answer and its percentage if any; alternatives together."""
    found = ((kind, statements(paragraph, kind)) for kind in text.SENTENCES)
    groups = [
        [
            text.SENTENCES[kind].format(answer if prob == 1 else f"{answer} ({100 * prob:.6g}%)")
            for answer, prob in zip(read.answers, read.probs, strict=True)
        ]
        for kind, read in found
    ]
    return [group for group in groups if group]


def certain(claim: str) -> tuple[str, float]:
    """Returns a claim without its percentage, and what that says."""
    found = ((kind, statements(claim, kind)) for kind in text.SENTENCES)
    kind, read = next((kind, read) for kind, read in found if read.answers)
    return text.SENTENCES[kind].format(read.answers[0]), read.probs[0]


def tens(counts: Sequence[int]) -> list[int]:
    """Counts as percentages in tens that sum to 100 (largest remainders are rounded up first)."""
    exact = [10 * count / sum(counts) for count in counts]
    floors = [int(value) for value in exact]
    by_remainder = sorted(range(len(counts)), key=lambda i: (floors[i] - exact[i], i))
    for i in by_remainder[: 10 - sum(floors)]:
        floors[i] += 1
    return [10 * value for value in floors]


def summarize(paragraphs: Sequence[str]) -> str:
    """Returns several paragraphs merged into one: each answer with the share of paragraphs that give it, in tens of percent."""
    answers: dict[str, list[tuple[str, int]]] = {}
    for kind in text.SENTENCES:
        named = Counter(found.answers[0] for p in paragraphs if (found := statements(p, kind)).answers)
        top = named.most_common(MAX_ALTERNATIVES)
        if top:
            percent = tens([count for _, count in top])
            answers[kind] = [(answer, p) for (answer, _), p in zip(top, percent, strict=True) if p]
    return text.hedged(answers)
