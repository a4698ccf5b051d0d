"""Asks PostgreSQL for turns, once a second, while no doorbell would say that there are any.

A process asks while it has room for a turn and nothing proves that it would hear a doorbell, or that one could be
rung. It asks one question at a time, by the claim that a doorbell leads to as well: that claim's compare-and-set
decides who gets a turn, and its fairness whose turn it is. Whoever got one asks again at once, so that a queue is
taken as fast as doorbells would have it taken; whoever got none waits for a second, which chance makes a little
longer or shorter, so that many workers do not ask together.
"""

import logging
import random
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

from shared.errors import UnavailableError
from shared.lasting import lasting_thread

_log = logging.getLogger("turnkeeper.asking")

_EVERY_SECONDS: Final = (0.8, 1.2)
_TOLD_SECONDS: Final = 1.0
"""How often others are told how this process learns of turns, while that is not by doorbells."""


class Asking:
    """Asks for turns while it must.

    Args:
        must_ask: Returns whether doorbells cannot be relied on.
        room: Returns how many more turns the process may run.
        begin: Runs a function in one of the threads that run turns; False if the process takes no more turns.
        take: Claims and runs a turn in the calling thread; calls its argument once it knows whether there was one.
        tell: Writes down how this process learns of turns, with whether it asks.
        every_seconds: Returns the pause between two questions.
    """

    def __init__(
        self,
        *,
        must_ask: Callable[[], bool],
        room: Callable[[], int],
        begin: Callable[[Callable[[], None]], bool],
        take: Callable[[Callable[[bool], None]], None],
        tell: Callable[[bool], None],
        every_seconds: Callable[[], float] = lambda: random.uniform(*_EVERY_SECONDS),  # noqa: S311
    ) -> None:
        self._must_ask = must_ask
        self._room = room
        self._begin = begin
        self._take = take
        self._tell = tell
        self._every_seconds = every_seconds
        self._guard = threading.Lock()
        self._question: object | None = None
        self._asked_at: float | None = None
        self._was_told = False
        self._stopping = threading.Event()
        self._thread = lasting_thread("asking", self._ask_until_stopped)

    def start(self) -> None:
        """Start to look whether to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; a turn that was found runs on."""
        self._stopping.set()

    def silent_seconds(self) -> float:
        """Return how long nothing was asked and answered; infinite if nothing ever was."""
        return float("inf") if self._asked_at is None else monotonic() - self._asked_at

    def beat(self) -> None:
        """Look once: ask if that is how this process must learn of turns."""
        must_ask = self._must_ask()
        if must_ask:
            if self._room() > 0:
                self._ask()
            else:
                self._asked_at = monotonic()  # a full process has nothing to ask for
        if must_ask or self._was_told:
            self._say(must_ask)

    def _ask(self) -> None:
        question = object()
        with self._guard:
            if self._question is not None or self._stopping.is_set():
                return
            self._question = question

        def answered(is_found: bool) -> None:
            self._asked_at = monotonic()
            self._close(question)
            if is_found and self._must_ask() and self._room() > 0:
                self._ask()

        def work() -> None:
            try:
                self._take(answered)
            finally:
                self._close(question)

        if not self._begin(work):
            self._close(question)

    def _close(self, question: object) -> None:
        with self._guard:
            if self._question is question:
                self._question = None

    def _say(self, must_ask: bool) -> None:
        try:
            self._tell(must_ask)
        except UnavailableError as error:
            _log.warning("nobody is told how turns are found: %s", error)
        else:
            self._was_told = must_ask

    def _ask_until_stopped(self) -> None:
        while not self._stopping.wait(self._every_seconds()):
            self.beat()
