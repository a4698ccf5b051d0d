"""How costs grow: with turns and sockets that double, and with the length of one conversation."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from bench import steady
from bench.figures import figures
from bench.http import HttpError
from bench.meter import used
from bench.short import Reader
from bench.stack import Stack, make_sessions

SATURATED: Final = 0.9
"""A share of the offered load: once less is delivered, more turns say nothing new."""


async def turns(stack: Stack, least: int, most: int, rate: float, seconds: float) -> list[dict[str, Any]]:
    """Double the turns from `least` to `most`; stop early if the machine is saturated."""
    runs: list[dict[str, Any]] = []
    count = least
    while count <= most:
        try:
            runs.append(await steady.measure(stack, count, rate, seconds))
        except (TimeoutError, HttpError) as missed:
            runs.append({"turns": count, "did_not_finish": f"{type(missed).__name__}: {missed}"})
            break
        if runs[-1]["deltas_per_second"] < SATURATED * runs[-1]["offered_per_second"]:
            break
        count *= 2
    return runs


async def history(stack: Stack, messages: int, step: int, sessions: int, tokens: int) -> list[dict[str, Any]]:
    """Let sessions grow to `messages` messages, turn by turn; return a column for every `step` messages.

    The sessions run in parallel, so that a step has enough turns for counters of 10 ms.
    """
    ids = await make_sessions(stack, sessions, most_turns=messages // 2 + 1)
    readers = [Reader(stack, session, tokens) for session in ids]
    meter, columns = stack.meter(), []
    for reader in readers:
        await reader.open()
    for length in range(0, messages, step):
        told = [len(reader.milliseconds) for reader in readers]
        before, began = meter.cpu_seconds(), time.monotonic()
        await asyncio.gather(*(reader.turns(step // 2) for reader in readers))
        seconds, spent = time.monotonic() - began, used(before, meter.cpu_seconds())
        ran = sessions * (step // 2)
        took = [
            each for reader, seen in zip(readers, told, strict=True) for each in reader.milliseconds[seen:]
        ]
        columns.append(
            {
                "messages": length + step,
                "turns": ran,
                "turns_per_second": round(ran / seconds, 1),
                "input_tokens": _input_tokens(readers),
                "post_to_done_ms": figures(took),
                "cpu_ms_per_turn": {group: round(1000 * value / ran, 2) for group, value in spent.items()},
                "failures": ran - len(took),
            }
        )
    for reader in readers:
        reader.close()
    return columns


def _input_tokens(readers: Sequence[Reader]) -> int:
    """Return the longest prompt so far, as the provider counted it: it proves that the history was sent."""
    return max(int(done["usage"]["input_tokens"]) for reader in readers for done in reader.done.values())
