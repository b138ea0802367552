"""A server on loopback that speaks the protocols of both vendors, for tests and for the notebooks, which need no key.

with FakeServer() as server:
    annotator = llm.load("openai/gpt-4.1-mini", base_url=server.openai_url)

Replies come from the simulated annotator unless another function is given. `fault` may spoil any request.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lc_jax.llm import simulated
from lc_jax.types import Reply, Request
from tests.llm.fake_vendors import Anthropic, OpenAI, Refused

KEY = "test-key-5f1c"  # the only one that is let in

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault of one request."""

    kind: (
        str  # "status", "reset", "stall", "trickle", "cut" (short body), "garbage" (not JSON); or what the model does:
    )
    # "empty", "refusal", "max_tokens", "invalid" (a reply in no form that was asked for)
    status: int = 0
    retry_after: str = ""  # seconds, or an HTTP date
    error: str = "injected"  # message of the error


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One request for a reply, as the server saw it."""

    prompt: str
    body: dict[str, Any]
    status: int  # HTTP status sent; 0: the connection was broken or closed
    time: float  # monotonic seconds


def answer_simulated(request: Request) -> Reply:
    return simulated.Simulated().answer(request)


class FakeServer:
    """Listens while it is entered, in a thread of its own.

    Args:
      answer: the model.
      latency: seconds that a reply takes.
      fault: from (number of the request, its prompt) to what goes wrong with it, or None.
      batch_delay: seconds that a batch job takes.
    """

    def __init__(
        self,
        answer: Callable[[Request], Reply] = answer_simulated,
        *,
        latency: float = 0.0,
        fault: Callable[[int, str], Fault | None] = lambda number, prompt: None,
        batch_delay: float = 0.0,
        keep: bool = True,
    ) -> None:
        self.answer, self.latency, self.fault, self.batch_delay, self.keep = answer, latency, fault, batch_delay, keep
        self.exchanges: list[Exchange] = []  # requests for a reply, in the order in which they were answered
        self.calls: list[str] = []  # "METHOD /path" of everything else
        self.headers: list[dict[str, str]] = []  # of everything else
        self.call_fault: Callable[[str], int] = lambda call: 0  # the status that such a call is refused with, or 0
        self.num_requests = 0
        self.num_answered = 0  # replies sent whole, the paid ones
        self.in_flight = self.max_in_flight = 0
        self.vendors = (Anthropic(self), OpenAI(self))
        self.port = 0

    @property
    def anthropic_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def openai_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> FakeServer:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(0, ready.set)), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def serve(self, port: int, ready: Callable[[], object], tls: ssl.SSLContext | None = None) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task] = set()
        self._connections: set[Connection] = set()
        server = await self._loop.create_server(lambda: Connection(self), "127.0.0.1", port, backlog=1024, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        ready()
        await self._stop.wait()
        # A server that is closed while somebody is being let in leaves that socket open: first let nobody in any more,
        # then three turns of the loop, after which admitted clients are among the connections.
        self._loop.remove_reader(server.sockets[0])
        for _ in range(3):
            await asyncio.sleep(0)
        server.close()
        for task in self._tasks:
            task.cancel()
        for connection in self._connections:
            connection.transport.abort()

    def spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def price(self, prompt: str, text: str) -> tuple[int, int]:
        """(input, output) tokens: four characters each."""
        return len(prompt) // 4 + 1, len(text) // 4 + 1

    def reply(self, request: Request, fault: Fault | None) -> Reply:
        kind = fault.kind if fault else ""
        if kind == "refusal":
            return Reply("refused", detail="injected")
        if kind == "invalid":
            return Reply("ok", "As a language model, I would\n\nrather not say.")
        reply = self.answer(request)
        if kind == "empty":
            return Reply("ok", "")
        if kind == "max_tokens":
            return Reply("truncated", reply.text[:3])
        return reply


class Connection(asyncio.Protocol):
    """HTTP/1.1 with content-length, keep-alive, one request at a time."""

    def __init__(self, server: FakeServer) -> None:
        self.server, self.buffer = server, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.server._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, rest = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        method, path, _ = lines[0].split(" ")
        self.server.spawn(self.handle(method, path, headers, rest[:length]))

    async def handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        vendor = self.server.vendors[0 if "anthropic-version" in headers else 1]
        try:
            key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
            if key != KEY:
                raise Refused(401, "invalid x-api-key")
            if method == "POST" and path == vendor.path:
                await self.complete(vendor, json.loads(body))
                return
            self.server.calls.append(f"{method} {path}")
            self.server.headers.append(headers)
            if status := self.server.call_fault(f"{method} {path}"):
                raise Refused(status, "injected")
            self.send(200, vendor.route(method, path, headers, body))
        except Refused as error:
            self.send(error.status, vendor.error(error.status, str(error)))
        except Exception as error:  # of `answer`: nobody is left waiting
            self.send(400, vendor.error(400, repr(error)))

    async def complete(self, vendor: Any, body: dict[str, Any]) -> None:
        server = self.server
        request = vendor.read(body)
        number, server.num_requests = server.num_requests, server.num_requests + 1
        server.in_flight += 1
        server.max_in_flight = max(server.max_in_flight, server.in_flight)

        def note(status: int) -> None:
            """Before anything goes out: who has an answer finds it noted."""
            if server.keep:
                server.exchanges.append(Exchange(request.prompt, body, status, time.monotonic()))
            server.num_answered += status == 200

        try:
            fault = server.fault(number, request.prompt)
            if server.latency:
                await asyncio.sleep(server.latency)
            await self.respond(vendor, body, request, fault, note)
        except Refused as error:
            note(error.status)
            raise
        finally:
            server.in_flight -= 1

    async def respond(
        self, vendor: Any, body: dict[str, Any], request: Request, fault: Fault | None, note: Callable[[int], None]
    ) -> None:
        """Notes the HTTP status, 0 where there is none, and sends the reply or what the fault makes of it."""
        kind = fault.kind if fault else ""
        if kind == "status":
            note(fault.status)
            headers = {"retry-after": fault.retry_after} if fault.retry_after else {}
            self.send(fault.status, vendor.error(fault.status, fault.error), headers)
            return
        if kind in ("reset", "stall"):
            note(0)
            if kind == "stall":
                await asyncio.sleep(3600)
            self.transport.abort()
            return
        vendor.check(body)
        payload = vendor.write(body, request, self.server.reply(request, fault))
        if kind == "garbage":
            payload = b"<html>502</html>"
        if kind in ("trickle", "cut"):
            note(0)
            await self.dribble(payload, kind)
        elif self.transport.is_closing():
            note(0)
        else:
            note(200)
            self.send(200, payload)

    async def dribble(self, payload: bytes, kind: str) -> None:
        self.transport.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(payload)}\r\n\r\n".encode())
        if kind == "cut":
            self.transport.write(payload[: len(payload) // 2])
            self.transport.close()
            return
        for byte in payload:
            if self.transport.is_closing():
                return
            self.transport.write(bytes([byte]))
            await asyncio.sleep(0.05)

    def send(self, status: int, payload: bytes, headers: dict[str, str] | None = None) -> None:
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}\r\ncontent-type: application/json\r\n{extra}"
        self.transport.write(f"{head}content-length: {len(payload)}\r\n\r\n".encode() + payload)


def main() -> None:
    """For measurements over https: prints the port, answers every request with its own last word after 50 ms.

    The arguments of the command are the files of a certificate and its key.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*sys.argv[1:])
    server = FakeServer(lambda r: Reply("ok", r.prompt.rsplit(" ", 1)[-1]), latency=0.05, keep=False)

    def ready() -> None:
        print(server.port, flush=True)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve(0, ready, tls))


if __name__ == "__main__":
    main()
