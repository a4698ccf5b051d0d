"""Waits for a turn's end in the request's thread, under a server whose connections cannot be handed to the hub.

Between two reads of the row no connection is held. A thread is, so only half of the threads may wait, and
further requests are answered at once.
"""

import threading
import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

from api.caller import Caller
from api.statements import turns
from shared.postgres.database import Database
from shared.turn.turns import TERMINAL

_FIRST_SECONDS: Final = 0.05
_LONGEST_SECONDS: Final = 0.5
_GROWTH: Final = 1.5


class Waiting:
    """Lets a bounded number of threads wait.

    Args:
        database: Holds the rows.
        most: How many may wait at once.
        clock: Monotonic seconds.
        sleep: Waits the given seconds.
    """

    def __init__(
        self,
        database: Database,
        most: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = database
        self._places = threading.BoundedSemaphore(max(1, most))
        self._clock = clock
        self._sleep = sleep

    def until_ended(self, caller: Caller, turn_id: UUID, seconds: float) -> None:
        """Wait until the turn has ended, for at most `seconds`; return at once if no place is free.

        Raises:
            UnavailableError: PostgreSQL cannot be reached.
        """
        if seconds <= 0 or not self._places.acquire(blocking=False):
            return
        try:
            self._wait(caller, turn_id, self._clock() + seconds)
        finally:
            self._places.release()

    def _wait(self, caller: Caller, turn_id: UUID, give_up_at: float) -> None:
        pause = _FIRST_SECONDS
        while not self._is_over(caller, turn_id):
            left = give_up_at - self._clock()
            if left <= 0:
                return
            self._sleep(min(pause, left))
            pause = min(pause * _GROWTH, _LONGEST_SECONDS)

    def _is_over(self, caller: Caller, turn_id: UUID) -> bool:
        with self._database.of(caller.organization_id) as db:
            status = turns.turn_status(db, caller, turn_id)
        return status is None or status in TERMINAL
