"""The checker finds what it must find: each promise is broken once, in only one history."""

from collections.abc import Callable
from decimal import Decimal
from itertools import islice

import pytest

from tests.e2e.protocol_client import sha256
from tests.soak.chaos.checker import EXPLAINED, Stored, check
from tests.soak.chaos.clients import Told
from tests.soak.chaos.nemesis import WEIGHTS, Fault, schedule
from tests.soak.chaos.plan import FAILING, plan_turn
from tests.soak.chaos.reader import Counting

TEXT = "⟦1⟧Keep⟦2⟧ on"
USAGE = {
    "input_tokens": 7,
    "cache_read_tokens": 0,
    "cache_write_tokens": 0,
    "output_tokens": 2,
    "reasoning_tokens": 0,
}
COST = Decimal("0.000051")
PLAN = next(
    plan
    for plan in (plan_turn(1, number) for number in range(1, 100))
    if plan.kind not in FAILING and plan.recovery == "restart"
)


class World:
    """Three histories of one turn that agree."""

    def __init__(self) -> None:
        done = {
            "status": "completed",
            "stop_reason": None,
            "cost_usd": str(COST),
            "content_sha256": sha256(TEXT),
            "usage": dict(USAGE),
        }
        self.told = [Told(PLAN, "s1", "t1", done, seq=9)]
        self.turn = {
            "id": "t1",
            "status": "completed",
            "attempt": 1,
            "handed_back": 0,
            "stop_reason": None,
            "error": None,
            "message_id": "m2",
            "cost_usd": COST,
            "last_seq": 9,
            **USAGE,
        }
        self.question = {"turn_id": "t1", "role": "user", "content": PLAN.content}
        self.answer = {"turn_id": "t1", "role": "assistant", "content": TEXT}
        self.bill = {"turn_id": "t1", "attempt": 1, "cost_usd": COST, "usage_source": "provider", **USAGE}
        total = {"cost_usd": COST, "attempts": 1, "input_tokens": 7, "output_tokens": 2}
        self.stored = Stored(
            {"t1": self.turn},
            {"t1": [self.question, self.answer]},
            {"t1": [self.bill]},
            {"day": total, "month": dict(total)},
            [],
            0,
        )
        self.record = {
            "conversation": PLAN.idempotency_key,
            "text": TEXT,
            "outcome": "completed",
            "input_tokens": 7,
            "output_tokens": 2,
            "reasoning_tokens": 0,
        }
        self.records = [self.record]

    def kinds(self) -> set[str]:
        return set(check(self.told, self.stored, self.records).kinds())


BREAKS: list[tuple[str, Callable[[World], object]]] = [
    ("lost", lambda w: w.stored.turns.clear()),
    ("not_terminal", lambda w: w.turn.update(status="running")),
    ("stream", lambda w: w.told[0].complain("stream", "seq 4 after 2")),
    ("messages", lambda w: w.stored.messages["t1"].append(dict(w.answer))),
    ("messages", lambda w: w.question.update(content="another")),
    ("messages", lambda w: w.turn.update(message_id=None)),
    ("text_differs", lambda w: w.answer.update(content=TEXT + "!")),
    ("text_unsaid", lambda w: w.record.update(text=TEXT + " and on")),
    ("text_unsaid", lambda w: w.record.update(outcome="client_disconnected")),
    ("doubled", lambda w: w.stored.turns.update(t2=w.turn)),
    ("done_differs", lambda w: w.turn.update(last_seq=8)),
    ("done_differs", lambda w: w.told[0].done.update(cost_usd="0.000052")),
    ("wrong_end", lambda w: w.turn.update(status="failed", error={"code": "internal"})),
    ("wrong_end", lambda w: w.turn.update(status="stopped", stop_reason="user")),
    ("given_up_early", lambda w: w.turn.update(status="failed", error={"code": "worker_lost"}, attempt=3)),
    ("ledger", lambda w: w.stored.ledger["t1"].append(dict(w.bill))),
    ("ledger", lambda w: w.turn.update(input_tokens=8)),
    ("totals", lambda w: w.stored.totals["month"].update(cost_usd=COST * 2)),
    ("totals", lambda w: w.stored.sessions_off.append({"id": "s1", "cost_usd": 1, "billed": 2})),
    ("tokens_differ", lambda w: w.record.update(output_tokens=3)),
    ("tokens_differ", lambda w: w.bill.update(usage_source="estimated")),
    ("unbilled", lambda w: w.stored.ledger.clear()),
    ("billed_unasked", lambda w: w.records.clear()),
    ("left_open", lambda w: w.record.update(outcome="running")),
    ("asked_unknown", lambda w: w.records.append({**w.record, "conversation": "someone"})),
    ("checkpoints", lambda w: setattr(w.stored, "checkpoints", 1)),
]


def test_histories_that_agree_are_found_to_agree():
    assert World().kinds() == set()


@pytest.mark.parametrize(
    ("kind", "breaks"), BREAKS, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(BREAKS)]
)
def test_a_broken_promise_is_found_and_named(kind: str, breaks: Callable[[World], object]):
    world = World()
    breaks(world)
    assert kind in world.kinds()
    assert world.kinds() <= EXPLAINED.keys()


def test_a_partial_answer_must_be_a_beginning_of_what_the_provider_said():
    world = World()
    partial = TEXT[:8]
    world.turn.update(status="failed", error={"code": "worker_lost"}, attempt=4)
    world.answer.update(content=partial)
    world.told[0].done.update(status="failed", content_sha256=sha256(partial))
    assert world.kinds() == set()
    world.record.update(text="⟦1⟧Kept")
    assert world.kinds() == {"text_unsaid"}


def test_numbers_that_go_back_are_noted_and_the_reading_goes_on():
    reading = Counting("t1", "s1", seq=22)
    envelope = {"session_id": "s1", "turn_id": "t1", "attempt": 1, "ts": "now"}
    text = {"status": "running", "message_id": None, "content": "", "reasoning": ""}
    reading.take({"type": "snapshot", "seq": 4, **envelope, **text})
    reading.take({"type": "content_delta", "seq": 5, "delta": "on", **envelope})
    assert reading.went_back == ["22 to 4 by snapshot, attempt 1"]
    assert (reading.seq, reading.text) == (5, "on")


def test_a_seed_fixes_the_schedule_and_the_turns():
    blows = list(islice(schedule(5, 2.0, 15.0), 1000))
    assert blows == list(islice(schedule(5, 2.0, 15.0), 1000))
    assert blows != list(islice(schedule(6, 2.0, 15.0), 1000))
    assert {blow.fault for blow in blows} == set(Fault)
    assert all(blow.after_seconds >= 0.2 for blow in blows)
    assert plan_turn(5, 9) == plan_turn(5, 9) != plan_turn(6, 9)


def test_every_fault_has_a_weight_and_a_schedule_can_be_narrowed():
    assert WEIGHTS.keys() == set(Fault)
    only = frozenset({Fault.WORKER_KILL})
    assert {blow.fault for blow in islice(schedule(1, 1.0, 1.0, only), 50)} == only
