"""A loopback HTTP server that misbehaves as it is told to."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Served:
    """One address: what it serves, and how. Lists hold one value a request, then the last stays.

    Attributes:
        body: the bytes, or a list of them.
        etag: the validator, if any, or a list; ``If-Range`` is judged by it.
        ranges: whether ranges are served.
        cut: bytes of the answer after which the connection is cut (None: never), or a list.
        stall: bytes after which nothing more comes for three seconds, or a list.
        status: codes before the file is served.
        headers: extra, or in place of others.
        chunked: without a Content-Length.
    """

    body: Any
    etag: Any = '"1"'
    ranges: bool = True
    cut: Any = None
    stall: Any = None
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
            body, etag = _turn(served.body), _turn(served.etag)
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
                headers = {"Transfer-Encoding": "chunked"}
                answer = b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer), answer)
            self.send_response(code)
            for header in {**headers, **served.headers}.items():
                self.send_header(*header)
            self.end_headers()
            stall = _turn(served.stall)
            self.wfile.write(answer[: _turn(served.cut) if stall is None else stall])
            if stall is not None:
                self.wfile.flush()
                stop.wait(3)

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


def _turn(values: Any) -> Any:
    if not isinstance(values, list):
        return values
    return values.pop(0) if len(values) > 1 else values[0]
