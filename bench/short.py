"""Short turns from end to end: what a whole turn costs besides its tokens."""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from typing import Any, Final

from bench.figures import figures
from bench.meter import used
from bench.stack import Stack, make_sessions
from bench.stream import Stream
from bench.turns import judge

LIMIT_SECONDS: Final = 60.0


async def measure(stack: Stack, turns: int, tokens: int, concurrency: int) -> dict[str, Any]:
    """Run `turns` turns, `concurrency` at a time, each watched by websocket up to its `done`."""
    sessions = await make_sessions(stack, concurrency)
    per_session = -(-turns // concurrency)
    meter = stack.meter()
    before, began = meter.cpu_seconds(), time.monotonic()
    readers = [Reader(stack, session, tokens) for session in sessions]
    await asyncio.gather(*(reader.run(per_session) for reader in readers))
    seconds, after = time.monotonic() - began, meter.cpu_seconds()
    judged, _ = judge([reader.stream for reader in readers])
    done = {turn: message for reader in readers for turn, message in reader.done.items()}
    right = sum(
        hashlib.sha256("".join(judged[turn].text).encode()).hexdigest() == message["content_sha256"]
        for turn, message in done.items()
    )
    ran = per_session * concurrency
    spent = used(before, after)
    return {
        "turns": ran,
        "turns_per_second": round(ran / seconds, 1),
        "post_to_done_ms": figures([one for reader in readers for one in reader.milliseconds]),
        "failures": ran - right,
        "cpu_seconds": spent,
        "cpu_ms_per_turn": {group: round(1000 * value / ran, 2) for group, value in spent.items()},
        "memory_mib": meter.memory_mib(),
    }


class Reader:
    """One session's turns, one after another."""

    def __init__(self, stack: Stack, session: str, tokens: int) -> None:
        self._stack = stack
        self._session = session
        self._connection = stack.connection()
        self._content = f"[[tokens={tokens}]] short"
        self._news = asyncio.Event()
        self._caught_up = False
        self.stream = Stream(self._told)
        self.done: dict[str, dict[str, Any]] = {}
        self.milliseconds: list[float] = []

    async def run(self, turns: int) -> None:
        """Run `turns` turns on a new websocket."""
        await self.open()
        await self.turns(turns)
        self.close()

    async def open(self) -> None:
        """Subscribe to the session."""
        await self.stream.connect(self._stack.url, self._stack.key)
        self.stream.send({"op": "subscribe", "session_id": self._session})
        while not self._caught_up:
            await self._more()

    async def turns(self, turns: int) -> None:
        """Run `turns` turns, each after the one before is done."""
        for _ in range(turns):
            answer = await self._connection.expect(
                202, "POST", f"/v1/sessions/{self._session}/turns", {"content": self._content}
            )
            while answer.body["id"] not in self.done:
                await self._more()
            done = self.done[answer.body["id"]]
            self.milliseconds.append((done["received_ns"] - answer.sent_ns) / 1e6)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()
        self.stream.close()

    async def _more(self) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            await self._news.wait()
        self._news.clear()

    def _told(self, message: Mapping[str, Any], received_ns: int) -> None:
        match message["type"]:
            case "done":
                self.done[message["turn_id"]] = {**message, "received_ns": received_ns}
            case "caught_up":
                self._caught_up = True
            case _:
                return
        self._news.set()
