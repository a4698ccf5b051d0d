"""The fast path: a live event that is the next one is framed once and written to all readers of the turn's feed."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from api.relay.connection import Connection
from api.relay.face import FaceKind
from api.relay.feed import Audience, Feed
from api.relay.replays import Replays
from shared.ids import parse_id
from shared.redis.names import events_channel
from shared.turn.events import EventType, decode_header
from shared.turn.replay import Entry, Outgoing, Position, Verdict, judge

_log = logging.getLogger(__name__)

_DONE: Final = EventType.DONE.value
_SNAPSHOT: Final = EventType.SNAPSHOT.value


class Live:
    """Delivers what arrives by pub/sub to all readers. Belongs to the loop's thread."""

    def __init__(
        self,
        audiences: dict[bytes, Audience],
        replays: Replays,
        on_hole: Callable[[Feed, Audience], None],
        *,
        faces: int = len(FaceKind),
    ) -> None:
        """Deliver to the readers of `audiences`.

        Args:
            audiences: The watched sessions, by channel.
            replays: Catches single readers up.
            on_hole: Reads what the joined readers miss.
            faces: How many kinds of face there are.
        """
        self._loop = asyncio.get_running_loop()
        self._audiences = audiences
        self._replays = replays
        self._on_hole = on_hole
        self._faces = faces
        self._dirty: list[Connection] = []
        self._now = self._loop.time()

    def receive(self, channel: bytes, payload: bytes) -> None:
        """Process one message of a session's channel."""
        audience = self._audiences.get(channel)
        if audience is None:
            return
        try:
            header = decode_header(payload)
        except msgspec.DecodeError:
            _log.warning("unreadable event", extra={"session_id": str(audience.session_id)})
            return
        feed = audience.heard.get(header.turn_id) or self.discover(audience, header.turn_id)
        if feed is None or feed.is_over:
            return
        is_snapshot = header.type == _SNAPSHOT
        if feed.retained is not None:
            feed.retain(Entry(header.attempt, header.seq, payload, is_snapshot))
        is_same_attempt = header.attempt == feed.attempt or not feed.attempt
        if header.seq == feed.seq + 1 and is_same_attempt and not is_snapshot:  # Verdict.NEXT, without asking
            feed.seq = header.seq
            feed.attempt = header.attempt
            feed.is_over = header.type == _DONE
            self.fan_out(feed, Outgoing(payload, header.seq))
            feed.expect_news(self._now)
            if feed.ahead or feed.is_over:
                self.after_move(feed)
        elif not feed.has_readers():
            feed.move(Position(header.seq, header.attempt, is_over=header.type == _DONE))
        elif judge(feed.position(), header.seq, header.attempt, is_snapshot=is_snapshot) is Verdict.HOLE:
            self._on_hole(feed, audience)

    def fan_out(self, feed: Feed, outgoing: Outgoing) -> None:
        """Append an event to the unsent frames of every joined reader, framed once for each kind of face."""
        dirty = self._dirty
        frames: list[bytes | None] = [None] * self._faces
        for connection in feed.joined:
            kind = connection.kind
            frame = frames[kind]
            if frame is None:
                frame = frames[kind] = connection.face.event(outgoing)
            unsent = connection.unsent
            if not unsent:
                dirty.append(connection)
            unsent.append(frame)

    def flush(self) -> None:
        """Write the events of one network read: one send for each connection, however many events."""
        self._now = self._loop.time()
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    def tick(self, now: float) -> None:
        """Note the time, so that the fast path need not ask for it at each event."""
        self._now = now

    def discover(self, audience: Audience, key: str) -> Feed | None:
        """Start to follow a turn that was not heard of before, from its start, for all live readers that lack it."""
        turn_id = parse_id(key)
        if turn_id is None:
            return None
        key = str(turn_id)
        is_new = key not in audience.feeds
        feed = audience.heard[key] = audience.feed(turn_id, self._loop.time())
        if is_new:
            audience.newest_turn, audience.is_newest_known = turn_id, True
        for member in audience.live_members():
            if feed.is_over or member.has(feed):
                continue
            if is_new:
                feed.joined.add(member.connection)
            else:
                self._replays.start(member, audience, turn_id, Position(0, 0))
        return feed

    def after_move(self, feed: Feed) -> None:
        """Let the readers join that the feed has reached, and release all of them once the turn is over."""
        audience = self._audiences.get(events_channel(feed.turn.session_id).encode())
        for connection, position in list(feed.ahead.items()):
            if position.seq <= feed.seq or feed.is_over:
                del feed.ahead[connection]
                member = audience.members.get(connection) if audience else None
                if feed.is_reached_by(position) and not feed.is_over:
                    feed.joined.add(connection)
                elif audience is not None and member is not None:
                    self._replays.start(member, audience, feed.turn.turn_id, position)
        if feed.is_over:
            for connection in feed.joined:
                connection.ends_when_flushed = connection.face.ends_with_turn
                if audience is not None and (member := audience.members.get(connection)) is not None:
                    member.note_over(str(feed.turn.turn_id))
            feed.joined.clear()
