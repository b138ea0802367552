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
from collections.abc import Callable, Sequence
from typing import Literal

from lc_jax.llm.annotate import Annotation, AnnotationTask, AskTask
from lc_jax.llm.concurrency import gather
from lc_jax.prompts import claims, confidence, support
from lc_jax.prompts.claims import OBJECTIVE, Claim, Group
from lc_jax.prompts.confidence import Stated
from lc_jax.prompts.summarize import join_paragraphs
from lc_jax.types import ReplyStatus

NUM_BINS = 40  # of the calibration error, as published
RECALL_K = 32  # supported claims of a complete biography, for recall and F1 at K
LONG_ENOUGH = 10  # claims; biographies with fewer are penalised (FActScore's gamma)
_EXPECTED = [[Claim("a claim of about so many words", OBJECTIVE)] for _ in range(15)]


def tasks(judge_temperature: float = 0.0) -> dict[str, AnnotationTask]:
    """Returns the questions to annotators.

    They have their published names, so that a folder of wordings can replace them; of "support" no wording was
    published.
    """
    decomposition = AnnotationTask(claims.PROMPT, 0.2, 4096, lambda fields: _EXPECTED, "claims")
    return {
        "claims": decomposition,
        "plain_claims": decomposition,  # of methods without confidence, whose published wording is another
        "confidence": AnnotationTask(
            confidence.PROMPT,
            0.2,
            4096,
            lambda fields: [Stated(text, 0.5) for text in confidence.split_statements(fields["statements"])],
            "confidence",
        ),
        "support": AnnotationTask(support.PROMPT, judge_temperature, 100, lambda fields: True, "judge"),
    }


TASKS = tasks()

Find = Callable[[str, Sequence[str]], list[list[str]]]  # from an entity and claims to the passages for each claim
Status = ReplyStatus | Literal["unverifiable", "no_claims", "not_objective"]


@dataclasses.dataclass(frozen=True)
class Biography:
    """Text of a model about an entity."""

    entity: str
    prompt: str
    paragraph: str
    name: str = ""  # distinguishes several about one entity; "": the entity


@dataclasses.dataclass(frozen=True)
class Record:
    """Outcome of one claim, or of a group of alternatives; or of a whole biography, if `claims` is ().

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
    confidence: float  # in it, in [0, 1]; NaN unless status is "ok", so that the metrics reject it
    correct: bool | None  # whether it is supported; None unless status is "ok"
    status: Status  # anything but "ok" is counted, and left out of the metrics
    detail: str = ""  # why the status is not "ok"
    biography: str = ""  # its name, the entity or, of a second one about the same, "entity#2"


def whole(biography: Biography, status: Status, detail: str = "") -> Record:
    """Returns the record of a biography of which no claim can be judged."""
    b, name = biography, biography.name or biography.entity
    return Record(
        name, b.entity, b.prompt, b.prompt, "", b.paragraph, (), (), (), "", math.nan, None, status, detail, name
    )


async def evaluate_one(biography: Biography, find: Find, ask: AskTask, *, uses_confidence: bool) -> list[Record]:
    """Returns the records of a biography: one for each claim or group of alternatives, or one for the whole.

    Args:
      find: the passages that each claim about an entity is held against.
      ask: asks the annotation tasks of `tasks`.
      uses_confidence: False for methods that state no confidence: the first of alternatives counts, with confidence 1.
    """
    task = "claims" if uses_confidence else "plain_claims"
    reply = await ask(task, {"entity": biography.entity, "generated_paragraph": biography.paragraph})
    if reply.status != "ok":
        return [whole(biography, reply.status, reply.detail)]
    groups: Sequence[Group] = reply.value
    if not groups:
        return [whole(biography, "no_claims", "the biography makes no claim")]
    objective = [claim.text for group in groups for claim in group if claim.label == OBJECTIVE]
    confidences = Annotation("ok", [Stated(text, 1.0) for text in objective])
    if uses_confidence and objective:
        confidences = await ask("confidence", {"statements": confidence.join_statements(objective)})
    rest = iter(confidences.value or ())
    records = []
    for number, group in enumerate(groups, 1):
        own = list(itertools.islice(rest, sum(claim.label == OBJECTIVE for claim in group)))
        records.append(_choose(biography, number, group, own, confidences))
    chosen = [record for record in records if record.chosen]
    passages = find(biography.entity, [record.chosen for record in chosen]) if chosen else []
    verdicts = iter(await gather(*(
        ask("support", {"entity": record.entity, "passages": join_paragraphs(texts), "claim": record.chosen})
        for record, texts in zip(chosen, passages, strict=True)
    )))  # fmt: skip
    return [_with_verdict(record, next(verdicts)) if record.chosen else record for record in records]


def _choose(biography: Biography, number: int, group: Group, own: Sequence[Stated], confidences: Annotation) -> Record:
    """Returns the record of the most confident of a group's alternatives, before it is checked.

    Args:
      own: of the objective claims of the group.
      stated: of all objective claims; its status says why `own` is empty.
    """
    objective = [claim.text for claim in group if claim.label == OBJECTIVE]
    probs = tuple(item.confidence for item in own)
    best = probs.index(max(probs)) if probs else 0
    record = (
        whole(biography, confidences.status, confidences.detail) if objective else whole(biography, "not_objective")
    )
    return dataclasses.replace(
        record,
        question_id=f"{biography.name or biography.entity}/{number}",
        question=(objective or [group[0].text])[best],
        claims=group,
        answers=tuple(item.claim for item in own),
        probs=probs,
        chosen=own[best].claim if own else "",
        confidence=probs[best] if own else math.nan,
    )


def _with_verdict(record: Record, verdict: Annotation) -> Record:
    """Returns the record with the annotator's verdict on the claim that counts."""
    if verdict.status != "ok":
        return dataclasses.replace(record, confidence=math.nan, status=verdict.status, detail=verdict.detail)
    return dataclasses.replace(record, correct=verdict.value, answer="supported" if verdict.value else "not supported")


@dataclasses.dataclass(frozen=True)
class FActScore:
    """Figures by biography (Min et al. 2023). A biography is read where its claims could be taken apart."""

    num_biographies: int  # read
    respond_ratio: float  # share of those read that make an objective claim
    claims_per_biography: float  # objective ones, alternatives counted once, of those that make any
    factscore: float  # mean share of supported claims over biographies with a judged one; NaN without any
    factscore_penalized: float  # the same, less for biographies with fewer than LONG_ENOUGH judged claims
    num_repeated: int  # judged claims that repeat another of their biography; the numbers below count them once
    precision: float  # mean share of supported claims, as factscore but for repetitions
    recall_at_k: float  # mean of min(1, supported claims / RECALL_K); a biography without a judged claim has 0
    f1_at_k: float  # mean of the harmonic mean of precision and recall (Wei et al. 2024); likewise

    def sentence(self) -> str:
        """The figures in words, for a report."""
        return (
            f"{self.num_biographies} biographies, {self.respond_ratio:.1%} of which make claims, "
            f"{self.claims_per_biography:.1f} each on average; FActScore {self.factscore:.3f}, with the penalty for "
            f"short ones {self.factscore_penalized:.3f}; {self.num_repeated} repeated claims counted once: recall at "
            f"{RECALL_K} {self.recall_at_k:.3f}, F1 at {RECALL_K} {self.f1_at_k:.3f}"
        )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _claim_words(claim: str) -> str:
    """Returns a claim's words in lower case, without punctuation and articles; equal ones are one claim."""
    words = "".join(c if c.isalnum() else " " for c in claim.casefold()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def factscore(records: Sequence[Record]) -> FActScore:
    """The figures that FActScore reports and the published code leaves out."""
    by_biography: dict[str, list[Record]] = collections.defaultdict(list)
    for record in records:
        if record.claims or record.status == "no_claims":
            by_biography[record.biography or record.entity].append(record)
    counts, shares, penalized, num_repeated = [], [], [], 0
    precisions, recalls, f1s = [], [], []
    for records in by_biography.values():
        counts.append(sum(any(label == OBJECTIVE for _, label in record.claims) for record in records))
        scored = [record for record in records if record.status == "ok"]
        verdicts = [bool(record.correct) for record in scored]
        if verdicts:
            shares.append(sum(verdicts) / len(verdicts))
            penalized.append(shares[-1] * min(1.0, math.exp(1 - LONG_ENOUGH / len(verdicts))))
        distinct = {_claim_words(record.chosen): bool(record.correct) for record in reversed(scored)}
        num_repeated += len(verdicts) - len(distinct)
        supported = sum(distinct.values())
        precisions += [supported / len(distinct)] if distinct else []
        if distinct or all(record.status in ("no_claims", "not_objective") for record in records):
            recalls.append(min(1.0, supported / RECALL_K))
            share = precisions[-1] if distinct else 0.0
            f1s.append(2 * share * recalls[-1] / (share + recalls[-1]) if supported else 0.0)
    responses = [float(count) for count in counts if count]
    return FActScore(
        len(counts),
        len(responses) / len(counts) if counts else math.nan,
        _mean(responses),
        _mean(shares),
        _mean(penalized),
        num_repeated,
        _mean(precisions),
        _mean(recalls),
        _mean(f1s),
    )
