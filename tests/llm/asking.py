"""Asks annotators without a task: requests, or rows of one prompt."""

from __future__ import annotations

from lc_jax import llm
from lc_jax.llm.annotate import AnnotationTask, AnnotationTasks
from lc_jax.llm.session import Session


class Scripted:
    """An annotator that answers from a function of the request and remembers its requests."""

    def __init__(self, answer, name="scripted/test", concurrency=64):
        self.answer, self.name, self.concurrency, self.requests = answer, name, concurrency, []

    async def ask(self, request):
        self.requests.append(request)
        return self.answer(request)

    async def close(self):
        pass


def session_of(annotator):
    """The annotator itself, if it is a session; else one without a store."""
    return annotator if isinstance(annotator, Session) else Session(annotator)


def ask(annotator, requests):
    """The replies, in order."""
    session = session_of(annotator)
    return session.map_all(session.ask, requests)


def annotate(annotator, prompt, rows, *, temperature=0.0, max_tokens=9, each=None):
    """The annotations, in order; `each` is called with one when it and those before it are there."""
    session = session_of(annotator)
    tasks = AnnotationTasks({"t": AnnotationTask(prompt, temperature, max_tokens, lambda fields: None)}, session)

    async def one(fields):
        return await tasks.ask("t", fields)

    async def work():
        results = []
        async for result in session.map(one, rows):
            (each or results.append)(result)
        return results

    return session.run(work())


def load(name, **options):
    return Session(llm.load(name, **options))
