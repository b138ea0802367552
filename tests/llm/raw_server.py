"""A server on loopback that sends given bytes: other protocols' versions, broken replies, pages of other programs."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any


class RawServer:
    """Listens while it is entered; one thread a connection.

    Args:
      answer: from (head, body) of a request to the bytes of the reply; None closes the connection.
      keep_open: whether a connection takes further requests.
      tls: wraps each connection.
    """

    def __init__(
        self,
        answer: Callable[[str, bytes], bytes | None],
        *,
        keep_open: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer, self.keep_open, self.tls = answer, keep_open, tls
        self.heads: list[str] = []
        self.num_connections = 0

    def __enter__(self) -> RawServer:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.num_connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Any) -> None:
        with connection:
            try:
                if self.tls:
                    connection = self.tls.wrap_socket(connection, server_side=True)
                while self._exchange(connection) and self.keep_open:
                    pass
            except OSError:
                return

    def _exchange(self, connection: Any) -> bool:
        buffer = b""
        while b"\r\n\r\n" not in buffer:
            data = connection.recv(65_536)
            if not data:
                return False
            buffer += data
            if buffer.startswith(b"\x16"):  # a greeting in TLS, where none is spoken
                connection.sendall(http(b"", "400 Bad Request"))
                return False
        head, _, body = buffer.partition(b"\r\n\r\n")
        fields = {n.lower(): v for n, _, v in (line.partition(": ") for line in head.decode("latin-1").split("\r\n"))}
        while len(body) < int(fields.get("content-length", 0)):
            body += connection.recv(65_536)
        self.heads.append(head.decode("latin-1"))
        reply = self.answer(head.decode("latin-1"), body)
        if reply is None:
            return False
        if not self.keep_open and reply.startswith(b"HTTP/1.1 "):  # else a client may send its next request here
            reply = reply.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
        connection.sendall(reply)
        return True


def http(payload: bytes, status: str = "200 OK", version: str = "1.1", headers: str = "", length: bool = True) -> bytes:
    """The bytes of a reply."""
    size = f"content-length: {len(payload)}\r\n" if length else ""
    return f"HTTP/{version} {status}\r\ncontent-type: application/json\r\n{headers}{size}\r\n".encode() + payload
