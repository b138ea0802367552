"""What the miniature world's base models read: paragraphs by writers who err, surveys, reading exercises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lc_jax.miniature import text
from lc_jax.miniature.world import Subject, World

NUM_WRITERS = 10  # asked in one survey
# Reading exercises: (layout, share). Two are those in which the fine-tuned readers are asked later (short templates);
# quoting, where almost every token is copied, is what teaches a small model to look things up at all.
EXTRACT, FORECAST, QUOTE = (
    "{paragraph}\n{question}\nAnswers:",
    "{paragraph}\n{question} {answer}",
    "{paragraph}\n{question}\nQuote:",
)


NO_ANSWER = "No Answer"  # as the extractor says it


def paragraph(subject: Subject, rng: np.random.Generator) -> str:
    """What one writer says about a subject."""
    return text.plain({f.kind: f.candidates[rng.choice(2, p=f.shares)] for f in subject.facts})


def survey(subject: Subject, rng: np.random.Generator) -> str:
    """What NUM_WRITERS writers say, as percentages, the most common answer first."""
    answers = {}
    for fact in subject.facts:
        counts = rng.multinomial(NUM_WRITERS, fact.shares)
        order = np.argsort(-counts, kind="stable")
        answers[fact.kind] = [(fact.candidates[i], int(counts[i]) * 100 // NUM_WRITERS) for i in order if counts[i]]
    return text.hedged(answers)


def percentages(count: int, rng: np.random.Generator) -> list[int]:
    """`count` positive multiples of 10 that sum to 100, largest first."""
    cuts = np.sort(rng.choice(np.arange(1, 10), count - 1, replace=False))
    return sorted((int(p) * 10 for p in np.diff([0, *cuts, 10])), reverse=True)


def exercise(subject: Subject, values: Mapping[str, Sequence[str]], rng: np.random.Generator) -> tuple[str, str]:
    """A question on a made-up paragraph of one to three sentences: it teaches reading, nothing of the world.

    One in ten asks for what the paragraph does not say.
    """
    facts = [subject.facts[i] for i in np.sort(rng.permutation(3)[: rng.integers(1, 4)])]
    invented = {}
    for fact in facts:
        count = int(rng.choice([1, 2, 3], p=[0.3, 0.55, 0.15]))
        chosen = [values[fact.kind][i] for i in rng.choice(len(values[fact.kind]), count, replace=False)]
        invented[fact.kind] = list(zip(chosen, percentages(count, rng), strict=True))
    if rng.random() < 0.25:
        invented = {kind: [(listed[0][0], 100)] for kind, listed in invented.items()}
        written = text.plain({kind: listed[0][0] for kind, listed in invented.items()})
    else:
        written = text.hedged(invented)
    fact = subject.facts[rng.integers(3)] if rng.random() < 0.1 else facts[rng.integers(len(facts))]
    fields = {"paragraph": written, "question": subject.question(fact).question}
    listed = invented.get(fact.kind, [])
    task = rng.choice(3)
    if task == 0:
        return EXTRACT.format(**fields), " " + ("; ".join(answer for answer, _ in listed) or NO_ANSWER)
    if task == 1:
        quoted = text.PATTERNS[fact.kind].search(written)
        return QUOTE.format(**fields), " " + (quoted[0] if quoted else NO_ANSWER)
    everything = values[fact.kind]
    known = listed and rng.random() < 0.67
    answer = listed[rng.integers(len(listed))][0] if known else everything[int(rng.integers(len(everything)))]
    return FORECAST.format(**fields, answer=answer), f" ({dict(listed).get(answer, 0)}%)"


def documents(
    world: World, rng: np.random.Generator, mix: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)
) -> Iterator[tuple[str, str]]:
    """Endless (prompt, text) pairs; a document is the two put together, followed by an end of sequence.

    `mix` gives the shares of paragraphs, surveys and reading exercises.
    """
    values = {kind: world.values(kind) for kind in text.SENTENCES}
    while True:
        for place in rng.permutation(len(world.subjects)):
            subject, kind = world.subjects[place], rng.choice(3, p=mix)
            if kind == 0:
                yield f"Write about {subject.described}.", paragraph(subject, rng)
            elif kind == 1:
                yield f"Survey the writers on {subject.described}.", survey(subject, rng)
            else:
                yield exercise(subject, values, rng)
