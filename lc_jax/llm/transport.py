"""A lean HTTP/1.1 client for servers of one's own (http://), which the vendors' SDKs are given as their transport.

The SDKs' own client costs more than a millisecond of processor time a request: with many requests under way it, not the
server, sets the pace. Addresses with https:// keep the SDKs' client, with its certificates and proxies.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from typing import Any

import httpx2

from lc_jax.llm.addresses import proxy_of
from lc_jax.llm.replies import Malformed, one_line

CONNECT_TIMEOUT = 5.0  # seconds
_RUN, _COUNTER = uuid.uuid4().hex, itertools.count()


class _Stale(Exception):
    """The server had closed an idle connection before it took the request."""


class _Connection(asyncio.Protocol):
    """One socket; one exchange at a time."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.closed = False
        self.num_exchanges = 0
        self.waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def _more(self) -> None:
        if self.closed:
            raise httpx2.RemoteProtocolError("the server closed the connection before its reply was complete")
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter

    async def _until(self, mark: bytes) -> bytes:
        """Takes what stands before `mark` out of the buffer, and the mark as well."""
        while (end := self.buffer.find(mark)) < 0:
            await self._more()
        taken = bytes(self.buffer[:end])
        del self.buffer[: end + len(mark)]
        return taken

    async def _exactly(self, length: int) -> bytes:
        while len(self.buffer) < length:
            await self._more()
        taken = bytes(self.buffer[:length])
        del self.buffer[:length]
        return taken

    async def _chunks(self) -> bytes:
        body = b""
        while size := int((await self._until(b"\r\n")).partition(b";")[0], 16):
            body += await self._exactly(size)
            await self._until(b"\r\n")
        while await self._until(b"\r\n"):  # trailers
            pass
        return body

    async def _rest(self) -> bytes:
        while not self.closed:
            await self._more()
        return bytes(self.buffer)

    async def exchange(self, request: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """(status, headers, body) of the reply. The connection is closed where the server will not keep it open.

        Raises:
          ValueError, IndexError: what came is not HTTP/1.
          _Stale: nothing came, on a connection that was used before.
        """
        self.transport.write(request)
        while self.num_exchanges and not self.buffer:
            if self.closed:
                raise _Stale
            await self._more()
        self.num_exchanges += 1
        status = 100
        while 100 <= status < 200:
            lines = (await self._until(b"\r\n\r\n")).split(b"\r\n")
            version, code = lines[0].split(b" ", 2)[:2]
            status = int(code)
        if not version.startswith(b"HTTP/1."):
            raise ValueError(f"the reply begins with {version!r}")
        headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])]
        fields = {name.lower(): value.lower() for name, value in headers}
        if status in (204, 304):
            body = b""
        elif b"chunked" in fields.get(b"transfer-encoding", b""):
            body = await self._chunks()
        elif b"content-length" in fields:
            body = await self._exactly(int(fields[b"content-length"]))
        else:
            body = await self._rest()
        options = [option.strip() for option in fields.get(b"connection", b"").split(b",")]
        # HTTP/1.0 closes after each reply unless it says otherwise.
        if b"close" in options or (version == b"HTTP/1.0" and b"keep-alive" not in options):
            self.transport.close()
            self.closed = True
        return status, headers, body


class PlainHTTP(httpx2.AsyncBaseTransport):
    """Keeps connections alive; opens as many as there are requests at a time."""

    def __init__(self) -> None:
        self.idle: dict[tuple[str, int], list[_Connection]] = {}

    async def _connect(self, host: str, port: int) -> _Connection:
        connections = self.idle.setdefault((host, port), [])
        while connections:
            connection = connections.pop()
            if not connection.closed:
                return connection
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return (await asyncio.get_running_loop().create_connection(_Connection, host, port))[1]
        except TimeoutError as error:
            raise httpx2.ConnectTimeout(f"it did not answer within {CONNECT_TIMEOUT:g} s") from error
        except (OSError, UnicodeError) as error:
            raise httpx2.ConnectError(str(error)) from error

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The reply, read whole.

        Raises:
          httpx2.TransportError: the connection failed or broke off, or what came is not HTTP.
        """
        body = await request.aread()
        host, port = request.url.host, request.url.port or 80
        lines = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in request.headers.raw]
        message = b"\r\n".join(lines) + b"\r\n\r\n" + body
        while True:
            with contextlib.suppress(_Stale):
                status, headers, content = await self._exchange(host, port, message)
                return httpx2.Response(status, headers=headers, content=content, request=request)

    async def _exchange(self, host: str, port: int, message: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        connection = await self._connect(host, port)
        try:
            reply = await connection.exchange(message)
        except (ValueError, IndexError) as error:
            connection.transport.abort()
            raise httpx2.RemoteProtocolError(f"{host}:{port} does not speak HTTP/1.1 without TLS") from error
        except BaseException:
            connection.transport.abort()
            raise
        if not connection.closed:
            self.idle[host, port].append(connection)
        return reply

    async def aclose(self) -> None:
        """Closes the idle connections."""
        for connections in self.idle.values():
            for connection in connections:
                connection.transport.close()


def http_client(deadline: float, address: str = "") -> Any:
    """Returns the client that the SDKs are given: PlainHTTP for http://, the SDKs' own way for https:// and proxies.

    Raises:
      ValueError, ImportError: the environment names a proxy that cannot be used.
    """
    # Proxies of the environment are not read where none is used: one of an unknown kind would be an error.
    plain: Any = {}
    if address.startswith("http://") and not proxy_of(address):
        plain = {"mounts": {"http://": PlainHTTP()}, "trust_env": False}
    limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=1000)
    timeout = httpx2.Timeout(deadline, connect=CONNECT_TIMEOUT)
    return httpx2.AsyncClient(limits=limits, timeout=timeout, follow_redirects=True, **plain)


async def send(client: Any, path: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON that an SDK's client gets: POST with a body, GET without.

    The SDKs' records are not built: that would cost as much as the call.

    Raises:
      Malformed: what came is not JSON.
    """
    if body is None:
        return _json(await client.get(path, cast_to=httpx2.Response))
    # Cheap answers to what the SDKs would find out dearly for each request: they draw a key from the system's
    # randomness (a counter serves as well), join the path to the server's address and copy each default.
    options: Any = {
        "idempotency_key": f"{_RUN}-{next(_COUNTER)}",
        "headers": {},
        "params": {},
        "max_retries": 0,
        "timeout": client.timeout,
    }
    url = f"{str(client.base_url).rstrip('/')}{path}"
    return _json(await client.post(url, body=body, cast_to=httpx2.Response, options=options))


def _json(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        text = one_line(response.content[:300].decode("utf-8", "replace"), 100)
        raise Malformed(f"{response.url} sent no JSON but {text!r}") from None


def without(secret: str | None, text: str) -> str:
    """`text` with a key blotted out, should a server repeat it in an error."""
    return text.replace(secret, "[key]") if secret else text
