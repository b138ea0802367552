"""Order and concurrency: many items side by side with their results in order, and many requests in one batch."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from lc_jax.llm import AnnotatorError, Ask
from lc_jax.types import Reply, Request

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOKAHEAD = 8  # results per item under way that may wait for an earlier one; bounds the memory
IDLE_TURNS = 10  # turns of the event loop without a new request, after which every item waits for a reply


async def map_ordered(
    f: Callable[[Item], Coroutine[Any, Any, Result]], items: Iterable[Item], concurrency: int
) -> AsyncGenerator[Result]:
    """Yields f(item) for every item, in the order of `items`, with at most `concurrency` items under way.

    `items` is read lazily: no item is drawn before there is room for it.

    Raises:
      AnnotatorError: an item did; the others under way end first, so that no reply on its way is lost.
      Exception: of any other kind, an item did; the others under way are cancelled.
    """
    iterator, tasks = iter(items), collections.deque[asyncio.Task[Result]]()
    num_running, changed = 0, asyncio.Event()

    async def work(item: Item) -> Result:
        nonlocal num_running
        try:
            return await f(item)
        finally:
            num_running -= 1
            changed.set()

    try:
        while True:
            room = min(concurrency - num_running, LOOKAHEAD * concurrency - len(tasks))
            for item in itertools.islice(iterator, max(room, 0)):
                tasks.append(asyncio.create_task(work(item)))
                num_running += 1
            if not tasks:
                return
            if tasks[0].done():
                yield tasks.popleft().result()
            else:
                changed.clear()
                await changed.wait()
    except AnnotatorError:
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def gather(*work: Awaitable[Result]) -> list[Result]:
    """Returns the results of `work`, in order; an exception is raised only after all have ended."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]


def in_batches(answer: Callable[[Sequence[Request]], Awaitable[Sequence[Reply]]], size: int) -> Ask:
    """Returns an `ask` that collects concurrent requests, for what answers many at a time.

    A batch is answered when it has `size` requests, or when no item can make another one before it has a reply. Which
    requests are in a batch follows from the order of the items alone, not from the clock.

    Args:
      answer: from requests to their replies, in order.
    """
    waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
    worker: asyncio.Task[None] | None = None

    async def work() -> None:
        while waiting:
            num_waiting, num_idle = len(waiting), 0
            while num_idle < IDLE_TURNS and len(waiting) < size:
                await asyncio.sleep(0)
                num_waiting, num_idle = len(waiting), num_idle + 1 if len(waiting) == num_waiting else 0
            batch = [(request, future) for request, future in waiting[:size] if not future.done()]
            del waiting[:size]
            if not batch:  # a loop that was ended before had asked them
                continue
            try:
                replies: Sequence[Any] = await answer([request for request, _ in batch])
            except Exception as error:
                replies = [error] * len(batch)
            for (_, future), reply in zip(batch, replies, strict=True):
                if not future.done():
                    future.set_exception(reply) if isinstance(reply, Exception) else future.set_result(reply)

    async def ask(request: Request) -> Reply:
        nonlocal worker
        future = asyncio.get_running_loop().create_future()
        waiting.append((request, future))
        if worker is None or worker.done():
            worker = asyncio.create_task(work())
        return await future

    return ask


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Returns the result of `work`, run in a new event loop: of this thread, or of a new one where it has a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # a notebook's thread has a loop
        return pool.submit(asyncio.run, work).result()
