"""Asks an API many things at a time: bounded concurrency, waits that the server asks for, back-off, a lazy stream.

Requests are drawn in the thread of the caller; a thread of its own runs the event loop. No more than twice
`concurrency` requests are between the two, so memory does not grow with their number. Replies are kept where they
arrive, all of one turn of the loop together, before their places are given to other requests: what a killed process
loses are the `concurrency` that were under way.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import email.utils
import itertools
import queue
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from absl import logging

from lc_jax.llm import AnnotatorError
from lc_jax.types import Reply, Request

Ask = Callable[[Request], Awaitable[Reply]]  # within a time that is its own; may raise Transient or Fatal
Connect = Callable[[], contextlib.AbstractAsyncContextManager[Ask]]  # opens a client on the event loop it will run on
Keep = Callable[[Sequence[tuple[Request, Reply]]], None]

Result = TypeVar("Result")

LOG_EVERY = 5.0  # seconds between log lines about requests that are sent again
BUSY = (429, 529)  # statuses that concern all requests of this account
BROKEN = (408, 409, 500, 502, 503, 504)
HOPELESS = (401, 402, 403, 404)  # no key, no money, no permission, no such model
_BROKE = ("insufficient_quota", "credit balance", "billing")  # words of a 400 or 429 that waiting does not mend


TIMEOUT_ATTEMPTS = 3  # of a request that gets no reply in time: each attempt costs the whole deadline


class Transient(Exception):
    """Worth another attempt."""

    def __init__(
        self,
        detail: str,
        *,
        retry_after: float | None = None,
        shared: bool = False,
        unreachable: bool = False,
        attempts: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.retry_after = retry_after  # seconds that the server asks to wait
        self.shared = shared  # whether everyone has to wait
        self.unreachable = unreachable  # whether no server speaks at the address
        self.attempts = attempts  # at most, where many are of no use; None = as many as the policy allows


class Fatal(Exception):
    """No request of this run will be answered."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """How hard to try."""

    concurrency: int = 64  # requests under way at a time
    attempts: int = 10  # per request
    first_wait: float = 1.0  # seconds; the longest first wait, which doubles with each attempt
    longest_wait: float = 60.0  # seconds of one back-off
    patience: float = 600.0  # seconds; a server that asks for a longer wait ends the run, which can go on later
    # Seconds that one reply may take. Replies come whole, not token by token, so this covers the wait in the server's
    # queue and all tokens: 4,608 of them, hidden reasoning included, at 16 a second.
    deadline: float = 300.0
    connect_patience: float = 8.0  # seconds; a server that cannot be reached for so long at the start ends the run

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1 or self.deadline <= 0:
            raise ValueError(f"An annotator needs concurrency >= 1, attempts >= 1, deadline > 0; got {self}.")


def seconds(headers: Mapping[str, str]) -> float | None:
    """The wait that a reply's headers ask for (retry-after-ms, or retry-after in seconds or as a date), if any."""
    if (milliseconds := headers.get("retry-after-ms")) is not None:
        with contextlib.suppress(ValueError):
            return max(0.0, float(milliseconds) / 1000)
    value = headers.get("retry-after")
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def refusal(status: int, headers: Mapping[str, str], detail: str) -> Reply:
    """What an HTTP error means: a failed reply where only this request is at fault (400, 413, 422 ...).

    Raises:
      Transient: another attempt may succeed.
      Fatal: none will.
    """
    if status in HOPELESS or (status in (400, 429) and any(word in detail.lower() for word in _BROKE)):
        raise Fatal(detail)
    if status in (*BUSY, *BROKEN) or status >= 500:
        raise Transient(detail, retry_after=seconds(headers), shared=status in BUSY)
    return Reply("failed", detail=detail)


def back_off(policy: Policy, attempt: int) -> float:
    """Seconds to wait after an attempt. Full jitter: clients that failed together do not come back together."""
    return random.uniform(0, min(policy.longest_wait, policy.first_wait * 2**attempt))


async def persist(
    work: Callable[[], Awaitable[Result]], policy: Policy, connect_patience: float = float("inf")
) -> Result:
    """What `work` returns, tried as often as the policy allows while it raises Transient. Each wait is logged.

    `work` bounds its own time.

    Args:
      connect_patience: seconds for which a server may be out of reach.

    Raises:
      Fatal: the last attempt failed as well.
    """
    most, attempt, started = policy.attempts, 0, time.monotonic()
    while True:
        unreachable, retry_after = False, 0.0
        try:
            return await work()
        except Transient as error:
            detail, unreachable, retry_after = str(error), error.unreachable, error.retry_after or 0.0
            most = min(most, error.attempts or most)
        wait = min(retry_after, policy.patience) + back_off(policy, attempt)
        attempt += 1
        too_late = unreachable and time.monotonic() - started + wait > connect_patience
        if attempt >= most or too_late:
            raise Fatal(f"{detail} ({attempt} attempts)")
        log_retry(detail, attempt, most, wait)
        await asyncio.sleep(wait)


def log_retry(detail: str, attempt: int, most: int, wait: float) -> None:
    """Logs that a request failed and will be sent again, `most` times in all."""
    logging.warning("%s; attempt %d of %d, the next in %.1f s", detail, attempt, most, wait)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """What a coroutine returns. It gets a thread of its own: a notebook's has an event loop already.

    Raises:
      AnnotatorError: it raised Fatal.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(asyncio.run, work).result()
        except Fatal as error:
            raise AnnotatorError(str(error)) from None


class _Session:
    """The event loop's side of one stream."""

    def __init__(self, connect: Connect, policy: Policy, keep: Keep | None) -> None:
        self.connect, self.policy, self.keep = connect, policy, keep
        self.inbox: collections.deque[tuple[int, Request]] = collections.deque()
        self.arrived: list[tuple[int, Request, Reply]] = []  # in this turn of the loop
        self.outbox: queue.SimpleQueue[tuple[int, Reply] | Exception] = queue.SimpleQueue()
        self.resume_at = 0.0  # on the loop's clock
        self.quiet_until = 0.0  # on the loop's clock: with many requests under way not every retry is logged
        self.fatal: Fatal | None = None
        self.loop = asyncio.new_event_loop()
        self.wake, self.main = asyncio.Event(), self.loop.create_task(self._serve())
        self.thread = threading.Thread(target=self._run, name="asking", daemon=True)
        self.thread.start()

    # --- called from the caller's thread ---

    def send(self, batch: list[tuple[int, Request]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended; why stands in the outbox
            self.loop.call_soon_threadsafe(self._receive, batch)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.main.cancel)
        self.thread.join()

    # --- run by the thread of the event loop ---

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self.main)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def _receive(self, batch: list[tuple[int, Request]]) -> None:
        self.inbox.extend(batch)
        self.wake.set()

    async def _serve(self) -> None:
        try:
            async with self.connect() as ask, asyncio.TaskGroup() as group:
                for _ in range(self.policy.concurrency):
                    group.create_task(self._work(ask))
        except ExceptionGroup as errors:
            self.outbox.put(errors.exceptions[0])
        except Exception as error:
            self.outbox.put(error)

    async def _work(self, ask: Ask) -> None:
        while True:
            while not self.inbox:
                self.wake.clear()
                await self.wake.wait()
            index, request = self.inbox.popleft()
            reply = await self._answer(ask, request)
            self.arrived.append((index, request, reply))
            if len(self.arrived) == 1:
                self.loop.call_soon(self._hand_over)
            await asyncio.sleep(0)  # until they are kept

    def _hand_over(self) -> None:
        arrived, self.arrived = self.arrived, []
        try:
            if self.keep is not None:
                self.keep([(request, reply) for _, request, reply in arrived])
        except Exception as error:  # no task waits for it here
            self.outbox.put(error)
            self.main.cancel()
            return
        for index, _, reply in arrived:
            self.outbox.put((index, reply))

    async def _answer(self, ask: Ask, request: Request) -> Reply:
        most, attempt = self.policy.attempts, 0
        while True:
            await self._turn()
            if self.fatal:
                return Reply("failed", detail=str(self.fatal))
            try:
                return await ask(request)
            except Transient as error:
                detail, wait = str(error), self._wait(error, attempt)
                most = min(most, error.attempts or most)
            except Fatal as error:
                self.fatal = error
                return Reply("failed", detail=str(error))
            attempt += 1
            if attempt >= most:
                return Reply("failed", detail=f"{attempt} attempts, the last: {detail}")
            self._report(detail, attempt, most, wait)
            await asyncio.sleep(wait)

    def _report(self, detail: str, attempt: int, most: int, wait: float) -> None:
        if self.loop.time() >= self.quiet_until and not self.fatal:
            log_retry(detail, attempt, most, wait)
            self.quiet_until = self.loop.time() + LOG_EVERY

    def _wait(self, error: Transient, attempt: int) -> float:
        wait = back_off(self.policy, attempt)
        if error.retry_after is not None:
            wait = error.retry_after + min(wait, 1.0)
            if error.retry_after > self.policy.patience:
                self.fatal = Fatal(f"the server asks to wait {error.retry_after:.0f} s: run again then ({error})")
        if error.shared:
            self.resume_at = max(self.resume_at, self.loop.time() + (error.retry_after or wait))
        return 0.0 if self.fatal else wait

    async def _turn(self) -> None:
        while (wait := self.resume_at - self.loop.time()) > 0 and not self.fatal:
            await asyncio.sleep(wait + random.uniform(0, min(wait, 1.0)))


def stream(
    connect: Connect, requests: Iterable[Request], policy: Policy, keep: Keep | None = None
) -> Iterator[tuple[int, Reply]]:
    """(index, reply) as replies arrive; `keep` is called with them when they arrive, in the thread of the event loop.

    After a Fatal no request is sent any more; replies to those under way are still given.

    Raises:
      AnnotatorError: a Fatal was raised, in `connect` or by a request.
    """
    numbered = enumerate(requests)
    most, under_way, batch = 2 * policy.concurrency, 0, list(itertools.islice(numbered, 2 * policy.concurrency))
    if not batch:
        return
    session = _Session(connect, policy, keep)
    try:
        while batch or under_way:
            if batch:
                session.send(batch)
                under_way += len(batch)
            item = session.outbox.get()
            if isinstance(item, Exception):
                raise AnnotatorError(str(item)) if isinstance(item, Fatal) else item
            under_way -= 1
            if item[1].status != "failed" or session.fatal is None:
                yield item
            room = most - under_way  # filled up a few at a time: each hand-over wakes the other thread
            full = session.fatal or room * 4 < policy.concurrency
            batch = [] if full else list(itertools.islice(numbered, room))
    finally:
        session.close()
    if session.fatal:
        raise AnnotatorError(str(session.fatal))
