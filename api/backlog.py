"""Decides whether an organization's queue is full, by how long its own turns wait; an age a second old will do.

Turns of others do not count: workers take turns fairly, so an organization with nothing waiting is served soon however
long another's queue is. Beside that, all queued turns together have a bound, which protects the database; of it an
organization has a part.

Ages tell more than counts: ten thousand short turns may be gone in a moment, ten long ones may not. While Redis is
down no worker receives a doorbell, and an age says nothing about how busy the workers are. Such time does not count,
up to half of what a turn may wait in all. One request of an organization asks each second, in a statement that it
sends anyway.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final
from uuid import UUID

from flask import current_app

from shared.configuration.settings import Settings

MOST_ORGANIZATIONS: Final = 10_000
"""Organizations whose answers are kept; the one that asked least recently is forgotten first, and asks again."""
_LOOK_SECONDS: Final = 1.0
_EXTENSION: Final = "turnkeeper_backlog"
_UNHEARD_SHARE: Final = 0.5
"""Share of the time that a turn may wait: a turn accepted later than this might never run."""


class Backlog:
    """Knows for a process whether the queue of one organization is full.

    Args:
        full_seconds: The queue is full while a turn has waited this long for workers that receive doorbells.
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
        """Begin a request's look; if it asks and gets no answer, the next request asks."""
        look = Look(self)
        try:
            yield look
        finally:
            if look.is_unanswered:
                with self._lock:
                    self._asked_at = None

    def learn(
        self, seconds: float | None, heard_seconds: float | None, *, has_too_many: bool = False
    ) -> None:
        """Note how long the organization's turn that has waited longest has waited; None if none is waiting.

        Args:
            seconds: In all.
            heard_seconds: While workers received doorbells.
            has_too_many: Whether the organization has its part of all turns that may wait.
        """
        self._is_full = (
            has_too_many
            or (heard_seconds or 0.0) >= self._full_seconds
            or (seconds or 0.0) >= self._unheard_seconds
        )

    def is_full(self) -> bool:
        """Return whether new turns are refused, by the last answer."""
        return self._is_full

    def is_due(self) -> bool:
        """Return whether the last answer is old; True for only one request a second."""
        now = monotonic()
        with self._lock:
            if self._asked_at is not None and now - self._asked_at < _LOOK_SECONDS:
                return False  # it is fresh, or another request is asking, for which nobody waits
            self._asked_at = now
            return True


class Look:
    """One request's look at the backlog.

    Args:
        backlog: The organization's.
    """

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self.is_unanswered = False

    def asks(self) -> bool:
        """Return whether this request asks the database; called just before it could."""
        self.is_unanswered = self._backlog.is_due()
        return self.is_unanswered

    def learn(
        self, seconds: float | None, heard_seconds: float | None, *, has_too_many: bool = False
    ) -> None:
        """Note the database's answer if this request has asked; as `Backlog.learn`."""
        if self.is_unanswered:
            self._backlog.learn(seconds, heard_seconds, has_too_many=has_too_many)
            self.is_unanswered = False

    def is_full(self) -> bool:
        """Return whether new turns are refused."""
        return self._backlog.is_full()


class Backlogs:
    """The backlogs of all organizations that ask for turns, of a bounded number of them.

    Args:
        full_seconds: As of `Backlog`.
        timeout_seconds: As of `Backlog`.
    """

    def __init__(self, full_seconds: float, timeout_seconds: float) -> None:
        self._full_seconds = full_seconds
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._each: OrderedDict[UUID, Backlog] = OrderedDict()

    def of(self, organization_id: UUID) -> Backlog:
        """Return the backlog of an organization."""
        with self._lock:
            backlog = self._each.get(organization_id)
            if backlog is None:
                backlog = self._each[organization_id] = Backlog(self._full_seconds, self._timeout_seconds)
                if len(self._each) > MOST_ORGANIZATIONS:
                    self._each.popitem(last=False)
            self._each.move_to_end(organization_id)
            return backlog


def backlog_of(settings: Settings, organization_id: UUID) -> Backlog:
    """Return an organization's backlog in the running application."""
    made = Backlogs(settings.queue_full_seconds, settings.queue_timeout_seconds)
    found: Backlogs = current_app.extensions.setdefault(_EXTENSION, made)
    return found.of(organization_id)
