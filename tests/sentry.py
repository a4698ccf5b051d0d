"""A Sentry for tests: it receives envelopes over HTTP and keeps the events in them."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.marks import marked

LIMIT_SECONDS = 60.0


@dataclass
class Sentry:
    """Everything that has arrived: events, and the bodies that they came in."""

    dsn: str
    events: list[dict] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)

    def await_event(self, matches: Callable[[dict], object], what: str) -> dict:
        """Wait for an event."""
        give_up_at = time.monotonic() + LIMIT_SECONDS
        while True:
            for event in list(self.events):
                if matches(event):
                    return event
            assert time.monotonic() < give_up_at, f"{what}: there are {self.events}"
            threading.Event().wait(0.02)


@contextmanager
def playing() -> Iterator[Sentry]:
    """Run a Sentry that accepts everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            sentry.bodies.append(body.decode())
            lines = body.decode().splitlines()
            for header, payload in zip(lines[1::2], lines[2::2], strict=False):
                if json.loads(header).get("type") == "event":
                    sentry.events.append(json.loads(payload))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        sentry = Sentry(f"http://{marked('dsn')}@127.0.0.1:{server.server_port}/1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield sentry
        finally:
            server.shutdown()
            thread.join()
