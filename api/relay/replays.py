"""Catches one reader up with a turn's other readers, at that reader's own pace (I4, I8)."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias
from uuid import UUID

from api.relay.connection import Connection, Phase
from api.relay.feed import LONGEST_SILENCE_SECONDS, Audience, Feed, Member
from api.relay.occurrences import Occurrences
from api.relay.reads import GoneError, Reads, now_text
from api.relay.tasks import Tasks
from shared.turn.replay import Entry, Outgoing, Position, RowState, Verdict, catch_up, judge

MOST_AT_ONCE: Final = 1 << 18
"""Bytes that a reader gets at once; a longer replay is sent in pieces, each once the last was taken."""
REPEAT_SECONDS: Final = 0.25
"""Between two reads for a hole that the log cannot fill yet."""


OnGone: TypeAlias = Callable[[Audience, UUID, Iterable[Connection]], None]
"""Called with the readers of a turn that does not exist any more."""


class Replays:
    """Replays turns to single readers. Belongs to the loop's thread."""

    def __init__(self, reads: Reads, tasks: Tasks, occurred: Occurrences, on_gone: OnGone) -> None:
        """Read by `reads`, in `tasks` of the readers; count in `occurred`; `on_gone` ends streams of lost turns."""
        self._occurred = occurred
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._reads = reads
        self._tasks = tasks

    def start(
        self,
        member: Member,
        audience: Audience,
        turn_id: UUID,
        position: Position,
        *,
        by_snapshot: bool = False,
        row: RowState | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Catch one reader up with one turn, from `position`, in a task of its own.

        From now on the reader gets this turn from here alone; its other turns are not touched.

        Args:
            member: The reader.
            audience: Its session.
            turn_id: The turn.
            position: Where the reader is.
            by_snapshot: Send the text so far instead of its events.
            row: The turn's row, if it was read a moment ago.
            then: Called once the reader has caught up, unless it has left or asked for the turn again.
        """
        key = str(turn_id)
        if (older := member.replays.pop(key, None)) is not None:
            older.cancel()
        member.over.pop(key, None)
        feed = audience.feed(turn_id, self._loop.time())
        feed.leave(member.connection)

        async def replay() -> None:
            try:
                await self._join(member, audience, feed, position, by_snapshot, row)
            finally:
                if member.replays.get(key) is task:
                    del member.replays[key]
            if then is not None:
                then()

        task = self._tasks.spawn(replay(), member, session_id=audience.session_id, turn_id=turn_id)
        member.replays[key] = task

    async def _join(
        self,
        member: Member,
        audience: Audience,
        feed: Feed,
        position: Position,
        by_snapshot: bool,
        row: RowState | None,
    ) -> None:
        """Bring one reader from `position` to the feed's position, at the reader's own pace."""
        connection = member.connection
        self._occurred.replays += 1
        silence = REPEAT_SECONDS
        while True:
            feed.begin_read()
            confirmations = audience.confirmations
            try:
                asking = catch_up(position, feed.turn, now_text(), row=row, by_snapshot=by_snapshot)
                reached, sent = await self._reads.drive(asking, feed.turn, connection.caller)
                row, by_snapshot = None, False
                self._occurred.gaps += gaps_in(sent)
                if not await self._post(connection, sent):
                    return
                has_news, position = reached != position, reached
                for entry in feed.retained or ():
                    position = self._post_live(connection, position, entry)
            except GoneError:
                self._on_gone(audience, feed.turn.turn_id, (connection,))
                return
            finally:
                feed.end_read()
            connection.flush()
            if confirmations != audience.confirmations:
                continue  # the channel was not live the whole time
            if self._settle(feed, member, position):
                return
            if not has_news:
                # The feed is elsewhere and the log does not show how it got there: ask again, less and less often.
                await asyncio.sleep(silence)
                silence = min(silence * 2, LONGEST_SILENCE_SECONDS)

    def _settle(self, feed: Feed, member: Member, position: Position) -> bool:
        """Let a reader at `position` join the feed; False if it has to read more first."""
        connection = member.connection
        if position.is_over:
            member.note_over(str(feed.turn.turn_id))
            if connection.face.ends_with_turn:
                connection.ends_when_flushed = True
                connection.flush()
            if not feed.has_readers():
                feed.move(position)
            return True
        if position.attempt is None and position.seq:
            return False  # the cursor that the client named is not confirmed
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
        """Send a replay in pieces that the reader can take; False if the reader is gone."""
        size = 0
        for outgoing in sent:
            frame = connection.face.event(outgoing)
            connection.unsent.append(frame)
            size += len(frame)
            if size > MOST_AT_ONCE:
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
        connection.unsent.append(connection.face.event(Outgoing(entry.encoded, entry.seq)))
        return Position(entry.seq, entry.attempt, is_over=entry.is_done())


def gaps_in(sent: Sequence[Outgoing]) -> int:
    """Return how many of the frames are gaps: only they have no number."""
    return sum(outgoing.seq is None for outgoing in sent)
