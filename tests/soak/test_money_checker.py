"""The checker of bills finds what it must find: one row, line or total is wrong, and it reports that."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from shared.redis.names import call_key
from tests.soak.chaos.checker import Stored
from tests.soak.chaos.clients import Told
from tests.soak.chaos.plan import Kind, TurnPlan
from tests.soak.proofs.bills import EXPLAINED, Found, check_bills
from tests.soak.proofs.money_plan import HOUSES, planner
from tests.soak.proofs.totals import MOST_KEPT, TotalsWatch, wrong_in
from tests.soak.proofs.unseen import NAMED, CallNotes, too_many

BEGAN = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = date(2026, 11, 22)
PLAN = TurnPlan(1, Kind.ANSWER, "a question", "restart", None, None, False, ())
QUESTION = "a question of forty bytes, which are ten"
ESTIMATE = 10 + 4


def record(number: int, outcome: str, output: int, **more: Any) -> dict[str, Any]:
    """Return a line of the provider's log, of a call that came `number` seconds after the beginning."""
    return {
        "id": number,
        "conversation": PLAN.idempotency_key,
        "dialect": "anthropic",
        "outcome": outcome,
        "status": 200,
        "script": {"rate": 40, "cached": 3, "cache_write": 2, "cache_write_1h": 1},
        "system": "",
        "messages": [{"role": "user", "content": QUESTION}],
        "received_at": (BEGAN + timedelta(seconds=number)).timestamp(),
        "finished_at": (BEGAN + timedelta(seconds=number + 0.5)).timestamp(),
        "first_byte_ns": 1,
        "first_token_ns": 2 if output else None,
        "first_token_at": (BEGAN + timedelta(seconds=number)).timestamp(),
        "input_tokens": 7,
        "cache_read_tokens": 3,
        "cache_write_tokens": 3,
        "output_tokens": output,
        "reasoning_tokens": 0,
        "progress": [],
        **more,
    }


SHORT = {"input": 1, "read": Decimal("0.1"), "write": Decimal("1.25"), "write_1h": 2, "output": 15}
LONG = {
    "input": Decimal("1.5"),
    "read": Decimal("0.15"),
    "write": Decimal("1.875"),
    "write_1h": 3,
    "output": 18,
}


def row(
    attempt: int, seconds: float, output: int, source: str, rates: dict[str, Any] = SHORT, **more: Any
) -> dict[str, Any]:
    """Return a row of the ledger, written so many seconds after the beginning."""
    tokens = {
        "input_tokens": 7,
        "cache_read_tokens": 3,
        "cache_write_tokens": 3,
        "cache_write_1h_tokens": 1,
        "output_tokens": output,
        "reasoning_tokens": 0,
        **more,
    }
    micros = (
        tokens["input_tokens"] * rates["input"]
        + tokens["cache_read_tokens"] * rates["read"]
        + (tokens["cache_write_tokens"] - tokens["cache_write_1h_tokens"]) * rates["write"]
        + tokens["cache_write_1h_tokens"] * rates["write_1h"]
        + tokens["output_tokens"] * rates["output"]
    )
    return {
        "organization_id": "o1",
        "turn_id": "t1",
        "attempt": attempt,
        "provider": "anthropic",
        "model": "scripted",
        "price": {},
        "usage_source": source,
        "cost_usd": micros / 1_000_000,
        "day": DAY,
        "created_at": BEGAN + timedelta(seconds=seconds),
        **tokens,
    }


class World:
    """A turn whose first attempt broke off and whose second completed, and its bills."""

    def __init__(self) -> None:
        self.told = [Told(PLAN, "s1", "t1")]
        self.turn = {"id": "t1", "session_id": "s1", "number": 2, "status": "completed", "attempt": 2}
        self.earlier = {"id": "t0", "session_id": "s1", "number": 1, "status": "stopped", "attempt": 1}
        self.messages = {
            "t0": [{"role": "user", "position": 2, "content": "an earlier one"}],
            "t1": [
                {"role": "user", "position": 4, "content": QUESTION},
                {"role": "assistant", "position": 5, "content": "the answer, which is no part of the prompt"},
            ],
        }
        self.notes = CallNotes("redis://")
        self.broken_off = record(1, "client_disconnected", 5)
        self.whole = record(3, "completed", 9)
        self.records = [self.broken_off, self.whole]
        self.partial, self.exact = row(1, 2, 6, "partial"), row(2, 4, 9, "provider")
        self.totals: list[dict[str, Any]] = []
        self.holds: list[dict[str, Any]] = []
        self.add_up()

    def add_up(self) -> None:
        """Make the totals those of the ledger."""
        names = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
        rows = (self.partial, self.exact)
        self.totals = [
            {
                "organization_id": "o1",
                "period": period,
                "starts_on": starts_on,
                "attempts": len(rows),
                "spent_usd": sum(each["cost_usd"] for each in rows),
                "held_usd": Decimal(0),
                **{name: sum(each[name] for each in rows) for name in names},
            }
            for period, starts_on in (("day", DAY), ("month", DAY.replace(day=1)))
        ]

    def found(self) -> Found:
        ledger = {"t1": [self.exact, self.partial]}
        turns = {"t0": self.earlier, "t1": self.turn}
        stored = Stored(
            turns, self.messages, ledger, {}, [], 0, self.totals, self.holds, {"s1": "be terse, be kind"}
        )
        return check_bills(self.told, stored, self.records, notes=self.notes.last)

    def kinds(self) -> set[str]:
        return {each.kind for each in self.found().violations}

    def note(self, said: str) -> None:
        self.notes.take(["SET", call_key("s1", "t1"), said, "EX", "900"])

    def lose_the_first_prompt(self, tokens: int = 5 + 4 + 14 + 4, **more: int) -> None:
        """Have the first attempt's prompt written, noted and never seen; the two questions are joined in it."""
        self.records.remove(self.broken_off)
        nothing = {"cache_read_tokens": 0, "cache_write_tokens": 0, "cache_write_1h_tokens": 0}
        self.pay("partial", row(1, 2, 0, "estimated", input_tokens=tokens, **{**nothing, **more}))
        self.note("1")

    def lose_again(self, **more: int) -> None:
        """Bill another amount for the prompt that was never seen."""
        figures = {name: self.partial[name] for name in self.partial if name.endswith("_tokens")} | more
        self.pay("partial", row(1, 2, figures.pop("output_tokens"), "estimated", **figures))

    def pay(self, which: str, bill: dict[str, Any]) -> None:
        """Let one row be another, with totals that agree."""
        setattr(self, which, bill)
        self.add_up()


BREAKS: list[tuple[str, Callable[[World], object]]] = [
    ("tokens_differ", lambda w: w.pay("exact", row(2, 4, 10, "provider"))),
    ("tokens_differ", lambda w: w.pay("exact", row(2, 4, 9, "provider", cache_write_1h_tokens=2))),
    ("tokens_differ", lambda w: w.pay("exact", row(2, 4, 9, "provider", input_tokens=8))),
    ("tokens_differ", lambda w: w.pay("exact", row(2, 4, 9, "estimated", input_tokens=8))),
    ("tokens_differ", lambda w: w.pay("partial", row(1, 2, 6, "partial", cache_read_tokens=2))),
    ("tokens_differ", lambda w: w.whole.update(output_tokens=8)),
    ("tokens_differ", lambda w: w.whole.update(reasoning_tokens=1)),
    ("tokens_differ", lambda w: w.records.insert(1, record(2.5, "client_disconnected", 0))),
    ("prompt_guessed", lambda w: w.pay("partial", row(1, 2, 6, "estimated"))),
    ("input_short", lambda w: w.broken_off.update(input_tokens=8)),
    ("input_short", lambda w: w.pay("partial", row(1, 2, 6, "estimated", input_tokens=6))),
    ("output_short", lambda w: w.broken_off.update(output_tokens=6 + 11 + 1)),
    ("billed_unasked", lambda w: w.records.remove(w.whole)),
    ("refused_billed", lambda w: w.broken_off.update(outcome="refused", status=503)),
    ("unbilled", lambda w: w.records.append(record(5, "client_disconnected", 1))),
    ("cost", lambda w: w.exact.update(cost_usd=w.exact["cost_usd"] + Decimal("0.000001"))),
    ("dearer", lambda w: w.pay("exact", row(2, 4, 9, "provider", LONG))),
    ("dearer", lambda w: w.pay("exact", row(2, 4, 9, "estimated", input_tokens=7 + ESTIMATE, rates=LONG))),
    ("totals", lambda w: w.totals[0].update(spent_usd=w.totals[0]["spent_usd"] * 2)),
    ("totals", lambda w: w.totals[1].update(attempts=3)),
    ("totals", lambda w: w.totals[0].update(cache_write_tokens=5)),
    ("totals", lambda w: w.totals.pop()),
    ("held", lambda w: w.totals[0].update(held_usd=Decimal("0.1"))),
    ("held", lambda w: w.holds.append({"turn_id": "t1", "amount_usd": Decimal("0.1")})),
]


def test_bills_that_are_right_are_found_to_be_right():
    assert World().kinds() == set()


@pytest.mark.parametrize(
    ("kind", "breaks"), BREAKS, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(BREAKS)]
)
def test_a_wrong_row_line_or_total_is_found_and_named(kind: str, breaks: Callable[[World], object]):
    world = World()
    breaks(world)
    assert kind in world.kinds()
    assert world.kinds() <= EXPLAINED.keys()


def test_what_was_on_its_way_when_a_connection_ended_need_not_be_billed():
    world = World()
    world.broken_off.update(output_tokens=6 + 11)
    assert world.kinds() == set()


@pytest.mark.parametrize("calls", [1, 2])
def test_a_call_in_vain_that_the_provider_never_saw_is_its_prompt_and_the_row_says_estimated(calls: int):
    world = World()
    world.pay("exact", row(2, 4, 9, "estimated", input_tokens=7 + calls * ESTIMATE))
    assert world.kinds() == set()
    world.pay("exact", row(2, 4, 9, "estimated", input_tokens=7 + calls * ESTIMATE + 1))
    assert world.kinds() == {"tokens_differ"}
    world.pay("exact", row(2, 4, 9, "provider", input_tokens=7 + calls * ESTIMATE))
    assert world.kinds() == {"tokens_differ"}


def test_a_call_in_vain_that_the_provider_saw_is_billed_as_what_it_told_or_by_estimate():
    world = World()
    world.records.insert(1, record(2.5, "cut", 0))
    world.pay("exact", row(2, 4, 9, "estimated", input_tokens=7 + ESTIMATE))
    assert world.kinds() == set()
    doubled = {
        "input_tokens": 14,
        "cache_read_tokens": 6,
        "cache_write_tokens": 6,
        "cache_write_1h_tokens": 2,
    }
    world.pay("exact", row(2, 4, 9 + 1, "estimated", **doubled))
    assert world.kinds() == set()
    world.pay("exact", row(2, 4, 9, "estimated"))
    assert world.kinds() == {"tokens_differ"}


def test_the_longest_prompt_of_an_attempt_says_which_rates_it_has():
    world = World()
    world.whole.update(input_tokens=395)
    world.pay("exact", row(2, 4, 9, "provider", LONG, input_tokens=395))
    assert world.kinds() == set()
    world.pay("exact", row(2, 4, 9, "provider", SHORT, input_tokens=395))
    assert world.kinds() == {"cost"}
    world.whole.update(input_tokens=390)
    world.records.insert(1, record(2.5, "cut", 0))
    world.pay("exact", row(2, 4, 9, "estimated", SHORT, input_tokens=390 + ESTIMATE))
    assert world.kinds() == set()


@pytest.mark.parametrize("estimate", [27, 17])
def test_a_prompt_that_was_written_and_never_seen_is_billed_by_the_estimate_of_whoever_settled(estimate: int):
    # By the worker: 5 and 14 tokens, four more for each text. By a sweeper: 71 bytes.
    world = World()
    world.lose_the_first_prompt(estimate)
    found = world.found()
    assert (found.violations, found.unseen, found.counts[NAMED]) == ([], {"t1": 1}, 1)
    assert found.counts["rows"] == 2


def test_an_attempt_whose_only_call_was_refused_unseen_has_a_row_that_costs_nothing():
    world = World()
    world.lose_the_first_prompt()
    world.note("1 estimated 0 0 0 0")
    world.lose_again(input_tokens=0)
    found = world.found()
    assert (found.violations, found.counts[NAMED]) == ([], 1)


@pytest.mark.parametrize(
    "breaks",
    [
        lambda w: w.notes.last.clear(),
        lambda w: w.lose_again(input_tokens=0),
        lambda w: (w.note("1 estimated 0 0 0 0"), w.lose_again(input_tokens=0, output_tokens=1)),
        lambda w: w.note("1 estimated 0 0 0 0"),
        lambda w: (w.notes.last.clear(), w.note("2")),
        lambda w: w.partial.update(usage_source="partial"),
        lambda w: w.lose_again(input_tokens=28),
        lambda w: w.lose_again(input_tokens=18),
        lambda w: w.lose_again(input_tokens=54),
        lambda w: w.lose_again(output_tokens=1),
        lambda w: w.lose_again(cache_write_tokens=1),
        lambda w: w.messages["t1"][0].update(content=QUESTION + " and more"),
    ],
)
def test_any_other_bill_without_a_call_is_one_for_what_was_not_asked(breaks: Callable[[World], object]):
    world = World()
    world.lose_the_first_prompt()
    breaks(world)
    assert world.kinds() == {"billed_unasked"}


def test_a_prompt_that_the_provider_has_a_log_of_is_held_against_that():
    world = World()
    world.lose_the_first_prompt()
    world.records.insert(0, world.broken_off)
    assert "prompt_guessed" in world.kinds()


def test_more_prompts_that_nobody_saw_than_chance_explains_are_found():
    assert [too_many(1, 100), too_many(2, 100), too_many(15, 3000), too_many(16, 3000)] == [
        False, True, False, True,
    ]  # fmt: skip
    world = World()
    world.lose_the_first_prompt()
    world.told *= 2
    assert "unseen_often" in world.kinds()


def test_what_had_been_sent_when_a_user_stopped_a_turn_is_billed_to_the_token():
    def stopped(billed: int) -> set[str]:
        world = World()
        moment = BEGAN + timedelta(seconds=3.3)
        world.turn.update(status="stopped", stop_requested_at=moment, stop_observed_at=moment)
        at = [(moment.timestamp() + offset, tokens) for offset, tokens in ((-0.1, 7), (0, 8), (0.001, 9))]
        world.whole.update(outcome="client_disconnected", progress=at)
        world.pay("exact", row(2, 4, billed, "partial"))
        assert world.found().counts["stopped as the provider spoke"] == 1
        return world.kinds()

    assert stopped(8) == set()
    assert stopped(7) == {"stop_short"}


def test_a_stop_that_came_after_the_call_or_to_a_dead_worker_is_no_such_moment():
    world = World()
    moment = BEGAN + timedelta(seconds=3.3)
    world.whole.update(outcome="client_disconnected", progress=[(moment.timestamp() - 0.1, 9)])
    world.pay("exact", row(2, 4, 8, "partial"))
    world.turn.update(status="stopped", stop_requested_at=moment, stop_observed_at=None)
    assert world.kinds() == set()
    late = BEGAN + timedelta(seconds=3.6)
    world.turn.update(stop_requested_at=late, stop_observed_at=late)
    assert world.kinds() == set()


def test_a_refused_call_costs_nothing():
    world = World()
    world.records.insert(1, record(2.5, "refused", 0, status=503))
    assert world.kinds() == set()


def test_each_sum_that_must_hold_at_any_moment_is_looked_at():
    good = {
        "name": "poor",
        "period": "day",
        "spent_usd": Decimal("0.6"),
        "held_usd": Decimal("0.4"),
        "limit_usd": Decimal(1),
        "billed_usd": Decimal("0.6"),
        "holds_usd": Decimal("0.4"),
    }
    assert wrong_in(good) is None
    assert wrong_in(good | {"limit_usd": None}) is None
    assert wrong_in(good | {"limit_usd": Decimal("0.99")}) == "over_budget"
    assert wrong_in(good | {"billed_usd": Decimal("0.5")}) == "spent_differs"
    assert wrong_in(good | {"holds_usd": Decimal("0.5")}) == "held_differs"
    watch = TotalsWatch("")
    for _ in range(MOST_KEPT + 1):
        watch.look([good, good | {"holds_usd": Decimal(0)}])
    assert (watch.looks, watch.wrong_looks, len(watch.wrong)) == (MOST_KEPT + 1, MOST_KEPT + 1, MOST_KEPT)
    assert watch.fullest == {("poor", "day"): Decimal(1)}


def test_a_seed_fixes_the_turns_and_a_short_run_has_every_kind():
    plan = planner(HOUSES[1], is_anthropic=True)
    assert plan(5, 9) == plan(5, 9) != plan(6, 9)
    kinds = {plan(1, number).kind for number in range(1, 60)}
    assert kinds == set(Kind)
    poor = planner(replace(HOUSES[2]), is_anthropic=False)
    assert Kind.GREEDY not in {poor(1, number).kind for number in range(1, 200)}
