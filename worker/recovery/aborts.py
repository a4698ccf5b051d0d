"""Learns of stops from Redis within milliseconds: from nudges as they arrive, and from the flags four times a second.

The lease renewal learns the same from PostgreSQL, so nothing here needs to be reliable, and no error of
Redis ends a turn.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final
from uuid import UUID

from shared.errors import UnavailableError
from shared.ids import parse_id
from shared.redis.names import ABORT_CHANNEL, abort_key
from shared.redis.pauses import Pauses
from shared.redis.wire import Wire, pack
from shared.turn.turns import StopReason
from worker.recovery.leases import LeaseKeeper

_log = logging.getLogger("turnkeeper.aborts")

_POLL_SECONDS: Final = 0.25
_SILENCE_ROUNDS: Final = 12
"""Polls without a reply after which the connection counts as lost: three seconds."""
_NUDGE_PING_ROUNDS: Final = 20
_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 10.0
"""Pause before a failed watch is restarted: a persistent error must not fill the log."""


class AbortWatcher:
    """Stops the attempts of this process for whose turns a stop was requested.

    Args:
        redis_url: The Redis that holds the flags.
        leases: Knows which turns run here.
    """

    def __init__(self, redis_url: str, leases: LeaseKeeper) -> None:
        self._url = redis_url
        self._leases = leases
        self._flags: Wire | None = None
        self._asked: deque[UUID] = deque()
        self._silent_rounds = 0

    async def run(self) -> None:
        """Watch until cancelled; after an unexpected error, start again."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            began = monotonic()
            try:
                await self._watch()
            except Exception:  # noqa: BLE001
                # A stop that is requested meanwhile is found by the lease renewal, seconds later.
                _log.exception("the watch for stops failed and begins again")
            if monotonic() - began > _LONGEST_PAUSE_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _watch(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._poll())
                tasks.create_task(self._listen())
        finally:
            if self._flags is not None:
                self._flags.abort()
                self._flags = None

    def check(self, turns: Sequence[tuple[UUID, UUID]]) -> None:
        """Ask for the flags of these turns, each given as session and turn, in one write."""
        if self._flags is None or not turns:
            return
        self._asked.extend(turn_id for _, turn_id in turns)
        self._flags.write(
            b"".join(pack("GET", abort_key(session_id, turn_id)) for session_id, turn_id in turns)
        )

    async def _poll(self) -> None:
        pauses = Pauses()
        while True:
            if self._flags is None:
                self._asked.clear()
                self._silent_rounds = 0
                self._flags = await self._open(self._answered, self._lost_flags, "turnkeeper-aborts")
                if self._flags is not None:
                    pauses.connected()
            if self._asked:
                self._silent_rounds += 1
                if self._silent_rounds >= _SILENCE_ROUNDS and self._flags is not None:
                    self._flags.abort()
                    self._flags = None
            else:
                self.check(self._leases.held_turns())
            await asyncio.sleep(_POLL_SECONDS if self._flags is not None else pauses.after_loss())

    def _answered(self, reply: object) -> None:
        self._silent_rounds = 0
        turn_id = self._asked.popleft()
        if isinstance(reply, bytes):
            attempt = self._leases.attempt_of(turn_id)
            if attempt is not None:
                attempt.stop(_reason(reply))

    def _lost_flags(self) -> None:
        self._flags = None

    async def _listen(self) -> None:
        """Receive nudges: the payload names the turn, its flag says why."""
        pauses = Pauses()
        while True:
            lost = asyncio.Event()
            wire = await self._open(self._nudged, lost.set, "turnkeeper-nudges")
            if wire is not None:
                pauses.connected()
                wire.write(pack("SUBSCRIBE", ABORT_CHANNEL))
                await self._until_lost(wire, lost)
            await asyncio.sleep(pauses.after_loss())

    async def _until_lost(self, wire: Wire, lost: asyncio.Event) -> None:
        try:
            while True:
                try:
                    async with asyncio.timeout(_POLL_SECONDS * _NUDGE_PING_ROUNDS):
                        await lost.wait()
                    return
                except TimeoutError:
                    # Only by a write does the kernel notice a dead peer; the flags are polled anyway.
                    wire.write(pack("PING"))
        finally:
            wire.abort()

    def _nudged(self, reply: object) -> None:
        match reply:
            case [b"message", _, bytes(payload)]:
                turn_id = parse_id(payload.decode("ascii", "replace"))
                for session_id, held in self._leases.held_turns():
                    if held == turn_id:
                        self.check([(session_id, held)])
            case _:
                pass  # confirmations and pongs

    async def _open(
        self, on_reply: Callable[[object], None], on_lost: Callable[[], None], name: str
    ) -> Wire | None:
        try:
            return await Wire.open(self._url, on_reply=on_reply, on_lost=on_lost, client_name=name)
        except UnavailableError as error:
            _log.info("stops come by the lease renewal: %s", error)
            return None


def _reason(flag: bytes) -> StopReason:
    try:
        return StopReason(flag.decode("ascii", "replace"))
    except ValueError:
        return StopReason.USER
