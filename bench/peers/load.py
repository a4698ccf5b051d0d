"""The load that every candidate gets: streams that begin within a second, and short turns one after the other."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from bench.figures import figures
from bench.peers.reader import Answer

RAMP_SECONDS: Final = 1.0
LIMIT_SECONDS: Final = 30.0
"""Beyond the answers' own length."""
Ask: TypeAlias = Callable[[int, str], Awaitable[Answer]]
"""Asks the candidate: number of the stream and what is said."""


@dataclass(frozen=True, slots=True)
class Streams:
    """So many streams at a time, so many tokens each at so many a second."""

    count: int
    tokens: int
    rate: float

    @property
    def content(self) -> str:
        """What the provider is told."""
        return f"[[tokens={self.tokens} rate={self.rate:g} stamp=1]] stream"

    @property
    def ideal_seconds(self) -> float:
        """How long it takes where nothing takes time."""
        return RAMP_SECONDS + self.tokens / self.rate


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a load."""

    answers: Sequence[Answer]
    failures: Sequence[str]
    seconds: float
    cpu_seconds: float | None = None
    """The candidate's own account, where it is a process that has ended by now."""


async def stream(ask: Ask, load: Streams) -> Seen:
    """Run the load once."""

    async def begin(number: int) -> Answer:
        await asyncio.sleep(RAMP_SECONDS * number / load.count)
        async with asyncio.timeout(load.tokens / load.rate + LIMIT_SECONDS):
            return await ask(number, load.content)

    began = time.monotonic()
    done = await asyncio.gather(*map(begin, range(load.count)), return_exceptions=True)
    return seen(done, time.monotonic() - began, load.tokens)


async def repeat(ask: Ask, at_once: int, tokens: int, seconds: float) -> Seen:
    """Ask for short answers without a pause, so many at a time, for so long."""
    answers: list[Answer | BaseException] = []
    began = time.monotonic()

    async def work(number: int) -> None:
        while time.monotonic() - began < seconds:
            async with asyncio.timeout(LIMIT_SECONDS):
                answers.append(await ask(number, f"[[tokens={tokens} stamp=1]] short"))

    ended = await asyncio.gather(*map(work, range(at_once)), return_exceptions=True)
    answers += [each for each in ended if each is not None]
    return seen(answers, time.monotonic() - began, tokens)


def seen(done: Sequence[Answer | BaseException], seconds: float, tokens: int) -> Seen:
    """Sort out what is whole: status 200, every token, once and in order."""
    answers, failures = [], []
    for each in done:
        if isinstance(each, BaseException):
            failures.append(repr(each))
        elif each.status != 200 or len(each.sent_ns) != tokens or sorted(set(each.sent_ns)) != each.sent_ns:
            failures.append(f"status {each.status}, {len(each.sent_ns)} of {tokens} tokens")
        else:
            answers.append(each)
    return Seen(answers, failures, seconds)


def delays(happened: Seen) -> dict[str, Any]:
    """Return what was added to the first token, from the POST on, and to each delta."""
    first = [(each.received_ns[0] - each.posted_ns) / 1e6 for each in happened.answers]
    every = [
        (received - sent) / 1e6
        for each in happened.answers
        for sent, received in zip(each.sent_ns, each.received_ns, strict=True)
    ]
    return {"first_token_ms": figures(first), "added_delay_ms": figures(every)}
