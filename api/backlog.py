"""Whether the queue is full, by the age of what waits longest: an answer that is a second old is good enough.

Ages tell what counts do not: ten thousand short turns may be gone in a moment, ten long ones may not. While Redis
is away no worker hears of a turn, and an age says nothing of how busy they are: that time does not count, up to half
of what a turn may wait at all. One request a second asks, in a statement that it sends anyway.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from flask import current_app

from shared.configuration.settings import Settings

_LOOK_SECONDS: Final = 1.0
_EXTENSION: Final = "turnkeeper_backlog"
_UNHEARD_SHARE: Final = 0.5
"""Of the time that a turn may wait: what is accepted later than this might not come to run."""


class Backlog:
    """Knows for a whole process whether the queue is full.

    Args:
        full_seconds: The queue is full while a turn has waited this long for workers that hear.
        timeout_seconds: How long a turn may wait before it expires.
    """

    def __init__(self, full_seconds: float, timeout_seconds: float) -> None:
        self._full_seconds = full_seconds
        self._unheard_seconds = max(full_seconds, timeout_seconds * _UNHEARD_SHARE)
        self._lock = threading.Lock()
        self._asked_at: float | None = None
        self._is_full = False

    @contextmanager
    def look(self) -> "Iterator[Look]":
        """Begin a request's look; when it asks and is not answered, the next one asks."""
        look = Look(self)
        try:
            yield look
        finally:
            if look.is_unanswered:
                with self._lock:
                    self._asked_at = None

    def learn(self, seconds: float | None, heard_seconds: float | None) -> None:
        """Take the database's answer: how long the turn that waits longest has waited; None when none waits.

        Args:
            seconds: In all.
            heard_seconds: For workers that heard of turns meanwhile.
        """
        self._is_full = (heard_seconds or 0.0) >= self._full_seconds or (
            seconds or 0.0
        ) >= self._unheard_seconds

    def is_full(self) -> bool:
        """Return whether new turns are to be refused, by the last answer."""
        return self._is_full

    def is_due(self) -> bool:
        """Return whether the last answer is old, to one request a second."""
        now = monotonic()
        with self._lock:
            if self._asked_at is not None and now - self._asked_at < _LOOK_SECONDS:
                return False  # it is fresh, or another request asks; nobody waits for it
            self._asked_at = now
            return True


class Look:
    """One request's look at the backlog.

    Args:
        backlog: The process's.
    """

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self.is_unanswered = False

    def asks(self) -> bool:
        """Say, just before it could ask the database, whether this request is the one that does."""
        self.is_unanswered = self._backlog.is_due()
        return self.is_unanswered

    def learn(self, seconds: float | None, heard_seconds: float | None) -> None:
        """Take the database's answer, where this request has asked; as `Backlog.learn`."""
        if self.is_unanswered:
            self._backlog.learn(seconds, heard_seconds)
            self.is_unanswered = False

    def is_full(self) -> bool:
        """Return whether new turns are to be refused."""
        return self._backlog.is_full()


def backlog_of(settings: Settings) -> Backlog:
    """Return the running application's one."""
    made = Backlog(settings.queue_full_seconds, settings.queue_timeout_seconds)
    found: Backlog = current_app.extensions.setdefault(_EXTENSION, made)
    return found
