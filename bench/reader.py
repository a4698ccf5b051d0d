"""The load generator's reader alone: frames of the service's shape from a process that does nothing else.

Its result is the lower bound of every delay in the other measurements.
"""

import asyncio
import os
import resource
import socket
import sys
import time
from typing import Any, Final

from bench.figures import figures
from bench.stream import Stream
from bench.turns import judge

TURN: Final = "0199f000-0000-7000-8000-{:012d}"
TICK_SECONDS: Final = 0.001
"""The sender wakes this often and sends what is due; with 0 it sends without a pause."""
UNPACED_BLOCK: Final = 64
ACCEPT_SECONDS: Final = 10.0
"""After this a sender that nobody reads ends itself."""


async def measure(sockets: int, rate: float, seconds: float) -> dict[str, Any]:
    """Read stamped frames from a sender process for some seconds."""
    with socket.create_server(("127.0.0.1", 0), backlog=sockets) as listener:
        port = listener.getsockname()[1]
        sender = os.fork()
        if sender == 0:
            send(listener, sockets, rate, seconds)
    streams = [Stream(lambda _message, _at: None) for _ in range(sockets)]
    for stream in streams:
        await stream.connect(f"http://127.0.0.1:{port}", "none")
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    await asyncio.gather(*(stream.closed for stream in streams))
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    _, status = await asyncio.to_thread(os.waitpid, sender, 0)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    frames = sum(len(stream.frames) for stream in streams)
    _, tokens = judge(streams)
    return {
        "frames": frames,
        "frames_per_second": round(frames / took, 1),
        "cpu_us_per_frame": round(1e6 * cpu / max(1, frames), 2),
        "delay_ms": figures([token.delay_ms for token in tokens]),
        "failures": int(status != 0) + (len(tokens) != frames),
    }


def send(listener: socket.socket, count: int, rate: float, seconds: float) -> None:
    """Be the sender, in a process of its own, and end that process."""
    try:
        connections = []
        listener.settimeout(ACCEPT_SECONDS)
        for _ in range(count):
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            connections.append(connection)
        _send_frames(connections, rate, seconds)
        for connection in connections:
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        os._exit(0)
    except OSError as failed:
        print(f"sender: {failed}", file=sys.stderr)
        os._exit(1)


def _send_frames(connections: list[socket.socket], rate: float, seconds: float) -> None:
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        due = int(passed * rate) if rate else sent + UNPACED_BLOCK
        for number in range(sent, due):
            connections[number % len(connections)].sendall(_frame(number, len(connections)))
        sent = due
        if rate:
            time.sleep(TICK_SECONDS)


def _frame(number: int, count: int) -> bytes:
    turn = TURN.format(number % count)
    payload = (
        f'{{"type":"content_delta","session_id":"{turn}","turn_id":"{turn}","seq":{number // count + 1},"attempt":1,'
        f'"ts":"2026-01-31T09:30:00.000Z","delta":"⟦{time.monotonic_ns()}⟧ word"}}'
    ).encode()
    return bytes([129, 126]) + len(payload).to_bytes(2, "big") + payload
