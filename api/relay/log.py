"""Reads turns' logs backwards from their end to a cursor, over one pipelined connection to Redis."""

import asyncio
from collections import deque
from time import monotonic
from typing import Final
from uuid import UUID

import hiredis

from shared.errors import UnavailableError
from shared.redis.joined import part
from shared.redis.names import PROBE, joined_log_key, log_key
from shared.redis.pauses import Pauses
from shared.redis.wire import Wire, pack
from shared.turn.replay import Entry, Tail, tail_of

_READ_SECONDS: Final = 3.0
"""A round trip takes a millisecond; a Redis that needs longer is as good as down."""
_PROBE_SECONDS: Final = 1.0
_MOST_IN_FLIGHT: Final = 64
"""Concurrent reads: beyond that, a storm of reconnects queues here instead of in Redis's output buffer."""
_FIRST_BATCH: Final = 64
_BATCH_GROWTH: Final = 8
_MOST_ENTRIES: Final = 40_000
"""Twice the length to which a log is trimmed; a longer log was not written by us."""


class LogReader:
    """Reads logs; connects on first use and reconnects after a loss. Belongs to the loop's thread."""

    def __init__(self, url: str) -> None:
        """Read from the Redis at `url`."""
        self._url = url
        self._wire: Wire | None = None
        self._opening = asyncio.Lock()
        self._in_flight = asyncio.Semaphore(_MOST_IN_FLIGHT)
        self._waiting: deque[asyncio.Future[object]] = deque()
        self._pauses = Pauses()
        self._closed_until = 0.0
        self._probed_at = 0.0

    async def tail(self, session_id: UUID, turn_id: UUID, after: int) -> Tail:
        """Return the log behind `after`; a missing log is an empty one.

        Raises:
            UnavailableError: Redis did not answer in time.
        """
        key = log_key(session_id, turn_id)
        joined = joined_log_key(session_id, turn_id)
        entries: list[Entry] = []
        end, count = "+", _FIRST_BATCH
        async with self._in_flight:
            while True:
                batch = await self._ask(pack("XREVRANGE", key, end, "-", "COUNT", count))
                read = [_entry(item) for item in batch]
                if not read and not entries and (found := await self._joined(joined)) is not None:
                    return tail_of(reversed(found), after)[0]
                entries.extend(entry for _, entry in read)
                tail, is_reached = tail_of(entries, after)
                if is_reached or len(read) < count or len(entries) > _MOST_ENTRIES:
                    return tail
                end, count = f"({read[-1][0]}", count * _BATCH_GROWTH

    def close(self) -> None:
        """Close the connection."""
        if self._wire is not None:
            self._wire.abort()
        self._lose()

    async def _joined(self, key: str) -> list[Entry] | None:
        """Return the entries of a log that was joined; None if there is none."""
        found = await self._reply(pack("GET", key))
        if not isinstance(found, bytes):
            return None
        # In a thread: a large one takes longer than an event may be late.
        try:
            return await asyncio.to_thread(entries_of, found)
        except ValueError as error:
            raise UnavailableError("a joined log cannot be read") from error

    async def _ask(self, command: bytes) -> list[object]:
        answer = await self._reply(command)
        if not isinstance(answer, list):
            kind = str(answer).split(" ", 1)[0] if isinstance(answer, hiredis.ReplyError) else "reply"
            raise UnavailableError(f"redis refused to read a log: {kind}")
        return answer

    async def _reply(self, command: bytes) -> object:
        try:
            async with asyncio.timeout(_READ_SECONDS):
                wire = await self._open()
                reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
                self._probe(wire)
                self._waiting.append(reply)
                wire.write(command)
                return await reply
        except TimeoutError as error:
            # The reply may still arrive; only on a new connection do replies match questions again.
            if self._wire is not None:
                self._wire.abort()
            self._lose()
            raise UnavailableError("redis did not answer in time") from error

    def _probe(self, wire: Wire) -> None:
        """Write something small now and then: a server that no longer serves us still answers reads, of an old log."""
        now = monotonic()
        if now - self._probed_at >= _PROBE_SECONDS:
            self._probed_at = now
            self._waiting.append(asyncio.get_running_loop().create_future())
            wire.write(pack(*PROBE))

    async def _open(self) -> Wire:
        async with self._opening:
            if self._wire is None or not self._wire.is_open():
                self._wire = await self._connect()
            return self._wire

    async def _connect(self) -> Wire:
        """Connect, unless that failed just now: whoever asks meanwhile is answered at once."""
        if monotonic() < self._closed_until:
            raise UnavailableError("redis does not serve us now")
        try:
            wire = await Wire.open(
                self._url, on_reply=self._answer, on_lost=self._lost, client_name="tk-relay-log"
            )
        except UnavailableError:
            self._closed_until = monotonic() + self._pauses.after_loss()
            raise
        self._pauses.connected()
        return wire

    def _lost(self) -> None:
        self._closed_until = monotonic() + self._pauses.after_loss()
        self._lose()

    def _answer(self, reply: object) -> None:
        waiting = self._waiting.popleft()
        if not waiting.done():
            waiting.set_result(reply)

    def _lose(self) -> None:
        self._wire = None
        waiting, self._waiting = self._waiting, deque()
        for reply in waiting:
            if not reply.done():
                reply.set_exception(UnavailableError("redis closed the connection"))
                reply.exception()  # marked as retrieved: nobody waits for a probe


def _entry(item: object) -> tuple[str, Entry]:
    """Decode one entry of a Stream: its id and its content."""
    assert isinstance(item, list)
    raw_id, fields = item
    entry_id = bytes(raw_id).decode()
    return entry_id, entry_of(bytes(raw_id), bytes(fields[0]), bytes(fields[1]))


def entry_of(entry_id: bytes, field: bytes, event: bytes) -> Entry:
    """Return an entry of a log, from its id, its field and its event."""
    attempt, _, seq = entry_id.partition(b"-")
    return Entry(int(attempt), int(seq), event, is_snapshot=field == b"s")


def entries_of(joined: bytes) -> list[Entry]:
    """Return the entries of a log that was joined, oldest first.

    Raises:
        ValueError: It is not one.
    """
    return [entry_of(*each) for each in part(joined)]
