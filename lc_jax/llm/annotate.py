"""Requests of tasks to annotators: render a prompt, ask, parse, ask again. Failures are counted, never scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from lc_jax import prompts
from lc_jax.llm import cost
from lc_jax.llm.session import Session
from lc_jax.llm.store import key
from lc_jax.prompts import Invalid, Prompt, Truncated, published, retry
from lc_jax.provenance import fingerprint
from lc_jax.types import Reply, ReplyStatus, Request

RETRIES = 2  # of a reply that cannot be parsed: it is asked for again, as another sample and with its error
REASONING = 512  # tokens of a reply that may reason first

Fields = Mapping[str, str]  # of a prompt


@dataclasses.dataclass(frozen=True)
class Annotation:
    """The outcome of one annotation task for one row."""

    status: ReplyStatus
    value: Any = None  # what the prompt's parser returned; None unless status is "ok"
    text: str = ""  # the last reply as written
    detail: str = ""  # why the status is not "ok"


AskTask = Callable[[str, Fields], Awaitable[Annotation]]  # AnnotationTasks.ask: (task, fields of its prompt)


@dataclasses.dataclass(frozen=True)
class AnnotationTask:
    """One question to an annotator."""

    prompt: prompts.Prompt
    temperature: float
    max_tokens: int  # of a reply
    expected: Callable[[Fields], Any]  # from a request's fields to a value, for the estimate of what follows
    role: str = ""  # what its annotator does; a config may name another annotator for each role


class AnnotationTasks:
    """The questions that one run asks, each of the annotator of its role."""

    def __init__(
        self,
        tasks: Mapping[str, AnnotationTask],
        session: Session,
        prompt_dir: str = "",
        *,
        dry_run: bool = False,
        sessions: Mapping[str, Session] | None = None,
    ) -> None:
        """Args:
        prompt_dir: a folder of wordings in place of ours; see prompts.published.
        dry_run: send nothing: estimate, and continue with stored or expected values.
        sessions: by role; `session` does all others.
        """
        self.tasks, self.session, self.dry_run = tasks, session, dry_run
        self.sessions = sessions or {}
        self.prompts = {name: published.override(prompt_dir, name, task.prompt) for name, task in tasks.items()}
        self._costs: dict[str, cost.TaskCost] = {}

    def session_of(self, task: str) -> Session:
        """Returns the session with the annotator of a task."""
        return self.sessions.get(self.tasks[task].role, self.session)

    def annotators(self) -> str:
        """Returns the annotators of all roles: one name, or "extract, forecast: A; judge: B" where they differ."""
        roles: dict[str, dict[str, None]] = {}
        for name, task in self.tasks.items():
            roles.setdefault(self.session_of(name).name, {})[task.role] = None
        if len(roles) == 1:
            return next(iter(roles))
        return "; ".join(f"{', '.join(names)}: {annotator}" for annotator, names in roles.items())

    def prompt_hashes(self) -> dict[str, str]:
        """Returns a short fingerprint of every task's wording; equal ones make results comparable."""
        return {name: fingerprint(prompt.template)[:8] for name, prompt in self.prompts.items()}

    async def ask(self, task: str, fields: Fields) -> Annotation:
        """Returns the annotation of one row.

        Raises:
          AnnotatorError: no request can be answered, or the budget is spent.
        """
        settings, prompt, session = self.tasks[task], self.prompts[task], self.session_of(task)
        max_tokens = settings.max_tokens if prompt is settings.prompt else max(settings.max_tokens, REASONING)
        text = prompt.render(**fields)
        request = Request(text, settings.temperature, max_tokens, schema=prompt.schema)
        task_cost = self._costs.setdefault(task, cost.TaskCost(session.name, session.store, session.price))
        task_cost.add(request)
        if self.dry_run:
            return self._expected(task, request, fields)
        while True:
            reply = await session.ask(request)
            task_cost.dollars += session.dollars(reply.usage)
            annotation = read_reply(prompt, fields, reply)
            if annotation.status != "invalid" or request.sample >= RETRIES:
                return annotation
            again = retry.PROMPT.render(request=text, error=annotation.detail)
            request = dataclasses.replace(request, prompt=again, sample=request.sample + 1)

    def _expected(self, task: str, request: Request, fields: Fields) -> Annotation:
        """Returns the stored annotation, or the expected one."""
        session = self.session_of(task)
        reply = session.store.get(key(session.name, request)) if session.store else None
        annotation = read_reply(self.prompts[task], fields, reply) if reply else None
        if annotation and annotation.status == "ok":
            return annotation
        return Annotation("ok", self.tasks[task].expected(fields))

    def costs(self) -> cost.Costs:
        """Returns the estimate of each task and, but for a dry run, the dollars that it cost."""
        return [
            (name, task_cost.estimate(), None if self.dry_run else task_cost.dollars)
            for name, task_cost in self._costs.items()
        ]


def read_reply(prompt: Prompt, fields: Fields, reply: Reply) -> Annotation:
    """Returns what a prompt's parser makes of one reply."""
    if reply.status != "ok":
        return Annotation(reply.status, None, reply.text, reply.detail)
    try:
        return Annotation("ok", prompt.parse(reply.text, fields), reply.text)
    except Truncated as error:
        return Annotation("truncated", None, reply.text, str(error))
    except Invalid as error:
        return Annotation("invalid", None, reply.text, str(error))
