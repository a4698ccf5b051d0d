"""Errors in Sentry: what the log says about them, and nothing else (I10).

Sentry's own integrations collect what is near an error: local variables, bodies, headers, arguments, lines of code.
None of them is enabled. An event is built here from a log record and contains only what a log line may say; the package
queues and sends it.
"""

import atexit
import logging
import threading
import traceback
from collections.abc import Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, Protocol

from shared.configuration.settings import Settings
from shared.errors import TurnkeeperError
from shared.observing.logs import chain_of, ids_of, redact, said_by
from shared.version import version

_OURS: Final = ("turnkeeper.", "api.", "worker.", "shared.")
_NOT_REPORTED: Final = ("sentry_sdk", "urllib3")
"""Errors of the reporter itself must not be reported."""
_MOST_FRAMES: Final = 50
_LAST_SECONDS: Final = 2.0
_PERIOD_SECONDS: Final = 60.0
_MOST_IN_PERIOD: Final = 60
"""While PostgreSQL is down every request logs an error; one event per second says as much."""
_LEVELS: Final[Mapping[int, str]] = MappingProxyType({logging.ERROR: "error", logging.CRITICAL: "fatal"})


class Client(Protocol):
    """The part of `sentry_sdk.Client` that is used."""

    def capture_event(self, event: Any) -> object:
        """Queue an event; never waits."""


def begin_error_reports(settings: Settings, process: str) -> None:
    """Report this process's errors if SENTRY_DSN is set. Call it once.

    Args:
        settings: The configuration.
        process: The process's name: `web`, `relay` or `worker`.
    """
    if not settings.sentry_dsn:
        return
    import sentry_sdk

    client = sentry_sdk.Client(
        dsn=settings.sentry_dsn.reveal(),
        release=f"turnkeeper@{version()}",
        environment="production" if settings.production else "development",
        integrations=[],
        default_integrations=False,
        auto_enabling_integrations=False,
        auto_session_tracking=False,
        include_local_variables=False,
        include_source_context=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        attach_stacktrace=False,
        send_client_reports=False,
        spotlight=False,
        traces_sample_rate=None,
    )
    logging.getLogger().addHandler(ErrorReports(client, process))
    atexit.register(client.close, timeout=_LAST_SECONDS)


class ErrorReports(logging.Handler):
    """Sends what is logged as an error, at most one event a second on average.

    Args:
        client: Receives the events.
        process: The process's name.
    """

    def __init__(self, client: Client, process: str) -> None:
        super().__init__(logging.ERROR)
        self._client = client
        self._process = process
        self._guard = threading.Lock()
        self._period_ends_at = 0.0
        self._sent = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Report a record; a failure here must not reach the code that logged it."""
        if record.name.startswith(_NOT_REPORTED) or not self._may_send():
            return
        try:
            self._client.capture_event(event_of(record, self._process))
        except Exception:  # noqa: BLE001 -- logging's own way would print the record
            return

    def _may_send(self) -> bool:
        with self._guard:
            now = monotonic()
            if now >= self._period_ends_at:
                self._period_ends_at, self._sent = now + _PERIOD_SECONDS, 0
            self._sent += 1
            return self._sent <= _MOST_IN_PERIOD


def event_of(record: logging.LogRecord, process: str) -> dict[str, Any]:
    """Return what Sentry is told about a record: our own words, ids, exception types and places in the code."""
    # Another library's words may quote whatever it was working on.
    is_ours = f"{record.name}.".startswith(_OURS)
    event: dict[str, Any] = {
        "level": _LEVELS.get(record.levelno, "error"),
        "logger": record.name,
        "logentry": {
            "message": redact(str(record.msg)) if is_ours else "an error in a library",
            "formatted": str(said_by(record)) if is_ours else f"an error in {record.name}",
        },
        "tags": {"process": process, **ids_of(record)},
    }
    if record.exc_info and record.exc_info[1] is not None:
        # Sentry wants the cause first.
        event["exception"] = {"values": [_exception(each) for each in chain_of(record.exc_info[1])][::-1]}
    return event


def _exception(error: BaseException) -> dict[str, Any]:
    frames = [
        {
            "filename": frame.f_code.co_filename,
            "function": frame.f_code.co_name,
            "lineno": line,
            "module": frame.f_globals.get("__name__"),
            "in_app": f"{frame.f_globals.get('__name__')}.".startswith(_OURS),
        }
        for frame, line in list(traceback.walk_tb(error.__traceback__))[-_MOST_FRAMES:]
    ]
    described: dict[str, Any] = {
        "type": type(error).__qualname__,
        "module": type(error).__module__,
        "value": redact(str(error)) if isinstance(error, TurnkeeperError) else "",
    }
    return {**described, "stacktrace": {"frames": frames}} if frames else described
