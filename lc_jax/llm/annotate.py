"""Ask an annotator one prompt about many rows: render, ask, parse, ask again. Failures are counted, never scored."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lc_jax.llm import Annotator
from lc_jax.prompts import Invalid, Prompt, equivalence
from lc_jax.prompts.equivalence import Comparison
from lc_jax.types import Reply, ReplyStatus, Request


@dataclasses.dataclass(frozen=True)
class Annotation:
    """What came of one row."""

    status: ReplyStatus
    value: Any = None  # what the prompt's parser returned; None unless status is "ok"
    text: str = ""  # the last reply as written
    detail: str = ""  # why the status is not "ok"


def annotate(
    annotator: Annotator,
    prompt: Prompt,
    rows: Sequence[Mapping[str, str]],
    *,
    temperature: float,
    max_tokens: int,
    retries: int = 2,
) -> list[Annotation]:
    """One Annotation per row, in order.

    Args:
      rows: the prompt's fields, by name.
      temperature: 0 = greedy.
      retries: how often a reply that cannot be parsed is asked for again, each time as another sample.

    Raises:
      RuntimeError: the annotator returned too few or too many replies.
    """
    done: list[Annotation] = [Annotation("failed")] * len(rows)
    pending = list(range(len(rows)))
    for sample in range(retries + 1):
        if not pending:
            break
        requests = [Request(prompt.render(**rows[i]), temperature, max_tokens, sample) for i in pending]
        replies = annotator.complete(requests)
        if len(replies) != len(requests):
            raise RuntimeError(f"{annotator.name} gave {len(replies)} replies to {len(requests)} requests.")
        for i, reply in zip(pending, replies, strict=True):
            done[i] = _read(prompt, rows[i], reply)
        pending = [i for i in pending if done[i].status == "invalid"]
    return done


def _read(prompt: Prompt, fields: Mapping[str, str], reply: Reply) -> Annotation:
    if reply.status != "ok":
        return Annotation(reply.status, None, reply.text, reply.detail)
    try:
        return Annotation("ok", prompt.parse(reply.text, fields), reply.text)
    except Invalid as error:
        return Annotation("invalid", None, reply.text, str(error))


def judge(
    annotator: Annotator,
    comparisons: Sequence[Comparison],
    *,
    temperature: float = 0.0,
    max_tokens: int = 200,
    retries: int = 2,
) -> list[Annotation]:
    """Whether each candidate means the same as the true answer: one Annotation with a bool per comparison.

    Ten comparisons go into a request. A batch whose reply is of no use is asked again one comparison at a time.
    """
    settings: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens, "retries": retries}
    batches = [comparisons[i : i + equivalence.BATCH] for i in range(0, len(comparisons), equivalence.BATCH)]
    rows = [{"comparisons": equivalence.join_comparisons(batch)} for batch in batches]
    verdicts: list[Annotation | None] = []
    for batch, whole in zip(batches, annotate(annotator, equivalence.PROMPT, rows, **settings), strict=True):
        if whole.status == "ok":
            verdicts += [dataclasses.replace(whole, value=value) for value in whole.value]
        elif len(batch) == 1 or whole.status == "failed":
            verdicts += [whole] * len(batch)
        else:
            verdicts += [None] * len(batch)
    again = [i for i, verdict in enumerate(verdicts) if verdict is None]
    rows = [{"comparisons": equivalence.join_comparisons([comparisons[i]])} for i in again]
    for i, single in zip(again, annotate(annotator, equivalence.PROMPT, rows, **settings), strict=True):
        verdicts[i] = dataclasses.replace(single, value=single.value[0]) if single.status == "ok" else single
    return [verdict for verdict in verdicts if verdict is not None]


def counts(annotations: Sequence[Annotation]) -> dict[str, int]:
    """How many annotations ended with which status, for the report of a run."""
    return dict(collections.Counter(annotation.status for annotation in annotations))
