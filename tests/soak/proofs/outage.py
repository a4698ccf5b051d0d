"""Hangs Redis for a minute: running turns end and are stored, posts are still accepted, and nothing is lost."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

from tests.soak.chaos.run import figures
from tests.soak.chaos.service import Service, Size, running
from tests.soak.proofs.crowd import Asked, Crowd, answer_of, await_count, broken, count_of, summary_of

ACCEPT_SECONDS: Final = 0.3
"""The time that 99 of 100 posts must stay below."""
RUNNING_SHARE: Final = 0.1
"""The share of turns that run when the outage begins."""
RATE: Final = 10
SHORT_TOKENS: Final = 10
_IS_RUNNING: Final = "select count(*) from turnkeeper.turns where status = 'running'"
_IS_COMPLETED: Final = (
    "select count(*) from turnkeeper.turns where id = any(%s::uuid[]) and status = 'completed'"
)


@dataclass(slots=True)
class _Seen:
    """What was seen of the outage.

    Attributes:
        running: How many turns ran when it began.
        stored: How many of them were stored before it was over.
        accepted_seconds: How long each post took during it.
        after_seconds: From its end to the end of the last turn.
    """

    running: int = 0
    stored: int = 0
    accepted_seconds: list[float] = field(default_factory=list)
    after_seconds: float = 0.0


def redis_hangs(asked: Asked) -> dict[str, Any]:
    """Stop Redis for `asked.seconds` under load."""
    began = time.monotonic()
    with running(Size(web=2, relay=2, worker=2), asked.settings) as service:
        crowd = Crowd(service, asked.seed, asked.turns, asked.turns)
        seen = asyncio.run(_hang(asked, service, crowd))
        took = figures(seen.accepted_seconds)
        summary = summary_of(
            "proof-outage",
            asked,
            service,
            crowd,
            began,
            {
                "turns that ran when redis was stopped": seen.running,
                "of them stored before it went on": seen.stored,
                **{f"posts meanwhile, seconds, {name}": value for name, value in took.items()},
                "seconds from its return to the end of the last turn": round(seen.after_seconds, 1),
            },
        )
    if seen.stored < seen.running:
        broken(summary, "not_stored", f"{seen.stored} of {seen.running} turns were stored without redis")
    if not took["turns"] or took["p99"] >= ACCEPT_SECONDS:
        broken(summary, "slow_post", f"posts took {took}")
    refused = {answer: count for answer, count in summary["answers"].items() if answer.startswith("POST 5")}
    if refused:
        broken(summary, "refused", f"{refused}")
    return summary


async def _hang(asked: Asked, service: Service, crowd: Crowd) -> _Seen:
    redis = service.process("redis", 0)
    assert redis is not None
    seen = _Seen(running=max(1, int(asked.turns * RUNNING_SHARE)))
    later = asked.turns - seen.running
    async with crowd, asyncio.TaskGroup() as group:
        for number in range(1, seen.running + 1):
            # They end one after the other, the last of them well before Redis is up again.
            tokens = int(RATE * asked.seconds * (0.2 + 0.6 * number / seen.running))
            group.create_task(crowd.follow(answer_of(number, tokens, RATE)))
        await await_count(service, _IS_RUNNING, [], seen.running)
        ids = [told.turn_id for told in crowd.told]
        crowd.accepted_seconds.clear()
        redis.suspend()
        try:
            stopped_at = time.monotonic()
            for number in range(later):
                await asyncio.sleep(stopped_at + asked.seconds * number / later - time.monotonic())
                group.create_task(crowd.follow(answer_of(seen.running + number + 1, SHORT_TOKENS, RATE)))
            await asyncio.sleep(stopped_at + asked.seconds - time.monotonic())
            seen.stored = await asyncio.to_thread(count_of, service, _IS_COMPLETED, [ids])
            seen.accepted_seconds = list(crowd.accepted_seconds)
        finally:
            redis.resume()
        resumed_at = time.monotonic()
    seen.after_seconds = time.monotonic() - resumed_at
    return seen
