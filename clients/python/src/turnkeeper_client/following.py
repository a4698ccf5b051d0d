"""One turn's events from a cursor to `done`, over as many connections as it takes.

If what was read turns out to be void, or the text is not the one that `done` names, the text is fetched again
separately from what the caller has, and shown only once it has caught up: the caller sees a single `Snapshot`.
"""

from turnkeeper_client.errors import TextMismatchError
from turnkeeper_client.events import Done, Event, Gap, Snapshot, read_event
from turnkeeper_client.line import Asked, BrokenError, Frame, Line
from turnkeeper_client.reading import Reading, Verdict
from turnkeeper_client.steps import Hang, Steps, emit


class Follower:
    """Takes one turn's events and decides which of them the caller sees.

    Attributes:
        reading: The turn as the caller has it.
        mended: How often its text had to be fetched again.
    """

    def __init__(self, session_id: str, reading: Reading) -> None:
        """Continue from `reading`, in place."""
        self.session_id = session_id
        self.reading = reading
        self.mended = 0
        self._fresh: Reading | None = None
        self._shown_through = 0
        self._gap: Gap | None = None
        self._is_doubted = False

    def asked(self) -> Asked:
        """Return what to request on the next connection."""
        self._gap = None  # its snapshot was lost with the connection; both are sent again
        at = self._fresh or self.reading
        by_snapshot = self._fresh is not None and at.seq == 0
        return Asked(self.session_id, at.turn_id, at.seq, by_snapshot)

    def take(self, event: Event) -> list[Event]:
        """Take an event; return the events that the caller is to see.

        Raises:
            BrokenError: It is not the next one: subscribe again.
            TextMismatchError: The text is wrong, even after it was fetched again.
        """
        at = self._fresh or self.reading
        match at.judge(event):
            case Verdict.SEEN:
                return []
            case Verdict.HOLE:
                raise BrokenError("events are missing")
            case Verdict.VOID:
                self._fetch_again()
                raise BrokenError("what was read is void")
            case Verdict.NEXT:
                return self._take_next(at, event)

    def _take_next(self, at: Reading, event: Event) -> list[Event]:
        if isinstance(event, Gap):
            self._gap = event
            return []
        before = at.snapshot() if isinstance(event, Done) and self._fresh is not None else None
        at.take(event)
        if isinstance(event, Done) and at.is_whole and not at.is_proved:
            self._doubt(at)
        gap, self._gap = self._gap, None
        if self._fresh is None:
            return [event] if gap is None else [gap, event]
        if before is not None:
            self._show(at)
            return [before, event]
        if isinstance(event, Snapshot) or at.seq >= self._shown_through:
            self._show(at)
            return [at.snapshot()]
        return []

    def _doubt(self, at: Reading) -> None:
        if self._is_doubted:
            raise TextMismatchError(at.turn_id, at.text)
        self._is_doubted = True
        if at is self.reading:
            at.done = None
        self._fetch_again()
        raise BrokenError("the text is not the one that `done` names")

    def _fetch_again(self) -> None:
        self.mended += 1
        self._shown_through = max(self._shown_through, self.reading.seq)
        self._fresh = Reading(self.reading.turn_id)

    def _show(self, fresh: Reading) -> None:
        self.reading.adopt(fresh)
        self._fresh, self._shown_through = None, 0


def follow(follower: Follower, line: Line) -> Steps[None]:
    """Emit a turn's events after the follower's cursor, `done` last.

    Raises:
        ApiError: The service refused the stream for good.
        StreamLostError: It was lost and could not be opened again.
        TextMismatchError: The text is wrong, even after it was fetched again.
        TimeLimitError: The line's time is over.
    """
    while not follower.reading.is_over:
        try:
            yield from line.open(follower.asked())
            while not follower.reading.is_over:
                frames = yield from line.frames()
                for frame in frames:
                    yield from _pass_on(follower, line, frame)
        except BrokenError as broken:
            yield from line.come_back(broken, follower.reading.seq)
    yield Hang()


def _pass_on(follower: Follower, line: Line, frame: Frame) -> Steps[None]:
    if frame.get("turn_id") != follower.reading.turn_id or (event := read_event(frame)) is None:
        return
    shown = follower.take(event)
    for each in shown:
        line.progress()
        yield from emit(each)
