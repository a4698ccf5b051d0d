"""One chaos run: service, clients and nemesis together, then a quiet time, then the comparison."""

import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from bench.report import surroundings
from tests.soak.chaos.checker import Verdict, check, read_stored
from tests.soak.chaos.clients import Clients
from tests.soak.chaos.nemesis import Fault, Nemesis, schedule
from tests.soak.chaos.recovery import RecoveryWatch
from tests.soak.chaos.refusals import STARTS_SECONDS, Refusals
from tests.soak.chaos.service import Service, Size, running

PEACE_SECONDS: Final = 120.0
"""How long every turn may take to end once faults are over; three attempts with their leases take far less."""
FIRST_TURN_SECONDS: Final = 5.0
"""From the end of a refusal to the start of the first turn that is asked for after it."""
PROGRESS_SECONDS: Final = 10.0
_ACTIVE: Final = "select count(*) from turnkeeper.turns where status in ('queued', 'running', 'stopping')"


@dataclass(frozen=True, slots=True)
class Run:
    """The parameters of a run.

    Attributes:
        turns: How many turns.
        seed: Fixes the turns and the faults.
        users: Most turns at the same time.
        every_seconds: Mean interval between faults.
        size: How many processes.
        kinds: Which faults; none for a service that hurts itself with its failpoints.
        settings: Environment variables of the service.
        measurement: The name of the summary.
        folder: Where its data is kept; None to delete it.
    """

    turns: int
    seed: int
    users: int = 40
    every_seconds: float = 3.0
    size: Size = field(default_factory=Size)
    kinds: frozenset[Fault] = frozenset(Fault)
    settings: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    measurement: str = "chaos"

    @property
    def longest_pause_seconds(self) -> float:
        """How long a worker may be paused: past its lease, so that it resumes as a zombie."""
        return 1.5 * float(self.settings.get("LEASE_SECONDS", "10"))


def execute(run: Run) -> dict[str, Any]:
    """Run it and return its summary; `violations` is empty if every promise was kept."""
    around = surroundings()
    began = time.monotonic()
    if run.folder is not None:
        run.folder.mkdir(parents=True, mode=0o711)
    # websockets logs the connections that break, which they are meant to do.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    with running(run.size, run.settings, run.folder) as service, RecoveryWatch(service) as watch:
        clients = Clients(service, run.seed, run.turns, run.users)
        nemesis = Nemesis(service, watch, Refusals(service))
        asyncio.run(fight(run, clients, nemesis))
        fought_seconds = time.monotonic() - began
        await_peace(service)
        verdict = check(clients.told, read_stored(service.owner_url), service.provider_records())
        late = [round(took, 1) for took in watch.first_turns if took > FIRST_TURN_SECONDS]
        return {
            "measurement": run.measurement,
            "turns": run.turns,
            "seed": run.seed,
            "asked": {
                "users": run.users,
                "every_seconds": run.every_seconds,
                "processes": asdict(run.size),
                "settings": dict(run.settings),
                "kinds": sorted(run.kinds),
            },
            "surroundings": around,
            "seconds": round(time.monotonic() - began, 1),
            "seconds_of_chaos": round(fought_seconds, 1),
            "faults": {
                "all": nemesis.done.total(),
                **{kind.value: n for kind, n in nemesis.done.most_common()},
            },
            "clients": clients_summary(clients),
            "outcomes": dict(sorted(verdict.counts.items())),
            "answers": dict(clients.statuses.most_common()),
            "recovery_seconds": recovery_summary(watch),
            "first_turn_after_refusal_seconds": refusals_summary(nemesis.refusals),
            "violations_by_kind": verdict.kinds() | ({"slow_recovery": len(late)} if late else {}),
            "violations": [
                *shown(verdict),
                *(
                    {
                        "kind": "slow_recovery",
                        "turn_id": "",
                        "number": 0,
                        "evidence": f"first new turn: {took} s",
                    }
                    for took in late
                ),
            ],
        }


async def fight(run: Run, clients: Clients, nemesis: Nemesis) -> None:
    """Run all turns to their ends while the nemesis carries out its faults."""
    blows = schedule(run.seed, run.every_seconds, run.longest_pause_seconds, run.kinds)
    fighting = asyncio.create_task(nemesis.run(blows))
    telling = asyncio.create_task(_tell(clients, nemesis))
    try:
        await clients.run()
    finally:
        failed = fighting.exception() if fighting.done() else None
        for task in (fighting, telling):
            task.cancel()
        await asyncio.gather(fighting, telling, return_exceptions=True)
    if failed is not None:
        raise failed  # a run without its nemesis proves nothing


async def _tell(clients: Clients, nemesis: Nemesis) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        broken = sum(bool(one.violations) for one in clients.told)
        sys.stderr.write(
            f"{clients.finished} of {clients.turns} turns, {nemesis.done.total()} faults, {broken} broken\n"
        )


def await_peace(service: Service) -> None:
    """Wait until the service is ready and no turn is active, or until the time limit."""
    give_up_at = time.monotonic() + PEACE_SECONDS
    while time.monotonic() < give_up_at:
        with suppress(psycopg.Error):
            if service.is_ready() and not _active(service):
                return
        time.sleep(0.2)


def _active(service: Service) -> int:
    with psycopg.connect(service.owner_url, connect_timeout=5) as db:
        row = db.execute(_ACTIVE).fetchone()
    assert row is not None
    return int(row[0])


def clients_summary(clients: Clients) -> dict[str, Any]:
    """Return the figures of what clients experienced."""
    told = clients.told
    return {
        "turns": len(told),
        "readers": sum(len(one.plan.readers) for one in told),
        "deltas": sum(one.deltas for one in told),
        "connections": sum(one.connections for one in told),
        "snapshots": sum(one.snapshots for one in told),
        "gaps told": sum(one.gaps for one in told),
        "resets": sum(one.resets for one in told),
        "silent connections given up": sum(one.stalls for one in told),
        "stops": sum(one.is_stopped for one in told),
        "sessions deleted": sum(one.is_deleted for one in told),
        "longest turn, s": round(max((one.seconds for one in told), default=0.0), 1),
    }


def recovery_summary(watch: RecoveryWatch) -> dict[str, Any]:
    """Return how soon the turns of killed workers ran again or were over."""
    return {
        **{f"nothing else wrong, {name}": value for name, value in figures(watch.alone).items()},
        **{f"amid other faults, {name}": value for name, value in figures(watch.disturbed).items()},
        **{
            f"first new turn after a refusal, {name}": value
            for name, value in figures(watch.first_turns).items()
        },
        "never": watch.unrecovered,
        "slowest": watch.slowest[::-1],
    }


def refusals_summary(refusals: Refusals) -> dict[str, Any]:
    """Return how soon a turn started after Redis had refused; `late` is what must be 0."""
    return {
        **{f"nothing else wrong, {name}": value for name, value in figures(refusals.alone).items()},
        **{f"amid other faults, {name}": value for name, value in figures(refusals.disturbed).items()},
        "late": sum(seconds > STARTS_SECONDS for seconds in refusals.alone),
    }


def figures(seconds: list[float]) -> dict[str, Any]:
    """Return count, median, 99th percentile and maximum."""
    if not seconds:
        return {"turns": 0}
    ordered = sorted(seconds)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    ranks = {name: min(len(ordered) - 1, int(share * len(ordered))) for name, share in at.items()}
    return {"turns": len(ordered), **{name: round(ordered[rank], 2) for name, rank in ranks.items()}}


def shown(verdict: Verdict) -> list[dict[str, Any]]:
    """Return the violations for the file."""
    return [asdict(each) for each in verdict.violations]
