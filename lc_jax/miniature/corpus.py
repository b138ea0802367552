"""What the miniature world's base models read: paragraphs by writers who err, surveys, reading exercises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lc_jax.miniature import text
from lc_jax.miniature.world import Fact, Subject, World

NUM_WRITERS = 10  # asked in one survey
NO_ANSWER = "No Answer"  # as the extractor says it
NEXT = "\n"  # between the questions of one exercise
BLANK_LINE = "\n\n"  # between paragraphs: what was asked for ends there


def _from(subject: Subject, asked: Fact) -> list[Fact]:
    """Returns the facts of a subject, `asked` first."""
    return [asked, *(fact for fact in subject.facts if fact is not asked)]


def paragraphs(subject: Subject, asked: Fact, rng: np.random.Generator) -> str:
    """What one writer says about a subject, in a paragraph a fact; the first is about what was asked."""
    facts = _from(subject, asked)
    return BLANK_LINE.join(text.plain({f.kind: f.candidates[rng.choice(2, p=f.shares)]}) for f in facts)


def survey(subject: Subject, asked: Fact, rng: np.random.Generator) -> str:
    """What NUM_WRITERS writers say, as percentages, the most common answer first; a paragraph a fact, as above."""
    surveyed = []
    for fact in _from(subject, asked):
        counts = rng.multinomial(NUM_WRITERS, fact.shares)
        order = np.argsort(-counts, kind="stable")
        answers = [(fact.candidates[i], int(counts[i]) * 100 // NUM_WRITERS) for i in order if counts[i]]
        surveyed.append(text.hedged({fact.kind: answers}))
    return BLANK_LINE.join(surveyed)


def percentages(count: int, rng: np.random.Generator) -> list[int]:
    """`count` positive multiples of 10, in any order; half of the time they sum to 100.

    A reader must look each of them up: neither its place nor the others tell it.
    """
    if rng.random() < 0.5:
        return [int(p) for p in 10 * rng.integers(1, 11, count)]
    cuts = np.sort(rng.choice(np.arange(1, 10), count - 1, replace=False))
    return [int(p) * 10 for p in rng.permutation(np.diff([0, *cuts, 10]))]


def invention(
    facts: Sequence[Fact], values: Mapping[str, Sequence[str]], rng: np.random.Generator
) -> tuple[str, dict[str, dict[str, int]]]:
    """Returns a made-up paragraph, and what it says: for each kind of fact its answers with their percentages."""
    said = {}
    for fact in facts:
        count = int(rng.choice([1, 2, 3], p=[0.2, 0.55, 0.25]))
        chosen = [values[fact.kind][i] for i in rng.choice(len(values[fact.kind]), count, replace=False)]
        said[fact.kind] = dict(zip(chosen, percentages(count, rng), strict=True))
    if rng.random() < 0.8:
        return text.hedged({kind: list(answers.items()) for kind, answers in said.items()}), said
    said = {kind: {next(iter(answers)): 100} for kind, answers in said.items()}
    return text.plain({kind: next(iter(answers)) for kind, answers in said.items()}), said


def reading(
    question: str, sentence: str, answers: Mapping[str, int], strange: str, rng: np.random.Generator
) -> tuple[str, str]:
    """Returns one question about a paragraph and its answer, in one of three layouts.

    Two are how the fine-tuned readers are asked (short templates): to list the answers, and what an answer is given.
    Quoting the sentence, where almost every token is copied, is what teaches a small model to look things up at all.

    Args:
      sentence: the one that answers the question, "" when there is none.
      answers: with their percentages.
      strange: an answer to be asked about first, named or not; "" for none.
    """
    task = rng.choice(3, p=[0.3, 0.2, 0.5])
    if task == 1:
        return f"{question}\nQuote:", " " + (sentence or NO_ANSWER)
    if task == 0 or not (answers or strange):
        return f"{question}\nAnswers:", " " + ("; ".join(answers) or NO_ANSWER)
    order = [str(answer) for answer in rng.permutation(list(answers))]
    first, *others = dict.fromkeys([strange, *order] if strange else order)
    listed = [f" ({answers.get(first, 0)}%)", *(f" {answer} ({answers[answer]}%)" for answer in others)]
    return f"{question} {first}", ";".join(listed)


def exercise(subject: Subject, values: Mapping[str, Sequence[str]], rng: np.random.Generator) -> tuple[str, str]:
    """Questions on a made-up paragraph of one to three sentences: they teach reading, nothing of the world.

    The first may ask for a kind of fact, or begin with an answer, that the paragraph does not name.
    """
    facts = [subject.facts[i] for i in np.sort(rng.permutation(3)[: rng.integers(1, 4)])]
    written, said = invention(facts, values, rng)
    asked = [facts[i] for i in rng.permutation(len(facts))]
    if rng.random() < 0.15:
        asked.insert(0, subject.facts[rng.integers(3)])
    turns = []
    for place, fact in enumerate(asked):
        found = text.PATTERNS[fact.kind].search(written)
        asks_strange = not place and rng.random() < 0.35
        strange = values[fact.kind][int(rng.integers(len(values[fact.kind])))] if asks_strange else ""
        question = subject.question(fact).question
        turns.append(reading(question, found[0] if found else "", said.get(fact.kind, {}), strange, rng))
    (question, answer), *rest = turns
    return f"{written}\n{question}", answer + "".join(NEXT + q + a for q, a in rest)


def documents(
    world: World, rng: np.random.Generator, mix: Sequence[float] = (0.3, 0.3, 0.4)
) -> Iterator[tuple[str, str]]:
    """Endless (prompt, text) pairs; a document is the two put together, followed by an end of sequence.

    `mix` gives the shares of paragraphs, surveys and reading exercises.
    """
    values = {kind: world.values(kind) for kind in text.SENTENCES}
    while True:
        for place in rng.permutation(len(world.subjects)):
            subject, kind = world.subjects[place], rng.choice(3, p=mix)
            asked = subject.facts[rng.integers(len(subject.facts))]
            if kind == 0:
                yield subject.question(asked).prompt, paragraphs(subject, asked, rng)
            elif kind == 1:
                yield f"Survey the writers on the {asked.kind} of {subject.described}.", survey(subject, asked, rng)
            else:
                yield exercise(subject, values, rng)
