"""Fails PostgreSQL over to a replica that is behind: ends that were told stand, and new turns start within seconds."""

import asyncio
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.faults.proxy import Proxy
from tests.faults.world import through
from tests.soak.chaos.service import Service, Size, running
from tests.soak.proofs.crowd import Asked, Crowd, answer_of, await_count, broken, summary_of
from tests.standby import Pair, replicated

RECOVERED_SECONDS: Final = 5.0
"""From the end of a fault to the first text of a turn that is asked for after it."""
RATE: Final = 20
NEW_TURNS: Final = 5
_OVER: Final = "select count(*) from turnkeeper.turns where finished_at is not null"
_RUNNING: Final = "select count(*) from turnkeeper.turns where status = 'running'"


def fails_over(asked: Asked) -> dict[str, Any]:
    """Accept turns, cut the replica off, let half of them end, and let the replica take over without those ends."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tk-soak-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with replicated(folder / "postgres") as pair, Proxy(urlsplit(pair.app_url).port or 0) as front:
            settings = {
                **asked.settings,
                "DATABASE_URL": through(pair.app_url, front),
                "DATABASE_OWNER_URL": through(pair.owner_url, front),
            }
            with running(Size(web=2, relay=2, worker=2), settings) as found:
                service = replace(found, owner_url=settings["DATABASE_OWNER_URL"])
                crowd = Crowd(service, asked.seed, asked.turns + NEW_TURNS, asked.turns + NEW_TURNS)
                lost, recovered = asyncio.run(_fail(asked, service, crowd, pair, front))
                figures = {"ends that were lost": lost, "seconds to the first new turn": round(recovered, 2)}
                summary = summary_of("proof-failover", asked, service, crowd, began, figures)
    if not lost:
        broken(summary, "nothing_lost", "no end was lost: this run proves nothing")
    if recovered > RECOVERED_SECONDS:
        broken(summary, "slow_recovery", f"the first new turn took {recovered:.1f} s")
    return summary


async def _fail(asked: Asked, service: Service, crowd: Crowd, pair: Pair, front: Proxy) -> tuple[int, float]:
    """Return how many ends the failover lost, and how long the first new turn took after it."""
    async with crowd, asyncio.TaskGroup() as group:
        for number in range(1, asked.turns + 1):
            # Half of them end while the replica is behind, the others go on through the failover.
            tokens = RATE * (4 if number % 2 else 15)
            group.create_task(crowd.follow(answer_of(number, tokens, RATE)))
        await await_count(service, _RUNNING, [], asked.turns)
        await asyncio.to_thread(pair.catch_up)
        with pair.behind():
            await await_count(service, _OVER, [], asked.turns // 2)
            await asyncio.to_thread(pair.fail_over, front)
        back_at = time.monotonic()
        first = crowd.follow(answer_of(asked.turns + 1, 1, RATE))
        await first
        recovered = time.monotonic() - back_at
        for number in range(2, NEW_TURNS + 1):
            group.create_task(crowd.follow(answer_of(asked.turns + number, 3, RATE)))
    return asked.turns // 2, recovered
