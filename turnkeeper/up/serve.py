"""Runs the web and the relay: gunicorn with threads, one application.

Bound to an address it accepts connections itself; at a hand-off socket it takes over those that the front
accepted.
"""

import errno
import logging
import socket
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import ThreadWorker

from shared import open_files
from shared.collector import calm_collector
from shared.errors import ProblemCode
from turnkeeper.up.arrivals import IDLE_SECONDS, Arrivals, Connection
from turnkeeper.up.arriving import FIELDS, LINE_BYTES, Unserved, Whole
from turnkeeper.up.body_shares import BodyShares
from turnkeeper.up.front import take_over
from turnkeeper.up.malformed_requests import refusal_of
from turnkeeper.up.pid_file import forget_pid, note_pid
from turnkeeper.up.thread_shares import ThreadShares

REQUEST_LIMIT_SECONDS: Final = 120
"""How long a whole process (not a request) may be silent before gunicorn replaces it."""
CONNECTIONS: Final = 2000
"""Connections of one process that gunicorn holds; open streams belong to the relay and do not count."""
TAKE_OVER_LIMIT_SECONDS: Final = 1.0
"""The front sends the connection right after it connects."""
SHUTDOWN_LIMIT_SECONDS: Final = 10.0
CHECKS: Final = (b"/healthz", b"/readyz")
"""Paths that have a thread of their own, for requests of at most `LINE_BYTES`: a check has no body."""
CONNECTIONS_SHARE: Final = 4
"""One in this many open files may be a connection that gunicorn holds."""
QUEUED_SHARE: Final = 2
"""One in this many of these connections may be of one organization and wait for a thread."""
QUEUED_SECONDS: Final = 30.0
"""How long a request may wait for a thread."""
PAUSE_SECONDS: Final = 0.1
SHUTDOWN: Final = "turnkeeper_shutdown"
"""Name in `app.extensions` of the function that ends a process's streams."""
GIVE_BACK: Final = "turnkeeper_give_back"
"""Name of the function that is told who takes connections back whose stream has ended."""
BEGIN_METRICS: Final = "turnkeeper_begin_metrics"
"""Name of the function that shares a process's figures; it returns what to stop at the end, or None."""
TENANT_OF: Final = "turnkeeper_tenant_of"
"""Name of the function that returns whose request has an `Authorization` header, without asking anybody."""
UNSERVED: Final = "turnkeeper_unserved"
"""Name of the function that counts a request which is refused here."""
_NO_THREAD: Final = Unserved(ProblemCode.UNAVAILABLE, "the request waited too long for its turn: try again")
_TOO_MANY: Final = Unserved(ProblemCode.RATE_LIMITED, "too many requests at once: wait for some to end")
_log = logging.getLogger("turnkeeper.requests")


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
    """Gives threads only whole requests, shares them among organizations, and closes streams before it ends.

    Connections come and go in gunicorn's loop; `Arrivals` holds those that no thread serves.
    """

    wsgi: Any
    arrivals: Arrivals

    def init_process(self) -> None:
        """Prepare what the loop needs; gunicorn runs it in here."""
        self._accept_after = 0.0
        self._shares: ThreadShares[Connection] = ThreadShares(
            self.cfg.threads, max(1, self.cfg.worker_connections // QUEUED_SHARE)
        )
        self._bodies = BodyShares()
        # A check needs no thread that a stranger or an organization can hold; what it answers is small.
        self._checks = {path: ThreadPoolExecutor(1, f"check{path.decode()}") for path in CHECKS}
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop."""
        self.arrivals = Arrivals(self.poller, self._take, self._forget, self._unserved)
        super().run()
        for pool in self._checks.values():
            pool.shutdown(wait=False)

    def accept(self, listener: Any) -> None:
        """Accept one connection; a thread gets it when its request is whole."""
        if self.nr_conns >= self.worker_connections - 1:
            self.arrivals.make_room()
        try:
            accepted, client = self.next_connection(listener)
        except (BlockingIOError, ConnectionError):
            return
        except OSError as failed:
            # Out of descriptors or memory: the listener stays readable, so accepting pauses or the loop would spin.
            _log.warning(
                "no connection could be accepted", extra={"reason": errno.errorcode.get(failed.errno or 0)}
            )
            self.arrivals.make_room()
            self._accept_after = time.monotonic() + PAUSE_SECONDS
            self.set_accept_enabled(enabled=False)
            return
        try:
            connection = Connection(self.cfg, accepted, client, accepted.getsockname())
        except OSError:
            accepted.close()
            return
        self.nr_conns += 1
        self.arrivals.enter(connection, is_new=True)

    def next_connection(self, listener: Any) -> tuple[socket.socket, Any]:
        """Return the next connection and its peer.

        Raises:
            OSError: There is none, or it could not be accepted.
        """
        accepted, client = listener.accept()
        return accepted, client

    def set_accept_enabled(self, enabled: bool) -> None:
        """Begin or stop accepting, not before the end of a pause."""
        if not enabled or time.monotonic() >= self._accept_after:
            super().set_accept_enabled(enabled)

    def murder_pending(self) -> None:
        """End what has had its time (gunicorn calls this in each round of its loop)."""
        self.arrivals.expire()
        for connection in self._shares.give_up(time.monotonic() - QUEUED_SECONDS):
            self._forget_request(connection)
            self.arrivals.refuse(connection, _NO_THREAD)

    def murder_keepalived(self, force: bool = False) -> None:
        """End all connections, if forced: the process ends."""
        if force:
            self.arrivals.expire(by_force=True)

    def finish_request(self, conn: Connection, fs: "Future[Any]") -> None:
        """Go on with a connection whose thread is done, and give the thread to the next."""
        if conn.tenant is not None:
            self._shares.end(conn.tenant)
            self._forget_request(conn)
        is_kept = not fs.cancelled() and fs.exception() is None and bool(fs.result())
        self.arrivals.answered(conn, is_kept=is_kept)
        self._start_due()

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Return whether the connection goes on: a body that nobody read has been taken off it all the same."""
        del conn
        return bool(keepalive)

    def _cap_keepalive(self, deadline: float) -> None:
        """Do not wait longer than this for requests: the process is stopping."""
        self.arrivals.hurry(deadline)

    def _take(self, connection: Connection, whole: Whole) -> None:
        connection.read_from(whole.encoded)
        connection.sock.is_alone = not len(connection.arriving)
        pool = self._checks.get(whole.path)
        size = len(whole.encoded)
        if pool is not None and size <= LINE_BYTES:
            connection.tenant = None
            self._submit(pool, connection)
            return
        connection.tenant = self._tenant_of(whole.authorization) or connection.address
        if not self._bodies.take(connection.tenant, size):
            self.arrivals.refuse(connection, _TOO_MANY)
            return
        connection.request_bytes = size
        if self._shares.ask(connection.tenant, connection, time.monotonic()):
            self._start_due()
        else:
            self._forget_request(connection)
            self.arrivals.refuse(connection, _TOO_MANY)

    def _forget_request(self, connection: Connection) -> None:
        """Free the bytes of a request that had or awaited a thread."""
        connection.parser = None
        self._bodies.give_back(connection.tenant, connection.request_bytes)

    def _start_due(self) -> None:
        for connection in self._shares.start():
            self._submit(self.tpool, connection)

    def _submit(self, pool: Executor, connection: Connection) -> None:
        future = pool.submit(self.handle, connection)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, connection, done))

    def _forget(self) -> None:
        self.nr_conns -= 1

    def load_wsgi(self) -> None:
        """Load the application."""
        super().load_wsgi()
        extensions = getattr(self.app.callable, "extensions", {})
        self._tenant_of: Callable[[bytes], Hashable] = extensions.get(TENANT_OF, _nobody)
        self._unserved: Callable[[ProblemCode], None] = extensions.get(UNSERVED, _count_nothing)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop accepting, and close streams from a thread: this runs in a signal handler."""
        if self.alive:
            self.method_queue.defer(self._close_streams)
        super().handle_exit(sig, frame)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """Refuse a request that could not be read; its connection is then closed."""
        code, answer = refusal_of(exc)
        self._unserved(code)
        with suppress(OSError):
            write_nonblock(client, answer)

    def take_back(self, connection: socket.socket) -> None:
        """Serve a connection again whose last response the application has sent itself; from any thread."""
        self.method_queue.defer(self._keep, connection)

    def _keep(self, connection: socket.socket) -> None:
        """Wait for the connection's next request, as after any response; in the thread that accepts."""
        try:
            kept = Connection(self.cfg, connection, connection.getpeername()[:2], connection.getsockname())
        except OSError:
            connection.close()  # the client has left
            return
        if not self.alive:
            kept.close()
            return
        self.nr_conns += 1
        self.arrivals.enter(kept)

    def _close_streams(self) -> None:
        self.closing = closing_streams(self.app.callable)


class HandedOverWorker(StreamingWorker):
    """Serves connections that the front accepted."""

    def next_connection(self, listener: Any) -> tuple[socket.socket, Any]:
        """Take over one connection, to serve it as if it had been accepted here."""
        return take_over(listener, TAKE_OVER_LIMIT_SECONDS)


def _count_nothing(_: ProblemCode) -> None:
    """Count nothing."""


def _nobody(_: bytes) -> None:
    """Know no organization: each address has a share."""


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
        "worker_connections": max(service.threads + 8, min(CONNECTIONS, open_files.share(CONNECTIONS_SHARE))),
        "keepalive": int(IDLE_SECONDS),
        "timeout": REQUEST_LIMIT_SECONDS,
        "graceful_timeout": service.grace_seconds,
        "limit_request_line": LINE_BYTES,
        "limit_request_fields": FIELDS,
        "limit_request_field_size": LINE_BYTES,
        "sendfile": False,  # it would send past what `Departing` keeps
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


def serve(service: Service) -> None:
    """Serve until SIGTERM; does not return."""
    Gunicorn(service).run()
