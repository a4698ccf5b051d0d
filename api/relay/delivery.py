"""Brings the events of turns to their readers: live ones at once, missed ones from the log or the row (I4, I8).

The rule is `shared.turn.replay`. This module adds and removes readers and runs the timers. `live` is the fast path that
readers share, `replays` catches a single reader up, `mending` reads what all of a turn's readers miss, and `reads`
answers the rule's questions.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Final
from uuid import UUID

import msgspec

from api.relay.connection import Connection
from api.relay.feed import FIRST_SILENCE_SECONDS, LONGEST_SILENCE_SECONDS, Audience, Feed, Member
from api.relay.frames import CloseCode
from api.relay.live import Live
from api.relay.mending import Mending
from api.relay.occurrences import Occurrences
from api.relay.questions import Questions
from api.relay.reads import Reads
from api.relay.replays import Replays
from api.relay.store import StreamStore
from api.relay.subscription import Subscription
from api.relay.tasks import Tasks
from shared.errors import ProblemCode, UnavailableError
from shared.lasting import lasting_task
from shared.redis.names import events_channel
from shared.turn.events import CaughtUp
from shared.turn.replay import Outgoing, Position, RowState

_log = logging.getLogger(__name__)

_CONFIRM_SECONDS: Final = 2.0
"""A subscription takes a millisecond; after this the replay begins, and the confirmation repeats it."""
_LOOK_SECONDS: Final = 2.0
"""Longest wait for PostgreSQL before the logs of silent turns are read without it."""
_MOST_LOOKED_INTO: Final = 500
"""Silent turns in one question."""


class Delivery:
    """All sessions watched from this process. Belongs to the loop's thread."""

    def __init__(self, url: str, store: StreamStore, questions: Questions, occurred: Occurrences) -> None:
        """Read live events and logs from the Redis at `url`, and rows through `store`; count in `occurred`."""
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._questions = questions
        self._audiences: dict[bytes, Audience] = {}
        self._tasks = Tasks()
        self._reads = Reads(url, store, questions)
        self._replays = Replays(self._reads, self._tasks, occurred, self._end_gone)
        self._occurred = occurred
        self._live = Live(self._audiences, self._replays, self._mend)
        self._subscription = Subscription(
            url,
            on_message=self._live.receive,
            on_read=self._live.flush,
            on_confirmed=self._confirm,
        )
        self._mending = Mending(
            self._reads,
            self._tasks,
            self._replays,
            self._live,
            self._subscription.is_connected,
            occurred,
            self._end_gone,
        )
        self._connecting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect to Redis and stay connected."""
        self._connecting = lasting_task("subscription", self._loop.create_task(self._subscription.run()))

    async def stop(self) -> None:
        """Close the connections to Redis and end all tasks."""
        tasks = [*self._tasks.of_all, *([self._connecting] if self._connecting else [])]
        for audience in self._audiences.values():
            for member in audience.members.values():
                tasks.extend(member.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reads.close()

    def count(self) -> tuple[int, int]:
        """Return how many sessions and turns are watched."""
        audiences = list(self._audiences.values())  # a copy: metrics call from another thread
        return len(audiences), sum(len(audience.feeds) for audience in audiences)

    def is_connected(self) -> bool:
        """Return whether live events can arrive at all."""
        return self._subscription.is_connected()

    # Readers come and go

    async def enter(self, connection: Connection, session_id: UUID, only_turn: UUID | None = None) -> Member:
        """Make `connection` a member of the session, unless it is one; return once the channel is live."""
        audience = self._audience(session_id)
        member = audience.members.get(connection)
        if member is None:
            already_over = dict.fromkeys(key for key, feed in audience.feeds.items() if feed.is_over)
            member = audience.members[connection] = Member(connection, only_turn, over=already_over)
            connection.sessions.add(session_id)
        if not self._subscription.is_confirmed(audience.channel) and self._subscription.will_confirm():
            try:
                async with asyncio.timeout(_CONFIRM_SECONDS):
                    await audience.confirmed()
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
        """Replay the turn to `member`, send `caught_up` and continue with live events."""
        audience = self._find(session_id)
        if audience is None or audience.members.get(member.connection) is not member:
            return

        def go_live() -> None:
            if member.only_turn is None and audience.members.get(member.connection) is member:
                self._go_live(member, audience)

        if turn_id is None:
            go_live()
            return
        at = Position(after, None)
        self._replays.start(member, audience, turn_id, at, by_snapshot=by_snapshot, row=row, then=go_live)
        if row is not None and row.done is None and str(turn_id) not in audience.heard:
            self._live.discover(audience, str(turn_id))  # it runs: the session's other readers get it as well

    def leave(self, connection: Connection, session_id: UUID) -> None:
        """End the connection's interest in a session."""
        connection.sessions.discard(session_id)
        audience = self._find(session_id)
        if audience is not None and (member := audience.members.pop(connection, None)) is not None:
            self._part(audience, member)
            if not audience.members:
                del self._audiences[audience.channel]
                self._subscription.drop(audience.channel)

    def forget(self, connection: Connection) -> None:
        """Deliver nothing more to a connection that is closing."""
        for session_id in list(connection.sessions):
            self.leave(connection, session_id)

    def set_newest(self, session_id: UUID, turn_id: UUID | None) -> None:
        """Note the session's newest turn in the rows, so that turns whose start was not received are found."""
        audience = self._find(session_id)
        if audience is not None and not audience.is_newest_known:
            audience.newest_turn, audience.is_newest_known = turn_id, True

    def pass_over(self, member: Member, turn_id: UUID) -> None:
        """Do not start to follow a turn that was over before `member` came when a late event of it arrives."""
        if not member.is_live:
            member.note_over(str(turn_id))

    def _mend(self, feed: Feed, audience: Audience) -> None:
        self._occurred.holes += 1
        self._mending.mend(feed, audience)

    def _find(self, session_id: UUID) -> Audience | None:
        return self._audiences.get(events_channel(session_id).encode())

    def _audience(self, session_id: UUID) -> Audience:
        audience = self._find(session_id)
        if audience is None:
            audience = Audience(session_id, self._loop.time())
            self._audiences[audience.channel] = audience
            self._subscription.want(audience.channel)
        return audience

    def _part(self, audience: Audience, member: Member) -> None:
        for task in member.tasks:
            task.cancel()
        for feed in audience.feeds.values():
            feed.leave(member.connection)

    def _go_live(self, member: Member, audience: Audience) -> None:
        caught_up = CaughtUp(str(audience.session_id)).encoded()
        member.connection.send(member.connection.face.event(Outgoing(caught_up, None)))
        if member.is_live:
            return
        member.is_live = True
        for feed in list(audience.heard.values()):
            # Turns that began while the first one was replayed, or run beside it.
            if not member.has(feed):
                self._replays.start(member, audience, feed.turn.turn_id, Position(0, 0))

    # What a failover lost

    async def check_sessions(self) -> None:
        """End the streams of sessions that do not exist any more: nothing would ever come on them."""
        watched = {
            audience.session_id: connection.caller.organization_id
            for audience in self._audiences.values()
            for connection in audience.members
        }
        ids = list(watched)
        for first in range(0, len(ids), _MOST_LOOKED_INTO):
            some = {each: watched[each] for each in ids[first : first + _MOST_LOOKED_INTO]}
            try:
                missing = await self._questions.ask(self._store.missing_sessions, some)
            except UnavailableError:
                return  # asked again later
            for session_id in missing:
                if (audience := self._find(session_id)) is not None:
                    self._end_gone(audience, None, list(audience.members))

    def _end_gone(self, audience: Audience, turn_id: UUID | None, readers: Iterable[Connection]) -> None:
        """Refuse readers of a turn or of a session whose row is gone, and end their streams of it."""
        ids = {"session_id": str(audience.session_id)} | (
            {} if turn_id is None else {"turn_id": str(turn_id)}
        )
        _log.warning("what is watched does not exist any more", extra=ids)
        refused = {"type": "refused", "op": "subscribe", **ids, "code": ProblemCode.NOT_FOUND}
        outgoing = Outgoing(msgspec.json.encode(refused), None)
        for connection in readers:
            if connection.is_open():
                connection.send(connection.face.event(outgoing))
            self.leave(connection, audience.session_id)
            if connection.face.ends_with_turn:
                connection.close(CloseCode.RESTART, "it does not exist any more")

    # Holes, silences and losses

    def check(self, now: float) -> None:
        """Check the turns that have been silent; called four times a second."""
        self._live.tick(now)
        is_connected = self._subscription.is_connected()
        silent: list[tuple[Feed, Audience]] = []
        for audience in self._audiences.values():
            for feed in audience.feeds.values():
                if now >= feed.check_at and not feed.is_over and feed.has_readers():
                    feed.check_at = now + feed.silence
                    silent.append((feed, audience))
            if not is_connected and now >= audience.poll_at:
                audience.poll_at = now + audience.silence
                audience.silence = min(audience.silence * 2, LONGEST_SILENCE_SECONDS)
                self._tasks.spawn(self._find_begun(audience), session_id=audience.session_id)
        for first in range(0, len(silent), _MOST_LOOKED_INTO):
            self._tasks.spawn(self._look_into(silent[first : first + _MOST_LOOKED_INTO]))

    async def _look_into(self, silent: Sequence[tuple[Feed, Audience]]) -> None:
        """Ask in one question which rows have more; only those rows, with their text, are read."""
        ahead: Collection[UUID] = ()
        seen = {feed.turn.turn_id: feed.seq for feed, _ in silent}
        try:
            async with asyncio.timeout(_LOOK_SECONDS), self._reads.checks:
                ahead = await self._questions.ask(self._store.turns_ahead, seen)
        except (UnavailableError, TimeoutError):
            _log.info("silent turns are looked for in their logs only")
        for feed, audience in silent:
            if not feed.is_over and feed.has_readers():
                self._mending.mend(feed, audience, consults_row=feed.turn.turn_id in ahead)

    def _confirm(self, channel: bytes) -> None:
        """Note that the channel is live from now on; messages before that may have been missed."""
        audience = self._audiences.get(channel)
        if audience is None:
            return
        audience.confirm()
        audience.silence = FIRST_SILENCE_SECONDS
        for feed in audience.feeds.values():
            if feed.has_readers() and not feed.is_over:
                feed.mend_not_before = 0.0
                self._mending.mend(feed, audience, consults_row=False)
        if audience.live_members():
            self._tasks.spawn(self._find_begun(audience), session_id=audience.session_id)

    async def _find_begun(self, audience: Audience) -> None:
        """Find turns that began while no events were received; they may be over already."""
        live = audience.live_members()
        if not live:
            return
        caller, session_id = live[0].connection.caller, audience.session_id
        async with self._reads.checks:
            try:
                if not audience.is_newest_known:
                    newest = await self._questions.ask(self._store.newest_turn, caller, session_id)
                    self.set_newest(session_id, newest)
                known = audience.newest_turn
                begun = await self._questions.ask(self._store.turns_since, caller, session_id, known)
            except UnavailableError:
                return
        for turn_id in begun:
            if str(turn_id) not in audience.heard and (feed := self._live.discover(audience, str(turn_id))):
                self._mending.mend(feed, audience)
