"""Statements of short answers with confidence: written from several samples, and read back out of a short text.

`write_consensus` writes one shape:

    The answer is France (71%). It could also be Spain (14%).

`read` reads that shape, and these variations of it, sentence by sentence:

- an answer, then its probability: "France (70%)", "France: 70%", "France with 70% confidence", "France is likely",
  "It is France. I am 70% sure.", "France, confidence: 0.7";
- a probability, then its answer: "There is a 70% chance that it is France", "I am 70% sure it is France",
  "70% France", "It is probably France", "I doubt that it is France" (as "doubtful");
- several of these in one sentence: "France (60%), Spain (20%) or Italy (5%)", "probably France, possibly Spain";
- negations without a probability, which state 0: "It is not France", "not France";
- no answer: "I do not know", "No Answer";
- one short answer alone: "France", "It is France." It has no probability;
- any of these in a list ("1. France (70%)"), in Markdown ("**Answer:** France (70%)"), after a label ("Country: France
  (70%)", "Answer - France") or a place ("It is in France (70%)", "located in France"), which are no part of the answer.

Probabilities are percentages ("70%", "70.5 percent"), ranges ("60-70 %", "between 60 and 70 percent": the middle),
fractions ("7 out of 10"), decimals after a label or in parentheses, and the words of `probabilities.WORDS`. After an
answer, "60-70%" is a range only in parentheses, after a colon or after a word such as "with" or "is".

Everything else is rejected with a reason: more than 100% for one answer or, by more than rounding, for all together;
an answer that is named twice; a probability without an answer, or answers with and without one; words of doubt or
certainty without a value ("perhaps", "certainly", "very likely", "at least 70%"); a probability of a negation ("I am
70% sure that it is not France"), of an exception ("anything but France") or of no answer ("unknown (80%)", "others
(10%)"); remarks ("Yes, France", "France, I think"); texts of over 400 characters. `answers` has the tables.

Limits. English, in one Unicode form (NFKC). An answer has at most 12 words and none that only sentences have, in lower
case ("is", "which", "no"): titles and quotations that hold one are rejected, as are titles with a colon or " - ", those
that begin with "Not", "In", "From", "Just" or a verb, and those that hold a percentage. A title that opens like a
sentence ("It's a Wonderful Life") loses its opening unless "The answer is" precedes it, and "1. FC Nürnberg" its
number. "France or Spain (70%)", "Nice, France", "early 1990s" and "France 70" are answers of several words, and "Kofu
loves Japan" is one, as with any verb that the tables lack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lc_jax.short_answers import grammar
from lc_jax.short_answers.matching import normalise_answer
from lc_jax.short_answers.probabilities import Unreadable

MAX_ANSWERS = 3  # in a consensus; further answers are not listed
MAX_CHARS = 400  # of a text


class Statement(NamedTuple):
    """Distinct answers of a text, in its order, each with its stated probability."""

    answers: tuple[str, ...]  # () where the text says that it does not know
    probs: tuple[float | None, ...]  # in [0, 1]; 0 of a negated answer; None: no confidence stated

    def offers(self) -> list[tuple[str, float | None]]:
        """Returns the answers that are not ruled out, the most probable first (the first of equals)."""
        pairs = [pair for pair in zip(*self, strict=True) if pair[1] != 0]
        return sorted(pairs, key=lambda pair: -1.0 if pair[1] is None else -pair[1])

    def probs_of(self, accepted: Sequence[str]) -> list[float | None]:
        """Returns the probabilities of the answers that are in `accepted` after normalisation; [] if none is."""
        names = set(map(normalise_answer, accepted))
        return [prob for answer, prob in zip(*self, strict=True) if normalise_answer(answer) in names]


# --- writing ----------------------------------------------------------------------------------------------------------


class AnswerCounts(NamedTuple):
    """Answers of several samples to one question."""

    counts: tuple[tuple[str, int], ...]  # (wording, samples) of each distinct answer, the most frequent first
    num_samples: int  # that are not empty, with or without an answer that can be read
    num_empty: int

    def percentages(self) -> list[int]:
        """Returns, for each answer, the percentage of the other samples that agree with one that gives it.

        100 (count - 1) / (N - 1), rounded to a whole number, a half down. The share of all samples, count / N, would
        include that sample's agreement with itself: an answer that only one sample gives would have 1 / N. Requires
        two samples. With over 200 samples, rounding can bring the sum above 100.
        """
        others = self.num_samples - 1
        return [-(-(200 * (count - 1) - others) // (2 * others)) for _, count in self.counts]


def count_answers(samples: Iterable[str]) -> AnswerCounts:
    """Counts the answers of samples, equal ones after normalisation, under the most frequent wording.

    The order of the samples changes nothing: equal counts are in the order of the words. A sample counts for the most
    probable answer that it offers; one that offers none, or cannot be read, adds to `num_samples` only.
    """
    samples = list(samples)
    texts = [text for sample in samples if (text := sample.strip())]
    wordings: dict[str, Counter[str]] = {}
    for text in texts:
        answer = _sample_answer(text)
        if answer:
            wordings.setdefault(normalise_answer(answer), Counter())[answer] += 1
    groups = [(min(words, key=lambda word: (-words[word], word)), words.total()) for words in wordings.values()]
    counts = tuple(sorted(groups, key=lambda group: (-group[1], normalise_answer(group[0]))))
    return AnswerCounts(counts, len(texts), len(samples) - len(texts))


def write_consensus(samples: Sequence[str], max_answers: int = MAX_ANSWERS) -> str:
    """Returns the statement of the answers that samples give, the most frequent first, with their percentages.

    At most `max_answers` are listed, as many as `read` has room for, and none with 0 %, which would deny it. If all
    round to 0 %, as when no two samples agree, the first answer is listed alone, with 1 %. Empty samples do not count.

    Raises:
      Unreadable: no sample offers an answer that can be read, or all but one are empty.
    """
    answers = count_answers(samples)
    if not answers.counts:
        raise Unreadable(f"none of {len(samples)} samples offers a short answer")
    if answers.num_samples == 1:
        raise Unreadable(f"only one of {len(samples)} samples has text: agreement needs two")
    names = [answer for answer, _ in answers.counts]
    pairs = [(answer, p) for answer, p in zip(names, answers.percentages(), strict=True) if p]
    pairs = pairs[:max_answers] or [(names[0], 1)]
    while len(text := _write(pairs)) > MAX_CHARS:  # one answer fits: _sample_answer has read it in a longer text
        pairs = pairs[:-1]
    return text


def _write(pairs: Sequence[tuple[str, int]]) -> str:
    first, *others = [f"{answer} ({percentage}%)." for answer, percentage in pairs]
    return " ".join([f"The answer is {first}", *(f"It could also be {other}" for other in others)])


def _sample_answer(text: str) -> str:
    """Returns the answer that a sample offers; "" if it has none, or none that a statement can name and be read."""
    try:
        offers = read(text).offers()
        answer = offers[0][0] if offers else ""
        texts = (f"The answer is {answer} (50%).", f"It could also be {answer} (50%).")
        is_plain = all(read(text).answers == (answer,) for text in texts)
    except Unreadable:
        return ""
    return answer if is_plain else ""


# --- reading ----------------------------------------------------------------------------------------------------------


def read(text: str) -> Statement:
    """Returns the answers that a text states, with their probabilities; the module's docstring lists its forms.

    Raises:
      Unreadable: the text has another form, or contradicts itself; the message is the reason.
    """
    if not text.strip() or len(text) > MAX_CHARS:
        raise Unreadable("the text is empty" if not text.strip() else f"more than {MAX_CHARS} characters")
    groups = [grammar.items(sentence) for sentence in grammar.sentences(text)]
    items = [item for group in groups for item in group]
    names = [normalise_answer(item.answer) for item in items]
    twice = next((item.answer for item in items if names.count(normalise_answer(item.answer)) > 1), None)
    if twice is not None:
        raise Unreadable(f"the answer {twice!r} is named twice")
    probabilities = [item.probability for item in items if item.probability is not None]
    total, rounding = sum(p.value for p in probabilities), sum(p.rounding for p in probabilities)
    if len(probabilities) < len(items) and (total > 0 or len(items) > len(probabilities) + 1 or [] in groups):
        raise Unreadable("an answer without a probability next to another answer, or to 'I do not know'")
    if total > 1 + rounding + 1e-9:
        raise Unreadable(f"the probabilities sum to {100 * total:.4g}%")
    probs = [None if item.probability is None else item.probability.value for item in items]
    return Statement(tuple(item.answer for item in items), tuple(probs))
