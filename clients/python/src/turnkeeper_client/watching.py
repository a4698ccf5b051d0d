"""A session's events, turn after turn, over as many connections as it takes.

A subscription replays one turn and then continues live, so whatever was missed of other turns is requested turn by
turn: after each connection the session's turns are listed, and those that ended without being read are replayed before
anything else.
"""

from typing import Final

from turnkeeper_client import calls
from turnkeeper_client.errors import StreamLostError
from turnkeeper_client.events import read_event
from turnkeeper_client.exchange import Means, exchange
from turnkeeper_client.following import Follower
from turnkeeper_client.line import Asked, BrokenError, Frame, Line, beside
from turnkeeper_client.models import Turn
from turnkeeper_client.reading import Reading
from turnkeeper_client.steps import Steps, emit

MOST_MISSED: Final = 1000
"""How many missed turns are replayed after one loss, and how many turns may be open at once."""
_AT_ONCE: Final = 100


class Watcher:
    """Which turns of a session have been read, and how far."""

    def __init__(self, session_id: str, means: Means) -> None:
        self.session_id = session_id
        self._means = means
        self._open: dict[str, Follower] = {}
        self._read_through = ""
        """Ids rise with time: every turn up to this one has been read, or was over before the watching began."""
        self._read: set[str] = set()
        """Turns after that one that have been read."""
        self._is_complete = False
        """Whether no turn can have ended unread: then the last one read moves that mark forward."""

    def begin(self) -> Steps[None]:
        """Find out which turns are over before the watching begins.

        Raises:
            ApiError: The session cannot be read.
        """
        page = yield from exchange(calls.list_turns(self.session_id, limit=_AT_ONCE), self._means)
        running = min((turn.id for turn in page.data if not turn.is_over), default=None)
        over = (turn.id for turn in page.data if turn.is_over and (running is None or turn.id < running))
        self._read_through = max(over, default="")
        self._read = {turn.id for turn in page.data if turn.is_over and turn.id > self._read_through}

    def open_turns(self) -> list[Asked]:
        """Return the turns to continue on a new connection, oldest first."""
        self._is_complete = False
        return [self._open[turn_id].asked() for turn_id in sorted(self._open)]

    def missed_turns(self) -> Steps[list[Asked]]:
        """Return the turns that are over and were not read to their end, oldest first.

        Raises:
            StreamLostError: There are too many.
            BrokenError: They could not be listed.
        """
        missed: list[Turn] = []
        cursor: str | None = None
        while True:
            page = yield from beside(
                calls.list_turns(self.session_id, limit=_AT_ONCE, cursor=cursor), self._means
            )
            newer = [turn for turn in page.data if turn.id > self._read_through]
            missed += [turn for turn in newer if turn.is_over and turn.id not in self._read]
            cursor = page.next_cursor
            if cursor is None or len(newer) < len(page.data):
                break
            if len(missed) > MOST_MISSED:
                raise StreamLostError(f"more than {MOST_MISSED} turns were missed")
        self._is_complete = not missed
        self._move_on()
        return [self._follower(turn.id).asked() for turn in sorted(missed, key=lambda turn: turn.id)]

    def take(self, frame: Frame) -> Steps[bool]:
        """Take a frame and emit its content; return whether there was any."""
        event = read_event(frame)
        if event is None or self._is_read(event.turn_id):
            return False
        follower = self._follower(event.turn_id)
        shown = follower.take(event)
        if follower.reading.is_over:
            self._close(event.turn_id)
        for each in shown:
            yield from emit(each)
        return bool(shown)

    def _is_read(self, turn_id: str) -> bool:
        return turn_id <= self._read_through or turn_id in self._read

    def _follower(self, turn_id: str) -> Follower:
        if turn_id not in self._open and len(self._open) >= MOST_MISSED:
            raise StreamLostError(f"more than {MOST_MISSED} turns are open at once")
        return self._open.setdefault(turn_id, Follower(self.session_id, Reading(turn_id)))

    def _close(self, turn_id: str) -> None:
        del self._open[turn_id]
        self._read.add(turn_id)
        self._move_on()

    def _move_on(self) -> None:
        if not self._is_complete:
            return
        oldest_open = min(self._open, default=None)
        through = {each for each in self._read if oldest_open is None or each < oldest_open}
        self._read_through = max(through | {self._read_through})
        self._read -= through


def watch(watcher: Watcher, line: Line) -> Steps[None]:
    """Emit the events of all turns of a session that are running or begin from now on, until the caller closes it.

    Raises:
        ApiError: The service refused the stream for good.
        StreamLostError: It was lost and could not be opened again.
        TimeLimitError: The line's time is over.
    """
    yield from watcher.begin()
    while True:
        try:
            yield from _watch_once(watcher, line)
        except BrokenError as broken:
            yield from line.come_back(broken)


def _watch_once(watcher: Watcher, line: Line) -> Steps[None]:
    waiting = watcher.open_turns() or [Asked(watcher.session_id)]
    yield from line.open(waiting.pop(0))
    missed: list[Asked] = []
    is_live = False
    while True:
        frames = yield from line.frames()
        for frame in frames:
            if (yield from watcher.take(frame)):
                line.progress()
            if frame.get("type") != "caught_up" or is_live:
                continue
            if not waiting:
                # Again after each round: a turn may end between two subscriptions.
                before, missed = missed, (yield from watcher.missed_turns())
                if missed and missed == before:
                    raise BrokenError("a turn that is over was replayed without its end")
                waiting = list(missed)
                is_live = not waiting
            if waiting:
                yield from line.ask(waiting.pop(0))
