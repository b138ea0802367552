"""Pretraining corpus of the miniature world: paragraphs by fallible writers, surveys and reading exercises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lc_jax.miniature import text
from lc_jax.miniature.world import Fact, Subject, World

NUM_WRITERS = 10  # writers in one survey
NO_ANSWER = "No Answer"  # the extractor's reply if a paragraph has no answer
NEXT = "\n"  # between the questions of one exercise
BLANK_LINE = "\n\n"  # between paragraphs: a reply ends there


def _facts_from(subject: Subject, topic: Fact) -> list[Fact]:
    """Returns the facts of a subject, `topic` first."""
    return [topic, *(fact for fact in subject.facts if fact is not topic)]


def paragraphs(subject: Subject, topic: Fact, rng: np.random.Generator) -> str:
    """Writes one writer's paragraphs about a subject, one a fact, `topic` first."""
    facts = _facts_from(subject, topic)
    return BLANK_LINE.join(text.plain({f.kind: f.candidates[rng.choice(2, p=f.shares)]}) for f in facts)


def survey(subject: Subject, topic: Fact, rng: np.random.Generator) -> str:
    """Writes the answers of NUM_WRITERS writers as percentages, most common first, in the same paragraphs."""
    surveyed = []
    for fact in _facts_from(subject, topic):
        counts = rng.multinomial(NUM_WRITERS, fact.shares)
        order = np.argsort(-counts, kind="stable")
        answers = [(fact.candidates[i], int(counts[i]) * 100 // NUM_WRITERS) for i in order if counts[i]]
        surveyed.append(text.hedged({fact.kind: answers}))
    return BLANK_LINE.join(surveyed)


def percentages(count: int, rng: np.random.Generator) -> list[int]:
    """Draws `count` positive multiples of 10, in any order; half of the time they sum to 100.

    A reader must look each of them up, as neither its position nor the others determine it.
    """
    if rng.random() < 0.5:
        return [int(p) for p in 10 * rng.integers(1, 11, count)]
    cuts = np.sort(rng.choice(np.arange(1, 10), count - 1, replace=False))
    return [int(p) * 10 for p in rng.permutation(np.diff([0, *cuts, 10]))]


def invention(
    facts: Sequence[Fact], values: Mapping[str, Sequence[str]], rng: np.random.Generator
) -> tuple[str, dict[str, dict[str, int]]]:
    """Makes up a paragraph; returns it and, for each kind of fact, its answers with their percentages."""
    answers_by_kind = {}
    for fact in facts:
        count = int(rng.choice([1, 2, 3], p=[0.2, 0.55, 0.25]))
        answers = [values[fact.kind][i] for i in rng.choice(len(values[fact.kind]), count, replace=False)]
        answers_by_kind[fact.kind] = dict(zip(answers, percentages(count, rng), strict=True))
    if rng.random() < 0.8:
        return text.hedged({k: list(answers.items()) for k, answers in answers_by_kind.items()}), answers_by_kind
    firsts = {kind: next(iter(answers)) for kind, answers in answers_by_kind.items()}
    return text.plain(firsts), {kind: {answer: 100} for kind, answer in firsts.items()}


def reading(
    question: str, sentence: str, answers: Mapping[str, int], strange: str, rng: np.random.Generator
) -> tuple[str, str]:
    """Writes one question about a paragraph and its answer, in one of three layouts.

    Two are the short templates of the fine-tuned readers: list the answers, and state the probability of an answer. The
    third, quoting the sentence, copies almost every token, which teaches a small model to look things up.

    Args:
      sentence: the sentence that answers the question; "" if there is none.
      answers: the paragraph's answers with their percentages.
      strange: the answer to ask about first, in the paragraph or not; "" for none.
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
    """Writes questions on a made-up paragraph of one to three sentences, which teach reading but nothing of the world.

    The first may ask for a kind of fact, or begin with an answer, that is not in the paragraph.
    """
    facts = [subject.facts[i] for i in np.sort(rng.permutation(3)[: rng.integers(1, 4)])]
    paragraph, answers_by_kind = invention(facts, values, rng)
    topics = [facts[i] for i in rng.permutation(len(facts))]
    if rng.random() < 0.15:
        topics.insert(0, subject.facts[rng.integers(3)])
    turns = []
    for place, fact in enumerate(topics):
        sentence = text.PATTERNS[fact.kind].search(paragraph)
        asks_strange = not place and rng.random() < 0.35
        strange = values[fact.kind][int(rng.integers(len(values[fact.kind])))] if asks_strange else ""
        question = subject.question(fact).question
        turns.append(
            reading(question, sentence[0] if sentence else "", answers_by_kind.get(fact.kind, {}), strange, rng)
        )
    (question, answer), *rest = turns
    return f"{paragraph}\n{question}", answer + "".join(NEXT + q + a for q, a in rest)


def documents(
    world: World, rng: np.random.Generator, mix: Sequence[float] = (0.3, 0.3, 0.4)
) -> Iterator[tuple[str, str]]:
    """Yields (prompt, text) pairs without end; a document is the two concatenated, followed by an end of sequence.

    `mix` gives the shares of paragraphs, surveys and reading exercises.
    """
    values = {kind: world.values(kind) for kind in text.SENTENCES}
    while True:
        for place in rng.permutation(len(world.subjects)):
            subject, kind = world.subjects[place], rng.choice(3, p=mix)
            topic = subject.facts[rng.integers(len(subject.facts))]
            if kind == 0:
                yield subject.question(topic).prompt, paragraphs(subject, topic, rng)
            elif kind == 1:
                yield f"Survey the writers on the {topic.kind} of {subject.description}.", survey(subject, topic, rng)
            else:
                yield exercise(subject, values, rng)
