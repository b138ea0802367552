"""An `ask` whose replies are kept in a store, so that only what is missing is requested and paid for."""

from __future__ import annotations

import asyncio

from lc_jax.llm import Ask
from lc_jax.llm.store import Store, key
from lc_jax.types import Reply, Request

FIRST_POLL, LONGEST_POLL = 0.1, 3.0  # seconds between two looks at a request that another process has claimed


def cached(ask: Ask, name: str, store: Store) -> Ask:
    """Returns an `ask` that requests from `ask` only what the store lacks; a reply is stored before it is returned.

    Args:
      name: of the annotator, part of a reply's key.
    """
    under_way: dict[str, asyncio.Event] = {}  # by key: set when the reply is there, or the request has failed

    async def ask_cached(request: Request) -> Reply:
        hashed, poll = key(name, request), FIRST_POLL
        while True:
            if hashed in under_way:  # the same request of another item
                await under_way[hashed].wait()
            if (reply := store.get(hashed)) is not None:
                return reply
            if hashed in under_way:
                continue
            if store.claim(hashed) == "mine":
                break
            await asyncio.sleep(poll)
            poll = min(2 * poll, LONGEST_POLL)
        under_way[hashed] = asyncio.Event()
        try:
            reply = await ask(request)
            store.put(name, {hashed: (request, reply)})
        except BaseException:
            store.release([hashed])
            raise
        finally:
            under_way.pop(hashed).set()
        return reply

    return ask_cached
