"""Notices when this process no longer receives doorbells although Redis answers: a deaf worker.

A worker that has received nothing for a while sends a canary through the same queue. Redis serves the
longest-waiting client first, so each of several workers gets its share; a worker that receives neither work
nor canaries while Redis accepts them is deaf. Only a new process mends that, so it ends itself and is
restarted.
"""

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

from shared.lasting import lasting_thread

_log = logging.getLogger("turnkeeper.liveness")

CANARY_SECONDS: Final = 15.0
"""Silence after which a canary is sent; also the time between two canaries."""
DEAF_SECONDS: Final = 75.0
"""Silence that counts as deaf although canaries were sent all along: five of them did not arrive."""


class Liveness:
    """Sends canaries and measures the silence.

    Args:
        send: Sends a canary through the queue; returns False if Redis did not accept it.
        is_full: Returns whether the process runs as many turns as it may, and so takes no messages.
        give_up: Ends the process in an orderly way.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        send: Callable[[], bool],
        is_full: Callable[[], bool],
        give_up: Callable[[], None],
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._send = send
        self._is_full = is_full
        self._give_up = give_up
        self._now = now
        self._heard_at = now()
        self._unheard = 0
        self._stopping = threading.Event()
        self._thread = lasting_thread("liveness", self._watch)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()

    def hear(self) -> None:
        """Note that a doorbell or a canary arrived."""
        self._heard_at = self._now()
        self._unheard = 0

    def silent_seconds(self) -> float:
        """Return the time since something last arrived; a full worker takes no messages and so counts as not silent."""
        if self._is_full():
            self.hear()
        return self._now() - self._heard_at

    def beat(self) -> None:
        """Check once: send a canary after a silence, give up after a long one."""
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
