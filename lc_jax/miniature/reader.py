"""Rule-based reader of the miniature world's paragraphs, which knows their grammar but not the facts.

It simulates the API models of the method: merging paragraphs, listing answers, forecasting, comparing answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from lc_jax.miniature import text
from lc_jax.miniature.world import QUESTIONS
from lc_jax.short_answers.probabilities import WORDS
from lc_jax.types import Forecasts

MAX_ALTERNATIVES = 2  # answers in a summary of one fact: the world has two candidates
_WORD = "|".join(re.escape(word) for word in sorted(WORDS, key=len, reverse=True))
_HEDGE = re.compile(rf"^(?:({_WORD})\s+)?(.*?)(?:\s*\(\s*(?:(\d+(?:\.\d+)?)\s*%|({_WORD}))\s*\))?$", re.IGNORECASE)
_QUESTION_PATTERNS = {kind: re.compile(re.escape(q).replace(r"\{\}", ".+")) for kind, q in QUESTIONS.items()}


def kind_of(question: str) -> str | None:
    """Returns the kind of fact that a question asks for; None if it is not one of this world."""
    return next((kind for kind, pattern in _QUESTION_PATTERNS.items() if pattern.fullmatch(question.strip())), None)


def has_sentence(paragraph: str) -> bool:
    """Returns whether a text holds a sentence of this world."""
    return any(pattern.search(paragraph) for pattern in text.PATTERNS.values())


def statements(paragraph: str, kind: str) -> Forecasts:
    """Returns the answers in a paragraph's sentence of one kind, each with its stated probability.

    Answers without a percentage or a word of probability share the rest equally.
    """
    sentence = text.PATTERNS[kind].search(paragraph)
    prob_of: dict[str, float | None] = {}
    for part in re.split(r"\s+or\s+", sentence[1]) if sentence else []:
        match = _HEDGE.match(part.strip())
        if not match or not match[2].strip() or "%" in match[2] or "(" in match[2]:
            continue
        word = (match[1] or match[4] or "").lower()
        prob = min(float(match[3]) / 100, 1.0) if match[3] else WORDS.get(word)
        prob_of.setdefault(match[2].strip(), prob)
    num_unstated = sum(prob is None for prob in prob_of.values())
    rest = max(0.0, 1.0 - sum(prob for prob in prob_of.values() if prob is not None))
    probs = (rest / num_unstated if prob is None else prob for prob in prob_of.values())
    return Forecasts(tuple(prob_of), tuple(probs))


def read(paragraph: str, question: str) -> Forecasts:
    """Returns all answers of a paragraph to a question with their probabilities; none if it does not mention it."""
    kind = kind_of(question)
    return statements(paragraph, kind) if kind else Forecasts((), ())


def extract(paragraph: str, question: str) -> list[str]:
    """Returns the answers of a paragraph to a question, in its order."""
    return list(read(paragraph, question).answers)


def probability(paragraph: str, question: str, answer: str) -> float:
    """Returns the probability that a paragraph states for an answer; 0 if it does not name it."""
    forecasts = read(paragraph, question)
    return next((p for a, p in zip(forecasts.answers, forecasts.probs, strict=True) if equivalent(a, answer)), 0.0)


def equivalent(one: str, other: str) -> bool:
    """Returns whether two answers have the same words, apart from case, articles and punctuation."""
    return _drop_punctuation_and_articles(one) == _drop_punctuation_and_articles(other)


def _drop_punctuation_and_articles(answer: str) -> str:
    """Returns an answer's words in lower case; marks inside a word join its parts ("Saint-Denis": "saintdenis")."""
    words = re.sub(r"[^\w\s]", "", answer.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def claims(paragraph: str) -> list[list[str]]:
    """Splits a paragraph into claims, sentences with one answer and its percentage if any, grouped by sentence."""
    forecasts_by_kind = ((kind, statements(paragraph, kind)) for kind in text.SENTENCES)
    groups = [
        [
            text.SENTENCES[kind].format(answer if prob == 1 else f"{answer} ({100 * prob:.6g}%)")
            for answer, prob in zip(forecasts.answers, forecasts.probs, strict=True)
        ]
        for kind, forecasts in forecasts_by_kind
    ]
    return [group for group in groups if group]


def certain(claim: str) -> tuple[str, float]:
    """Returns a claim without its percentage, and its probability."""
    forecasts_by_kind = ((kind, statements(claim, kind)) for kind in text.SENTENCES)
    kind, forecasts = next(pair for pair in forecasts_by_kind if pair[1].answers)
    return text.SENTENCES[kind].format(forecasts.answers[0]), forecasts.probs[0]


def tens(counts: Sequence[int]) -> list[int]:
    """Rounds shares to percentages in tens that sum to 100 (largest remainders are rounded up first)."""
    exact = [10 * count / sum(counts) for count in counts]
    floors = [int(value) for value in exact]
    by_remainder = sorted(range(len(counts)), key=lambda i: (floors[i] - exact[i], i))
    for i in by_remainder[: 10 - sum(floors)]:
        floors[i] += 1
    return [10 * value for value in floors]


def summarize(paragraphs: Sequence[str]) -> str:
    """Merges paragraphs into one: each answer with the share of paragraphs that give it, in tens of per cent."""
    answers: dict[str, list[tuple[str, int]]] = {}
    for kind in text.SENTENCES:
        counts = Counter(forecasts.answers[0] for p in paragraphs if (forecasts := statements(p, kind)).answers)
        top = counts.most_common(MAX_ALTERNATIVES)
        if top:
            percent = tens([count for _, count in top])
            answers[kind] = [(answer, p) for (answer, _), p in zip(top, percent, strict=True) if p]
    return text.hedged(answers)
