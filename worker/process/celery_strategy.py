"""How a doorbell is handed to a thread: at once; and how a thread is had without one.

Celery's own strategy builds a request with callbacks, limits, times and traces for each message. A doorbell
needs none of them: it is two strings, and the row decides what happens.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

from celery.worker import state

from shared.redis.doorbell import arguments_of

_log = logging.getLogger("turnkeeper.doorbells")


class _Reserved:
    """Takes one of the places that Celery counts before it fetches another message."""

    __slots__ = ("__weakref__",)

    id = "doorbell"  # Celery logs the names of reserved requests when it reconnects


def taken_places() -> int:
    """Return how many of the process's places are taken, by turns and by doorbells that lead to one."""
    return len(state.reserved_requests)


def begin(executor: Executor, work: Callable[[], object]) -> bool:
    """Run `work` in a thread of the pool, in one of the process's places; False if the pool takes nothing more."""
    reserved = _Reserved()

    def run() -> None:
        try:
            work()
        except Exception:  # noqa: BLE001 -- nobody looks at the future; the lease or a sweeper has the turn
            _log.exception("a task failed")
        finally:
            state.reserved_requests.discard(reserved)

    state.reserved_requests.add(reserved)
    try:
        executor.submit(run)
    except RuntimeError:  # it was shut down
        state.reserved_requests.discard(reserved)
        return False
    return True


def doorbell_strategy(task: Any, _app: Any, consumer: Any, **_options: Any) -> Callable[..., None]:
    """Return the function that handles messages of `task`: a `Strategy` in Celery's terms.

    Nothing is acknowledged: the transport keeps no messages (`worker.process.doorbell_transport`).
    """

    def handle(message: Any, _body: Any, _ack: Any, _reject: Any, _callbacks: Any, **_: Any) -> None:
        try:
            arguments = arguments_of(message.body)
        except (ValueError, TypeError):
            _log.error("a message in the queue is no doorbell: it is dropped")
            return
        begin(consumer.pool.executor, partial(task.run, *arguments))

    return handle
