"""Requests that wait for the end of their turn: in the loop, so that a wait costs a socket and no thread.

All that wait in a process ask PostgreSQL in one statement. The answers are made one organization after another, so that
a thousand waits of one that end together do not stand before the single wait of another.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import ClassVar, Final
from uuid import UUID

from api.relay.connection import Connection
from api.relay.face import FaceKind, Farewell, Parting
from api.relay.frames import CloseCode
from api.relay.questions import Questions
from api.relay.store import StreamStore
from api.relay.tasks import Tasks
from shared.errors import UnavailableError
from shared.turn.replay import Outgoing

_STEP_SECONDS: Final = 0.05
"""Between two statements at most so often: a turn's end is known a moment later, however many wait."""
_FIRST_SECONDS: Final = 0.05
_LONGEST_SECONDS: Final = 0.5
_GROWTH: Final = 1.5
_MOST_ASKED: Final = 1_000
"""Turns in one statement."""
_MOST_ANSWERING: Final = 4
"""Answers that are read at once, of the connections to PostgreSQL that requests need as well."""
_NO_SEQ: Final = 2**53
"""Past every event: only a turn that is over is ahead of it."""


@dataclass(frozen=True, slots=True)
class Waited:
    """What a request waits for.

    Attributes:
        turn_id: The turn.
        seconds: How long it waits at most.
        answer: Reads and encodes the whole response, head and body; blocking. It is given whether the connection
            closes afterwards.
        unavailable: The whole response if that takes too long; the connection closes afterwards.
        may_continue: Whether the server takes the connection back for the client's next request.
    """

    turn_id: UUID
    seconds: float
    answer: Callable[[bool], bytes]
    unavailable: bytes
    may_continue: bool


class Wait:
    """The `Face` of a request that waits: nothing is sent before its answer."""

    __slots__ = ("_may_continue", "_pause", "_response", "_waits", "connection", "ends_at", "waited")
    kind: ClassVar[int] = FaceKind.WAIT
    ends_with_turn: ClassVar[bool] = False

    def __init__(self, connection: Connection, waits: "Waits", waited: Waited) -> None:
        """Wait on `connection`."""
        self.connection = connection
        self.waited = waited
        self.ends_at = asyncio.get_running_loop().time() + waited.seconds
        self._waits = waits
        self._may_continue = waited.may_continue
        self._pause = _FIRST_SECONDS
        self._response = b""
        waits.add(self)

    def next_look(self, now: float) -> float:
        """Return when to look again: ever less often, and at the end of its time."""
        at = min(now + self._pause, self.ends_at)
        self._pause = min(self._pause * _GROWTH, _LONGEST_SECONDS)
        return at

    def may_continue(self) -> bool:
        """Return whether the connection is of use after the answer."""
        return self._may_continue

    def answer(self, response: bytes, *, closes: bool) -> None:
        """Send the response; it is the last thing on the connection if `closes`."""
        self._response = response
        self._may_continue = self._may_continue and not closes
        self.connection.close(CloseCode.NORMAL)

    def event(self, outgoing: Outgoing) -> bytes:
        """Raise: a request that waits reads no events."""
        raise NotImplementedError

    def heartbeat(self) -> bytes:
        """Return nothing: a response cannot begin before it is known."""
        return b""

    def farewell(self, code: CloseCode, reason: str) -> Farewell:
        """Send the response, if there is one."""
        del reason
        is_answered = code is CloseCode.NORMAL
        parting = Parting.GIVE_BACK if is_answered and self._may_continue else Parting.HANG_UP
        return Farewell(self._response, parting)

    def receive(self, data: memoryview) -> None:
        """Ignore what the client sends before it has its answer; no other request can be read after that."""
        del data
        self.end_connection()

    def end_connection(self) -> None:
        """Let the answer be the last thing on the connection."""
        self._may_continue = False

    def peer_has_closed(self, data: memoryview) -> bool:
        """Return False: the peer closes only by ending its side."""
        del data
        return False

    def stop(self) -> None:
        """Wait no longer."""
        self._waits.remove(self)


class Waits:
    """All waits of a process. Belongs to the loop's thread."""

    def __init__(self, store: StreamStore, questions: Questions) -> None:
        """Ask `store` by `questions`."""
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._questions = questions
        self._tasks = Tasks()
        self._waiting: set[Wait] = set()
        self._looks: list[tuple[float, int, Wait]] = []
        self._number = count()
        self._arrived = asyncio.Event()
        self._ready: dict[UUID, deque[Wait]] = {}
        self._answering = 0

    def start(self) -> None:
        """Start to look after the waits that are added."""
        self._tasks.spawn(self._look_for_ends())

    async def stop(self) -> None:
        """End all tasks."""
        tasks = list(self._tasks.of_all)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def add(self, wait: Wait) -> None:
        """Look after `wait` until it is answered or removed."""
        self._waiting.add(wait)
        self._look_later(wait)
        self._arrived.set()

    def remove(self, wait: Wait) -> None:
        """Forget `wait`."""
        self._waiting.discard(wait)

    def end_all(self) -> None:
        """Answer all with the present state of their turns: the process ends."""
        for wait in list(self._waiting):
            self._finish(wait, closes=True)

    def _look_later(self, wait: Wait) -> None:
        heappush(self._looks, (wait.next_look(self._loop.time()), next(self._number), wait))

    async def _look_for_ends(self) -> None:
        while True:
            if not self._looks:
                self._arrived.clear()
                await self._arrived.wait()
            await asyncio.sleep(_STEP_SECONDS)
            now = self._loop.time()
            due: list[Wait] = []
            while self._looks and self._looks[0][0] <= now and len(due) < _MOST_ASKED:
                wait = heappop(self._looks)[2]
                if wait in self._waiting:
                    due.append(wait)
            if due:
                await self._look(due, now)

    async def _look(self, due: list[Wait], now: float) -> None:
        asked = {wait.waited.turn_id: _NO_SEQ for wait in due}
        try:
            over = await self._questions.ask(self._store.turns_ahead, asked)
        except UnavailableError:
            over = ()  # they go on waiting: the database may be back before their time is over
        for wait in due:
            if wait not in self._waiting:
                continue
            if wait.waited.turn_id in over or now >= wait.ends_at:
                self._finish(wait)
            else:
                self._look_later(wait)

    def _finish(self, wait: Wait, *, closes: bool = False) -> None:
        self._waiting.discard(wait)
        if closes:
            wait.end_connection()
        self._ready.setdefault(wait.connection.caller.organization_id, deque()).append(wait)
        self._answer_next()

    def _answer_next(self) -> None:
        """Answer one wait of each organization in turn."""
        while self._ready and self._answering < _MOST_ANSWERING:
            organization_id = next(iter(self._ready))
            mine = self._ready.pop(organization_id)
            wait = mine.popleft()
            if mine:
                self._ready[organization_id] = mine  # behind the others
            if wait.connection.is_open():
                self._answering += 1
                self._tasks.spawn(self._answer(wait), turn_id=wait.waited.turn_id)

    async def _answer(self, wait: Wait) -> None:
        closes, response = not wait.may_continue(), b""
        try:
            response = await self._questions.ask(wait.waited.answer, closes)
        except UnavailableError:
            closes, response = True, wait.waited.unavailable
        finally:
            self._answering -= 1
            self._answer_next()
            if not response:
                wait.connection.drop()  # a mistake of ours, or the process ends: the client must not wait for ever
        if wait.connection.is_open():
            wait.answer(response, closes=closes)
