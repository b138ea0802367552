"""Consequences of HTTP errors and broken connections: another attempt, a failed request, or the end of the run."""

from __future__ import annotations

import contextlib
import email.utils
import time
from collections.abc import Mapping

import aiohttp

from lc_jax.llm import AnnotatorError
from lc_jax.llm.addresses import without_credentials
from lc_jax.llm.replies import one_line
from lc_jax.types import Reply

BUSY = (429, 529)  # statuses that concern all requests of this account
BROKEN = (408, 409, 500, 502, 503, 504)
FATAL_STATUSES = (401, 402, 403, 404)  # no key, no money, no permission, no such model
_NO_MONEY = ("insufficient_quota", "credit balance", "billing")  # words of a 400 or 429 that waiting does not correct


class Transient(Exception):
    """A failure that is worth another attempt."""

    def __init__(
        self,
        detail: str,
        *,
        retry_after: float | None = None,
        shared: bool = False,
        unreachable: bool = False,
        stale: bool = False,
        attempts: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.retry_after = retry_after  # seconds that the server asks to wait
        self.shared = shared  # whether all requests have to wait
        self.unreachable = unreachable  # whether no server speaks at the address
        self.stale = stale  # whether the server had closed the idle connection before: no reason to wait
        self.attempts = attempts  # at most, where many are of no use; None = as many as the policy allows


def seconds(headers: Mapping[str, str]) -> float | None:
    """Returns the wait that a reply's headers ask for (retry-after-ms, or retry-after in seconds or as a date)."""
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


def refusal(status: int, headers: Mapping[str, str], detail: str) -> Reply | Transient:
    """Returns what an HTTP error means: a failed reply where only this request is at fault (400, 413, 422 ...).

    Raises:
      AnnotatorError: no request will succeed.
    """
    if status in FATAL_STATUSES or (status in (400, 429) and any(word in detail.lower() for word in _NO_MONEY)):
        raise AnnotatorError(detail)
    if status in (*BUSY, *BROKEN) or status >= 500:
        return Transient(detail, retry_after=seconds(headers), shared=status in BUSY)
    return Reply("failed", detail=detail)


def connection_failure(error: BaseException, name: str, address: str, proxy: str, timeout: float) -> Transient:
    """Returns what a failed connection of the annotator `name` means, with the address and what to do.

    Args:
      error: of the SDK, caused by one of aiohttp.
      proxy: in use; "" for none.
      timeout: seconds that a connection may take.
    """
    cause = client_error(error)
    through = f" through the proxy {without_credentials(proxy)}" if proxy else ""
    if isinstance(cause, aiohttp.ClientConnectorError):
        words, failed = one_line(getattr(cause, "os_error", None) or cause), True
    elif isinstance(cause, aiohttp.ConnectionTimeoutError):
        words, failed = f"it did not answer within {timeout:g} s", True
    else:
        words, failed = one_line(cause) or type(cause).__name__, False
    what = "no connection to" if failed else "no reply from"
    detail = f"{name}: {what} {address}{through}: {words}{_tls_advice(address, cause, words)}"
    stale = isinstance(cause, aiohttp.ClientConnectionResetError)
    return Transient(detail, unreachable=True, stale=stale)


def client_error(error: BaseException) -> BaseException:
    """Returns the first error of aiohttp behind `error`; where there is none, its first cause."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return next((cause for cause in reversed(chain) if isinstance(cause, aiohttp.ClientError)), chain[-1])


def is_broken_off(cause: BaseException) -> bool:
    """Returns whether an error of aiohttp says that the server closed a connection in place of a reply."""
    kinds = (aiohttp.ServerDisconnectedError, aiohttp.ClientConnectionResetError, aiohttp.ClientOSError)
    return isinstance(cause, kinds) and not isinstance(cause, aiohttp.ClientConnectorError)


def _tls_advice(address: str, cause: BaseException, words: str) -> str:
    """Returns what to do about a connection that failed for its encryption."""
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return " (SSL_CERT_FILE names a file of certificates to trust)"
    if address.startswith("https://") and ("SSL" in words or "TLS" in words):
        return " (a server without TLS has an address with http://)"
    if address.startswith("http://") and (is_broken_off(cause) or isinstance(cause, aiohttp.ClientResponseError)):
        return " (a server with TLS has an address with https://)"
    return ""
