"""Answers the questions of the delivery rule: from a turn's log, from its row, or by waiting."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Final, TypeVar

from api.caller import Caller
from api.relay.log import LogReader
from api.relay.questions import Questions
from api.relay.store import StreamStore
from shared.errors import UnavailableError
from shared.turn.events import timestamp
from shared.turn.replay import Asking, Found, Pause, ReadLog, Turn

_log = logging.getLogger(__name__)

_MOST_CHECKS: Final = 16
"""Silent turns, of all that are watched, that are checked at the same time."""
_T = TypeVar("_T")


class GoneError(Exception):
    """PostgreSQL answers, and does not know the turn: a failover lost its row."""


class Reads:
    """The reads of all replays. Belongs to the loop's thread.

    `checks` bounds the questions to the database.
    """

    def __init__(self, url: str, store: StreamStore, questions: Questions) -> None:
        """Read logs from the Redis at `url`, and rows through `store`."""
        self._store = store
        self._questions = questions
        self._log_reader = LogReader(url)
        self.checks = asyncio.Semaphore(_MOST_CHECKS)

    def close(self) -> None:
        """Close the connection to Redis."""
        self._log_reader.close()

    async def drive(self, asking: Asking[_T], turn: Turn, caller: Caller) -> _T:
        """Answer the delivery rule's questions until it returns.

        Raises:
            GoneError: The turn does not exist any more.
        """
        answer: Found = None
        while True:
            try:
                request = asking.send(answer)
            except StopIteration as end:
                # Even at the first step: a rule that was given the row may have no question.
                result: _T = end.value
                return result
            answer = None
            try:
                if isinstance(request, Pause):
                    await asyncio.sleep(request.seconds)
                elif isinstance(request, ReadLog):
                    answer = await self._log_reader.tail(turn.session_id, turn.turn_id, request.after)
                else:
                    async with self.checks:
                        state = await self._questions.ask(self._store.turn, caller, turn.turn_id)
                    if state is None:
                        raise GoneError
                    answer = state.row_state()
            except UnavailableError as error:
                _log.info("a read failed: %s", error, extra={"turn_id": str(turn.turn_id)})


def now_text() -> str:
    """Return the present time in the form of an event's `ts`."""
    return timestamp(datetime.now(UTC))
