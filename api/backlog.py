"""Whether the queue is full, by the age of what waits longest: an answer that is a second old is good enough.

Ages tell what counts do not: ten thousand short turns may be gone in a moment, ten long ones may not. While Redis
is away no worker hears of a turn, and an age says nothing of how busy they are: that time does not count, up to half
of what a turn may wait at all.
"""

import threading
from time import monotonic
from typing import Final

from flask import current_app
from sqlalchemy import text

from api.services import Services
from shared.database import Database

_LOOK_SECONDS: Final = 1.0
_EXTENSION: Final = "turnkeeper_backlog"
_LONGEST_WAIT: Final = text("select seconds, heard_seconds from turnkeeper.longest_wait()")
_UNHEARD_SHARE: Final = 0.5
"""Of the time that a turn may wait: what is accepted later than this might not come to run."""


class Backlog:
    """Looks at the queue at most once a second for a whole process.

    Args:
        database: Where the turns are.
        full_seconds: The queue is full while a turn has waited this long for workers that hear.
        timeout_seconds: How long a turn may wait before it expires.
    """

    def __init__(self, database: Database, full_seconds: float, timeout_seconds: float) -> None:
        self._database = database
        self._full_seconds = full_seconds
        self._unheard_seconds = max(full_seconds, timeout_seconds * _UNHEARD_SHARE)
        self._looking = threading.Lock()
        self._looked_at: float | None = None
        self._is_full = False

    def is_full(self) -> bool:
        """Say whether new turns are to be refused.

        Raises:
            UnavailableError: PostgreSQL cannot be reached.
        """
        if self._is_fresh() or not self._looking.acquire(blocking=False):
            return self._is_full  # another request looks; nobody waits for it
        try:
            if not self._is_fresh():
                self._look()
        finally:
            self._looking.release()
        return self._is_full

    def _is_fresh(self) -> bool:
        return self._looked_at is not None and monotonic() - self._looked_at < _LOOK_SECONDS

    def _look(self) -> None:
        with self._database.across() as db:
            longest = db.execute(_LONGEST_WAIT).one_or_none()
        self._is_full = longest is not None and (
            longest.heard_seconds >= self._full_seconds or longest.seconds >= self._unheard_seconds
        )
        self._looked_at = monotonic()


def backlog_of(parts: Services) -> Backlog:
    """Return the running application's one."""
    settings = parts.settings
    made = Backlog(parts.database, settings.queue_full_seconds, settings.queue_timeout_seconds)
    found: Backlog = current_app.extensions.setdefault(_EXTENSION, made)
    return found
