"""Bounds searches: a few at once in a process, fewer of one organization, one of one user.

A search reads all that was written in a user's or an organization's sessions until it has found a page, so it may take
as long as its statement may. Without a bound, one organization's searches would hold every thread and connection.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from api.caller import Caller
from shared.errors import ProblemCode, RefusedError

_SHARE_OF_THREADS: Final = 4
_TRY_AGAIN_MS: Final = 1000


class Searches:
    """Lets a bounded number of searches run at once.

    Args:
        threads: Requests that the process serves at once; a quarter of them may search, half of that quarter for one
            organization.
    """

    def __init__(self, threads: int) -> None:
        self._most = max(2, threads // _SHARE_OF_THREADS)
        self._most_of_one = max(1, self._most // 2)
        self._lock = threading.Lock()
        self._running: Counter[UUID] = Counter()
        self._users: set[tuple[UUID, str]] = set()

    @contextmanager
    def place(self, caller: Caller) -> Iterator[None]:
        """Hold a place for one search.

        Raises:
            RefusedError: There is none; its `scope` says whose are used up: `searches` for the process's.
        """
        user = (caller.organization_id, caller.user) if caller.role == "user" and caller.user else None
        with self._lock:
            scope = self._refusing(caller.organization_id, user)
            if scope is None:
                self._running[caller.organization_id] += 1
                if user is not None:
                    self._users.add(user)
        if scope is not None:
            raise RefusedError(
                ProblemCode.RATE_LIMITED,
                "other searches are under way: wait and try again",
                retry_after_ms=_TRY_AGAIN_MS,
                members={"scope": scope},
            )
        try:
            yield
        finally:
            with self._lock:
                self._running[caller.organization_id] -= 1
                if not self._running[caller.organization_id]:
                    del self._running[caller.organization_id]
                if user is not None:
                    self._users.discard(user)

    def _refusing(self, organization_id: UUID, user: tuple[UUID, str] | None) -> str | None:
        if user in self._users:
            return "user"
        if self._running[organization_id] >= self._most_of_one:
            return "organization"
        return "searches" if self._running.total() >= self._most else None
