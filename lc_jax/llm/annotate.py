"""Asks an annotator one prompt about many rows: render, ask, parse, ask again. Failures are counted, never scored."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lc_jax.llm import Annotator
from lc_jax.llm.progress import Progress
from lc_jax.prompts import Invalid, Prompt, Truncated, equivalence, retry
from lc_jax.prompts.equivalence import Comparison
from lc_jax.types import Reply, ReplyStatus, Request


@dataclasses.dataclass(frozen=True)
class Annotation:
    """What came of one row."""

    status: ReplyStatus
    value: Any = None  # what the prompt's parser returned; None unless status is "ok"
    text: str = ""  # the last reply as written
    detail: str = ""  # why the status is not "ok"


class _Row(NamedTuple):
    number: int  # of the caller's row
    fields: Mapping[str, str]
    request: Request


class _Asking:
    """The rows of one call: which wait to be asked for the first time or again, and which replies are awaited."""

    def __init__(self, prompt: Prompt, rows: Iterable[Mapping[str, str]], retries: int, **settings: Any) -> None:
        self.prompt, self.retries, self.settings = prompt, retries, settings
        self.fresh = enumerate(rows)
        self.waiting: collections.deque[_Row] = collections.deque()
        self.awaited: dict[int, _Row] = {}  # by the index that the annotator knows
        self.refill()

    def refill(self) -> None:
        """Looks one row ahead, so that it is known whether there is another request."""
        if not self.waiting and (row := next(self.fresh, None)) is not None:
            text = self.prompt.render(**row[1])
            self.waiting.append(_Row(*row, Request(text, schema=self.prompt.schema, **self.settings)))

    def requests(self) -> Iterator[Request]:
        """What is still to be asked. Rows that are to be asked again come before new ones."""
        for index in itertools.count():
            if not self.waiting:
                return
            self.awaited[index] = row = self.waiting.popleft()
            self.refill()
            yield row.request

    def answer(self, index: int, reply: Reply) -> tuple[int, Annotation] | None:
        """The row's number and its annotation; None if it will be asked again."""
        row = self.awaited.pop(index)
        annotation = read_reply(self.prompt, row.fields, reply)
        if annotation.status != "invalid" or row.request.sample >= self.retries:
            return row.number, annotation
        text = retry.PROMPT.render(request=self.prompt.render(**row.fields), error=annotation.detail)
        again = dataclasses.replace(row.request, prompt=text, sample=row.request.sample + 1)
        self.waiting.appendleft(row._replace(request=again))
        return None


def first_requests(
    prompt: Prompt, rows: Iterable[Mapping[str, str]], *, temperature: float, max_tokens: int
) -> Iterator[Request]:
    """The request that `annotate` sends first for each row: what an estimate of its cost is made from."""
    return (Request(prompt.render(**row), temperature, max_tokens, schema=prompt.schema) for row in rows)


def annotate(
    annotator: Annotator,
    prompt: Prompt,
    rows: Iterable[Mapping[str, str]],
    *,
    temperature: float,
    max_tokens: int,
    retries: int = 2,
) -> Iterator[Annotation]:
    """One Annotation per row, in order, each as soon as it and those before it are there.

    Args:
      rows: the prompt's fields, by name; read lazily.
      temperature: 0 = greedy.
      retries: how often a reply that cannot be parsed is asked for again, as another sample and with the error shown.

    Raises:
      AnnotatorError: no request can be answered, or the budget is spent.
      RuntimeError: the annotator returned too few or too many replies.
    """
    asking = _Asking(prompt, rows, retries, temperature=temperature, max_tokens=max_tokens)
    done: dict[int, Annotation] = {}
    due = 0
    with Progress(annotator, rows) as progress:
        while asking.waiting:
            for index, reply in annotator.complete(asking.requests()):
                if index not in asking.awaited:
                    raise RuntimeError(
                        f"{annotator.name} gave a reply to request {index}, which does not wait for one."
                    )
                answered = asking.answer(index, reply)
                progress.count(reply, answered is not None)
                if answered is not None:
                    done[answered[0]] = answered[1]
                while due in done:
                    yield done.pop(due)
                    due += 1
            if asking.awaited:
                raise RuntimeError(f"{annotator.name} left {len(asking.awaited)} requests without a reply.")


def read_reply(prompt: Prompt, fields: Mapping[str, str], reply: Reply) -> Annotation:
    """Returns what a prompt's parser makes of one reply."""
    if reply.status != "ok":
        return Annotation(reply.status, None, reply.text, reply.detail)
    try:
        return Annotation("ok", prompt.parse(reply.text, fields), reply.text)
    except Truncated as error:
        return Annotation("truncated", None, reply.text, str(error))
    except Invalid as error:
        return Annotation("invalid", None, reply.text, str(error))


def judge(
    ask: Callable[[Sequence[Mapping[str, str]]], Iterable[Annotation]], comparisons: Sequence[Comparison]
) -> list[Annotation]:
    """Whether each candidate means the same as the true answer: one Annotation with a bool per comparison.

    Ten comparisons go into a request. A batch whose reply is of no use is asked again one comparison at a time.

    Args:
      ask: annotates rows of the fields of equivalence.PROMPT.
    """
    batches = [comparisons[i : i + equivalence.BATCH] for i in range(0, len(comparisons), equivalence.BATCH)]
    rows = [{"comparisons": equivalence.join_comparisons(batch)} for batch in batches]
    verdicts: list[Annotation | None] = []
    for batch, whole in zip(batches, ask(rows), strict=True):
        if whole.status == "ok":
            verdicts += [dataclasses.replace(whole, value=value) for value in whole.value]
        elif len(batch) == 1 or whole.status == "failed":
            verdicts += [whole] * len(batch)
        else:
            verdicts += [None] * len(batch)
    again = [i for i, verdict in enumerate(verdicts) if verdict is None]
    if again:
        rows = [{"comparisons": equivalence.join_comparisons([comparisons[i]])} for i in again]
        for i, single in zip(again, ask(rows), strict=True):
            verdicts[i] = dataclasses.replace(single, value=single.value[0]) if single.status == "ok" else single
    return [verdict for verdict in verdicts if verdict is not None]


def counts(annotations: Sequence[Annotation]) -> dict[str, int]:
    """How many annotations ended with which status, for the report of a run."""
    return dict(collections.Counter(annotation.status for annotation in annotations))
