"""A model behind a vendor's SDK: what the providers anthropic and openai have in common."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

from lc_jax.llm import asking
from lc_jax.llm.asking import Ask, Fatal, Keep, Policy
from lc_jax.llm.capabilities import Capabilities
from lc_jax.llm.transport import send
from lc_jax.types import Reply, Request


class API(abc.ABC):
    """One model at one server. `client` is the SDK's; waits and further attempts are ours."""

    provider: str  # the first half of the annotator's name
    path: str  # of the endpoint that gives a reply
    keep: Keep | None = None  # is called with replies as they arrive; a store puts itself here

    def __init__(self, model: str, base_url: str | None, policy: Policy) -> None:
        self.model, self.base_url, self.policy = model, base_url, policy
        self.name = f"{self.provider}/{model}"
        self._able: Capabilities | None = None

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply]]:
        """Replies as they arrive; see lc_jax.llm.Annotator."""
        return asking.stream(self._connect, requests, self.policy, self.keep)

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[Ask]:
        async with self.open() as client:
            able = await self.able(client)

            async def ask(request: Request) -> Reply:
                try:
                    return self.read(await send(client, self.path, self.parameters(able, request)))
                except Exception as error:
                    return self.fault(client, error)

            yield ask

    async def able(self, client: Any) -> Capabilities:
        """What the model takes; found out once, which also says whether key and model are good.

        Raises:
          Fatal: they are not.
        """

        async def look_up() -> Capabilities:
            try:
                return await self.look_up(client)
            except Exception as error:
                raise Fatal(self.fault(client, error).detail) from None

        if self._able is None:
            self._able = await asking.persist(look_up, self.policy)
        return self._able

    @abc.abstractmethod
    def open(self) -> Any:
        """A client of the SDK.

        Raises:
          Fatal: there is no key, and the SDK says so here.
        """

    @abc.abstractmethod
    async def look_up(self, client: Any) -> Capabilities:
        """What the model takes; lets the SDK's errors through."""

    @abc.abstractmethod
    def parameters(self, able: Capabilities, request: Request) -> dict[str, Any]:
        """The body of a POST to `path`; holds nothing that the model does not take."""

    @staticmethod
    @abc.abstractmethod
    def read(answer: Mapping[str, Any], /) -> Reply:
        """The reply that the server's JSON holds."""

    @abc.abstractmethod
    def fault(self, client: Any, error: Exception) -> Reply:
        """The failed reply that an error of the SDK means.

        Raises:
          Transient, Fatal: it concerns more than one request.
          Exception: it is none of the SDK's.
        """
