"""One reader of one turn: reads, loses its connection and reconnects with its cursor, until `done`.

`Reading` checks what every reader is promised. This module also checks that a number names the same event for
all readers of a turn, and that a live connection does not stay silent for ever.
"""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.e2e.protocol_client import NUMBERED, SUBPROTOCOL, Reading, envelope_of, sha256
from tests.soak.chaos.plan import ReaderPlan, Way

SILENCE_SECONDS: Final = 20.0
"""Longer than the interval of the service's pings and comments: a connection without any is dead."""
STALL_SECONDS: Final = 45.0
"""How long a live connection may be without an event: longer than the recovery from two lost workers in a row."""
AGAIN_SECONDS: Final = 0.2
CONNECT_SECONDS: Final = 10.0
NOT_EVENTS: Final = {"subscribed", "caught_up", "ping", "pong"}


class LostError(Exception):
    """The connection ended before the turn did; the reader reconnects."""


class BrokenPromiseError(Exception):
    """Something arrived that must not arrive."""


BROKEN: Final = (AssertionError, BrokenPromiseError, KeyError, ValueError)
"""The errors that reading raises if something arrives that must not arrive."""


@dataclass
class Counting(Reading):
    """A reading that continues after numbers go back, and counts that separately.

    Attributes:
        went_back: From which number to which.
    """

    went_back: list[str] = field(default_factory=list)

    def take(self, event: dict[str, Any]) -> None:
        """Take the next event; after numbers go back, the text is valid again from the snapshot on."""
        is_gap, is_snapshot = event["type"] == "gap", event["type"] == "snapshot"
        reached = (
            event["from"] - 1 if is_gap else event["seq"] if is_snapshot and not self.gap_until else self.seq
        )
        if reached < self.seq:
            self.went_back.append(
                f"{self.seq} to {reached} by {event['type']}, attempt {event.get('attempt')}"
            )
            self.seq = reached
        super().take(event)


@dataclass(slots=True)
class Reader:
    """Reads one turn to its end.

    Attributes:
        reading: The turn as this reader has it.
        shown: Each attempt and number with a checksum of its event.
        deltas: How many deltas arrived.
        connections: How often it connected.
        stalls: How often a live connection sent nothing of the turn.
        broken: The promise that was broken, if one was.
    """

    url: str
    key: str = field(repr=False)
    plan: ReaderPlan
    session_id: str
    reading: Counting | None = None
    shown: dict[tuple[int, int], int] = field(default_factory=dict)
    deltas: int = 0
    connections: int = 0
    stalls: int = 0
    broken: str | None = None
    trail: list[str] = field(default_factory=list)
    _socket: ClientConnection | None = None
    _cuts_taken: int = 0
    _until_cut: int | None = None

    async def subscribe_ahead(self) -> None:
        """Open the websocket before the turn exists; if that fails, connect later, as the other readers do."""
        try:
            self._socket = await self._open_socket({})
        except (LostError, OSError, WebSocketException, TimeoutError):
            self._socket = None

    def begin(self, turn_id: str) -> None:
        """Set the turn to read."""
        self.reading = Counting(turn_id, self.session_id)

    async def run(self) -> None:
        """Read until `done`, or until cancelled."""
        assert self.reading is not None
        await asyncio.sleep(self.plan.late_seconds)
        while self.reading.done is None and self.broken is None:
            self._plan_cut()
            try:
                await self._read_once()
            except (LostError, OSError, WebSocketException, httpx.HTTPError, TimeoutError) as lost:
                self.trail.append(f"{type(lost).__name__} {lost} at {self.reading.seq}")
                await asyncio.sleep(AGAIN_SECONDS)
            except BROKEN as broken:
                self.broken = f"{type(broken).__name__}: {broken}"
        if self.broken is None and not self.reading.is_whole:
            self.broken = f"text of {len(self.reading.text)} characters is not what done says"
            self.trail.append(f"text {sha256(self.reading.text)}, done {self.reading.done}")

    def take(self, event: dict[str, Any]) -> None:
        """Take an event of the turn."""
        assert self.reading is not None
        if event["type"] in NUMBERED:
            self.shown[event["attempt"], event["seq"]] = zlib.crc32(
                json.dumps(event, sort_keys=True).encode()
            )
            self.deltas += event["type"].endswith("_delta")
        else:
            self.trail.append(f"{event['type']} {event.get('from')} to {event.get('to', event.get('seq'))}")
        self.reading.take(event)
        if self._until_cut is not None:
            self._until_cut -= 1
            if self._until_cut < 0 and self.reading.done is None:
                self._cuts_taken += 1
                raise LostError("cut by the client")

    def _plan_cut(self) -> None:
        cuts = self.plan.cuts
        self._until_cut = cuts[self._cuts_taken] if self._cuts_taken < len(cuts) else None

    async def _read_once(self) -> None:
        self.connections += 1
        if self.plan.way in {Way.SSE, Way.POST}:
            await self._read_sse()
        else:
            await self._read_socket()

    async def _read_socket(self) -> None:
        assert self.reading is not None
        socket, self._socket = self._socket, None
        if socket is None:
            asked: dict[str, Any] = {"turn_id": self.reading.turn_id, "after": self.reading.seq}
            if self.plan.way is Way.SNAPSHOT:
                asked["replay"] = "snapshot"
            socket = await self._open_socket(asked)
        stall = asyncio.get_running_loop().time() + STALL_SECONDS
        try:
            while self.reading.done is None:
                event = json.loads(await asyncio.wait_for(socket.recv(), SILENCE_SECONDS))
                if event["type"] == "refused":
                    raise refusal(event["code"], str(event))
                if event["type"] not in NOT_EVENTS and event.get("turn_id") == self.reading.turn_id:
                    stall = asyncio.get_running_loop().time() + STALL_SECONDS
                    self.take(event)
                self._check_stall(stall)
        finally:
            # Without the closing handshake, like a reader in a train that enters a tunnel.
            socket.transport.abort()

    async def _open_socket(self, asked: dict[str, Any]) -> ClientConnection:
        socket = await connect(
            self.url.replace("http", "ws", 1) + "/v1/stream",
            additional_headers={"Authorization": f"Bearer {self.key}"},
            subprotocols=[SUBPROTOCOL],
            open_timeout=CONNECT_SECONDS,
            compression=None,
            ping_interval=None,
            proxy=None,
        )
        await socket.send(json.dumps({"op": "subscribe", "session_id": self.session_id, **asked}))
        return socket

    async def _read_sse(self) -> None:
        assert self.reading is not None
        headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {self.key}"}
        path = f"{self.url}/v1/turns/{self.reading.turn_id}/events"
        if self.connections % 2:
            path += f"?after={self.reading.seq}"
        else:
            headers["Last-Event-ID"] = str(self.reading.seq)
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        async with (
            httpx.AsyncClient(trust_env=False, timeout=timeout) as client,
            client.stream("GET", path, headers=headers) as answer,
        ):
            if answer.status_code != 200:
                raise refusal_of(answer.status_code, (await answer.aread()).decode())
            await self.read_events(answer)

    async def read_answer(self, answer: httpx.Response) -> None:
        """Read the event stream in the response to a post, as far as it goes."""
        try:
            await self.read_events(answer)
        except BROKEN as broken:
            self.broken = f"{type(broken).__name__}: {broken}"

    async def read_events(self, answer: httpx.Response) -> None:
        """Read an event stream to its end."""
        assert self.reading is not None
        stall = asyncio.get_running_loop().time() + STALL_SECONDS
        async with aclosing(blocks_of(answer)) as blocks:
            async for fields in blocks:
                if "data" in fields:
                    stall = asyncio.get_running_loop().time() + STALL_SECONDS
                    self.take(envelope_of(fields))
                self._check_stall(stall)
        if self.reading.done is None:
            raise LostError("the stream ended")

    def _check_stall(self, stall: float) -> None:
        if asyncio.get_running_loop().time() > stall:
            self.stalls += 1
            raise LostError("stalled")


async def blocks_of(answer: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """Cut an event stream into blocks of fields; a comment is a block without any."""
    rest = b""
    async for chunk in answer.aiter_raw():
        *blocks, rest = (rest + chunk.replace(b"\r\n", b"\n")).split(b"\n\n")
        for block in blocks:
            lines = [line.partition(":") for line in block.decode().split("\n") if not line.startswith(":")]
            yield {name: value.removeprefix(" ") for name, _, value in lines if name}


def refusal(code: str, said: str) -> Exception:
    """Return what a refusal with a code means: reconnect, or a broken promise."""
    return LostError(code) if code in {"unavailable", "rate_limited"} else BrokenPromiseError(said)


def refusal_of(status: int, said: str) -> Exception:
    """Return what an HTTP status means: reconnect, or a broken promise."""
    return (
        LostError(str(status)) if status in {429, 502, 503, 504} else BrokenPromiseError(f"{status} {said}")
    )
