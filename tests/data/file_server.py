"""A real HTTP server on the loopback interface that misbehaves as told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """How the server answers one request."""

    body: bytes = b""
    status: int = 200
    cut: int | None = None
    """Send so many bytes of the body, then break the connection."""
    ranges: bool = True
    """Whether Range requests are understood."""
    length: bool = True
    """Whether the answer says how long it is."""
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    """Never answer."""


@dataclass
class FileServer:
    url: str
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    """The answers for every path, in turn; the last one stays."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range header of every request."""
    closing: threading.Event = field(default_factory=threading.Event)

    def serve(self, path: str, *replies: Reply) -> str:
        """Answers requests for `path` so; returns its address."""
        self.replies[path] = list(replies)
        return f"{self.url}{path}"


@contextmanager
def file_server() -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            server.requests.append((self.path, asked))
            replies = server.replies.get(self.path, [Reply(status=404)])
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
            if reply.hang:
                server.closing.wait(30)
                return
            body, status = reply.body, reply.status
            headers = dict(reply.headers)
            if asked and reply.ranges and status == 200:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    status, body = 416, b""
                else:
                    headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                    status, body = 206, body[start:]
            self.send_response(status)
            if reply.length:
                headers["Content-Length"] = str(len(body))
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # the client has heard enough
                self.wfile.write(body if reply.cut is None else body[: reply.cut])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = FileServer(f"http://127.0.0.1:{http.server_address[1]}")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            http.shutdown()
            thread.join()
