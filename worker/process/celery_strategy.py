"""How Celery hands a doorbell to a thread: at once.

Celery's own strategy builds a request with callbacks, limits, times and traces for each message. A doorbell
needs none of them: it is two strings, and the row decides what happens.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery.worker import state

from shared.redis.doorbell import arguments_of

_log = logging.getLogger("turnkeeper.doorbells")


class _Reserved:
    """Takes one of the places that Celery counts before it fetches another message."""

    __slots__ = ("__weakref__",)

    id = "doorbell"  # Celery logs the names of reserved requests when it reconnects


def doorbell_strategy(task: Any, _app: Any, consumer: Any, **_options: Any) -> Callable[..., None]:
    """Return the function that handles messages of `task`: a `Strategy` in Celery's terms.

    Nothing is acknowledged: the transport keeps no messages (`worker.process.doorbell_transport`).
    """

    def run(reserved: _Reserved, arguments: list[Any]) -> None:
        try:
            task.run(*arguments)
        except Exception:  # noqa: BLE001 -- nobody looks at the future; the lease or a sweeper has the turn
            _log.exception("a task failed")
        finally:
            state.reserved_requests.discard(reserved)

    def handle(message: Any, _body: Any, _ack: Any, _reject: Any, _callbacks: Any, **_: Any) -> None:
        try:
            arguments = arguments_of(message.body)
        except (ValueError, TypeError):
            _log.error("a message in the queue is no doorbell: it is dropped")
            return
        reserved = _Reserved()
        state.reserved_requests.add(reserved)
        consumer.pool.executor.submit(run, reserved, arguments)

    return handle
