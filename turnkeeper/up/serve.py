"""Runs the web and the relay: gunicorn with threads, one application.

Bound to an address it accepts connections itself; at a hand-off socket it takes over those that the front
accepted.
"""

import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import TConn, ThreadWorker

from shared.collector import calm_collector
from turnkeeper.up.front import take_over
from turnkeeper.up.malformed_requests import refusal_of
from turnkeeper.up.refused_bodies import closing_unread

KEEPALIVE_SECONDS: Final = 75
REQUEST_LIMIT_SECONDS: Final = 120
"""How long a whole process (not a request) may be silent before gunicorn replaces it."""
CONNECTIONS: Final = 2000
"""Connections of one process that gunicorn holds; open streams belong to the relay and do not count."""
TAKE_OVER_LIMIT_SECONDS: Final = 1.0
"""The front sends the connection right after it connects."""
SHUTDOWN_LIMIT_SECONDS: Final = 10.0
SHUTDOWN: Final = "turnkeeper_shutdown"
"""Name in `app.extensions` of the function that ends a process's streams."""
GIVE_BACK: Final = "turnkeeper_give_back"
"""Name of the function that is told who takes connections back whose stream has ended."""
BEGIN_METRICS: Final = "turnkeeper_begin_metrics"
"""Name of the function that shares a process's figures; it returns what to stop at the end, or None."""


@dataclass(frozen=True, slots=True)
class Service:
    """What to run and where.

    Attributes:
        role: `web` or `relay`.
        bind: `HOST:PORT` or `unix:PATH`; for a hand-off socket its path.
        is_handoff: Whether connections come from the front.
        factory: `module:function` that creates a role's application.
        processes: The number of processes.
        threads: How many requests each process serves at once.
        grace_seconds: How long requests may take to finish after a stop.
        pid_file: Where the serving process writes its pid while it serves.
    """

    role: str
    bind: str
    is_handoff: bool
    factory: str
    processes: int
    threads: int
    grace_seconds: int
    pid_file: Path | None


class PlainLogger(Logger):  # type: ignore[misc]
    """Sends gunicorn's own lines to the application's log: one format, one place."""

    def setup(self, cfg: Any) -> None:
        """Leave handlers and format to the root logger; the application logs requests itself."""
        self.cfg = cfg
        self.error_log.propagate = True
        self.error_log.setLevel(cfg.loglevel.upper())

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Log nothing: a request line may hold content."""


class StreamingWorker(ThreadWorker):  # type: ignore[misc]
    """Closes open streams as soon as it is told to stop, not after the last request."""

    wsgi: Any

    def load_wsgi(self) -> None:
        """Load the application, so that its refusals reach clients that are still sending."""
        super().load_wsgi()
        self.wsgi = closing_unread(self.wsgi)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop accepting, and close streams from a thread: this runs in a signal handler."""
        if self.alive:
            self.method_queue.defer(self._close_streams)
        super().handle_exit(sig, frame)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """Refuse a request that could not be read; its connection is then closed."""
        answer = refusal_of(exc)
        with suppress(OSError):
            write_nonblock(client, answer)

    def take_back(self, connection: socket.socket) -> None:
        """Serve a connection again whose last response the application has sent itself; from any thread."""
        self.method_queue.defer(self._keep, connection)

    def _keep(self, connection: socket.socket) -> None:
        """Wait for the connection's next request, as after any response; in the thread that accepts."""
        try:
            kept = TConn(self.cfg, connection, connection.getpeername()[:2], connection.getsockname())
        except OSError:
            connection.close()  # the client has left
            return
        if not self.alive:
            kept.close()
            return
        kept.set_timeout()
        self.nr_conns += 1
        self.keepalived_conns.append(kept)
        self.poller.register(kept.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, kept))

    def _close_streams(self) -> None:
        self.closing = closing_streams(self.app.callable)


class HandedOverWorker(StreamingWorker):
    """Serves connections that the front accepted."""

    def accept(self, listener: Any) -> None:
        """Take over one connection and serve it as if it had been accepted here."""
        try:
            connection, address = take_over(listener, TAKE_OVER_LIMIT_SECONDS)
            connection.setblocking(True)
            served = TConn(self.cfg, connection, address, connection.getsockname())
        except (BlockingIOError, ConnectionError):
            return
        self.nr_conns += 1
        self.enqueue_req(served)


def closing_streams(app: Flask | None) -> threading.Thread | None:
    """Start closing an application's streams; the thread ends when they are closed."""
    shutdown: Callable[[], None] | None = app.extensions.get(SHUTDOWN) if app else None
    if shutdown is None:
        return None
    thread = threading.Thread(target=shutdown, name="shutdown", daemon=True)
    thread.start()
    return thread


class Gunicorn(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured by a `Service` and nothing else: no command line, no file, no variables."""

    def __init__(self, service: Service) -> None:
        self._service = service
        super().__init__(prog=f"turnkeeper {service.role}")

    def load_config(self) -> None:
        """Turn the service into gunicorn's settings."""
        for name, value in gunicorn_settings(self._service).items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Create the application, in the process that serves."""
        module, _, function = self._service.factory.partition(":")
        app: Flask = getattr(import_module(module), function)(self._service.role)
        return app


def gunicorn_settings(service: Service) -> dict[str, Any]:
    """Return gunicorn's settings for a service."""
    settings: dict[str, Any] = {
        "bind": [f"unix:{service.bind}" if service.is_handoff else service.bind],
        "worker_class": HandedOverWorker if service.is_handoff else StreamingWorker,
        "workers": service.processes,
        "threads": service.threads,
        "worker_connections": CONNECTIONS,
        "keepalive": KEEPALIVE_SECONDS,
        "timeout": REQUEST_LIMIT_SECONDS,
        "graceful_timeout": service.grace_seconds,
        "limit_request_line": 8190,
        "limit_request_fields": 64,
        "limit_request_field_size": 8190,
        "logger_class": PlainLogger,
        "loglevel": "warning",
        "proc_name": f"turnkeeper-{service.role}",
        "control_socket_disable": True,
        "umask": 0o077,  # of the hand-off socket: nobody else may hand us connections
        "worker_exit": finish,
        "post_worker_init": begin_serving,
    }
    if Path("/dev/shm").is_dir():  # noqa: S108  the heartbeat file must not lie on a slow disk
        settings["worker_tmp_dir"] = "/dev/shm"  # noqa: S108
    if service.pid_file is not None:
        pid_file = service.pid_file

        def begin(worker: Any) -> None:
            begin_serving(worker)
            note_pid(pid_file, worker.pid)

        settings["post_worker_init"] = begin
        settings["child_exit"] = lambda _, worker: forget_pid(pid_file, worker.pid)
    return settings


def begin_serving(worker: Any) -> None:
    """Prepare a process that is about to serve."""
    calm_collector()
    begin_metrics(worker)
    give_back = worker.app.callable.extensions.get(GIVE_BACK)
    if give_back is not None:
        give_back(worker.take_back)


def begin_metrics(worker: Any) -> None:
    """Share the process's figures if metrics are on."""
    begin = worker.app.callable.extensions.get(BEGIN_METRICS)
    worker.metrics = None if begin is None else begin()


def finish(server: Any, worker: Any) -> None:
    """Stop what the process holds, before it ends."""
    finish_streams(server, worker)
    metrics = getattr(worker, "metrics", None)
    if metrics is not None:
        metrics.stop()


def finish_streams(_: Any, worker: Any) -> None:
    """Wait, before a process ends, until its streams are closed."""
    closing = getattr(worker, "closing", None) or closing_streams(worker.app.callable)
    if closing is not None:
        closing.join(SHUTDOWN_LIMIT_SECONDS)


def note_pid(pid_file: Path, pid: int) -> None:
    """Record which process serves, in one step: a reader sees the old pid or the new one."""
    fresh = pid_file.with_suffix(".new")
    fresh.write_text(f"{pid}\n")
    fresh.replace(pid_file)


def forget_pid(pid_file: Path, pid: int) -> None:
    """Remove the pid of a process that ended, unless its successor has written its own."""
    if noted_pid(pid_file) == pid:
        pid_file.unlink(missing_ok=True)


def noted_pid(pid_file: Path) -> int:
    """Return the pid of the process that serves; 0 if none does."""
    try:
        return int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def serve(service: Service) -> None:
    """Serve until SIGTERM; does not return."""
    Gunicorn(service).run()
