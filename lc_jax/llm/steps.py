"""A task's questions to an annotator: estimated and asked, or rehearsed without paying (paper sections 4 and 6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from lc_jax import prompts
from lc_jax.llm import cost
from lc_jax.llm.annotate import Annotation, annotate
from lc_jax.llm.session import Session
from lc_jax.llm.store import key
from lc_jax.prompts import published
from lc_jax.provenance import fingerprint
from lc_jax.types import Request

REASONING = 512  # tokens of a reply that may reason first

Fields = Mapping[str, str]  # of a prompt
Ask = Callable[[str, Sequence[Fields]], Iterator[Annotation]]  # what Steps.ask does: (step, fields) -> annotations


@dataclasses.dataclass(frozen=True)
class Step:
    """One question to the annotator."""

    prompt: prompts.Prompt
    temperature: float
    max_tokens: int  # of a reply
    expected: Callable[[Fields], Any]  # from a request's fields to a value, for the estimate of what follows
    role: str = ""  # what its annotator does; a task may name another annotator for each role


@dataclasses.dataclass
class Steps:
    """Asks the steps of a task."""

    steps: Mapping[str, Step]
    session: Session
    prompt_dir: str = ""  # a folder of wordings in place of ours; see prompts.published
    dry_run: bool = False  # ask nothing: estimate, and go on with what is stored or expected
    sessions: Mapping[str, Session] = dataclasses.field(default_factory=dict)  # by role; `session` does all others
    costs: list[tuple[str, cost.Estimate, cost.Meter | None]] = dataclasses.field(default_factory=list)  # by step

    def prompt(self, step: str) -> prompts.Prompt:
        """Ours, or the wording of `prompt_dir`."""
        return published.override(self.prompt_dir, step, self.steps[step].prompt)

    def session_of(self, step: str) -> Session:
        """The annotator that a step asks."""
        return self.sessions.get(self.steps[step].role, self.session)

    def annotators(self) -> str:
        """The annotators of all roles: one name, or "extract, forecast: A; judge: B" where they differ."""
        roles: dict[str, dict[str, None]] = {}
        for step, form in self.steps.items():
            roles.setdefault(self.session_of(step).name, {})[form.role] = None
        if len(roles) == 1:
            return next(iter(roles))
        return "; ".join(f"{', '.join(names)}: {annotator}" for annotator, names in roles.items())

    def wordings(self) -> dict[str, str]:
        """A short fingerprint of the wording of every step, for whoever compares results."""
        return {step: fingerprint(self.prompt(step).template)[:8] for step in self.steps}

    def ask(self, step: str, rows: Sequence[Fields]) -> Iterator[Annotation]:
        """What the annotator made of each row's fields, in order.

        Raises:
          AnnotatorError: no request can be answered, or the budget is spent.
        """
        form, prompt = self.steps[step], self.prompt(step)
        most = form.max_tokens if prompt is form.prompt else max(form.max_tokens, REASONING)
        requests = (Request(prompt.render(**row), form.temperature, most, schema=prompt.schema) for row in rows)
        if self.dry_run:
            yield from self._rehearse(step, list(requests), rows)
            return
        session = self.session_of(step)
        guess, before = session.estimate(requests), session.meter.dollars
        logging.info("%s\n%s", step, cost.render([(step, guess, None)]))
        yield from annotate(session, prompt, rows, temperature=form.temperature, max_tokens=most)
        real = cost.Meter()
        real.dollars = session.meter.dollars - before
        self.costs.append((step, guess, real))

    def _rehearse(self, step: str, requests: list[Request], rows: Sequence[Fields]) -> Iterator[Annotation]:
        """Estimates `requests` and sends none: what is not stored is taken to be as expected."""
        session = self.session_of(step)
        self.costs.append((step, session.estimate(requests), None))
        store, prompt = session.store, self.prompt(step)
        for request, fields in zip(requests, rows, strict=True):
            stored = store.get(key(session.name, request)) if store else None
            try:
                value = prompt.parse(stored.text, fields) if stored else self.steps[step].expected(fields)
            except prompts.Invalid:
                value = self.steps[step].expected(fields)
            yield Annotation("ok", value)
