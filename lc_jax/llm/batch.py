"""A provider's batch endpoint fills the store: half the price, within a day, and no job is ever paid for twice.

A job is in the store before it is submitted, and gets its id there afterwards. A process that finds the job of a dead
one takes it over: with its id it is collected, without one it is looked for at the provider, by its name or by the
custom ids of its requests, which are their keys in the store.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from absl import logging

from lc_jax.llm import AnnotatorError
from lc_jax.llm.api import Policy
from lc_jax.llm.capabilities import Capabilities
from lc_jax.llm.concurrency import in_batches
from lc_jax.llm.failures import Transient
from lc_jax.llm.store import Job, Store, key
from lc_jax.types import Reply, Request

Result = TypeVar("Result")

MAX_REQUESTS = 50_000  # of one job
MAX_LENGTH = 50_000_000  # characters of their prompts
ROUNDS = 3  # how often an expired request is submitted
POLL = 60.0  # seconds between two looks at a job


class Endpoint(Protocol):
    """A provider that has batch jobs. `client` is the SDK's."""

    name: str
    policy: Policy

    @property
    def able(self) -> Capabilities: ...

    async def call(self, work: Callable[[Any], Awaitable[Result]], *, once: bool = False) -> Result: ...
    async def close(self) -> None: ...

    async def submit(self, client: Any, job: str, requests: Mapping[str, Request], able: Capabilities) -> str:
        """Starts a job and returns its id."""
        ...

    async def candidates(self, client: Any, job: str, size: int, since: float) -> list[str]:
        """Returns ids of jobs that may be the one submitted under this name, with so many requests, after that time."""
        ...

    async def ended(self, client: Any, job_id: str) -> bool:
        """Returns whether the provider has finished a job, well or badly."""
        ...

    async def results(self, client: Any, job_id: str) -> dict[str, Reply | None]:
        """Returns replies by custom id; None for what expired, was cancelled or failed through no fault of its own."""
        ...

    async def cancel(self, client: Any, job_id: str) -> None: ...


class Batched:
    """An annotator whose concurrent requests become one job; `cached` with the same store wraps its `ask`."""

    concurrency = MAX_REQUESTS

    def __init__(self, endpoint: Endpoint, store: Store) -> None:
        self.endpoint, self.store, self.name = endpoint, store, endpoint.name
        self.ask = in_batches(self._answer, MAX_REQUESTS)

    async def _answer(self, requests: Sequence[Request]) -> list[Reply]:
        replies = await prefill(self.store, requests, self.endpoint)
        return [replies[key(self.name, request)] for request in requests]

    async def close(self) -> None:
        """Closes the connections."""
        await self.endpoint.close()


async def prefill(store: Store, requests: Sequence[Request], endpoint: Endpoint) -> dict[str, Reply]:
    """Puts the replies to `requests` into the store, by jobs of the provider; returns them, failed ones too, by key.

    Jobs of dead processes are taken over first.

    Raises:
      AnnotatorError: key or model are bad, or the model has no batch endpoint.
    """
    missing = {key(endpoint.name, request): request for request in requests}
    replies: dict[str, Reply] = {}
    for job in store.abandoned_jobs(endpoint.name):
        replies |= await _collect(store, endpoint, job)
    for _ in range(ROUNDS):
        missing = {hashed: request for hashed, request in missing.items() if hashed not in replies}
        for part in _parts(missing):
            job = Job(f"lc-jax-{uuid.uuid4().hex}", endpoint.name, part, "", time.time())
            store.save_job(job)
            replies |= await _collect(store, endpoint, await submit(store, endpoint, job))
    expired = Reply("failed", detail=f"expired in {ROUNDS} batch jobs")
    return dict.fromkeys(missing, expired) | replies


def _parts(requests: Mapping[str, Request]) -> list[dict[str, Request]]:
    """Returns `requests` in parts that a job takes."""
    parts: list[dict[str, Request]] = []
    length = 0
    for hashed, request in requests.items():
        if not parts or len(parts[-1]) >= MAX_REQUESTS or length >= MAX_LENGTH:
            parts.append({})
            length = 0
        parts[-1][hashed] = request
        length += len(request.prompt)
    return parts


async def submit(store: Store, endpoint: Endpoint, job: Job) -> Job:
    """Submits a saved job and returns it with its id.

    A connection that broke leaves open whether the job was started: the provider's list tells.
    """

    async def start(client: Any) -> str:
        if not endpoint.able.batch:
            raise AnnotatorError(f"{endpoint.name} has no batch endpoint: ask without batch.")
        return await endpoint.submit(client, job.name, job.requests, endpoint.able)

    job_id = ""
    for attempt in range(endpoint.policy.attempts):
        try:
            job_id = await endpoint.call(start, once=True)
        except Transient as error:
            logging.warning("Submitting a batch job: %s", error)
            await asyncio.sleep(endpoint.policy.back_off(attempt))
            job_id, _ = await _find(store, endpoint, job)
        except AnnotatorError:
            store.forget_job(job.name)  # refused: nothing was started
            raise
        if job_id:
            break
    else:
        store.forget_job(job.name)
        raise AnnotatorError(f"No batch job could be submitted to {endpoint.name}: run again later.")
    submitted = dataclasses.replace(job, id=job_id)
    store.save_job(submitted)
    logging.info("%d requests to %s are batch job %s", len(job.requests), endpoint.name, job_id)
    return submitted


async def _collect(store: Store, endpoint: Endpoint, job: Job) -> dict[str, Reply]:
    """Waits for a job and returns its replies by key, all of which are stored before the job is forgotten."""
    try:
        job_id, results = (job.id, None) if job.id else await _find(store, endpoint, job)
        if results is None:
            results = await _wait(endpoint, job_id) if job_id else {}
        replies = {hashed: reply for hashed, reply in results.items() if reply is not None and hashed in job.requests}
        store.put(endpoint.name, {hashed: (job.requests[hashed], reply) for hashed, reply in replies.items()})
    except BaseException:
        store.save_job(job, owner="")  # the next process takes it over
        raise
    store.forget_job(job.name)
    return replies


async def _find(store: Store, endpoint: Endpoint, job: Job) -> tuple[str, dict[str, Reply | None] | None]:
    """Returns the id of a job that was perhaps submitted, "" if it was not. The custom ids of its results decide."""
    earlier_ids, size = store.job_ids(endpoint.name), len(job.requests)
    for job_id in await endpoint.call(lambda client: endpoint.candidates(client, job.name, size, job.created)):
        if job_id in earlier_ids:
            continue
        results = await _wait(endpoint, job_id)
        if set(results) <= set(job.requests):
            return job_id, results
    return "", None


async def _wait(endpoint: Endpoint, job_id: str) -> dict[str, Reply | None]:
    """Returns the results of a job when it has ended."""
    while not await endpoint.call(lambda client: endpoint.ended(client, job_id)):
        await asyncio.sleep(POLL)
    return await endpoint.call(lambda client: endpoint.results(client, job_id))


async def cancel(store: Store, endpoint: Endpoint) -> list[str]:
    """Stops every job of the annotator that the store knows and returns their ids. Finished requests stay paid."""
    ids = sorted(store.job_ids(endpoint.name))
    for job_id in ids:
        await endpoint.call(functools.partial(endpoint.cancel, job_id=job_id))
    return ids
