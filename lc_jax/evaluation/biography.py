"""Checks biographies claim by claim against what is known of their subjects (paper section 6, after FActScore).

take a biography apart into claims -> how confident is it of each objective one -> of alternatives only the most
confident one counts -> is that one supported by the passages of the subject's page?
Whatever could not be annotated keeps that status: it is counted, and is no score.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from lc_jax.llm.annotate import Annotation
from lc_jax.llm.steps import Ask, Fields, Step
from lc_jax.prompts import claims, confidence, support
from lc_jax.prompts.claims import OBJECTIVE, Claim, Group
from lc_jax.prompts.confidence import Stated
from lc_jax.prompts.summarize import join_paragraphs
from lc_jax.types import ReplyStatus

NUM_BINS = 40  # of the calibration error, as published
LONG_ENOUGH = 10  # claims; biographies with fewer are penalised (FActScore's gamma)
_EXPECTED = [[Claim("a claim of about so many words", OBJECTIVE)] for _ in range(15)]


def steps(judge_temperature: float = 0.0) -> dict[str, Step]:
    """Returns the questions to annotators.

    They stand under their published names, so that a folder of wordings can replace them; of "support" no wording was
    published.
    """
    decomposition = Step(claims.PROMPT, 0.2, 4096, lambda fields: _EXPECTED, "claims")
    return {
        "claims": decomposition,
        "plain_claims": decomposition,  # of methods without confidence, whose published wording is another
        "confidence": Step(
            confidence.PROMPT,
            0.2,
            4096,
            lambda fields: [Stated(text, 0.5) for text in confidence.split_statements(fields["statements"])],
            "confidence",
        ),
        "support": Step(support.PROMPT, judge_temperature, 100, lambda fields: True, "judge"),
    }


STEPS = steps()

Find = Callable[[str, Sequence[str]], list[list[str]]]  # from an entity and claims to the passages for each claim
Status = ReplyStatus | Literal["unverifiable", "no_claims", "not_objective"]


@dataclasses.dataclass(frozen=True)
class Biography:
    """What a model wrote about somebody."""

    entity: str
    prompt: str
    paragraph: str
    name: str = ""  # distinguishes several about one entity; "": the entity


@dataclasses.dataclass(frozen=True)
class Record:
    """What became of one claim, or of one group of alternatives; or of a whole biography, where `claims` is ().

    A claim's status is "not_objective" where no encyclopedia can decide it. A biography's is "unverifiable" where no
    page is about its subject, and "no_claims" where it makes none.
    """

    question_id: str  # the biography and the number of the claim in it
    entity: str
    prompt: str
    question: str  # the claim that counts, as the biography states it
    answer: str  # the verdict in words
    paragraph: str
    claims: Sequence[Claim]  # all alternatives
    answers: tuple[str, ...]  # the objective alternatives, without words of doubt
    probs: tuple[float, ...]  # how confident the biography is of each
    chosen: str  # the most confident one, which counts (the first of equals)
    confidence: float  # in it, in [0, 1]; NaN unless status is "ok", so that the metrics refuse it
    correct: bool  # it is supported
    status: Status  # anything but "ok" is counted, and left out of the metrics
    detail: str = ""  # why the status is not "ok"
    biography: str = ""  # its name, the entity or, of a second one about the same, "entity#2"


def whole(biography: Biography, status: Status, detail: str = "") -> Record:
    """The record of a biography of which no claim can be judged."""
    b, name = biography, biography.name or biography.entity
    return Record(
        name, b.entity, b.prompt, b.prompt, "", b.paragraph, (), (), (), "", math.nan, False, status, detail, name
    )


def _record(biography: Biography, number: int, group: Group, stated: Sequence[Stated] | Annotation) -> Record:
    """A group's record before it is checked; `stated`: of its objective claims, or why that is not known."""
    found = [] if isinstance(stated, Annotation) else stated
    objective = [claim.text for claim in group if claim.label == OBJECTIVE]
    probs = tuple(item.confidence for item in found)
    best = probs.index(max(probs)) if probs else 0
    status: Status = "ok" if objective else "not_objective"
    if objective and isinstance(stated, Annotation):
        status = stated.status
    return dataclasses.replace(
        whole(biography, status, stated.detail if isinstance(stated, Annotation) else ""),
        question_id=f"{biography.name or biography.entity}/{number}",
        question=(objective or [group[0].text])[best],
        claims=group,
        answers=tuple(item.claim for item in found),
        probs=probs,
        chosen=found[best].claim if found else "",
        confidence=probs[best] if found else math.nan,
    )


def _confidences(
    groups: Sequence[Sequence[Group]], ask: Ask, uses_confidence: bool
) -> list[list[Stated] | Annotation | None]:
    """For each biography what it says of its objective claims, one after the other; None where it makes none."""
    objective = [[c.text for group in found for c in group if c.label == OBJECTIVE] for found in groups]
    if not uses_confidence:
        return [[Stated(text, 1.0) for text in texts] or None for texts in objective]
    rows: list[Fields] = [{"statements": confidence.join_statements(texts)} for texts in objective if texts]
    replies = iter(list(ask("confidence", rows)))
    found: list[list[Stated] | Annotation | None] = []
    for texts in objective:
        reply = next(replies) if texts else None
        found.append(list(reply.value) if reply and reply.status == "ok" else reply)
    return found


def _split(biography: Biography, groups: Sequence[Group], stated: list[Stated] | Annotation | None) -> Iterator[Record]:
    """The records of one biography before they are checked."""
    if not groups:
        yield whole(biography, "no_claims", "the biography makes no claim")
    rest = iter(stated if isinstance(stated, list) else ())
    for number, group in enumerate(groups, 1):
        count = sum(claim.label == OBJECTIVE for claim in group)
        own = stated if isinstance(stated, Annotation) else list(itertools.islice(rest, count))
        yield _record(biography, number, group, own if count else [])


def _checked(record: Record, verdict: Annotation) -> Record:
    """The record with the annotator's verdict on the claim that counts."""
    if verdict.status != "ok":
        return dataclasses.replace(record, confidence=math.nan, status=verdict.status, detail=verdict.detail)
    return dataclasses.replace(record, correct=verdict.value, answer="supported" if verdict.value else "not supported")


def evaluate(biographies: Sequence[Biography], find: Find, ask: Ask, *, uses_confidence: bool) -> list[Record]:
    """Records of every biography, in order: one for each claim or group of alternatives, or one for the whole.

    Args:
      find: the passages that each claim about an entity is held against.
      ask: asks the steps of STEPS.
      uses_confidence: False for methods that state no confidence: the first of alternatives counts, with confidence 1.
    """
    rows: list[Fields] = [{"entity": b.entity, "generated_paragraph": b.paragraph} for b in biographies]
    found = list(ask("claims" if uses_confidence else "plain_claims", rows))
    stated = _confidences([reply.value or () for reply in found], ask, uses_confidence)
    records: list[Record] = []
    for biography, reply, own in zip(biographies, found, stated, strict=True):
        if reply.status == "ok":
            records += _split(biography, reply.value, own)
        else:
            records.append(whole(biography, reply.status, reply.detail))
    open_ones = [i for i, record in enumerate(records) if record.chosen]
    passages: list[list[str]] = []
    for entity, places in itertools.groupby(open_ones, lambda i: records[i].entity):
        passages += find(entity, [records[i].chosen for i in places])
    questions: list[Fields] = [
        {"entity": records[i].entity, "passages": join_paragraphs(texts), "claim": records[i].chosen}
        for i, texts in zip(open_ones, passages, strict=True)
    ]
    for i, verdict in zip(open_ones, ask("support", questions), strict=True):
        records[i] = _checked(records[i], verdict)
    return records


@dataclasses.dataclass(frozen=True)
class FActScore:
    """Figures by biography (Min et al. 2023). A biography is read where its claims could be taken apart."""

    num_biographies: int  # read
    respond_ratio: float  # share of those read that make an objective claim
    claims_per_biography: float  # objective ones, alternatives counted once, of those that make any
    factscore: float  # mean share of supported claims over biographies with a judged one; NaN without any
    factscore_penalized: float  # the same, less for biographies with fewer than LONG_ENOUGH judged claims

    def sentence(self) -> str:
        """The figures in words, for a report."""
        return (
            f"{self.num_biographies} biographies, {self.respond_ratio:.1%} of which make claims, "
            f"{self.claims_per_biography:.1f} each on average; FActScore {self.factscore:.3f}, with the penalty for "
            f"short ones {self.factscore_penalized:.3f}"
        )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def factscore(records: Sequence[Record]) -> FActScore:
    """The figures that FActScore reports and the published code leaves out."""
    by_biography: dict[str, list[Record]] = collections.defaultdict(list)
    for record in records:
        if record.claims or record.status == "no_claims":
            by_biography[record.biography or record.entity].append(record)
    counts, shares, penalized = [], [], []
    for found in by_biography.values():
        counts.append(sum(any(label == OBJECTIVE for _, label in record.claims) for record in found))
        verdicts = [record.correct for record in found if record.status == "ok"]
        if verdicts:
            shares.append(sum(verdicts) / len(verdicts))
            penalized.append(shares[-1] * min(1.0, math.exp(1 - LONG_ENOUGH / len(verdicts))))
    responses = [float(count) for count in counts if count]
    return FActScore(
        len(counts),
        len(responses) / len(counts) if counts else math.nan,
        _mean(responses),
        _mean(shares),
        _mean(penalized),
    )
