"""Brings the events of turns to their readers: live ones at once, missed ones from the log or the row (I4, I8).

The rule is `shared.replay`; here are its reads, its shared fast path and its timers. A live event that is the
next one is framed once and written to every reader that has joined the turn's feed; everything else is a task.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

from api.relay.connection import Connection, Phase
from api.relay.feed import FIRST_SILENCE_SECONDS, LONGEST_SILENCE_SECONDS, Feed, Member, Session
from api.relay.frames import encode_text
from api.relay.log import LogReader
from api.relay.questions import Questions
from api.relay.store import Caller, StreamStore
from api.relay.subscription import Subscription
from shared.errors import UnavailableError
from shared.events import EventType, decode_header, timestamp
from shared.ids import parse_id
from shared.redis_names import events_channel
from shared.replay import (
    Answer,
    Asking,
    Entry,
    Outgoing,
    Pause,
    Position,
    ReadLog,
    RowState,
    Turn,
    Verdict,
    catch_up,
    judge,
)

_log = logging.getLogger(__name__)

_MOST_AT_ONCE: Final = 1 << 18
"""Bytes that a reader gets in one go; of a longer replay it gets pieces, each when the last was taken."""
_CONFIRM_SECONDS: Final = 2.0
"""A subscription takes a millisecond; after this the replay begins and the confirmation has it repeated."""
_REPEAT_SECONDS: Final = 0.25
"""Between two readings for a hole that the log cannot fill yet."""
_MOST_CHECKS: Final = 16
"""Silent turns that are looked into at once, of all that are watched."""

_DONE: Final = EventType.DONE.value
_SNAPSHOT: Final = EventType.SNAPSHOT.value
_T = TypeVar("_T")


class Delivery:
    """All sessions that are watched from this process. Belongs to the loop's thread."""

    def __init__(self, url: str, store: StreamStore, questions: Questions) -> None:
        """Read live events and logs at the Redis at `url` and rows through `store`."""
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._questions = questions
        self._log_reader = LogReader(url)
        self._subscription = Subscription(
            url,
            on_message=self._receive,
            on_read=self._flush,
            on_confirmed=self._confirm,
        )
        self._sessions: dict[bytes, Session] = {}
        self._dirty: list[Connection] = []
        self._checks = asyncio.Semaphore(_MOST_CHECKS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._now = self._loop.time()
        self._connecting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect to Redis and stay connected."""
        self._connecting = self._loop.create_task(self._subscription.run())
        self._connecting.add_done_callback(_report)

    async def stop(self) -> None:
        """Close the connections to Redis and end all tasks."""
        tasks = [*self._tasks, *([self._connecting] if self._connecting else [])]
        for session in self._sessions.values():
            for member in session.members.values():
                tasks.extend(member.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._log_reader.close()

    def count(self) -> tuple[int, int]:
        """Return how many sessions and turns are watched."""
        sessions = list(self._sessions.values())  # a copy: metrics ask from another thread
        return len(sessions), sum(len(session.feeds) for session in sessions)

    def is_connected(self) -> bool:
        """Say whether live events arrive at all."""
        return self._subscription.is_connected()

    # Readers come and go

    async def enter(self, connection: Connection, session_id: UUID, only_turn: UUID | None = None) -> Member:
        """Make `connection` a member of the session, replacing what it was; return with the channel live."""
        session = self._session(session_id)
        already_over = frozenset(key for key, feed in session.feeds.items() if feed.is_over)
        positions = session.positions(connection)
        if (old := session.members.pop(connection, None)) is not None:
            self._part(session, old)
        member = Member(connection, only_turn, already_over=already_over, positions=positions)
        session.members[connection] = member
        connection.sessions.add(session_id)
        if not self._subscription.is_confirmed(session.channel) and self._subscription.will_confirm():
            try:
                async with asyncio.timeout(_CONFIRM_SECONDS):
                    await session.confirmed()
            except TimeoutError:
                _log.warning("redis is slow to subscribe", extra={"session_id": str(session_id)})
        return member

    def bring(
        self,
        member: Member,
        session_id: UUID,
        turn_id: UUID | None,
        *,
        after: int = 0,
        by_snapshot: bool = False,
        row: RowState | None = None,
    ) -> None:
        """Replay the turn to `member`, say `caught_up` and go on live."""
        session = self._find(session_id)
        if session is None or session.members.get(member.connection) is not member:
            return

        async def replay_then_live() -> None:
            if turn_id is not None:
                await self._join(member, session, turn_id, Position(after, None), by_snapshot, row)
            if member.only_turn is None and session.members.get(member.connection) is member:
                self._go_live(member, session, turn_id)

        self._spawn(replay_then_live(), member)

    def leave(self, connection: Connection, session_id: UUID) -> None:
        """End the connection's interest in a session."""
        connection.sessions.discard(session_id)
        session = self._find(session_id)
        if session is not None and (member := session.members.pop(connection, None)) is not None:
            self._part(session, member)
            if not session.members:
                del self._sessions[session.channel]
                self._subscription.drop(session.channel)

    def forget(self, connection: Connection) -> None:
        """Deliver nothing more to a connection that is closing."""
        for session_id in list(connection.sessions):
            self.leave(connection, session_id)

    def set_newest(self, session_id: UUID, turn_id: UUID | None) -> None:
        """Note the newest turn that the rows know, so that what begins unheard is found."""
        session = self._find(session_id)
        if session is not None and not session.is_newest_known:
            session.newest_turn, session.is_newest_known = turn_id, True

    def pass_over(self, member: Member, session_id: UUID, turn_id: UUID) -> None:
        """Do not begin a turn that is over because an event of it is still on its way."""
        session = self._find(session_id)
        if session is not None and str(turn_id) not in session.feeds:
            session.feed(turn_id, self._loop.time()).is_over = True
            member.already_over |= {str(turn_id)}

    def _find(self, session_id: UUID) -> Session | None:
        return self._sessions.get(events_channel(session_id).encode())

    def _session(self, session_id: UUID) -> Session:
        session = self._find(session_id)
        if session is None:
            session = Session(session_id, self._loop.time())
            self._sessions[session.channel] = session
            self._subscription.want(session.channel)
        return session

    def _part(self, session: Session, member: Member) -> None:
        for task in member.tasks:
            task.cancel()
        for feed in session.feeds.values():
            feed.leave(member.connection)

    def _go_live(self, member: Member, session: Session, replayed: UUID | None) -> None:
        member.connection.send(
            encode_text(b'{"type":"caught_up","session_id":"%b"}' % str(session.session_id).encode())
        )
        member.is_live = True
        for key, feed in session.feeds.items():
            # Turns that began while this one was replayed, or run beside it.
            if feed.turn.turn_id != replayed and key not in member.already_over:
                self._rejoin(member, session, feed, member.positions.pop(key, Position(0, 0)))

    # The fast path

    def _receive(self, channel: bytes, payload: bytes) -> None:
        session = self._sessions.get(channel)
        if session is None:
            return
        try:
            header = decode_header(payload)
        except msgspec.DecodeError:
            _log.warning("unreadable event", extra={"session_id": str(session.session_id)})
            return
        feed = session.feeds.get(header.turn_id) or self._discover(session, header.turn_id)
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
            self._fan_out(feed, Outgoing(payload, header.seq))
            feed.expect_news(self._now)
            if feed.ahead or feed.is_over:
                self._after_move(feed)
        elif not feed.has_readers():
            feed.move(Position(header.seq, header.attempt, is_over=header.type == _DONE))
        elif judge(feed.position(), header.seq, header.attempt, is_snapshot=is_snapshot) is Verdict.HOLE:
            self._mend(feed, session)

    def _fan_out(self, feed: Feed, outgoing: Outgoing) -> None:
        """Put an event into the outbox of every joined reader, framed once for each dialect."""
        dirty = self._dirty
        frames: list[bytes | None] = [None, None]
        for connection in feed.joined:
            kind = connection.is_event_stream
            frame = frames[kind]
            if frame is None:
                frame = frames[kind] = connection.dialect.event(outgoing)
            outbox = connection.outbox
            if not outbox:
                dirty.append(connection)
            outbox.append(frame)

    def _flush(self) -> None:
        """Write what one network read brought: one send for each connection, however many events."""
        self._now = self._loop.time()
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    def _discover(self, session: Session, key: str) -> Feed | None:
        """Begin to follow a turn that was not known: for everybody who is live, from its start."""
        turn_id = parse_id(key)
        if turn_id is None:
            return None
        feed = session.feed(turn_id, self._loop.time())
        feed.joined |= session.live_connections()
        session.newest_turn, session.is_newest_known = turn_id, True
        return feed

    def _after_move(self, feed: Feed) -> None:
        """Let those join whom the feed has reached, and everybody go when the turn is over."""
        session = self._find(feed.turn.session_id)
        for connection, position in list(feed.ahead.items()):
            if position.seq <= feed.seq or feed.is_over:
                del feed.ahead[connection]
                member = session.members.get(connection) if session else None
                if feed.is_reached_by(position) and not feed.is_over:
                    feed.joined.add(connection)
                elif session is not None and member is not None:
                    self._rejoin(member, session, feed, position)
        if feed.is_over:
            for connection in feed.joined:
                connection.ends_when_flushed = connection.is_event_stream
            feed.joined.clear()

    # Replays

    def _rejoin(self, member: Member, session: Session, feed: Feed, position: Position) -> None:
        """Bring one reader on alone, from where it is."""
        feed.leave(member.connection)
        self._spawn(self._join(member, session, feed.turn.turn_id, position, False, None), member)

    async def _join(
        self,
        member: Member,
        session: Session,
        turn_id: UUID,
        position: Position,
        by_snapshot: bool,
        row: RowState | None,
    ) -> None:
        """Bring one reader from `position` to where the feed is, at the pace that it takes."""
        connection = member.connection
        feed = session.feed(turn_id, self._loop.time())
        feed.leave(connection)
        silence = _REPEAT_SECONDS
        while True:
            feed.begin_read()
            confirmations = session.confirmations
            try:
                asking = catch_up(position, feed.turn, _ts(), row=row, by_snapshot=by_snapshot)
                reached, sent = await self._drive(asking, feed.turn, connection.caller)
                row, by_snapshot = None, False
                if not await self._post(connection, sent):
                    return
                has_news, position = reached != position, reached
                for entry in feed.retained or ():
                    position = self._post_live(connection, position, entry)
            finally:
                feed.end_read()
            connection.flush()
            if confirmations != session.confirmations:
                continue  # the channel was not live all along
            if self._settle(feed, member, position):
                return
            if not has_news:
                # The feed is elsewhere and the log does not say how: ask again, less and less often.
                await asyncio.sleep(silence)
                silence = min(silence * 2, LONGEST_SILENCE_SECONDS)

    def _settle(self, feed: Feed, member: Member, position: Position) -> bool:
        """Let a reader at `position` join the feed; False when it has to read on."""
        connection = member.connection
        if position.is_over:
            if connection.is_event_stream:
                connection.ends_when_flushed = True
                connection.flush()
            if not feed.has_readers():
                feed.move(position)
            return True
        if position.attempt is None and position.seq:
            return False  # nobody has confirmed the cursor that was named
        if not feed.has_readers() and not feed.is_over and (feed.seq <= position.seq):
            feed.move(position)
            feed.expect_news(self._loop.time())
        if feed.is_over or position.seq < feed.seq:
            return False
        if position.seq > feed.seq:
            feed.ahead[connection] = position
            return True
        if not feed.is_reached_by(position):
            return False
        feed.joined.add(connection)
        return True

    async def _post(self, connection: Connection, sent: Sequence[Outgoing]) -> bool:
        """Send a replay in pieces that the reader can take; False when it has gone."""
        size = 0
        for outgoing in sent:
            frame = connection.dialect.event(outgoing)
            connection.outbox.append(frame)
            size += len(frame)
            if size > _MOST_AT_ONCE:
                connection.flush()
                if not await connection.drained():
                    return False
                size = 0
        return connection.phase is Phase.OPEN

    def _post_live(self, connection: Connection, position: Position, entry: Entry) -> Position:
        if (
            position.is_over
            or judge(position, entry.seq, entry.attempt, is_snapshot=entry.is_snapshot) is not Verdict.NEXT
        ):
            return position
        connection.outbox.append(connection.dialect.event(Outgoing(entry.encoded, entry.seq)))
        return Position(entry.seq, entry.attempt, is_over=entry.is_done())

    # Holes, silences and losses

    def _mend(self, feed: Feed, session: Session, *, consults_row: bool = True) -> None:
        """Read what the joined readers miss, once for all of them."""
        if feed.is_mending:
            feed.mend_again = True
        elif self._loop.time() < feed.mend_not_before:
            feed.check_at = min(feed.check_at, feed.mend_not_before)
        else:
            feed.is_mending = True
            self._spawn(self._mend_all(feed, session, consults_row))

    async def _mend_all(self, feed: Feed, session: Session, consults_row: bool) -> None:
        try:
            while not feed.is_over and feed.has_readers():
                feed.mend_again = False
                has_news = await self._mend_once(feed, session, consults_row)
                if not has_news:
                    feed.mend_not_before = self._loop.time() + _REPEAT_SECONDS
                    if feed.mend_again:
                        feed.check_at = feed.mend_not_before
                if not (has_news and feed.mend_again):
                    return
        finally:
            feed.is_mending = False

    async def _mend_once(self, feed: Feed, session: Session, consults_row: bool) -> bool:
        before = feed.position()
        feed.begin_read()
        try:
            reader = next(iter(feed.joined or feed.ahead))
            asking = catch_up(before, feed.turn, _ts(), consults_row=consults_row)
            reached, sent = await self._drive(asking, feed.turn, reader.caller)
            now = self._loop.time()
            if feed.position() != before:
                return True  # live events went on meanwhile: there was no hole
            if reached == before and not sent:
                feed.expect_silence(now, may_grow=self._subscription.is_connected())
                return False
            self._apply(feed, session, reached, sent)
            feed.expect_news(now)
            for entry in feed.retained or ():
                if (
                    judge(feed.position(), entry.seq, entry.attempt, is_snapshot=entry.is_snapshot)
                    is Verdict.NEXT
                ):
                    done = entry.is_done()
                    self._apply(
                        feed,
                        session,
                        Position(entry.seq, entry.attempt, done),
                        (Outgoing(entry.encoded, entry.seq),),
                    )
            self._flush()
            return True
        finally:
            feed.end_read()

    def _apply(self, feed: Feed, session: Session, reached: Position, sent: Sequence[Outgoing]) -> None:
        """Move the feed and its joined readers; where that is much, each reader at its own pace."""
        before = feed.position()
        feed.move(reached)
        if sum(len(outgoing.encoded) for outgoing in sent) > _MOST_AT_ONCE:
            for connection in list(feed.joined):
                if (member := session.members.get(connection)) is not None:
                    self._rejoin(member, session, feed, before)
        else:
            for outgoing in sent:
                self._fan_out(feed, outgoing)
        self._after_move(feed)

    def check(self, now: float) -> None:
        """Look into the turns that have been silent; called four times a second."""
        self._now = now
        is_connected = self._subscription.is_connected()
        for session in self._sessions.values():
            for feed in session.feeds.values():
                if now >= feed.check_at and not feed.is_over and feed.has_readers():
                    feed.check_at = now + feed.silence
                    self._mend(feed, session)
            if not is_connected and now >= session.poll_at:
                session.poll_at = now + session.silence
                session.silence = min(session.silence * 2, LONGEST_SILENCE_SECONDS)
                self._spawn(self._find_begun(session))

    def _confirm(self, channel: bytes) -> None:
        """The channel is live from now on; whatever was said before may have been missed."""
        session = self._sessions.get(channel)
        if session is None:
            return
        session.confirm()
        session.silence = FIRST_SILENCE_SECONDS
        for feed in session.feeds.values():
            if feed.has_readers() and not feed.is_over:
                feed.mend_not_before = 0.0
                self._mend(feed, session, consults_row=False)
        if any(member.is_live for member in session.members.values()):
            self._spawn(self._find_begun(session))

    async def _find_begun(self, session: Session) -> None:
        """Find turns that began while nothing was heard; they may be over already."""
        live = session.live_connections()
        if not live:
            return
        caller, session_id = next(iter(live)).caller, session.session_id
        async with self._checks:
            try:
                if not session.is_newest_known:
                    newest = await self._questions.ask(self._store.newest_turn, caller, session_id)
                    self.set_newest(session_id, newest)
                known = session.newest_turn
                begun = await self._questions.ask(self._store.turns_since, caller, session_id, known)
            except UnavailableError:
                return
        for turn_id in begun:
            if str(turn_id) not in session.feeds and (feed := self._discover(session, str(turn_id))):
                self._mend(feed, session)

    # Reads

    async def _drive(self, asking: Asking[_T], turn: Turn, caller: Caller) -> _T:
        """Answer what the delivery rule asks for."""
        answer: Answer = None
        while True:
            try:
                request = asking.send(answer)
            except StopIteration as end:
                # At the first step too: a rule that was given the row may have nothing to ask.
                result: _T = end.value
                return result
            answer = None
            try:
                if isinstance(request, Pause):
                    await asyncio.sleep(request.seconds)
                elif isinstance(request, ReadLog):
                    answer = await self._log_reader.tail(turn.session_id, turn.turn_id, request.after)
                else:
                    async with self._checks:
                        state = await self._questions.ask(self._store.turn, caller, turn.turn_id)
                    answer = None if state is None else state.row_state()
            except UnavailableError as error:
                _log.info("a read failed: %s", error, extra={"turn_id": str(turn.turn_id)})

    def _spawn(self, work: Coroutine[Any, Any, None], member: Member | None = None) -> None:
        owner = self._tasks if member is None else member.tasks
        task = self._loop.create_task(work)
        owner.add(task)
        task.add_done_callback(owner.discard)
        task.add_done_callback(_report)


def _ts() -> str:
    return timestamp(datetime.now(UTC))


def _report(task: asyncio.Task[None]) -> None:
    """Say that a task failed, which is a mistake of ours: what can go wrong outside is handled inside."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("delivery failed", exc_info=error)
