"""`GET /metrics`, on an address of its own that only operators can reach.

Every process of a service listens on the same port (`SO_REUSEPORT`) and answers for all of them, so it does not matter
which one is asked. One thread answers the requests one after another: a client has two seconds, and Prometheus is the
only one.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic
from typing import Final

from shared.configuration.settings import Settings
from shared.metrics.exposition import Exposition
from shared.metrics.pages import Pages, folder_of
from shared.metrics.registry import Registry
from shared.metrics.servers import Servers
from shared.metrics.table import Service

_log = logging.getLogger("turnkeeper.metrics")

_SAMPLE_SECONDS: Final = 1.0
_REQUEST_SECONDS: Final = 2.0
_MOST_REQUEST_BYTES: Final = 8192
_BACKLOG: Final = 16
_STOP_SECONDS: Final = 5.0


def metrics_port(settings: Settings, service: Service) -> int | None:
    """Return the port of a service's metrics, or None if metrics are off."""
    if settings.metrics_port is None:
        return None
    return settings.metrics_port + list(Service).index(service)


def begin(settings: Settings, service: Service, registry: Registry) -> "MetricsListener | None":
    """Share this process's figures and listen, if METRICS_PORT is set. Call it after a fork.

    Returns:
        The listener, to be stopped at the end; None if metrics are off or cannot start: a service without figures is
        better than no service.
    """
    port = metrics_port(settings, service)
    if port is None or settings.metrics_port is None:
        return None
    try:
        pages = Pages(folder_of(settings.metrics_port, service))
        registry.move(pages.open())
        exposition = Exposition(service, pages.total, Servers(settings).known)
        listener = MetricsListener(settings.metrics_bind, port, registry, exposition.answer)
        listener.start()
    except OSError as error:
        _log.error("there are no metrics: %s", error, extra={"port": port})
        return None
    return listener


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    accept: str


class MetricsListener:
    """Answers scrapes, and runs the samplers once a second.

    Args:
        host: The address to listen on.
        port: The port.
        registry: What this process counts.
        answer: Returns the figures of all processes and their content type, for an `Accept` header.
    """

    def __init__(
        self, host: str, port: int, registry: Registry, answer: Callable[[str], tuple[bytes, str]]
    ) -> None:
        self._address = (host, port)
        self._registry = registry
        self._answer = answer
        self._stopping = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Start listening.

        Raises:
            OSError: The address is already in use.
        """
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind(self._address)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
        listening.settimeout(_SAMPLE_SECONDS)
        self._socket = listening
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and share the last figures."""
        self._stopping.set()
        if self._socket is not None:
            # Wakes the thread, which closing the socket would not. If shutdown is refused, the thread wakes within a
            # second.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._thread.join(_STOP_SECONDS)
            self._socket.close()
        self._registry.sample()

    def _run(self) -> None:
        assert self._socket is not None
        sampled_at = monotonic()
        while not self._stopping.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                connection = None
            except OSError:
                # Out of descriptors, or closed: wait a moment and try again until told to stop.
                self._stopping.wait(_SAMPLE_SECONDS)
                connection = None
            if connection is not None or monotonic() - sampled_at >= _SAMPLE_SECONDS:
                self._registry.sample()
                sampled_at = monotonic()
            if connection is not None:
                with connection:
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            request = _read(connection)
            if request is None:
                return
            connection.settimeout(_REQUEST_SECONDS)
            connection.sendall(self._response(request))
        except OSError as error:
            _log.info("a scrape failed: %s", type(error).__name__)
        except Exception:  # noqa: BLE001 -- the thread must survive for the next scrape
            _log.exception("a scrape failed")

    def _response(self, request: _Request) -> bytes:
        if request.path.partition("?")[0] != "/metrics":
            return _encode(HTTPStatus.NOT_FOUND, b"figures are at /metrics\n")
        if request.method != "GET":
            return _encode(HTTPStatus.METHOD_NOT_ALLOWED, b"use GET\n", "Allow: GET\r\n")
        try:
            body, content_type = self._answer(request.accept)
        except OSError as error:
            _log.error("the figures cannot be read: %s", os.strerror(error.errno) if error.errno else error)
            return _encode(HTTPStatus.SERVICE_UNAVAILABLE, b"the figures cannot be read: see the log\n")
        return _encode(HTTPStatus.OK, body, content_type=content_type)


def _read(connection: socket.socket) -> _Request | None:
    """Read a request without a body; None if it is not valid HTTP or does not arrive in time."""
    until = monotonic() + _REQUEST_SECONDS
    received = b""
    while b"\r\n\r\n" not in received:
        left = until - monotonic()
        if left <= 0 or len(received) > _MOST_REQUEST_BYTES:
            return None
        connection.settimeout(left)
        piece = connection.recv(_MOST_REQUEST_BYTES)
        if not piece:
            return None
        received += piece
    first, *lines = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    return _Request(words[0], words[1], headers.get("accept", ""))


def _encode(
    status: HTTPStatus, body: bytes, more: str = "", content_type: str = "text/plain; charset=utf-8"
) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
