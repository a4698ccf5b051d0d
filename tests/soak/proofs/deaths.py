"""Kills all workers in mid-stream and restarts one: measures how soon every turn runs again or is over."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg

from tests.e2e.conftest import spawn
from tests.soak.chaos.recovery import RecoveryWatch
from tests.soak.chaos.run import figures
from tests.soak.chaos.service import PRICES, PROVIDER_KEY, Service, Size, end, running
from tests.soak.proofs.crowd import WAIT_SECONDS, Asked, Crowd, answer_of, await_count, broken, summary_of

RECOVERED_SECONDS: Final = 12.0
"""The time within which 99 of 100 turns must run again or be over."""
TURNS_AT_ONCE: Final = 50
MORE_WORKERS: Final = 2
"""Workers besides the one that is restarted."""
TOKENS, RATE = 150, 10
_HAS_TEXT: Final = """
    select count(*) from turnkeeper.turns as t join turnkeeper.checkpoints as c on c.turn_id = t.id
    where t.status = 'running' and t.attempt = c.attempt and c.content <> ''
"""
_RUNNING: Final = "select id, attempt from turnkeeper.turns where status = 'running'"


def all_workers_die(asked: Asked) -> dict[str, Any]:
    """Kill all workers in mid-stream, round after round, and measure each turn's recovery."""
    began = time.monotonic()
    with (
        running(Size(web=1, relay=2, worker=1), asked.settings) as service,
        RecoveryWatch(service) as watch,
    ):
        crowd = Crowd(service, asked.seed, asked.turns, asked.turns)
        rounds = 0
        for first in range(1, asked.turns + 1, TURNS_AT_ONCE):
            rounds += 1
            most = min(TURNS_AT_ONCE, asked.turns + 1 - first)
            with more_workers(service, asked, rounds) as others:
                asyncio.run(_die(service, watch, crowd, others, range(first, first + most)))
        recovered = figures(watch.alone)
        summary = summary_of(
            "proof-deaths",
            asked,
            service,
            crowd,
            began,
            {
                "rounds": rounds,
                **{f"recovery, seconds, {name}": value for name, value in recovered.items()},
                "slowest": watch.slowest[::-1],
            },
        )
    if recovered["turns"] < asked.turns or recovered["p99"] > RECOVERED_SECONDS:
        broken(summary, "slow_recovery", f"of {asked.turns} turns: {recovered}")
    return summary


async def _die(
    service: Service, watch: RecoveryWatch, crowd: Crowd, others: list[psutil.Process], numbers: range
) -> None:
    async with crowd, asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(crowd.follow(answer_of(number, TOKENS, RATE)))
        await await_count(service, _HAS_TEXT, [], len(numbers))
        supervised = service.process("worker", 0)
        assert supervised is not None
        turns = await asyncio.to_thread(_running_turns, service)
        for victim in (supervised, *others):
            victim.kill()
        watch.follow(turns, is_alone=True)


def _running_turns(service: Service) -> dict[Any, int]:
    with psycopg.connect(service.owner_url, connect_timeout=5) as db:
        return dict(db.execute(_RUNNING).fetchall())


@contextmanager
def more_workers(service: Service, asked: Asked, number: int) -> Iterator[list[psutil.Process]]:
    """Run workers that nothing restarts."""
    state = json.loads((service.folder / "state.json").read_text())
    environ = {
        "MCP_LLM_PROVIDER": "openai-compatible",
        "MCP_LLM_BASE_URL": f"{service.provider_url}/v1",
        "MCP_LLM_MODEL": "scripted",
        "MCP_LLM_API_KEY": PROVIDER_KEY,
        **PRICES,
        **asked.settings,
        "DATABASE_URL": state["database_url"],
        "REDIS_URL": state["redis_url"],
        "PYTHONUNBUFFERED": "1",
    }
    with ExitStack() as stack:
        found = []
        for which in range(MORE_WORKERS):
            folder = service.folder / f"worker-{number}-{which}"
            folder.mkdir()
            process = spawn(folder, ["worker"], environ)
            stack.callback(end, process)
            found.append((psutil.Process(process.pid), folder / "output"))
        give_up_at = time.monotonic() + WAIT_SECONDS
        while not all(_is_ready(output) for _, output in found):
            if time.monotonic() > give_up_at:
                raise TimeoutError("the workers do not start")
            time.sleep(0.1)
        yield [process for process, _ in found]


def _is_ready(output: Path) -> bool:
    return "the worker is ready" in output.read_text(errors="replace")
