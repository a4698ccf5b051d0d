"""Publishes the events of all turns of a process with natural batching.

While one flush is on its way to Redis, the deltas of all turns gather; the next flush sends them in
one write, with consecutive deltas of a turn as one event. There is no timer: a lone delta is sent at
once, and under load the batches grow by themselves. Everything here belongs to the loop's thread.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any, Final, NamedTuple
from uuid import UUID

import hiredis

from shared.errors import UnavailableError
from shared.lasting import lasting_task
from shared.metrics.registry import Registry
from shared.redis.log_scripts import ALL_SCRIPTS, OPEN, TAKE_OVER, sha_of
from shared.redis.memory import LogShares
from shared.redis.names import call_key, events_channel, log_key
from shared.redis.pauses import Pauses
from shared.redis.share_scripts import NOTE_ENDED, REPORT
from shared.redis.wire import Wire, pack
from shared.turn.events import timestamp
from worker.publishing.call_note import CallNote
from worker.publishing.channel import Channel
from worker.publishing.delta_counts import DeltaCounts
from worker.publishing.log_memory import CUT_ENTRIES, LogMemory, size_of

_log = logging.getLogger("turnkeeper.publisher")

_REPLY_SECONDS: Final = 5.0
"""A flush without a reply for this long counts as a lost connection."""
_OPEN_SECONDS: Final = 1.0
_CALL_SECONDS: Final = 600
"""A note of a call outlives the wait for a renewal, a lease and a PostgreSQL that is down for minutes."""

_LOOK_SECONDS: Final = 1.0
_DONE_PREFIX: Final = b'{"type":"done"'
_OPEN_SHA: Final = sha_of(OPEN)
_TAKE_OVER_SHA: Final = sha_of(TAKE_OVER)


def _ignore(_reply: object) -> None:
    """Take a reply that changes nothing."""


class LastEntry(NamedTuple):
    """The newest entry of a turn's log."""

    attempt: int
    seq: int
    is_done: bool
    """Whether readers were told that the turn is over."""


class Publisher:
    """Sends the channels' events to Redis in one write for each flush.

    Args:
        redis_url: The Redis to publish to.
        is_trusted: Returns whether this process may still publish: its leases were renewed recently. # I3
        holds_lease: Asks PostgreSQL whether an attempt still owns its turn.
        max_entries: Most events of a log.
        live_ttl_seconds: Lifetime of the log of a running turn.
        done_ttl_seconds: Lifetime of a log after its end.
        buffer_bytes: Most bytes held while Redis is down; beyond that, a snapshot replaces single events.
        shares: What logs may take of Redis's memory.
        registry: Receives the counts.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        is_trusted: Callable[[], bool],
        holds_lease: Callable[[UUID, int], Awaitable[bool]],
        max_entries: int,
        live_ttl_seconds: int,
        done_ttl_seconds: int,
        buffer_bytes: int,
        shares: LogShares | None = None,
        registry: Registry | None = None,
    ) -> None:
        self._url = redis_url
        self._is_trusted = is_trusted
        self._holds_lease = holds_lease
        self._max_entries = max_entries
        self._live_ttl_seconds = live_ttl_seconds
        self._done_ttl_seconds = done_ttl_seconds
        self._buffer_bytes = buffer_bytes
        self.memory = LogMemory(shares or LogShares())
        self._look_at = 0.0
        self._wire: Wire | None = None
        self._expected: deque[Callable[[object], None]] = deque()
        self._sent_at = 0.0
        self._dirty: dict[Channel, None] = {}
        self._channels: set[Channel] = set()
        self._is_scheduled = False
        self._lost = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.counts = DeltaCounts(registry or Registry())
        self.backlog_bytes = 0
        self.overflows = 0

    def start(self) -> None:
        """Connect in the background and stay connected."""
        for work in (self._stay_connected(), self._watch()):
            lasting_task("publisher", self._spawn(work))

    async def stop(self, within_seconds: float) -> None:
        """Send what is left, for at most `within_seconds`, and disconnect."""
        deadline = monotonic() + within_seconds
        while monotonic() < deadline and any(not channel.is_idle() for channel in self._channels):  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # many channels must be idle, and this runs only at the end
        self.counts.hand_over()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._wire is not None:
            self._wire.abort()

    def channel(
        self,
        session_id: UUID,
        turn_id: UUID,
        attempt: int,
        seq: int,
        message_id: UUID,
        on_fenced: Callable[[], None],
        organization_id: UUID | None = None,
    ) -> Channel:
        """Return a channel for an attempt of a turn whose events so far end with `seq`."""
        channel = Channel(self, session_id, turn_id, attempt, seq, message_id, on_fenced, organization_id)
        self._channels.add(channel)
        return channel

    async def open(self, session_id: UUID, turn_id: UUID, accepted: Sequence[tuple[int, bytes]]) -> int:
        """Start a turn's log with the events of its acceptance, unless the log exists.

        Returns:
            The number of the last event in the log; 0 if Redis did not answer within a second.
        """
        entries: list[str | bytes] = []
        for seq, event in accepted:
            entries += (f"0-{seq}", event)
        reply = await self._ask(
            pack(
                "EVALSHA", _OPEN_SHA, 2, log_key(session_id, turn_id), events_channel(session_id),
                self._max_entries, self._live_ttl_seconds, *entries,
            )
        )  # fmt: skip
        return int(reply.rpartition(b"-")[2]) if isinstance(reply, bytes) else 0

    async def take_over(self, session_id: UUID, turn_id: UUID, attempt: int) -> bool:
        """Shut earlier attempts out of a turn's log (I3).

        Returns:
            Whether readers may have text of those attempts that nothing has reset; True if Redis did not answer
            within a second.
        """
        key = log_key(session_id, turn_id)
        return await self._ask(pack("EVALSHA", _TAKE_OVER_SHA, 1, key, attempt)) != 0

    async def last_entry(self, session_id: UUID, turn_id: UUID) -> LastEntry | None:
        """Return the newest entry of a turn's log; None if there is none or Redis did not answer within a second."""
        reply = await self._ask(pack("XREVRANGE", log_key(session_id, turn_id), "+", "-", "COUNT", 1))
        match reply:
            case [[bytes(entry_id), [_, bytes(event)]]]:
                attempt, _, seq = entry_id.partition(b"-")
                return LastEntry(int(attempt), int(seq), event.startswith(_DONE_PREFIX))
            case _:
                return None

    def note_call(self, session_id: UUID, turn_id: UUID, note: CallNote) -> None:
        """Store in Redis, for a while, that an attempt called the provider."""
        command = pack("SET", call_key(session_id, turn_id), note.encoded(), "EX", _CALL_SECONDS)
        self._send(command, _ignore)

    def mark(self, channel: Channel) -> None:
        """Note that `channel` has something to send, in this iteration of the loop or after the flush on its way."""
        self._dirty[channel] = None
        if not self._is_scheduled and not self._expected:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def is_connected(self) -> bool:
        """Return whether there is a connection to Redis; callable from any thread."""
        return self._wire is not None

    def forget(self, channel: Channel) -> None:
        """Drop a channel."""
        self._dirty.pop(channel, None)
        self._channels.discard(channel)

    def restart(self, channel: Channel) -> None:
        """Restart a lost log, once PostgreSQL has confirmed that this worker still owns the turn."""
        self._spawn(self._restart(channel))

    def _flush(self) -> None:
        self._is_scheduled = False
        if self._wire is None or self._expected or not self._is_trusted():
            return
        now = monotonic()
        ts = timestamp(datetime.now(UTC))
        dirty, self._dirty = self._dirty, {}
        commands: list[bytes] = []
        max_entries = self._max_entries if self.memory.left > 0 else CUT_ENTRIES
        for channel in dirty:
            command = channel.take(ts, now, max_entries, self._done_ttl_seconds)
            if command is not None:
                commands.append(command)
                self._expected.append(channel.answered)
            elif channel.is_finished(now):
                self.forget(channel)
                if (note := self._note_of_end(channel)) is not None:
                    commands.append(note)
                    self._expected.append(_ignore)
            elif not channel.is_idle():
                self._dirty[channel] = None
        if commands:
            self._sent_at = now
            written = commands[0] if len(commands) == 1 else b"".join(commands)
            self._wire.write(written)
            self.memory.left -= len(written)
            self.counts.writes.append(len(written))

    def _note_of_end(self, channel: Channel) -> bytes | None:
        """Return the command that notes a log that ended; None if nobody counts it."""
        if channel.organization_id is None or not channel.log_bytes:
            return None
        return self.memory.note_ended(
            channel.organization_id, *channel.place(), size_of(channel), time(), self._done_ttl_seconds
        )

    def _look(self, now: float) -> None:
        """Report what the running logs hold, and ask how much room Redis has."""
        self._look_at = now + (_LOOK_SECONDS if self.memory.left > 0 else 0.0)
        self._send(self.memory.report(self._channels, time()), self.memory.reported)
        self._send(pack("INFO", "memory"), self._looked)

    def _looked(self, reply: object) -> None:
        self.memory.looked(reply)
        self.memory.cut(self._channels)

    async def _ask(self, command: bytes) -> object:
        """Return Redis' reply; None if it is down or does not answer within a second."""
        if self._wire is None:
            return None
        answer: asyncio.Future[object] = self._loop.create_future()
        self._send(command, lambda reply: None if answer.done() else answer.set_result(reply))
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                return await answer
        except TimeoutError:
            return None

    def _send(self, command: bytes, on_reply: Callable[[object], None]) -> None:
        if self._wire is not None:
            self._sent_at = monotonic()
            self._expected.append(on_reply)
            self._wire.write(command)

    def _replied(self, reply: object) -> None:
        if (
            isinstance(reply, hiredis.ReplyError)
            and str(reply).startswith("NOSCRIPT")
            and self._wire is not None
        ):
            self._load_scripts(self._wire)
        self._expected.popleft()(reply)

    def _read(self) -> None:
        """After one network read: once the last flush is answered, send the next."""
        if self._expected:
            self._sent_at = monotonic()
        elif self._dirty and not self._is_scheduled:
            self._flush()

    def _load_scripts(self, wire: Wire) -> None:
        for script in (*ALL_SCRIPTS, REPORT, NOTE_ENDED):
            self._expected.append(_ignore)
            wire.write(pack("SCRIPT", "LOAD", script))

    async def _stay_connected(self) -> None:
        pauses, is_told = Pauses(), False
        while True:
            self._lost.clear()
            try:
                wire = await Wire.open(
                    self._url,
                    on_reply=self._replied,
                    on_lost=self._disconnected,
                    on_read=self._read,
                    client_name="turnkeeper-publisher",
                )
            except UnavailableError as error:
                if not is_told:
                    _log.warning("the publisher cannot reach redis: %s", error)
                is_told = True
                await asyncio.sleep(pauses.after_loss())
                continue
            is_told = False
            pauses.connected()
            self._wire = wire
            self._sent_at = monotonic()
            self._load_scripts(wire)
            self._look(monotonic())
            for channel in self._channels:
                self._dirty[channel] = None
            await self._lost.wait()
            await asyncio.sleep(pauses.after_loss())

    def _disconnected(self) -> None:
        _log.warning("the publisher lost its connection to redis")
        self._wire = None
        self._expected.clear()
        for channel in self._channels:
            channel.connection_lost()
        self._lost.set()

    async def _restart(self, channel: Channel) -> None:
        if channel.is_closing():
            # The turn is settled and this is its end: no other attempt can follow, and no lease is held.
            self.begin_again(channel)
            return
        turn_id, attempt = channel.identity()
        try:
            is_ours = await self._holds_lease(turn_id, attempt)
        except UnavailableError:
            is_ours = self._is_trusted()  # the lease is still valid by our own clock
        if is_ours or channel.is_closing():  # it may have been settled while PostgreSQL was asked
            self.begin_again(channel)
        else:
            channel.give_up()

    def begin_again(self, channel: Channel) -> None:
        """Restart a lost log; while Redis is down, this is tried again from time to time."""
        if self._wire is not None and self._is_trusted() and channel.wants_restart(monotonic()):
            self._send(channel.snapshot(self._live_ttl_seconds), channel.restarted)

    async def _watch(self) -> None:
        """Every quarter second: give up silent connections, retry, forget, bound the backlog."""
        while True:
            await asyncio.sleep(0.25)
            now = monotonic()
            self.counts.hand_over()
            if self._wire is not None and self._expected and now - self._sent_at > _REPLY_SECONDS:
                wire = self._wire
                self._disconnected()
                wire.abort()
            for channel in [channel for channel in self._channels if channel.is_finished(now)]:
                self.forget(channel)
                if (note := self._note_of_end(channel)) is not None:
                    self._send(note, _ignore)
            # Also while a flush is on its way: a busy publisher has one on its way at every moment.
            if self._wire is not None and (now >= self._look_at or self.memory.left <= 0):
                self._look(now)
            self.backlog_bytes = sum(channel.waiting_bytes() for channel in self._channels)
            if self.backlog_bytes > self._buffer_bytes:
                self.overflows += 1
                max(self._channels, key=Channel.waiting_bytes).overflow()
            if self._wire is not None and not self._expected and self._is_trusted():
                for channel in [channel for channel in self._channels if channel.wants_restart(now)]:
                    self.restart(channel)
            if self._dirty and not self._expected and not self._is_scheduled:
                self._flush()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a publisher task ended", exc_info=error)
