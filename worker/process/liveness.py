"""Notices when this process no longer hears doorbells, although Redis answers: a deaf worker.

A worker that heard nothing for a while sends a canary through the same queue. Redis serves whoever waits
longest first, so each of several workers gets its share; one that hears neither work nor canaries while
others could be rung is deaf. Nothing mends that but a new process, so it ends itself and is restarted.
"""

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

_log = logging.getLogger("turnkeeper.liveness")

CANARY_SECONDS: Final = 15.0
"""Silence after which a canary is sent; also the time between two."""
DEAF_SECONDS: Final = 75.0
"""Silence, with canaries sent all along, that counts as deaf: five unheard canaries."""


class Liveness:
    """Sends canaries and counts the silence.

    Args:
        send: Sends a canary through the queue; False when Redis did not take it.
        is_full: Says whether the process runs as many turns as it may, and so listens to nothing.
        give_up: Ends the process in good order.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        send: Callable[[], bool],
        is_full: Callable[[], bool],
        give_up: Callable[[], None],
        now: Callable[[], float] = monotonic,
    ) -> None:
        """Begin as if something was heard just now."""
        self._send = send
        self._is_full = is_full
        self._give_up = give_up
        self._now = now
        self._heard_at = now()
        self._unheard = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="liveness", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopping.set()

    def hear(self) -> None:
        """Note that a doorbell or a canary arrived."""
        self._heard_at = self._now()
        self._unheard = 0

    def silent_seconds(self) -> float:
        """Return how long nothing was heard; a full worker does not listen, and that is right."""
        if self._is_full():
            self.hear()
        return self._now() - self._heard_at

    def beat(self) -> None:
        """Look once: send a canary after a silence, give up after a long one."""
        silent = self.silent_seconds()
        if silent >= DEAF_SECONDS and self._unheard * CANARY_SECONDS >= DEAF_SECONDS:
            _log.critical("the worker hears no doorbells and ends", extra={"silent_seconds": round(silent)})
            self._stopping.set()
            self._give_up()
        elif silent >= CANARY_SECONDS and self._send():
            self._unheard += 1

    def _watch(self) -> None:
        while not self._stopping.wait(CANARY_SECONDS):
            self.beat()
