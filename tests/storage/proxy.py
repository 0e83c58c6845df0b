"""A faulty proxy before a real S3 server: throttles, fails, stalls, loses answers, by script."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_ERRORS = {
    "slow_down": (503, "SlowDown"),
    "internal": (500, "InternalError"),
    "conflict": (409, "ConditionalRequestConflict"),
    "expired": (403, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
    "no_bucket": (404, "NoSuchBucket"),
}
_HOP = {"connection", "transfer-encoding", "content-length", "content-encoding"}


class Faults:
    """What goes wrong next: per method a list of faults, one per request; then all is well.

    "lost": the request is done, its answer is not given. "cut": the connection ends before the
    request is done. "silent": it is taken, and the connection kept for two minutes. Others answer
    with an S3 error. A fault given as `always` never ends.
    """

    def __init__(self) -> None:
        self.next: dict[str, list[str]] = {}
        self.always: dict[str, str] = {}
        self.seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def plan(self, method: str, faults: Sequence[str]) -> None:
        self.next[method] = list(faults)

    def take(self, method: str) -> str | None:
        with self._lock:
            self.seen[method] += 1
            planned = self.next.get(method)
            return planned.pop(0) if planned else self.always.get(method)

    def clear(self) -> None:
        self.next.clear()
        self.always.clear()
        self.seen.clear()


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a connection that the script cut is no error."""


def _refuse(handler: BaseHTTPRequestHandler, status: int, code: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>by the script</Message></Error>".encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/xml")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


@contextmanager
def faulty_proxy(endpoint: str) -> Iterator[tuple[str, Faults]]:
    """Serve on loopback before `endpoint`; gives the address and what can be made to fail."""
    faults = Faults()
    target = urlsplit(endpoint)
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults.take(self.command)
            if fault in {"cut", "silent", *_ERRORS}:
                self._fail(str(fault))
                return
            upstream = http.client.HTTPConnection(str(target.hostname), int(target.port or 80))
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            if fault == "lost":
                self._hang_up()
                return
            self.send_response(answer.status)
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP]
            for name, value in kept:
                self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _fail(self, fault: str) -> None:
            if fault in _ERRORS:
                _refuse(self, *_ERRORS[fault])
                return
            if fault == "silent":
                ended.wait(120)
            self._hang_up()

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.close()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815 - the base's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Say nothing."""

    server = _Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
