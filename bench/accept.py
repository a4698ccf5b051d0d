"""How fast turns are accepted and read back: the API's own speed, with next to nothing behind it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from bench.figures import figures
from bench.http import Answer, Connection
from bench.meter import used
from bench.stack import Stack, make_sessions

LIMIT_SECONDS: Final = 60.0
WAITERS: Final = 4
"""Few, so that waiting for the turns does not slow them down."""
TERMINAL: Final = frozenset({"completed", "stopped", "failed", "expired"})
Call = Callable[[Connection, str], Awaitable[Answer]]


async def measure(stack: Stack, requests: int, concurrency: int) -> dict[str, Any]:
    """Post `requests` turns, each in its own session, `concurrency` at a time; then read each of them back."""
    sessions = await make_sessions(stack, requests)
    ids: list[str] = []

    async def post(connection: Connection, session: str) -> Answer:
        answer = await connection.expect(
            202, "POST", f"/v1/sessions/{session}/turns", {"content": "[[tokens=1]] accept"}
        )
        ids.append(answer.body["id"])
        return answer

    async def read(connection: Connection, turn: str) -> Answer:
        return await connection.expect(200, "GET", f"/v1/turns/{turn}")

    async def wait(connection: Connection, turn: str) -> Answer:
        give_up_at = time.monotonic() + LIMIT_SECONDS
        while True:  # under many waiters a wait may be answered early
            answer = await connection.expect(200, "GET", f"/v1/turns/{turn}?wait=10")
            if answer.body["status"] in TERMINAL or time.monotonic() > give_up_at:
                return answer

    meter = stack.meter()
    before = meter.cpu_seconds()
    posted, posting_seconds = await _each(stack, sessions, concurrency, post)
    finished, _ = await _each(stack, ids, WAITERS, wait)
    after_posting = meter.cpu_seconds()
    got, reading_seconds = await _each(stack, ids, concurrency, read)
    return {
        "accepted_per_second": round(requests / posting_seconds, 1),
        "accept_ms": figures([1000 * answer.seconds for answer in posted]),
        "read_per_second": round(requests / reading_seconds, 1),
        "read_ms": figures([1000 * answer.seconds for answer in got]),
        "failures": sum(answer.body["status"] != "completed" for answer in finished),
        "cpu_seconds_to_the_last_done": used(before, after_posting),
        "memory_mib": meter.memory_mib(),
    }


async def _each(
    stack: Stack, items: Iterable[str], concurrency: int, call: Call
) -> tuple[list[Answer], float]:
    """Call for each item over `concurrency` connections; return the answers and the time that it all took."""
    waiting, answers = iter(list(items)), []
    connections = [stack.connection() for _ in range(concurrency)]
    for connection in connections:
        await connection.expect(200, "GET", "/healthz")
    began = time.monotonic()

    async def work(connection: Connection) -> None:
        answers.extend([await call(connection, item) for item in waiting])

    await asyncio.gather(*(work(connection) for connection in connections))
    seconds = time.monotonic() - began
    for connection in connections:
        connection.close()
    return answers, seconds
