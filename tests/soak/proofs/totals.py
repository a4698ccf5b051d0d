"""Watches what is spent and held throughout a run, with one statement each time, so that it sees one moment."""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Self

import psycopg
from psycopg.rows import dict_row

EVERY_SECONDS: Final = 0.05
LATE_SECONDS: Final = 0.1
"""Two looks farther apart are noted: any process of this machine may have been that late just then."""
NEAR_SECONDS: Final = 1.0
MOST_KEPT: Final = 20
"""Moments at which something was wrong that are kept; all are counted."""
_LOOK: Final = """
    select o.name, p.period, p.starts_on, p.spent_usd, p.held_usd,
           case p.period when 'day' then o.daily_usd else o.monthly_usd end as limit_usd,
           (select coalesce(sum(l.cost_usd), 0) from turnkeeper.ledger as l
            where l.organization_id = p.organization_id
              and date_trunc(p.period, l.day::timestamp)::date = p.starts_on) as billed_usd,
           (select coalesce(sum(h.amount_usd), 0) from turnkeeper.holds as h
            where h.organization_id = p.organization_id
              and date_trunc(p.period, h.day::timestamp)::date = p.starts_on) as holds_usd
    from turnkeeper.spend as p join turnkeeper.organizations as o on o.id = p.organization_id
"""


def wrong_in(row: Mapping[str, Any]) -> str | None:
    """Return which sum of a period is wrong, as it must never be; None if all are right."""
    if row["spent_usd"] != row["billed_usd"]:
        return "spent_differs"
    if row["held_usd"] != row["holds_usd"]:
        return "held_differs"
    if row["limit_usd"] is not None and row["spent_usd"] + row["held_usd"] > row["limit_usd"]:
        return "over_budget"
    return None


@dataclass(slots=True)
class TotalsWatch:
    """Looks in a separate thread, for as long as the context lasts.

    Attributes:
        looks: How often it has looked.
        wrong: What was wrong, and what was seen.
        wrong_looks: How often something was wrong.
        fullest: The largest share of a budget that was spent and held, by organization and period.
        most_held: The most that was held at once, in the same way.
        late: Moments, in seconds since 1970, at which a look was late, and how many seconds after the one before.
    """

    owner_url: str
    looks: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)
    wrong_looks: int = 0
    fullest: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    most_held: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    late: list[tuple[float, float]] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, name="totals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ending.set()
        assert self._thread is not None
        self._thread.join(10)

    def look(self, rows: list[dict[str, Any]]) -> None:
        """Process what one look has seen."""
        self.looks += 1
        is_wrong = False
        for row in rows:
            place = (row["name"], row["period"])
            self.most_held[place] = max(self.most_held.get(place, Decimal(0)), row["held_usd"])
            if row["limit_usd"]:
                share = (row["spent_usd"] + row["held_usd"]) / row["limit_usd"]
                self.fullest[place] = max(self.fullest.get(place, Decimal(0)), share)
            if (kind := wrong_in(row)) is not None:
                is_wrong = True
                if len(self.wrong) < MOST_KEPT:
                    seen = ", ".join(f"{name} {value}" for name, value in row.items())
                    self.wrong.append((kind, f"at {time.time():.3f}: {seen}"))
        self.wrong_looks += is_wrong

    def lateness(self, moment: float) -> float:
        """Return how late a process of this machine may have been around a moment, in seconds."""
        near = (
            seconds for at, seconds in self.late if at - seconds - NEAR_SECONDS < moment < at + NEAR_SECONDS
        )
        return max(near, default=0.0)

    def _watch(self) -> None:
        while not self._ending.wait(EVERY_SECONDS):
            with (
                suppress(psycopg.OperationalError),
                psycopg.connect(
                    self.owner_url, connect_timeout=5, autocommit=True, row_factory=dict_row
                ) as db,
            ):
                before = time.time()
                while not self._ending.wait(EVERY_SECONDS):
                    self.look(db.execute(_LOOK).fetchall())
                    now = time.time()
                    if now - before > LATE_SECONDS:
                        self.late.append((now, now - before))
                    before = now
