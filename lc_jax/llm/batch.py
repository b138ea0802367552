"""A vendor's batch endpoint as an annotator: half the price, within a day, and no job is ever paid for twice.

A job stands in the store before it is submitted, and gets its id there afterwards. Whoever finds a job of a dead
process takes it over: with its id it is collected, without one it is looked for at the vendor, by its name or by the
custom ids of its requests, which are their keys in the store.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from absl import logging

from lc_jax.llm import asking
from lc_jax.llm.asking import Policy, Transient
from lc_jax.llm.capabilities import Capabilities
from lc_jax.llm.store import Job, Store, key
from lc_jax.types import Reply, Request

MAX_REQUESTS = 50_000  # of one job
MAX_LENGTH = 50_000_000  # characters of their prompts
ROUNDS = 3  # how often an expired request is submitted
POLL = 60.0  # seconds between looks at a job


class Endpoint(Protocol):
    """A provider that has batch jobs. `client` is the SDK's."""

    name: str
    policy: Policy

    def open(self) -> AbstractAsyncContextManager[Any]: ...
    def within(self, client: Any, seconds: float) -> AbstractAsyncContextManager[None]: ...
    async def able(self, client: Any) -> Capabilities: ...
    def fault(self, client: Any, error: Exception) -> Reply: ...

    async def submit(self, client: Any, job: str, requests: Mapping[str, Request], able: Capabilities) -> str:
        """Starts a job and returns its id."""
        ...

    async def candidates(self, client: Any, job: str, size: int, since: float) -> list[str]:
        """Ids of jobs that may be the one submitted under this name, with so many requests, after that time."""
        ...

    async def ended(self, client: Any, job_id: str) -> bool:
        """Whether the vendor has finished a job, well or badly."""
        ...

    async def results(self, client: Any, job_id: str) -> dict[str, Reply | None]:
        """By custom id: the reply; None for what expired, was cancelled or failed through no fault of its own."""
        ...

    async def cancel(self, client: Any, job_id: str) -> None: ...


class Batched:
    """An annotator that collects requests into jobs. Stands inside a Stored with the same store."""

    def __init__(self, endpoint: Endpoint, store: Store, poll: float = POLL) -> None:
        self.endpoint, self.store, self.poll, self.name = endpoint, store, poll, endpoint.name

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply]]:
        """Replies job by job; see lc_jax.llm.Annotator. Reads as many requests at a time as one job takes.

        Raises:
          AnnotatorError: key or model are bad, or the model has no batch endpoint.
        """
        numbered = enumerate(requests)
        while wanted := self._chunk(numbered):
            places = {hashed: index for hashed, (index, _) in wanted.items()}
            for hashed, reply in self._answer({hashed: request for hashed, (_, request) in wanted.items()}):
                yield places[hashed], reply

    def _chunk(self, numbered: Iterator[tuple[int, Request]]) -> dict[str, tuple[int, Request]]:
        """By key: requests of one job."""
        chunk: dict[str, tuple[int, Request]] = {}
        length = 0
        for index, request in numbered:
            chunk[key(self.name, request)] = (index, request)
            length += len(request.prompt)
            if len(chunk) >= MAX_REQUESTS or length >= MAX_LENGTH:
                break
        return chunk

    def _answer(self, wanted: Mapping[str, Request]) -> Iterator[tuple[str, Reply]]:
        """Takes over what the dead left, submits what is then missing, and again what expired."""
        left = dict(wanted)
        for job in self.store.orphans(self.name):
            yield from self._collect(job, left)
        for _ in range(ROUNDS):
            if not left:
                return
            job = Job(f"lc-jax-{uuid.uuid4().hex}", self.name, dict(left), "", time.time())
            self.store.save_job(job)
            yield from self._collect(self._submit(job), left)
        yield from ((hashed, Reply("failed", detail=f"expired in {ROUNDS} batch jobs")) for hashed in left)

    def _submit(self, job: Job) -> Job:
        """The job with its id. A connection that broke leaves open whether it was started: the vendor's list tells."""

        async def submit(client: Any) -> str:
            able = await self.endpoint.able(client)
            if not able.batch:
                raise asking.Fatal(f"{self.name} has no batch endpoint: ask without batch.")
            return await self.endpoint.submit(client, job.name, job.requests, able)

        for attempt in range(self.endpoint.policy.attempts):
            try:
                job_id = self._call(submit, once=True)
                break
            except Transient as error:
                logging.warning("Submitting a batch job: %s", error)
                time.sleep(asking.back_off(self.endpoint.policy, attempt))
                job_id = self._find(job)[0]
                if job_id:
                    break
            except asking.AnnotatorError:
                self.store.forget_job(job.name)  # refused: nothing was started
                raise
        else:
            self.store.forget_job(job.name)
            raise asking.AnnotatorError(f"No batch job could be submitted to {self.name}: run again later.")
        submitted = dataclasses.replace(job, id=job_id)
        self.store.save_job(submitted)
        logging.info("%d requests to %s are batch job %s", len(job.requests), self.name, job_id)
        return submitted

    def _collect(self, job: Job, left: dict[str, Request]) -> Iterator[tuple[str, Reply]]:
        """Waits for a job. All its replies are stored before it is forgotten; those in `left` are given and struck."""
        try:
            job_id, results = (job.id, None) if job.id else self._find(job)
            if results is None:
                results = self._await(job_id) if job_id else {}
            for hashed, reply in results.items():
                if reply is not None and hashed in job.requests:
                    self.store.put(self.name, {hashed: (job.requests[hashed], reply)})
        except BaseException:
            self.store.save_job(job, owner="")  # whoever comes next takes it over
            raise
        self.store.forget_job(job.name)
        for hashed, reply in results.items():
            if reply is not None and left.pop(hashed, None) is not None:
                yield hashed, reply

    def _find(self, job: Job) -> tuple[str, dict[str, Reply | None] | None]:
        """The id of a job that was perhaps submitted, "" if it was not. The custom ids of its results decide."""
        known = self.store.job_ids(self.name)
        size = len(job.requests)
        found = self._call(lambda client: self.endpoint.candidates(client, job.name, size, job.created))
        for job_id in found:
            if job_id in known:
                continue
            results = self._await(job_id)
            if set(results) <= set(job.requests):
                return job_id, results
        return "", None

    def _await(self, job_id: str) -> dict[str, Reply | None]:
        while not self._call(lambda client: self.endpoint.ended(client, job_id)):
            time.sleep(self.poll)
        return self._call(lambda client: self.endpoint.results(client, job_id))

    def cancel(self) -> list[str]:
        """Stops every job of this annotator that the store knows; their ids. Finished requests stay paid."""
        ids = self.store.job_ids(self.name)
        for job_id in ids:
            self._call(lambda client, job_id=job_id: self.endpoint.cancel(client, job_id))
        return sorted(ids)

    def _call(self, work: Any, once: bool = False) -> Any:
        """Runs `work(client)`; further attempts only where they cannot start a second job."""

        async def call() -> Any:
            async with self.endpoint.open() as client:

                async def attempt() -> Any:
                    try:
                        async with self.endpoint.within(client, self.endpoint.policy.deadline):
                            return await work(client)
                    except (Transient, asking.Fatal):
                        raise
                    except Exception as error:
                        raise asking.Fatal(self.endpoint.fault(client, error).detail) from None

                return await (attempt() if once else asking.persist(attempt, self.endpoint.policy))

        return asking.run(call())
