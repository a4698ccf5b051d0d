"""One turn as one reader has it: events folded into the text, each once and in order.

The service promises a stream without a silent hole. It is checked anyway, because something on the way may break it: an
event that is not the next one is not taken, and the text is checked against the hash that `done` names.
"""

import hashlib
from enum import Enum, auto
from typing import Final, Self

from turnkeeper_client.events import (
    ContentDelta,
    Done,
    Event,
    Gap,
    MessageEnd,
    MessageReset,
    MessageStart,
    ReasoningDelta,
    Snapshot,
    StopRequested,
    TurnStarted,
)

_OF_AN_ATTEMPT: Final = (MessageStart, ContentDelta, ReasoningDelta, MessageEnd)
"""Events that make sense only after their attempt has begun."""


class Verdict(Enum):
    """What an event means to a reader."""

    NEXT = auto()
    SEEN = auto()
    HOLE = auto()
    """Events before it are missing: resume from the cursor."""
    VOID = auto()
    """What was read before it is no longer valid: read the text again."""


class Reading:
    """A turn up to `seq`.

    Attributes:
        turn_id: The turn.
        seq: The cursor: the last number that was taken.
        attempt: The attempt of the last event that was taken.
        status: The status, according to the events.
        message_id: The answer's message; None until there is one.
        done: The last event; None until it arrives.
        is_whole: Whether the text is complete: not if reading began after a cursor without the text.
    """

    __slots__ = (
        "_content",
        "_reasoning",
        "_started_attempt",
        "attempt",
        "done",
        "is_whole",
        "message_id",
        "seq",
        "status",
        "turn_id",
    )

    def __init__(self, turn_id: str, after: int = 0, text: str | None = None) -> None:
        """Begin after the event `after`, with the text up to it if that is known."""
        self.turn_id = turn_id
        self.done: Done | None = None
        self.seq = after
        self.is_whole = after == 0 or text is not None
        self.attempt = 0
        self.status = "queued"
        self.message_id: str | None = None
        # The attempt at a cursor is unknown: it is that of the first event.
        self._started_attempt: int | None = 0 if after == 0 else None
        self._content: list[str] = [text] if text else []
        self._reasoning: list[str] = []

    @property
    def text(self) -> str:
        """The answer's text so far."""
        # Joined in place: reading the text after every delta must not cost the whole text each time.
        self._content[:] = ["".join(self._content)]
        return self._content[0]

    @property
    def reasoning(self) -> str:
        """The thinking text so far."""
        self._reasoning[:] = ["".join(self._reasoning)]
        return self._reasoning[0]

    @property
    def is_over(self) -> bool:
        """Return whether `done` has been taken."""
        return self.done is not None

    @property
    def is_proved(self) -> bool:
        """Return whether the text is the one that `done` names."""
        # The service never stores half a surrogate pair: this is a mismatch, not a crash.
        encoded = self.text.encode(errors="surrogatepass")
        return self.done is not None and hashlib.sha256(encoded).hexdigest() == self.done.content_sha256

    def judge(self, event: Event) -> Verdict:
        """Judge an event of this turn without taking it."""
        if isinstance(event, Gap | Snapshot):
            # Even one from before the cursor: the service goes back if it lost what it had sent.
            return Verdict.SEEN if self.is_over else Verdict.NEXT
        if self.is_over or event.attempt < self.attempt:
            return Verdict.SEEN
        if event.seq <= self.seq:
            return Verdict.VOID if event.attempt > self.attempt else Verdict.SEEN
        if event.seq > self.seq + 1:
            return Verdict.HOLE
        # Its beginning had a number that belonged to an earlier attempt whose end was lost.
        started = event.attempt if self._started_attempt is None else self._started_attempt
        is_headless = isinstance(event, _OF_AN_ATTEMPT) and event.attempt > started
        return Verdict.VOID if is_headless else Verdict.NEXT

    def take(self, event: Event) -> None:
        """Fold an event that is `Verdict.NEXT`."""
        if isinstance(event, Gap):
            return
        self.seq, self.attempt = event.seq, event.attempt
        if self._started_attempt is None:
            self._started_attempt = event.attempt
        match event:
            case ContentDelta():
                self._content.append(event.delta)
            case ReasoningDelta():
                self._reasoning.append(event.delta)
            case TurnStarted():
                self.status, self._started_attempt = "running", event.attempt
            case MessageStart():
                self.message_id = event.message_id
            case StopRequested():
                self.status = "stopping"
            case MessageReset():
                self._forget()
            case Snapshot():
                self._forget()
                self._started_attempt = event.attempt
                self.message_id, self.status = event.message_id, event.status
                self._content.append(event.content)
                self._reasoning.append(event.reasoning)
            case Done():
                self.status, self.done = event.status, event
            case _:
                pass  # an event that does not concern the text is still read

    def adopt(self, other: "Reading") -> None:
        """Take over the state of another reading of the same turn."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def snapshot(self) -> Snapshot:
        """Return the text so far instead of the events that made it."""
        return Snapshot(
            turn_id=self.turn_id,
            seq=self.seq,
            attempt=self.attempt,
            status=self.status,
            message_id=self.message_id,
            content=self.text,
            reasoning=self.reasoning,
        )

    def _forget(self) -> None:
        self.is_whole = True
        self.message_id = None
        self._content.clear()
        self._reasoning.clear()


class Piece(str):
    """Text to append to what was shown or, if `replaces` is true, to show instead of all of it."""

    __slots__ = ("replaces",)
    replaces: bool

    def __new__(cls, text: str, *, replaces: bool = False) -> Self:
        """Make a piece of `text`."""
        piece = super().__new__(cls, text)
        piece.replaces = replaces
        return piece


class TextView:
    """Turns events into pieces of text for a program that shows it."""

    __slots__ = ("_shown",)

    def __init__(self) -> None:
        self._shown: list[str] = []

    def pieces(self, event: Event) -> tuple[Piece, ...]:
        """Return what an event adds to the shown text, or replaces it with."""
        match event:
            case ContentDelta():
                self._shown.append(event.delta)
                return (Piece(event.delta),)
            case MessageReset():
                return self._become("")
            case Snapshot():
                return self._become(event.content)
        return ()

    def _become(self, text: str) -> tuple[Piece, ...]:
        shown = "".join(self._shown)
        self._shown[:] = [text]
        if not text.startswith(shown):
            return (Piece(text, replaces=True),)
        rest = text[len(shown) :]
        return (Piece(rest),) if rest else ()
