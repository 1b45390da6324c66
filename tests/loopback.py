"""A loopback HTTP server that misbehaves as it is told to."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Served:
    """One address: what it serves, and how. Lists hold one value a request, then the last stays.

    Attributes:
        body: the bytes; ``bodies`` instead, one a request, for a file that changes.
        ranges: whether ranges are served.
        etag: the validator, if any; ``If-Range`` is judged by it. ``etags``: one a request.
        cut: bytes of the answer after which the connection is cut (None: never).
        stall: bytes after which nothing more comes for three seconds.
        status: codes before the file is served.
        headers: extra, or in place of others.
        chunked: without a Content-Length.
    """

    body: bytes = b""
    bodies: list[bytes] = field(default_factory=list)
    ranges: bool = True
    etag: str | None = '"1"'
    etags: list[str | None] = field(default_factory=list)
    cut: list[int | None] = field(default_factory=list)
    stall: list[int | None] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    chunked: bool = False


@dataclass
class Loopback:
    base: str
    files: dict[str, Served] = field(default_factory=dict)
    asked: list[tuple[str, str | None, str | None, int]] = field(default_factory=list)
    """Path, Range, If-Range and the answer's code of every request."""

    def url(self, name: str) -> str:
        return f"{self.base}/{name}"


@contextmanager
def loopback() -> Iterator[Loopback]:
    """The server, in a thread; ``files`` maps names to what they do."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.close_connection = True
            name = self.path.lstrip("/").partition("?")[0]
            served = home.files.get(name)
            wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
            if served is None or served.status:
                code = served.status.pop(0) if served else 404
                home.asked.append((name, wanted, condition, code))
                self.send_error(code)
                return
            body = _turn(served.bodies, served.body)
            etag = _turn(served.etags, served.etag)
            start = 0
            if wanted and served.ranges and condition in (None, etag):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            code = 416 if start >= len(body) and start else 206 if start else 200
            home.asked.append((name, wanted, condition, code))
            answer = b"" if code == 416 else body[start:]
            headers = {"Content-Length": str(len(answer)), "Connection": "close"}
            if etag:
                headers["ETag"] = etag
            if code == 206:
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            if served.chunked:
                del headers["Content-Length"]
                headers["Transfer-Encoding"] = "chunked"
            self.send_response(code)
            for header in {**headers, **served.headers}.items():
                self.send_header(*header)
            self.end_headers()
            self._send(answer, served)

        def _send(self, answer: bytes, served: Served) -> None:
            if served.chunked:
                for at in range(0, len(answer), 1000):
                    piece = answer[at : at + 1000]
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")
            elif (stall := _turn(served.stall, None)) is not None:
                self.wfile.write(answer[:stall])
                self.wfile.flush()
                stop.wait(3)
            else:
                self.wfile.write(answer[: _turn(served.cut, None)])

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the client gave up
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    home = Loopback(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield home
    finally:
        stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _turn(values: list[T], otherwise: T) -> T:
    if not values:
        return otherwise
    return values.pop(0) if len(values) > 1 else values[0]
