"""A model behind a provider's SDK: what the providers anthropic and openai have in common.

The SDKs bring the transport (aiohttp, https, proxies). Attempts are counted here and not by the SDKs, because a 429
pauses all requests, a server that asks for a long wait ends the run, and no money or no key is no reason to try again.
"""

from __future__ import annotations

import abc
import asyncio
import dataclasses
import functools
import importlib
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx2
from absl import logging

from lc_jax.llm import AnnotatorError
from lc_jax.llm.addresses import FLAG, normalise_base_url, proxy_of, without_credentials
from lc_jax.llm.capabilities import Capabilities
from lc_jax.llm.failures import Transient, client_error, connection_failure, is_broken_off, refusal
from lc_jax.llm.replies import Malformed, one_line, read_json
from lc_jax.types import Reply, Request, Usage

Result = TypeVar("Result")

CONNECT_TIMEOUT = 5.0  # seconds
START_DEADLINE = 60.0  # seconds: a server has said by then which models it has, or written a probe's 16 tokens
LOG_EVERY = 5.0  # seconds between log lines about requests that are sent again
TIMEOUT_ATTEMPTS = 3  # of a request that gets no reply in time: each attempt costs the whole deadline
MALFORMED_ATTEMPTS = 3  # a gateway's error page passes; another kind of server does not


@dataclasses.dataclass(frozen=True)
class Policy:
    """Policy of attempts and waiting."""

    concurrency: int = 64  # requests under way at a time
    attempts: int = 10  # per request
    first_wait: float = 1.0  # seconds; the longest first wait, which doubles with each attempt
    longest_wait: float = 60.0  # seconds of one back-off
    max_retry_after: float = 600.0  # seconds; a server that asks for a longer wait ends the run, which can be resumed
    # Seconds that one reply may take. Replies come whole, not token by token, so this covers the wait in the server's
    # queue and all tokens: 4,608 of them, hidden reasoning included, at 16 a second.
    deadline: float = 300.0
    max_unreachable: float = 8.0  # seconds; a server that cannot be reached for so long at the start ends the run

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1 or self.deadline <= 0:
            raise ValueError(f"An annotator needs concurrency >= 1, attempts >= 1, deadline > 0; got {self}.")

    def back_off(self, attempt: int) -> float:
        """Returns seconds to wait after an attempt; at random, so that what failed together is not sent together."""
        return random.uniform(0, min(self.longest_wait, self.first_wait * 2**attempt))


class API(abc.ABC):
    """One model at one server."""

    provider: str  # the first half of the annotator's name, and the SDK's package
    home: str  # the provider's own address
    path: str  # of the endpoint that gives a reply
    endpoints: tuple[str, ...]  # endings of an address that are no part of its base
    root: str  # the path of a base address that has none
    variable: str  # of the environment, with the key

    def __init__(self, model: str, base_url: str | None, policy: Policy) -> None:
        self.model, self.policy = model, policy
        self.base_url = normalise_base_url(base_url, self.endpoints, self.root) if base_url else None
        self.name, self.concurrency = f"{self.provider}/{model}", policy.concurrency
        self.capabilities: Capabilities | None = None  # None: not yet looked up
        self.client: Any = None  # the SDK's, of the running event loop
        self._start: asyncio.Future[None] | None = None
        self._places = asyncio.Semaphore(policy.concurrency)
        self._resume_at = self._quiet_until = 0.0  # monotonic seconds
        self._fatal: AnnotatorError | None = None  # why no request is sent any more

    @property
    def sdk(self) -> Any:
        """The provider's SDK."""
        return importlib.import_module(self.provider)

    async def ask(self, request: Request) -> Reply:
        """Returns the reply; see lc_jax.llm.Annotator."""
        await self.start()
        total_usage, attempt = Usage(), 0
        async with self._places:
            while True:
                await self._pause()
                able, answer, reply = self.able, None, None
                body = self.parameters(able, request)
                try:
                    async with asyncio.timeout(self.policy.deadline):
                        # The SDKs' records are not built: that would cost as much as the call.
                        answer = read_json(await self.client.post(self.path, body=body, cast_to=httpx2.Response))
                    reply = self.read(answer)
                    total_usage += reply.usage
                    correction = self.correct(able, request, answer) if reply.status == "truncated" else {}
                except Exception as error:
                    correction = self.correct(able, request, error)
                    if not correction:
                        reply = await self._recover(error, attempt)
                        attempt += 1
                if correction:
                    self.capabilities = dataclasses.replace(self.able, **correction)
                elif reply is not None:
                    return dataclasses.replace(reply, usage=total_usage)

    @property
    def able(self) -> Capabilities:
        """The capabilities of the model, which `start` looks up."""
        assert self.capabilities is not None
        return self.capabilities

    async def _pause(self) -> None:
        """Waits as long as the server asked of all requests.

        Raises:
          AnnotatorError: another request showed that none will be answered.
        """
        while (wait := self._resume_at - time.monotonic()) > 0 and not self._fatal:
            await asyncio.sleep(wait + random.uniform(0, min(wait, 1.0)))
        if self._fatal:
            raise self._fatal

    async def _recover(self, error: Exception, attempt: int) -> Reply | None:
        """Waits before another attempt and returns None; or returns the failed reply, where another is of no use.

        Raises:
          AnnotatorError: no request of this run will be answered.
        """
        try:
            failure = self.explain(error, self.policy.deadline)
            if isinstance(failure, Reply):
                return failure
            requested_wait, most = (
                failure.retry_after,
                min(self.policy.attempts, failure.attempts or self.policy.attempts),
            )
            if requested_wait is not None and requested_wait > self.policy.max_retry_after:
                raise AnnotatorError(f"the server asks to wait {requested_wait:.0f} s: run again then ({failure})")
        except AnnotatorError as fatal:
            self._fatal = fatal
            raise
        wait = self.policy.back_off(attempt)
        wait = 0.0 if failure.stale else wait if requested_wait is None else requested_wait + min(wait, 1.0)
        now = time.monotonic()
        if failure.shared:
            self._resume_at = max(self._resume_at, now + (requested_wait or wait))
        if attempt + 1 >= most:
            return Reply("failed", detail=f"{attempt + 1} attempts, the last: {failure}")
        # With many requests under way not every retry is logged.
        if now >= self._quiet_until and not self._fatal and not failure.stale:
            log_retry(failure, attempt + 1, most, wait)
            self._quiet_until = now + LOG_EVERY
        await asyncio.sleep(0.0 if self._fatal else wait)
        return None

    async def fetch(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Returns the JSON of a GET, or of a POST of `body`, at the start.

        It is sent again where the server had closed the last request's connection; lets the SDK's errors through.
        """
        for is_last in (False, True):
            try:
                if body is None:
                    return read_json(await self.client.get(path, cast_to=httpx2.Response))
                return read_json(await self.client.post(path, body=body, cast_to=httpx2.Response))
            except self.sdk.APIConnectionError as error:
                if is_last or not is_broken_off(client_error(error)):
                    raise
        raise AssertionError

    async def start(self) -> Any:
        """Returns the SDK's client, opened by the first call, which looks up whether key and model are good.

        Raises:
          AnnotatorError: they are not.
        """
        if self._start is None:
            self._start = asyncio.ensure_future(self._open())
        if not self._start.done():
            await asyncio.shield(self._start)
        self._start.result()
        return self.client

    async def _open(self) -> None:
        self.client = self._make_client()
        if self.capabilities is not None:
            return
        try:
            deadline = min(START_DEADLINE, self.policy.deadline)
            self.capabilities = await self._retry(self.look_up, deadline, self.policy.max_unreachable)
        except AnnotatorError as error:
            advice = f" Is {self.address} the right server? Another is named with {FLAG}=URL." if self.base_url else ""
            raise AnnotatorError(f"{error}{advice}") from None

    async def close(self) -> None:
        """Closes the connections; see lc_jax.llm.Annotator."""
        client, self.client, self._start = self.client, None, None
        self._places = asyncio.Semaphore(self.policy.concurrency)  # the old one belongs to this event loop
        if client is not None:
            await client.close()

    async def call(self, work: Callable[[Any], Awaitable[Result]], *, once: bool = False) -> Result:
        """Returns work(client), tried again while that may help; `once`: it is not, as it could start a second job.

        Raises:
          Transient: the only attempt failed.
          AnnotatorError: the last one did, or no attempt will succeed.
        """
        client = await self.start()
        return await self._retry(functools.partial(work, client), self.policy.deadline, once=once)

    async def _retry(
        self,
        work: Callable[[], Awaitable[Result]],
        deadline: float,
        max_unreachable: float = float("inf"),
        *,
        once: bool = False,
    ) -> Result:
        """Does `call` with `deadline` seconds for each attempt; the server may be unreachable for `max_unreachable`."""
        attempt, started = 0, time.monotonic()
        while True:
            try:
                async with asyncio.timeout(deadline):
                    return await work()
            except Exception as error:
                failure = self.explain(error, deadline)
            if isinstance(failure, Reply):
                raise AnnotatorError(failure.detail)
            if once:
                raise failure
            wait = min(failure.retry_after or 0.0, self.policy.max_retry_after) + self.policy.back_off(attempt)
            attempt, most = attempt + 1, min(self.policy.attempts, failure.attempts or self.policy.attempts)
            too_late = failure.unreachable and time.monotonic() - started + wait > max_unreachable
            if attempt >= most or too_late:
                raise AnnotatorError(f"{failure} ({attempt} attempts)")
            log_retry(failure, attempt, most, wait)
            await asyncio.sleep(wait)

    @property
    def address(self) -> str:
        """The server's, for messages."""
        default = os.environ.get(f"{self.provider.upper()}_BASE_URL") or self.home
        return without_credentials(self.base_url or default)

    def http_client(self) -> Any:
        """Returns the SDK's own transport over aiohttp, with the proxy of the environment.

        Raises:
          AnnotatorError: the proxy is of a kind that cannot be used.
        """
        proxy = proxy_of(self.address)
        if proxy and not proxy.startswith(("http://", "https://")):
            scheme = proxy.partition("://")[0]
            raise AnnotatorError(f"{self.name}: the proxy of HTTPS_PROXY or ALL_PROXY cannot be used: it is {scheme}.")
        # Proxies that are not used are not read, since one of an unknown kind would be an error: no trust_env.
        return self.sdk.DefaultAioHttpClient(
            proxy=proxy or None,
            trust_env=False,
            verify=httpx2.create_ssl_context(),
            limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=1000),
            timeout=httpx2.Timeout(self.policy.deadline, connect=CONNECT_TIMEOUT),
        )

    def explain(self, error: Exception, seconds: float) -> Reply | Transient:
        """Returns what an error means: a failed reply, if only this request is at fault, or that it may pass.

        Args:
          seconds: the deadline of the attempt.

        Raises:
          AnnotatorError: no request will be answered.
          Exception: `error`, if it is none of the SDK's.
        """
        if isinstance(error, AnnotatorError):
            raise error
        if isinstance(error, TimeoutError):
            late = f"{self.name} at {self.address}: no reply within {seconds:g} s"
            return Transient(late, attempts=TIMEOUT_ATTEMPTS)
        secret = getattr(self.client, "api_key", None)
        detail = one_line(f"{self.name}: {error}", 500)
        detail = detail.replace(secret, "[key]") if secret else detail  # a server may repeat it in an error
        if isinstance(error, self.sdk.APIStatusError):
            return refusal(error.status_code, error.response.headers, detail)
        if isinstance(error, TypeError) and "authentication" in str(error):
            raise AnnotatorError(f"{detail} Set {self.variable}.") from None
        if isinstance(error, Malformed) and error.status:
            return refusal(error.status, {}, detail)
        if isinstance(error, self.sdk.APIConnectionError):
            return connection_failure(error, self.name, self.address, proxy_of(self.address), CONNECT_TIMEOUT)
        if isinstance(error, (ValueError, LookupError, AttributeError, TypeError)):  # the SDKs' own readers raise them
            words = str(error) if isinstance(error, Malformed) else f"what came is no reply: {one_line(error)}"
            return Transient(f"{self.name} at {self.address}: {words}", attempts=MALFORMED_ATTEMPTS)
        if isinstance(error, self.sdk.APIError):
            return Transient(detail)
        raise error

    def _make_client(self) -> Any:
        transport = self.http_client()
        try:
            return self.open(max_retries=0, http_client=transport)
        except Exception as error:  # both SDKs have a base class of their own for a key that is not set
            raise AnnotatorError(f"{self.name}: {one_line(error)} Set {self.variable}.") from None

    def correct(self, able: Capabilities, request: Request, outcome: Any) -> dict[str, Any]:
        """Returns fields of Capabilities that an outcome shows to be otherwise; the request is then sent again.

        Args:
          able: what the request was made for.
          outcome: the server's JSON, if it is a reply that was cut off, or the SDK's error.
        """
        return {}

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
    def open(self, **options: Any) -> Any:
        """Returns a client of the SDK."""

    @abc.abstractmethod
    def can_do_without_key(self) -> bool:
        """Returns whether no key is needed: with the user's own server, or other credentials in the environment."""

    @abc.abstractmethod
    async def look_up(self) -> Capabilities:
        """Returns what the model takes; lets the SDK's errors through."""

    @abc.abstractmethod
    def parameters(self, able: Capabilities, request: Request) -> dict[str, Any]:
        """Returns the body of a POST to `path`; it holds nothing that the model does not take."""

    @staticmethod
    @abc.abstractmethod
    def read(answer: Mapping[str, Any], /) -> Reply:
        """Returns the reply that the server's JSON holds."""


def log_retry(failure: Transient, attempt: int, most: int, wait: float) -> None:
    """Logs that a request failed and will be sent again, `most` times in all."""
    logging.warning("%s; attempt %d of %d, the next in %.1f s", failure, attempt, most, wait)
