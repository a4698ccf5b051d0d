"""Proves that the ledger matches the provider's log under random stops, failures and deaths, in both dialects.

Two services run side by side, each with its own provider, since a process speaks one dialect. In each there is
an organization without a budget, one whose budget pays for everything and two whose budgets do not.
"""

import asyncio
import logging
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import httpx
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from bench.report import surroundings
from shared.postgres import accounts
from tests.e2e.conftest import QUICK, spawn
from tests.soak.chaos.checker import Violation, check, read_stored
from tests.soak.chaos.clients import Clients, Told
from tests.soak.chaos.nemesis import Fault, Nemesis
from tests.soak.chaos.recovery import RecoveryWatch
from tests.soak.chaos.refusals import Refusals
from tests.soak.chaos.run import Run, await_peace, clients_summary, fight
from tests.soak.chaos.service import Service, Size, end, running
from tests.soak.proofs.bills import PRICES_FILE, check_bills
from tests.soak.proofs.crowd import Asked, broken
from tests.soak.proofs.money_plan import HOUSES, House, planner
from tests.soak.proofs.totals import TotalsWatch
from tests.soak.proofs.unseen import MOST_SHARE, NAMED, CallNotes
from turnkeeper.commands.ledger import differences

DIALECTS: Final = ("anthropic", "openai-compatible")
USERS_OF_HOUSE: Final = 6
EVERY_SECONDS: Final = 3.0
"""Mean interval between faults of a service's workers."""
LEAST_BUDGET_USD: Final = 0.02
"""The budget of the poor in a short run: pays for a few holds."""
MOST_TIMES: Final = 10
"""How often each kind of event must have happened in a long run; a few times in a shorter one."""
CHECK_SECONDS: Final = 60.0
SETTINGS: Final = {
    **QUICK,
    "PRICES_FILE": str(PRICES_FILE),
    # The file must apply to this dialect too.
    "MCP_LLM_PRICE_INPUT_PER_M_USD": "",
    "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "",
    "ANTHROPIC_MODEL": "scripted",
    # So that a drain hands turns back and a hanging provider is noticed.
    "DRAIN_SECONDS": "1",
    "PROVIDER_FIRST_TOKEN_TIMEOUT_SECONDS": "4",
    "PROVIDER_IDLE_TIMEOUT_SECONDS": "3",
}


@dataclass(slots=True)
class Houses:
    """The clients of all organizations of a service, as one."""

    members: Sequence[Clients]

    async def run(self) -> None:
        """Run all turns to their ends."""
        async with asyncio.TaskGroup() as group:
            for member in self.members:
                group.create_task(member.run())

    @property
    def turns(self) -> int:
        """How many turns are asked for."""
        return sum(member.turns for member in self.members)

    @property
    def finished(self) -> int:
        """How many turns are over."""
        return sum(member.finished for member in self.members)

    @property
    def told(self) -> list[Told]:
        """What all clients received."""
        return [one for member in self.members for one in member.told]

    @property
    def statuses(self) -> Counter[str]:
        """Responses to their requests, by status."""
        return sum((member.statuses for member in self.members), Counter())


@dataclass(slots=True)
class _Side:
    """One of the two services, and everything that happens to it."""

    dialect: str
    service: Service
    houses: Houses
    nemesis: Nemesis
    totals: TotalsWatch
    notes: CallNotes


def money(asked: Asked) -> dict[str, Any]:
    """Prove that the ledger matches the provider's log, the totals match the ledger, and no budget is exceeded."""
    began = time.monotonic()
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        sides = [_enter(stack, dialect, asked) for dialect in DIALECTS]
        asyncio.run(_fight(asked, sides))
        for side in sides:
            await_peace(side.service)
        return _summary(asked, sides, began)


def _enter(stack: ExitStack, dialect: str, asked: Asked) -> _Side:
    settings = {**SETTINGS, "MCP_LLM_PROVIDER": dialect, **asked.settings}
    service = stack.enter_context(running(Size(web=1, relay=1, worker=2), settings))
    recovery = stack.enter_context(RecoveryWatch(service))
    members, first = [], 1
    for house in HOUSES:
        turns = max(1, round(house.share * asked.turns / len(DIALECTS)))
        members.append(
            Clients(
                replace(service, key=_open(service, house, turns)),
                asked.seed,
                turns,
                USERS_OF_HOUSE,
                plan=planner(house, is_anthropic=dialect == "anthropic"),
                first=first,
                system_prompt=house.system_prompt,
            )
        )
        first += turns
    totals = stack.enter_context(TotalsWatch(service.owner_url))
    notes = stack.enter_context(CallNotes(service.redis_url))
    return _Side(
        dialect, service, Houses(members), Nemesis(service, recovery, Refusals(service)), totals, notes
    )


def _open(service: Service, house: House, turns: int) -> str:
    """Make an organization with its budget, and return its service key."""
    organization_id = accounts.create_organization(service.owner_url, house.name)
    admin_key = accounts.create_key(service.owner_url, organization_id, "admin")
    budget = {
        "enabled": True,
        "daily_usd": _budget(house.daily_usd, turns),
        "monthly_usd": _budget(house.monthly_usd, turns),
        "max_turns_per_session": None,
        "turns_per_minute_per_user": None,
        "turns_per_hour": None,
        "max_concurrent_turns": None,
    }
    headers = {"Authorization": f"Bearer {admin_key}"}
    answer = httpx.put(f"{service.url}/v1/budget", json=budget, headers=headers, timeout=20, trust_env=False)
    answer.raise_for_status()
    return accounts.create_key(service.owner_url, organization_id, "service")


def _budget(usd_of_turn: float | None, turns: int) -> str | None:
    return None if usd_of_turn is None else f"{max(LEAST_BUDGET_USD, usd_of_turn * turns):.6f}"


async def _fight(asked: Asked, sides: Sequence[_Side]) -> None:
    kinds = frozenset({Fault.WORKER_KILL, Fault.WORKER_DRAIN})
    async with asyncio.TaskGroup() as group:
        for number, side in enumerate(sides):
            run = Run(asked.turns, asked.seed + number, every_seconds=EVERY_SECONDS, kinds=kinds)
            group.create_task(fight(run, side.houses, side.nemesis))


def _summary(asked: Asked, sides: Sequence[_Side], began: float) -> dict[str, Any]:
    violations: list[Violation] = []
    happened: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    short: dict[str, list[int]] = defaultdict(list)
    for side in sides:
        records = list(side.service.provider_records())
        stored = read_stored(side.service.owner_url)
        bills = check_bills(side.houses.told, stored, records, side.totals.lateness, side.notes.last)
        verdict = check(side.houses.told, stored, records, bills.unseen)
        violations += [*verdict.violations, *bills.violations, *_of_sums(side)]
        outcomes += verdict.counts + bills.counts
        happened += _happened(side, stored.turns, stored.ledger, records)
        happened["turns stopped by users as the provider spoke"] += bills.counts[
            "stopped as the provider spoke"
        ]
        for ended, tokens in bills.short.items():
            short[ended] += tokens
    clients = Houses([member for side in sides for member in side.houses.members])
    summary = {
        "measurement": "proof-money",
        "turns": len(clients.told),
        "seed": asked.seed,
        "asked": {"turns": asked.turns, "settings": dict(asked.settings)},
        "surroundings": surroundings(),
        "seconds": round(time.monotonic() - began, 1),
        "figures": {
            "turns accepted": sum(bool(one.turn_id) for one in clients.told),
            **{
                f"billed below what was sent to the end, {ended}": f"{len(tokens)}, by {max(tokens)} tokens at most"
                for ended, tokens in sorted(short.items())
            },
            "stopped turns held against what had been sent at their Stop": outcomes[
                "stopped as the provider spoke"
            ],
            NAMED: f"{outcomes[NAMED]} of {outcomes['rows']} rows, {MOST_SHARE:.1%} at most",
            "looks at the totals": sum(side.totals.looks for side in sides),
            "looks that were late": sum(len(side.totals.late) for side in sides),
            "the latest, seconds": round(
                max((seconds for side in sides for _, seconds in side.totals.late), default=0.0), 2
            ),
            "looks at which something was wrong": sum(side.totals.wrong_looks for side in sides),
            **{
                f"{name}, {side.dialect}, {period}: most of its budget": f"{share:.4f}"
                for side in sides
                for (name, period), share in side.totals.fullest.items()
            },
        },
        "happened": dict(sorted(happened.items())),
        "clients": clients_summary(clients),
        "outcomes": dict(sorted(outcomes.items())),
        "answers": dict(clients.statuses.most_common()),
        "violations_by_kind": dict(Counter(each.kind for each in violations)),
        "violations": [asdict(each) for each in violations],
    }
    times = max(1, min(MOST_TIMES, asked.turns // 100))
    for event in MUST_HAPPEN:
        if happened[event] < times:
            broken(summary, "no_proof", f"{event}: {happened[event]} times, {times} are wanted")
    return summary


def _of_sums(side: _Side) -> list[Violation]:
    """Return the findings of the checks during the run and of `turnkeeper ledger check` after it."""
    found = [Violation(kind, "", 0, evidence) for kind, evidence in side.totals.wrong]
    engine = create_engine(make_url(side.service.owner_url).set(drivername="postgresql+psycopg"))
    with engine.begin() as db:
        found += [
            Violation("ledger_check", "", 0, f"{organization_id} {what}")
            for organization_id, what in differences(db, None)
        ]
    engine.dispose()
    said = _ledger_check(side.service)
    if said is not None:
        found.append(Violation("ledger_check", "", 0, f"the command: {said}"))
    return found


def _ledger_check(service: Service) -> str | None:
    """Run the command as an operator does; return its output if it failed."""
    folder = service.folder / "ledger-check"
    folder.mkdir()
    process = spawn(folder, ["ledger", "check"], {"DATABASE_OWNER_URL": service.owner_url})
    try:
        status = process.wait(CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        return f"it did not end within {CHECK_SECONDS:g} s"
    finally:
        end(process)
    output = (folder / "output").read_text()
    return None if status == 0 and "agree" in output else f"{status}: {output[-500:]}"


MUST_HAPPEN: Final = (
    "posts refused for money",
    "turns stopped by users",
    "turns stopped by users as the provider spoke",
    "turns ended for money",
    "turns cut off beyond their limit",
    "turns failed",
    "turns completed after a lost attempt",
    "workers killed",
    "workers drained",
    "attempts handed back",
    "turns lost with a worker",
    "provider: refused",
    "provider: in_band_error",
    "provider: cut",
    "provider: fin",
    "provider: eof",
    "provider: client_disconnected",
    "rows with cache reads",
    "rows with cache writes for an hour",
    "rows with reasoning",
    "rows priced as long prompts",
    *(f"rows {source}" for source in ("provider", "partial", "estimated")),
    *(f"turns completed, {dialect}" for dialect in DIALECTS),
)
"""The events without which a run proves nothing."""


def _happened(
    side: _Side,
    turns: Mapping[str, Mapping[str, Any]],
    ledger: Mapping[str, Sequence[Mapping[str, Any]]],
    records: Sequence[Mapping[str, Any]],
) -> Counter[str]:
    """Count the events that the run should have had."""
    found: Counter[str] = Counter()
    watch = side.nemesis.watch
    found["posts refused for money"] = sum(one.is_unpaid for one in side.houses.told)
    found["workers killed"] = side.nemesis.done[Fault.WORKER_KILL]
    found["workers drained"] = side.nemesis.done[Fault.WORKER_DRAIN]
    found["turns lost with a worker"] = len(watch.alone) + len(watch.disturbed)
    for record in records:
        found[f"provider: {record['outcome']}"] += 1
    for turn_id, turn in turns.items():
        rows = ledger.get(turn_id, ())
        is_for_money = turn["stop_reason"] == "budget"
        said = sum(row["output_tokens"] for row in rows)
        found["turns stopped by users"] += turn["stop_reason"] == "user"
        found["turns ended for money"] += is_for_money
        found["turns cut off beyond their limit"] += is_for_money and said > turn["max_output_tokens"]
        found["turns failed"] += turn["status"] == "failed"
        found["turns completed after a lost attempt"] += turn["status"] == "completed" and len(rows) > 1
        found[f"turns completed, {side.dialect}"] += turn["status"] == "completed"
        found["attempts handed back"] += turn["handed_back"]
        for row in rows:
            found[f"rows {row['usage_source']}"] += 1
            found["rows with cache reads"] += row["cache_read_tokens"] > 0
            found["rows with cache writes for an hour"] += row["cache_write_1h_tokens"] > 0
            found["rows with reasoning"] += row["reasoning_tokens"] > 0
            found["rows priced as long prompts"] += row["price"]["output_per_m_usd"] == "18"
    return found
