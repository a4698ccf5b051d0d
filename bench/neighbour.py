"""One organization's short turns, alone and beside another that asks for all it can: what the shares leave of them."""

import asyncio
import time
from dataclasses import replace
from statistics import median
from typing import Any, Final

from bench.short import Reader
from bench.stack import Stack, make_sessions
from shared.postgres.accounts import create_key, create_organization

_PAUSE_SECONDS: Final = 0.2
_WAIT_SECONDS: Final = 60.0
FLOOD: Final = "[[tokens=3000 rate=50 pad=500]] a long answer"
"""1.5 MB over a minute."""


async def measure(stack: Stack, turns: int, tokens: int, hostile: int) -> dict[str, Any]:
    """Run `turns` turns alone, then as many while the other organization has `hostile` turns at once."""
    alone = await _run(stack, turns, tokens)
    other = replace(stack, key=_key_of_another(stack))
    flooding = asyncio.create_task(_flood(other, hostile))
    try:
        started = await _started(other, hostile)
        beside = await _run(stack, turns, tokens)
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
    return {
        "turns": turns,
        "hostile_turns": started,
        "alone_post_to_done_ms": round(median(alone), 1),
        "beside_post_to_done_ms": round(median(beside), 1),
        "times_as_long": round(median(beside) / median(alone), 2),
        "failures": 0,
    }


def _key_of_another(stack: Stack) -> str:
    organization = create_organization(stack.owner_url, "Neighbour")
    return create_key(stack.owner_url, organization, "service")


async def _run(stack: Stack, turns: int, tokens: int) -> list[float]:
    (session,) = await make_sessions(stack, 1, most_turns=turns)
    reader = Reader(stack, session, tokens)
    await reader.run(turns)
    return reader.milliseconds


async def _flood(stack: Stack, count: int) -> None:
    """Ask for turns in sessions of their own, and again when one is refused or has ended."""
    sessions = await make_sessions(stack, count, "mallory", most_turns=1000)

    async def ask(session: str) -> None:
        connection = stack.connection()
        while True:
            await connection.call("POST", f"/v1/sessions/{session}/turns", {"content": FLOOD})
            await asyncio.sleep(_PAUSE_SECONDS * count)

    await asyncio.gather(*(ask(session) for session in sessions))


async def _started(stack: Stack, count: int) -> int:
    """Wait until the provider streams most of the flood; return how many answers that are."""
    give_up_at = time.monotonic() + _WAIT_SECONDS
    while True:
        streaming: int = stack.provider("/_stats")["running"]
        if streaming >= count * 3 // 4 or time.monotonic() > give_up_at:
            return streaming
        await asyncio.sleep(_PAUSE_SECONDS)
