"""One pub/sub connection for all sessions watched from this process, and a second that shows whether its server serves.

When a connection breaks, Redis forgets the subscriber silently. So messages may have been missed before every
confirmation of a channel, and the owner is told of each.

A server that became a replica, or that refuses writes, keeps its subscribers and has nothing more for them. Only a
write tells it from one that is quiet, and a connection that is subscribed may not write.
"""

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from shared.errors import UnavailableError
from shared.redis.names import PROBE
from shared.redis.pauses import Pauses
from shared.redis.wire import Wire, pack

_PROBE_SECONDS: Final = 1.0
_PING_ROUNDS: Final = 5
"""A ping for so many probes."""
_SILENCE_SECONDS: Final = 10.0
"""Two unanswered pings: the connection is dead, although no error was reported."""
_CHANNELS_AT_ONCE: Final = 500
"""Channels in one SUBSCRIBE after a reconnect."""
_MOST_UNSENT_BYTES: Final = 1 << 20
"""With more unsent commands than this, Redis takes nothing: the connection is given up."""


class Subscription:
    """Keeps the wanted channels subscribed, across reconnects. Belongs to the loop's thread."""

    def __init__(
        self,
        url: str,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_read: Callable[[], None],
        on_confirmed: Callable[[bytes], None],
    ) -> None:
        """Subscribe at the Redis at `url`.

        Args:
            url: Where Redis is.
            on_message: Receives channel and payload of each message.
            on_read: Called after all messages of one network read.
            on_confirmed: Called once a channel is subscribed; messages published before may have been missed.
        """
        self._url = url
        self._on_message = on_message
        self._on_read = on_read
        self._on_confirmed = on_confirmed
        self._wanted: set[bytes] = set()
        self._confirmed: set[bytes] = set()
        self._wire: Wire | None = None
        self._probe: Wire | None = None
        self._is_down = False
        self._heard_at = 0.0
        self._lost = asyncio.Event()

    def want(self, channel: bytes) -> None:
        """Subscribe to `channel` until `drop`."""
        if channel not in self._wanted:
            self._wanted.add(channel)
            self._write(pack("SUBSCRIBE", channel))

    def drop(self, channel: bytes) -> None:
        """Unsubscribe from `channel`."""
        if channel in self._wanted:
            self._wanted.remove(channel)
            self._confirmed.discard(channel)
            self._write(pack("UNSUBSCRIBE", channel))

    def is_confirmed(self, channel: bytes) -> bool:
        """Return whether messages published on `channel` now will arrive."""
        return channel in self._confirmed

    def is_connected(self) -> bool:
        """Return whether there is a connection to Redis at all."""
        return self._wire is not None

    def will_confirm(self) -> bool:
        """Return whether a confirmation can be expected: there is a connection, or the first is being made."""
        return self._wire is not None or not self._is_down

    async def run(self) -> None:
        """Connect, and reconnect after every loss, until cancelled."""
        pauses = Pauses()
        try:
            while True:
                self._lost.clear()
                try:
                    self._wire = await Wire.open(
                        self._url,
                        on_reply=self._receive,
                        on_lost=self._lost.set,
                        on_read=self._finish_read,
                        client_name="tk-relay-events",
                    )
                    self._probe = await Wire.open(
                        self._url,
                        on_reply=lambda _reply: None,
                        on_lost=self._lost.set,
                        client_name="tk-relay-probe",
                    )
                except UnavailableError:
                    self._give_up()
                    self._is_down = True
                    await asyncio.sleep(pauses.after_loss())
                    continue
                pauses.connected()
                self._heard_at = asyncio.get_running_loop().time()
                for channels in _batches(self._wanted):
                    self._write(pack("SUBSCRIBE", *channels))
                await self._watch()
                self._give_up()
                await asyncio.sleep(pauses.after_loss())
        finally:
            self._give_up()

    async def _watch(self) -> None:
        """Return when the connection is lost or has gone silent."""
        loop = asyncio.get_running_loop()
        rounds = 0
        while not self._lost.is_set():
            try:
                async with asyncio.timeout(_PROBE_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                rounds += 1
                if self._probe is not None and self._probe.buffered() < _MOST_UNSENT_BYTES:
                    self._probe.write(pack(*PROBE))
                if rounds % _PING_ROUNDS:
                    continue
                if loop.time() - self._heard_at > _SILENCE_SECONDS:
                    return
                self._write(pack("PING"))

    def _give_up(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.abort()
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.abort()
            self._is_down = True
            self._confirmed.clear()

    def _write(self, command: bytes) -> None:
        if self._wire is None:
            return
        if self._wire.buffered() > _MOST_UNSENT_BYTES:
            self._lost.set()
            return
        self._wire.write(command)

    def _receive(self, reply: object) -> None:
        if type(reply) is not list:
            return  # an error about one command; the channel stays unconfirmed
        kind = reply[0]
        if kind == b"message":
            self._on_message(reply[1], reply[2])
        elif kind == b"subscribe" and reply[1] in self._wanted:
            self._confirmed.add(reply[1])
            self._on_confirmed(reply[1])

    def _finish_read(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self._on_read()


def _batches(channels: set[bytes]) -> Iterator[list[bytes]]:
    remaining = iter(list(channels))
    while batch := list(islice(remaining, _CHANNELS_AT_ONCE)):
        yield batch
