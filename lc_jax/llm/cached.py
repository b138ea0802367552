"""An annotator whose replies are kept in a store, so that only what is missing is asked and paid for."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lc_jax.llm import Annotator
from lc_jax.llm.store import Store, key
from lc_jax.types import Reply, Request

POLL = 0.2  # seconds between looks at another process's claims
MAX_READY = 10_000  # stored replies that may wait while new ones are asked for; bounds the memory


class Stored:
    """An annotator that asks another only for what the store lacks."""

    def __init__(self, annotator: Annotator, store: Store) -> None:
        self.annotator, self.store, self.name = annotator, store, annotator.name

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply]]:
        """Replies as they arrive or are found; see lc_jax.llm.Annotator."""
        run = _Run(self.store, self.name, requests)
        try:
            while not run.done:
                yield from run.stored_replies()
                yield from run.new_replies(self.annotator)
                if run.elsewhere and not run.ready:
                    time.sleep(POLL)
        finally:
            run.give_up()


class _Run:
    """One call of `complete`."""

    def __init__(self, store: Store, name: str, requests: Iterable[Request]) -> None:
        self.store, self.name = store, name
        self.fresh = enumerate(requests)
        self.exhausted = False
        self.ready: collections.deque[tuple[int, str]] = collections.deque()  # (index, key) of stored replies
        self.elsewhere: collections.deque[tuple[int, str, Request]] = collections.deque()  # being asked by others
        self.next: tuple[int, str, Request] | None = None  # claimed, not yet sent
        self.sent: dict[int, tuple[str, int, Request]] = {}  # by the index of the inner annotator

    def give_up(self) -> None:
        """Releases what was claimed and not answered."""
        claimed = [key for key, _, _ in self.sent.values()] + ([self.next[1]] if self.next else [])
        self.store.release(claimed)

    @property
    def done(self) -> bool:
        return self.exhausted and not (self.ready or self.elsewhere or self.next)

    def _draw(self) -> bool:
        """Looks at one more request: found, taken by another process, or the next to be sent. False: none is left."""
        numbered = next(self.fresh, None)
        if numbered is None:
            self.exhausted = True
            return False
        self._place(numbered[0], key(self.name, numbered[1]), numbered[1])
        return True

    def _place(self, index: int, key: str, request: Request) -> None:
        state = "stored" if self.store.get(key) else self.store.claim(key)
        if state == "stored":
            self.ready.append((index, key))
        elif state == "elsewhere":
            self.elsewhere.append((index, key, request))
        else:
            self.next = (index, key, request)

    def _read(self) -> Iterator[tuple[int, Reply]]:
        while self.ready:
            index, key = self.ready.popleft()
            yield index, self.store.get(key) or Reply("failed", detail=f"{self.store.path} was pruned meanwhile")

    def stored_replies(self) -> Iterator[tuple[int, Reply]]:
        """Stored replies up to the first request that has to be sent; afterwards that one is `next`."""
        for _ in range(len(self.elsewhere)):
            if self.next is None:
                self._place(*self.elsewhere.popleft())
        while True:
            yield from self._read()
            if self.next is not None or len(self.elsewhere) >= MAX_READY or not self._draw():
                return

    def _requests(self) -> Iterator[Request]:
        """What has to be sent, for the inner annotator."""
        number = 0
        while len(self.ready) + len(self.elsewhere) < MAX_READY:
            if self.next is not None:
                index, key, request = self.next
                self.next, self.sent[number] = None, (key, index, request)
                number += 1
                yield request
            elif not self._draw():
                return

    def new_replies(self, annotator: Annotator) -> Iterator[tuple[int, Reply]]:
        """Sends `next` and what follows it; each reply is stored before it is given, by an API as it arrives."""
        if self.next is None:
            return
        stored_keys: set[str] = set()  # of replies that nobody has read yet

        def keep(arrived: Sequence[tuple[Request, Reply]]) -> None:
            replies = {key(self.name, request): (request, reply) for request, reply in arrived}
            self.store.put(self.name, replies)
            stored_keys.update(replies)

        provider: Any = annotator
        while hasattr(provider, "annotator"):  # what stands between: a meter
            provider = provider.annotator
        if hasattr(provider, "keep"):
            provider.keep = keep
        try:
            for number, reply in annotator.complete(self._requests()):
                hashed, index, request = self.sent.pop(number)
                if hashed in stored_keys:
                    stored_keys.remove(hashed)
                else:
                    self.store.put(self.name, {hashed: (request, reply)})
                yield index, reply
                yield from self._read()
        finally:
            if hasattr(provider, "keep"):
                provider.keep = None
