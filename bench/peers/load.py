"""The load that every candidate gets: streams that begin within a second, and short turns one after another."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from bench.figures import figures
from bench.peers.reader import Answer

RAMP_SECONDS: Final = 1.0
LIMIT_SECONDS: Final = 30.0
"""In addition to the answers' own length."""
Ask: TypeAlias = Callable[[int, str], Awaitable[Answer]]
"""Asks the candidate: the stream's number and the question."""


@dataclass(frozen=True, slots=True)
class Streams:
    """A number of concurrent streams, each with a number of tokens at a rate per second."""

    count: int
    tokens: int
    rate: float

    @property
    def content(self) -> str:
        """The directives for the provider."""
        return f"[[tokens={self.tokens} rate={self.rate:g} stamp=1]] stream"

    @property
    def ideal_seconds(self) -> float:
        """How long it takes if nothing adds any time."""
        return RAMP_SECONDS + self.tokens / self.rate


@dataclass(frozen=True, slots=True)
class Seen:
    """The results of a load."""

    answers: Sequence[Answer]
    failures: Sequence[str]
    seconds: float
    cpu_seconds: float | None = None
    """The candidate's own account, if it is a process that has already ended."""


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
    """Request short answers without a pause, `at_once` at a time, for `seconds`."""
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
    """Select the complete answers: status 200, every token, once and in order."""
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
    """Return the delay added to the first token, counted from the POST, and to each delta."""
    first = [(each.received_ns[0] - each.posted_ns) / 1e6 for each in happened.answers]
    every = [
        (received - sent) / 1e6
        for each in happened.answers
        for sent, received in zip(each.sent_ns, each.received_ns, strict=True)
    ]
    return {"first_token_ms": figures(first), "added_delay_ms": figures(every)}
