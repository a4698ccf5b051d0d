"""The readers of a session and, for each of its turns, their positions.

Readers that have all of a turn so far share one position and one fast path. A reader that is still catching
up has its own position, in the task that replays to it.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from api.relay.connection import Connection
from shared.redis.names import events_channel
from shared.turn.replay import Entry, Position, Turn

FIRST_SILENCE_SECONDS: Final = 2.0
LONGEST_SILENCE_SECONDS: Final = 15.0
MOST_RETAINED: Final = 2_000
"""Live events kept while a log is read; if there are more, the log is read once more."""
MOST_ENDED: Final = 32
"""Turns that are over and remembered, so that a late repetition does not start them again."""
MOST_OVER: Final = 256
"""Turns of one session of which a reader is known to need nothing: far more than may repeat themselves at once."""


class Feed:
    """The live part of one turn: what `joined` readers have, and the events received while a log is read."""

    __slots__ = (
        "_reads",
        "ahead",
        "attempt",
        "check_at",
        "is_mending",
        "is_over",
        "joined",
        "mend_again",
        "mend_not_before",
        "retained",
        "seq",
        "silence",
        "turn",
    )

    def __init__(self, turn: Turn, now: float) -> None:
        self.turn = turn
        self.seq = 0
        self.attempt = 0
        self.is_over = False
        self.joined: set[Connection] = set()
        self.ahead: dict[Connection, Position] = {}
        self.retained: list[Entry] | None = None
        self._reads = 0
        self.silence = FIRST_SILENCE_SECONDS
        self.check_at = now + self.silence
        self.is_mending = False
        self.mend_again = False
        self.mend_not_before = 0.0

    def has_readers(self) -> bool:
        """Return whether any reader depends on this feed's position."""
        return bool(self.joined or self.ahead)

    def position(self) -> Position:
        """Return where the joined readers are."""
        return Position(self.seq, self.attempt, is_over=self.is_over)

    def is_reached_by(self, position: Position) -> bool:
        """Return whether a reader at `position` has what the joined readers have.

        The same number under an older attempt was another event, which is void (I5).
        """
        return position.seq == self.seq and not 0 < (position.attempt or 0) < self.attempt

    def move(self, position: Position) -> None:
        """Put the joined readers at `position`."""
        self.seq = position.seq
        self.attempt = position.attempt or 0
        self.is_over = position.is_over

    def expect_news(self, now: float) -> None:
        """Note that an event arrived: ask again only after a short silence."""
        self.silence = FIRST_SILENCE_SECONDS
        self.check_at = now + FIRST_SILENCE_SECONDS

    def expect_silence(self, now: float, *, may_grow: bool) -> None:
        """Note that no event arrived: ask less and less often."""
        self.check_at = now + self.silence
        if may_grow:
            self.silence = min(self.silence * 2, LONGEST_SILENCE_SECONDS)

    def begin_read(self) -> None:
        """Start to keep live events: the log is about to be read."""
        self._reads += 1
        if self.retained is None:
            self.retained = []

    def end_read(self) -> None:
        """Forget the kept events once nothing reads the log any more."""
        self._reads -= 1
        if self._reads == 0:
            self.retained = None

    def retain(self, entry: Entry) -> None:
        """Keep a live event for the tasks that are reading the log."""
        if self.retained is not None and len(self.retained) < MOST_RETAINED:
            self.retained.append(entry)

    def leave(self, connection: Connection) -> None:
        """Deliver nothing more to `connection`."""
        self.joined.discard(connection)
        self.ahead.pop(connection, None)


@dataclass(slots=True, eq=False)
class Member:
    """One connection's interest in a session, for as long as it is subscribed at all.

    A further subscription of the same session renews nothing but the turn that it names: what the connection has of
    the other turns, and the tasks that replay them, stay as they are.

    `is_live` is True after the first `caught_up`: new turns are delivered. It stays False for a reader of only one
    turn.
    """

    connection: Connection
    only_turn: UUID | None = None
    is_live: bool = False
    over: dict[str, None] = field(default_factory=dict)
    """Turns of which nothing more is due, oldest first: they were over when the connection subscribed, or it was sent
    their end by a replay."""
    replays: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """The task that replays a turn, by turn: one at most."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def note_over(self, key: str) -> None:
        """Note that nothing more of a turn is due."""
        self.over.pop(key, None)
        self.over[key] = None
        if len(self.over) > MOST_OVER:
            del self.over[next(iter(self.over))]

    def has(self, feed: Feed) -> bool:
        """Return whether the connection gets the turn, or has had its end."""
        key = str(feed.turn.turn_id)
        connection = self.connection
        return (
            key in self.replays or key in self.over or connection in feed.joined or connection in feed.ahead
        )


class Audience:
    """A session watched from this process, and its readers."""

    __slots__ = (
        "_confirmed",
        "channel",
        "confirmations",
        "feeds",
        "heard",
        "is_newest_known",
        "members",
        "newest_turn",
        "poll_at",
        "session_id",
        "silence",
    )

    def __init__(self, session_id: UUID, now: float) -> None:
        self.session_id = session_id
        self.channel = events_channel(session_id).encode()
        self.feeds: dict[str, Feed] = {}
        self.heard: dict[str, Feed] = {}
        """Those of them that every live reader has been given. A turn that somebody asked for is not, until it is heard
        of by pub/sub: it may have been over for long."""
        self.members: dict[Connection, Member] = {}
        self.newest_turn: UUID | None = None
        self.is_newest_known = False
        self.confirmations = 0
        self._confirmed: asyncio.Event | None = None
        self.silence = FIRST_SILENCE_SECONDS
        self.poll_at = now + self.silence

    def feed(self, turn_id: UUID, now: float) -> Feed:
        """Return the turn's feed, made if there is none."""
        key = str(turn_id)
        feed = self.feeds.get(key)
        if feed is None:
            self._forget_ended()
            feed = self.feeds[key] = Feed(Turn(self.session_id, turn_id), now)
        return feed

    def live_members(self) -> list[Member]:
        """Return the readers that get the events of a new turn."""
        return [member for member in self.members.values() if member.is_live]

    async def confirmed(self) -> None:
        """Wait for the next confirmation of the channel."""
        if self._confirmed is None:
            self._confirmed = asyncio.Event()
        await self._confirmed.wait()

    def confirm(self) -> None:
        """Note that the channel is subscribed from now on."""
        self.confirmations += 1
        if self._confirmed is not None:
            self._confirmed.set()
            self._confirmed = None

    def _forget_ended(self) -> None:
        ended = [key for key, feed in self.feeds.items() if feed.is_over and not feed.has_readers()]
        for key in ended[: max(0, len(ended) - MOST_ENDED)]:
            del self.feeds[key]
            self.heard.pop(key, None)
