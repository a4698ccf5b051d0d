"""What an open websocket costs while nothing happens: the relay's memory, as the system counts it, and CPU.

The proportional set size is read before and after, so that what the process holds anyway is not counted. The kernel's
buffers of a socket do not belong to a process's memory and are not included; an idle socket has none.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from bench.meter import Meter
from bench.stack import Stack, allow_descriptors, make_sessions
from bench.stream import Stream

AT_ONCE: Final = 32
"""Concurrent handshakes: a relay has as many threads for them as a web process for requests."""
WARM_SOCKETS: Final = 200
"""Opened and closed first: what the first streams load does not belong to them."""
LIMIT_SECONDS: Final = 60.0
SPARE_DESCRIPTORS: Final = 500


async def measure(stack: Stack, sockets: int, seconds: float) -> dict[str, Any]:
    """Open `sockets` websockets, subscribe each to its own session, and leave them alone for `seconds`."""
    allowed = allow_descriptors()
    if allowed < sockets + SPARE_DESCRIPTORS:
        raise RuntimeError(f"{sockets} sockets need more open files than the {allowed} that are allowed")
    counted = Counted()
    for stream in await counted.open(stack, min(WARM_SOCKETS, sockets)):
        stream.close()
    sessions = await make_sessions(stack, sockets)
    pids = stack.pids["relay"]
    nothing, began = pss_bytes(pids), time.monotonic()
    streams = await counted.open(stack, sockets)
    opened_seconds, opened = time.monotonic() - began, pss_bytes(pids)
    counted.wanted = sockets
    for stream, session in zip(streams, sessions, strict=True):
        stream.send({"op": "subscribe", "session_id": session})
    async with asyncio.timeout(LIMIT_SECONDS):
        await counted.all_caught_up.wait()
    meter = Meter({"relay": pids})
    before, began = meter.cpu_seconds()["relay"], time.monotonic()
    await asyncio.sleep(seconds)
    took, cpu = time.monotonic() - began, meter.cpu_seconds()["relay"] - before
    subscribed = pss_bytes(pids)
    lost = sum(stream.closed.done() for stream in streams)
    for stream in streams:
        stream.close()
    return {
        "sockets": sockets,
        "relay_mib_before": round(nothing / 2**20, 1),
        "relay_mib_open": round(opened / 2**20, 1),
        "relay_mib_subscribed": round(subscribed / 2**20, 1),
        "kib_per_open_socket": round((opened - nothing) / 1024 / sockets, 2),
        "kib_per_subscribed_socket": round((subscribed - nothing) / 1024 / sockets, 2),
        "opened_per_second": round(sockets / opened_seconds, 1),
        "relay_cores_while_idle": round(cpu / max(took, 1e-9), 4),
        "failures": lost,
    }


class Counted:
    """Opens websockets and counts those that have caught up."""

    def __init__(self) -> None:
        self.wanted = 0
        self.caught_up = 0
        self.all_caught_up = asyncio.Event()

    async def open(self, stack: Stack, count: int) -> list[Stream]:
        """Open `count` websockets."""
        streams = [Stream(self._told) for _ in range(count)]
        waiting = iter(streams)

        async def connect() -> None:
            for stream in waiting:
                await stream.connect(stack.url, stack.key)

        await asyncio.gather(*(connect() for _ in range(AT_ONCE)))
        return streams

    def _told(self, message: dict[str, Any], _received_ns: int) -> None:
        if message["type"] == "refused":
            raise RuntimeError(f"subscribing was refused: {message}")
        self.caught_up += message["type"] == "caught_up"
        if self.caught_up == self.wanted:
            self.all_caught_up.set()


def pss_bytes(pids: Sequence[int]) -> int:
    """Return the proportional set size of processes and their children."""
    return sum(_pss_bytes(pid) for pid in _with_children(pids))


def _with_children(pids: Iterable[int]) -> list[int]:
    return [
        process.pid
        for pid in pids
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
    ]


def _pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
