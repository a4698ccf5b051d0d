"""One turn watched by many sockets, with and without two bad readers among them: what they cost the others.

Two further sockets watch the same turn and a second one of large deltas. In one arm both read; in the other, one reads
more slowly than the deltas arrive and one does not read at all, until the relay gives them up. Everything else is the
same in both arms, and the arms alternate, so that disturbances of the machine affect both.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from bench.figures import figures
from bench.meter import used
from bench.stack import Stack, make_sessions
from bench.stream import Judged, Stream
from bench.turns import Token, is_whole, judge

AT_ONCE: Final = 32
LIMIT_SECONDS: Final = 60.0
MOST_SECONDS: Final = 20.0
"""A reader that only collects data answers no ping; two unanswered pings, 15 s apart, end a connection."""
LARGE: Final = "rate=80 pad=4000"
"""320 KB a second: a megabyte, the bound of a mailbox, is full after about four seconds."""
LARGE_PER_SECOND: Final = 80
SMALL_BUFFER: Final = 4096
SMALL_SEGMENT: Final = 536
"""With loopback's segments of 64 KiB the system buffers 2.5 MB for a reader; with small ones next to nothing."""
SLOW_PAUSE_SECONDS: Final = 0.2
POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Audience:
    """How many sockets watch what, and for how long."""

    sockets: int = 1000
    rate: float = 20.0
    tokens: int = 200

    @property
    def seconds(self) -> float:
        """Return how long the answer takes."""
        return self.tokens / self.rate


class LateStream(Stream):
    """Keeps bytes with their time and cuts them on request: a thousand readers must not be the bottleneck."""

    def __init__(self) -> None:
        super().__init__(self._told)
        self._kept: list[tuple[int, bytes]] = []
        self._is_late = False
        self.caught_up = 0
        self.done: dict[str, dict[str, Any]] = {}

    @property
    def has_seen_the_end(self) -> bool:
        """Whether `done` has arrived, or the connection has ended."""
        return self.closed.done() or any(b'"type":"done"' in data for _, data in self._kept[-2:])

    def be_late(self) -> None:
        """From now on only keep what arrives."""
        self._is_late = True

    def data_received(self, data: bytes) -> None:
        if self._is_late:
            self._kept.append((time.monotonic_ns(), data))
        else:
            super().data_received(data)

    def cut(self) -> None:
        """Cut what was kept into frames, with the time at which each was complete."""
        for received_ns, data in self._kept:
            self._buffer += data
            self._cut(received_ns)
        self._kept.clear()

    def _told(self, message: dict[str, Any], _received_ns: int) -> None:
        match message["type"]:
            case "refused":
                raise RuntimeError(f"subscribing was refused: {message}")
            case "caught_up":
                self.caught_up += 1
            case "done":
                self.done[message["turn_id"]] = message


async def measure(stack: Stack, audience: Audience, *, is_hindered: bool) -> dict[str, Any]:
    """Stream one turn to the audience; return the delays of those who read, and what it cost.

    Raises:
        ValueError: The answer takes so long that readers who answer no ping would be closed.
    """
    if audience.seconds > MOST_SECONDS:
        raise ValueError(
            f"an answer of {audience.seconds:g} s is over the {MOST_SECONDS:g} s that can be watched"
        )
    session, other = await make_sessions(stack, 2)
    streams = [LateStream() for _ in range(audience.sockets)]
    bad = [LateStream() for _ in range(2)]
    await _connect(stack, streams, bad)
    for stream in (*streams, *bad):
        stream.send({"op": "subscribe", "session_id": session})
    for stream in bad:
        stream.send({"op": "subscribe", "session_id": other})
    await _until(lambda: all(each.caught_up for each in streams) and all(each.caught_up == 2 for each in bad))
    for stream in (*streams, *bad):
        stream.be_late()
    hindering = asyncio.create_task(_hinder(bad)) if is_hindered else None
    meter = stack.meter()
    before, began = meter.cpu_seconds(), time.monotonic()
    try:
        turn = await _post(stack, session, other, audience)
        await _until(
            lambda: all(each.has_seen_the_end for each in streams),
            limit_seconds=audience.seconds + LIMIT_SECONDS,
        )
        seconds, spent = time.monotonic() - began, used(before, meter.cpu_seconds())
    finally:
        if hindering is not None:
            hindering.cancel()
    given_up = await _given_up(bad) if is_hindered else 0
    for stream in (*streams, *bad):
        stream.cut()
        stream.close()
    return {
        "bad_readers": 2 if is_hindered else 0,
        "bad_readers_given_up": given_up,
        **_figures(audience, turn, streams, bad, seconds, spent),
    }


async def _connect(stack: Stack, streams: Sequence[Stream], bad: Sequence[Stream]) -> None:
    waiting = iter(streams)

    async def connect() -> None:
        for stream in waiting:
            await stream.connect(stack.url, stack.key)

    await asyncio.gather(*(connect() for _ in range(AT_ONCE)))
    for stream in bad:
        await stream.connect(stack.url, stack.key, _make_small)


def _make_small(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)


async def _hinder(bad: Sequence[Stream]) -> None:
    """Let the first reader read a little now and then, and the others nothing."""
    slow = bad[0]
    for stream in bad:
        stream.pause()
    while not slow.closed.done():
        slow.resume()
        await asyncio.sleep(0)
        slow.pause()
        await asyncio.sleep(SLOW_PAUSE_SECONDS)


async def _post(stack: Stack, session: str, other: str, audience: Audience) -> str:
    connection = stack.connection()
    large = f"[[tokens={int(audience.seconds * LARGE_PER_SECOND)} {LARGE}]] large"
    await connection.expect(202, "POST", f"/v1/sessions/{other}/turns", {"content": large})
    content = f"[[tokens={audience.tokens} rate={audience.rate:g} stamp=1]] watched"
    answer = await connection.expect(202, "POST", f"/v1/sessions/{session}/turns", {"content": content})
    connection.close()
    return str(answer.body["id"])


async def _given_up(bad: Sequence[Stream]) -> int:
    """Return how many the relay has closed; they learn it by reading what is left, as fast as they can."""
    for stream in bad:
        if not stream.closed.done():
            stream.resume()
    with suppress(TimeoutError):
        await _until(lambda: all(each.closed.done() for each in bad), limit_seconds=5.0)
    return sum(each.closed.done() for each in bad)


async def _until(is_true: Callable[[], bool], limit_seconds: float = LIMIT_SECONDS) -> None:
    """Poll: a notification from each of a thousand sockets would itself be measured."""
    give_up_at = time.monotonic() + limit_seconds
    while not is_true():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not there after {limit_seconds:g} s")
        await asyncio.sleep(POLL_SECONDS)


def _figures(
    audience: Audience,
    turn: str,
    streams: Sequence[LateStream],
    bad: Sequence[LateStream],
    seconds: float,
    spent: dict[str, float],
) -> dict[str, Any]:
    delays: list[float] = []
    last_to_first: list[float] = []
    by_stamp: dict[int, tuple[int, int]] = {}
    whole = 0
    for stream in streams:
        judged, tokens = judge([stream])
        whole += is_whole(judged.get(turn, Judged()), stream.done.get(turn))
        for token in tokens:
            delays.append(token.delay_ms)
            _note(by_stamp, token)
    last_to_first += [(last - first) / 1e6 for first, last in by_stamp.values()]
    frames = sum(len(stream.frames) for stream in (*streams, *bad))
    return {
        "sockets": len(streams),
        "frames": frames,
        "frames_per_second": round(frames / seconds, 1),
        "added_delay_ms": figures(delays),
        "last_after_first_ms": figures(last_to_first),
        "relay_cpu_us_per_frame": round(1e6 * spent["relay"] / max(1, frames), 2),
        "cores": {group: round(value / seconds, 3) for group, value in spent.items()},
        "tokens_missing": len(streams) * audience.tokens - len(delays),
        "failures": len(streams) - whole,
    }


def _note(by_stamp: dict[int, tuple[int, int]], token: Token) -> None:
    first, last = by_stamp.get(token.sent_ns, (token.received_ns, token.received_ns))
    by_stamp[token.sent_ns] = (min(first, token.received_ns), max(last, token.received_ns))
