"""A model behind a vendor's SDK: what the providers anthropic and openai have in common."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

import httpx2

from lc_jax.llm import asking
from lc_jax.llm.addresses import FLAG, normalise, proxy_of, without_credentials
from lc_jax.llm.asking import Ask, Fatal, Keep, Policy, Transient
from lc_jax.llm.capabilities import Capabilities
from lc_jax.llm.replies import Malformed, one_line
from lc_jax.llm.transport import http_client, send
from lc_jax.types import Reply, Request, Usage

START_DEADLINE = 60.0  # seconds: a server has said by then which models it has, or written a probe's 16 tokens
MALFORMED_ATTEMPTS = 3  # a gateway's error page passes; another kind of server does not


class API(abc.ABC):
    """One model at one server. `client` is the SDK's; waits and further attempts are ours."""

    provider: str  # the first half of the annotator's name
    path: str  # of the endpoint that gives a reply
    endpoints: tuple[str, ...]  # endings of an address that are no part of its base
    root: str  # the path of a base address that has none
    variable: str  # of the environment, with the key
    keep: Keep | None = None  # is called with replies as they arrive; a store puts itself here

    def __init__(self, model: str, base_url: str | None, policy: Policy) -> None:
        self.model, self.policy = model, policy
        self.base_url = normalise(base_url, self.endpoints, self.root) if base_url else None
        self.name = f"{self.provider}/{model}"
        self._able: Capabilities | None = None

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply]]:
        """Replies as they arrive; see lc_jax.llm.Annotator."""
        return asking.stream(self._connect, requests, self.policy, self.keep)

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[Ask]:
        async with self.open() as client:
            await self.able(client)

            async def ask(request: Request) -> Reply:
                async with self.within(client, self.policy.deadline):
                    return await self._ask(client, request)

            yield ask

    @contextlib.asynccontextmanager
    async def within(self, client: Any, seconds: float) -> AsyncIterator[None]:
        """Ends what takes longer than `seconds`.

        Raises:
          Transient: it did; the message has the address.
        """
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            detail = f"{self.name} at {without_credentials(str(client.base_url))}: no reply within {seconds:g} s"
            raise Transient(detail, attempts=asking.TIMEOUT_ATTEMPTS) from None

    async def _ask(self, client: Any, request: Request) -> Reply:
        able = self._able
        assert able is not None
        reply: Reply | None = None
        try:
            answer = await send(client, self.path, self.parameters(able, request))
            reply = self.read(answer)
            correction = self.correct(able, request, answer) if reply.status == "truncated" else {}
        except Exception as error:
            correction = self.correct(able, request, error)
            if not correction:
                return self.fault(client, error)
        if correction:
            self._able = dataclasses.replace(self._able or able, **correction)
            paid = reply.usage if reply else Usage()
            reply = await self._ask(client, request)
            return dataclasses.replace(reply, usage=paid + reply.usage)
        assert reply is not None
        return reply

    async def able(self, client: Any) -> Capabilities:
        """What the model takes; found out once, which also says whether key and model are good.

        Raises:
          Fatal: they are not.
        """

        async def look_up() -> Capabilities:
            try:
                async with self.within(client, min(START_DEADLINE, self.policy.deadline)):
                    return await self.look_up(client)
            except Transient:
                raise
            except Exception as error:
                raise Fatal(self.fault(client, error).detail) from None

        if self._able is None:
            try:
                self._able = await asking.persist(look_up, self.policy, self.policy.connect_patience)
            except Fatal as error:
                raise Fatal(f"{error}{self._advice(client)}") from None
        return self._able

    def _advice(self, client: Any) -> str:
        """What to do about a server that refuses; "" where it is the vendor's own."""
        if not self.base_url:
            return ""
        return f" Is {without_credentials(str(client.base_url))} the right server? Another is named with {FLAG}=URL."

    def client(self, make: Any, **options: Any) -> Any:
        """Returns a client of the SDK that uses this project's transport.

        Raises:
          Fatal: the environment names a proxy that cannot be used.
        """
        address = self.base_url or os.environ.get(f"{self.provider.upper()}_BASE_URL", "")
        try:
            transport = http_client(self.policy.deadline, address)
        except (ImportError, ValueError) as error:
            raise Fatal(
                f"{self.name}: the proxy of HTTPS_PROXY or ALL_PROXY cannot be used: {one_line(error)}"
            ) from None
        return make(max_retries=0, http_client=transport, **options)

    def failure(self, client: Any, error: Exception) -> Transient | None:
        """Returns what a failed connection or a malformed reply means; None for any other error."""
        address = without_credentials(str(client.base_url))
        cause = error.__cause__ or error
        if isinstance(error, (ValueError, LookupError, AttributeError, TypeError)):  # the SDKs' own readers, too
            words = str(error) if isinstance(error, Malformed) else f"what came is no reply: {one_line(error)}"
            return Transient(f"{self.name} at {address}: {words}", attempts=MALFORMED_ATTEMPTS)
        if isinstance(cause, httpx2.TimeoutException) and not isinstance(cause, httpx2.ConnectTimeout):
            return Transient(f"{self.name} at {address}: no reply in time", attempts=asking.TIMEOUT_ATTEMPTS)
        if not isinstance(cause, httpx2.TransportError):
            return None
        proxy = proxy_of(address)
        through = f" through the proxy {without_credentials(proxy)}" if proxy else ""
        words = one_line(cause) or type(cause).__name__
        failed = isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout))
        what = "no connection to" if failed else "no reply from"
        detail = f"{self.name}: {what} {address}{through}: {words}{_tls_advice(address, words)}"
        return Transient(detail, unreachable=True)

    def correct(self, able: Capabilities, request: Request, outcome: Any) -> dict[str, Any]:
        """Returns fields of Capabilities that an outcome shows to be otherwise; the request is then sent again.

        Args:
          able: what the request was made for.
          outcome: the server's JSON, if it is a reply that was cut off, or the SDK's error.
        """
        return {}

    @abc.abstractmethod
    def open(self) -> Any:
        """A client of the SDK.

        Raises:
          Fatal: there is no key, and the SDK says so here.
        """

    def check_key(self) -> None:
        """Checks that the environment holds a key that can be sent; nothing is sent.

        Raises:
          ValueError: it holds none, or one with characters that no key has.
        """
        key = os.environ.get(self.variable, "")
        if any(not "!" <= letter <= "~" for letter in key):
            raise ValueError(f"{self.variable} holds a space, a line break or a letter that no key has: set it again.")
        if not key and not self.can_do_without_key():
            raise ValueError(f"{self.name} needs a key: set {self.variable}.")

    @abc.abstractmethod
    def can_do_without_key(self) -> bool:
        """Whether requests are let in otherwise: by a server of one's own, or other credentials of the environment."""

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


def _tls_advice(address: str, words: str) -> str:
    """What to do about a connection that failed for its encryption."""
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return " (SSL_CERT_FILE names a file of certificates to trust)"
    if address.startswith("https://") and ("SSL" in words or "TLS" in words):
        return " (a server without TLS has an address with http://)"
    if address.startswith("http://") and ("does not speak HTTP" in words or "closed the connection" in words):
        return " (a server with TLS has an address with https://)"
    return ""
