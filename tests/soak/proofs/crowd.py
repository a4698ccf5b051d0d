"""Turns that begin when a proof says so and are each read to their end, and the comparison at the end."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

import psycopg

from bench.report import surroundings
from tests.soak.chaos.checker import check, read_stored
from tests.soak.chaos.clients import Clients, Requests, Told
from tests.soak.chaos.plan import Kind, ReaderPlan, TurnPlan, Way
from tests.soak.chaos.run import await_peace, clients_summary
from tests.soak.chaos.service import Service

WAIT_SECONDS: Final = 60.0
"""How long a proof may wait for what it needs before it begins."""
LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Asked:
    """The parameters of a proof.

    Attributes:
        turns: How many turns.
        seed: Fixes the turns, and random faults.
        seconds: How long an outage lasts.
        settings: Environment variables of the service, besides those of the proof.
    """

    turns: int
    seed: int = 1
    seconds: float = 60.0
    settings: Mapping[str, str] = field(default_factory=dict)


def answer_of(number: int, tokens: int, rate: int) -> TurnPlan:
    """Return a turn that is answered with `tokens` words, `rate` of them a second, and read by one reader."""
    content = f"[[key=chaos-{number} stamp=1 tokens={tokens} rate={rate}]] question {number}"
    reader = ReaderPlan(Way.SOCKET, (), 0.0)
    return TurnPlan(number, Kind.ANSWER, content, "restart", None, None, False, (reader,))


class TimedRequests(Requests):
    """Requests that note how long each post of a turn took until it was accepted, including refusals before that."""

    def __init__(self, crowd: "Crowd") -> None:
        super().__init__(crowd.service.url, crowd.service.key, crowd.statuses)
        self._accepted_seconds = crowd.accepted_seconds

    async def post_turn(self, told: Told, reader: Any) -> str:
        began = time.monotonic()
        turn_id = await super().post_turn(told, reader)
        self._accepted_seconds.append(time.monotonic() - began)
        return turn_id


@dataclass(slots=True)
class Crowd(Clients):
    """Users who each ask once, when the proof says so.

    Attributes:
        accepted_seconds: How long each post took.
    """

    accepted_seconds: list[float] = field(default_factory=list)
    _requests: TimedRequests | None = None

    async def __aenter__(self) -> Self:
        # One client for all: making one takes longer than a post.
        self._requests = TimedRequests(self)
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._requests is not None
        await self._requests.close()

    async def follow(self, plan: TurnPlan) -> None:
        """Run one turn to its end."""
        assert self._requests is not None
        told = Told(plan, "")
        self.told.append(told)
        await self._follow(self._requests, told, f"user-{plan.number}")
        self.finished += 1


async def await_count(service: Service, query: str, parameters: list[Any], wanted: int) -> None:
    """Wait until a query counts as many as wanted."""
    give_up_at = time.monotonic() + WAIT_SECONDS
    while (found := await asyncio.to_thread(count_of, service, query, parameters)) < wanted:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{found} of {wanted} after {WAIT_SECONDS:g} s: {query}")
        await asyncio.sleep(LOOK_SECONDS)


def count_of(service: Service, query: str, parameters: list[Any]) -> int:
    """Return what a query counts; 0 if the database does not answer."""
    with suppress(psycopg.OperationalError), psycopg.connect(service.owner_url, connect_timeout=5) as db:
        row = db.execute(query, parameters).fetchone()
        return int(row[0]) if row else 0
    return 0


def summary_of(
    name: str, asked: Asked, service: Service, crowd: Crowd, began: float, figures: Mapping[str, Any]
) -> dict[str, Any]:
    """Wait for peace, compare the histories and return the findings; `violations` is empty if all promises held."""
    await_peace(service)
    verdict = check(crowd.told, read_stored(service.owner_url), service.provider_records())
    return {
        "measurement": name,
        "turns": len(crowd.told),
        "seed": asked.seed,
        "asked": {"seconds": asked.seconds, "settings": dict(asked.settings)},
        "surroundings": surroundings(),
        "seconds": round(time.monotonic() - began, 1),
        "figures": dict(figures),
        "clients": clients_summary(crowd),
        "outcomes": dict(sorted(verdict.counts.items())),
        "answers": dict(crowd.statuses.most_common()),
        "violations_by_kind": verdict.kinds(),
        "violations": [asdict(each) for each in verdict.violations],
    }


def broken(summary: dict[str, Any], kind: str, evidence: str) -> None:
    """Add a violation that the histories cannot show."""
    summary["violations_by_kind"][kind] = summary["violations_by_kind"].get(kind, 0) + 1
    summary["violations"].append({"kind": kind, "turn_id": "", "number": 0, "evidence": evidence})
