"""Celery's consumer, which never leaves its loop: whatever ends a connection, the next attempt comes soon.

Celery's own ends, and with it the worker, on an error that it does not know, such as a refusal; it waits up to half a
minute between attempts, none at all before a server that lets it connect and then refuses; and after a loss it
forgets which of its places are taken.
"""

import logging
import time
from typing import Any, Final

from celery.worker import state
from celery.worker.consumer import Consumer

from shared.redis.pauses import LONGEST_SECONDS, Pauses
from shared.redis.refusals import word_of
from worker.process.doorbell_transport import HEARING_OPTION

_log = logging.getLogger("turnkeeper.doorbells")

_FIRST_INTERVAL_SECONDS: Final = 0.2
_INTERVAL_STEP_SECONDS: Final = 0.4
_LONGEST_INTERVAL_SECONDS: Final = LONGEST_SECONDS / 2
"""kombu waits in whole seconds from one on, and looks for the process's end in between."""


class DoorbellConsumer(Consumer):  # type: ignore[misc]
    """Listens for doorbells until the process is told to end."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pauses = Pauses()
        # What ends the process is no `Exception` in Celery.
        self.connection_errors = (Exception,)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, with bounded pauses, for as long as it takes."""
        tell = self._tell

        def told(error: BaseException, _interval: float) -> None:
            tell(error)

        connected = conn.ensure_connection(
            told,
            None,
            interval_start=_FIRST_INTERVAL_SECONDS,
            interval_step=_INTERVAL_STEP_SECONDS,
            interval_max=_LONGEST_INTERVAL_SECONDS,
            callback=state.maybe_shutdown,
        )
        self.first_connection_attempt = False
        self._pauses.connected()
        return connected

    def on_connection_error_before_connected(self, exc: BaseException) -> None:
        """Pause before the next attempt."""
        self._lose(exc)

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Drop the connection, and pause before the next attempt."""
        try:
            self.connection.collect()
        except Exception as error:  # noqa: BLE001 -- it is dropped, whatever its end answers
            _log.debug("a connection was dropped with an error: %s", type(error).__name__)
        self._lose(exc)

    def on_close(self) -> None:
        """Forget the connection's messages, and not whose places are taken: turns go on without Redis."""
        taken = tuple(state.reserved_requests)
        super().on_close()
        state.reserved_requests.update(taken)

    def _lose(self, error: BaseException) -> None:
        self._tell(error)
        hearing = self.app.conf.broker_transport_options.get(HEARING_OPTION)
        if hearing is not None:
            hearing.lose()
        time.sleep(self._pauses.after_loss())
        state.maybe_shutdown()

    def _tell(self, error: BaseException) -> None:
        _log.warning("no doorbells are heard, for redis does not serve us now: %s", word_of(error))
