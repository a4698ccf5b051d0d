"""Reads what the joined readers of a turn miss, once for all of them: at a hole, after a silence, after a loss."""

import asyncio
from collections.abc import Callable, Sequence

from api.relay.feed import Audience, Feed
from api.relay.live import Live
from api.relay.occurrences import Occurrences
from api.relay.reads import GoneError, Reads, now_text
from api.relay.replays import MOST_AT_ONCE, REPEAT_SECONDS, OnGone, Replays, gaps_in
from api.relay.tasks import Tasks
from shared.turn.replay import Outgoing, Position, Verdict, catch_up, judge


class Mending:
    """Mends feeds. Belongs to the loop's thread."""

    def __init__(
        self,
        reads: Reads,
        tasks: Tasks,
        replays: Replays,
        live: Live,
        is_connected: Callable[[], bool],
        occurred: Occurrences,
        on_gone: OnGone,
    ) -> None:
        """Read by `reads` and deliver by `live`; `is_connected` returns whether live events can arrive at all.

        `on_gone` ends the streams of lost turns.
        """
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._reads = reads
        self._tasks = tasks
        self._replays = replays
        self._live = live
        self._is_connected = is_connected
        self._occurred = occurred

    def mend(self, feed: Feed, audience: Audience, *, consults_row: bool = True) -> None:
        """Read what the joined readers miss, once for all of them."""
        if feed.is_mending:
            feed.mend_again = True
        elif self._loop.time() < feed.mend_not_before:
            feed.check_at = min(feed.check_at, feed.mend_not_before)
        else:
            feed.is_mending = True
            work = self._mend_all(feed, audience, consults_row)
            self._tasks.spawn(work, session_id=audience.session_id, turn_id=feed.turn.turn_id)

    async def _mend_all(self, feed: Feed, audience: Audience, consults_row: bool) -> None:
        try:
            while not feed.is_over and feed.has_readers():
                feed.mend_again = False
                has_news = await self._mend_once(feed, audience, consults_row)
                if not has_news:
                    feed.mend_not_before = self._loop.time() + REPEAT_SECONDS
                    if feed.mend_again:
                        feed.check_at = feed.mend_not_before
                if not (has_news and feed.mend_again):
                    return
        finally:
            feed.is_mending = False

    async def _mend_once(self, feed: Feed, audience: Audience, consults_row: bool) -> bool:
        before = feed.position()
        feed.begin_read()
        try:
            reader = next(iter(feed.joined or feed.ahead))
            asking = catch_up(before, feed.turn, now_text(), consults_row=consults_row)
            reached, sent = await self._reads.drive(asking, feed.turn, reader.caller)
            now = self._loop.time()
            if feed.position() != before:
                return True  # live events continued meanwhile: there was no hole
            if reached == before and not sent:
                feed.expect_silence(now, may_grow=self._is_connected())
                return False
            self._occurred.gaps += gaps_in(sent)
            self._apply(feed, audience, reached, sent)
            feed.expect_news(now)
            for entry in feed.retained or ():
                if (
                    judge(feed.position(), entry.seq, entry.attempt, is_snapshot=entry.is_snapshot)
                    is Verdict.NEXT
                ):
                    done = entry.is_done()
                    self._apply(
                        feed,
                        audience,
                        Position(entry.seq, entry.attempt, done),
                        (Outgoing(entry.encoded, entry.seq),),
                    )
            self._live.flush()
            return True
        except GoneError:
            feed.is_over = True
            self._on_gone(audience, feed.turn.turn_id, [*feed.joined, *feed.ahead])
            return False
        finally:
            feed.end_read()

    def _apply(self, feed: Feed, audience: Audience, reached: Position, sent: Sequence[Outgoing]) -> None:
        """Move the feed and its joined readers; if that is much, each reader at its own pace."""
        before = feed.position()
        feed.move(reached)
        if sum(len(outgoing.encoded) for outgoing in sent) > MOST_AT_ONCE:
            for connection in list(feed.joined):
                if (member := audience.members.get(connection)) is not None:
                    self._replays.start(member, audience, feed.turn.turn_id, before)
        else:
            for outgoing in sent:
                self._live.fan_out(feed, outgoing)
        self._live.after_move(feed)
