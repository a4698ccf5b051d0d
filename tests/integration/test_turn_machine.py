"""Any sequence of accept, claim, lapse, renewal, stop, sweep, hand-back and late write keeps the books right.

The statements and functions are the real ones on a real PostgreSQL; what may be decides a table that is
written out here by hand. `TURN_MACHINE_EXAMPLES=5000` runs longer, from a new seed each time.
"""

import os
from dataclasses import dataclass
from decimal import Decimal
from types import SimpleNamespace
from uuid import UUID

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from api.caller import Caller
from api.statements.turns import stop_turn
from shared.errors import Fault
from shared.ids import new_id
from shared.money.usage import Usage, UsageSource
from shared.turn.turns import FinishReason, StopReason
from tests.integration.conftest import choices_of
from worker.providers.provider import Capabilities
from worker.recovery import leases, sweeper
from worker.recovery.left_behind import Left, read_left_behind, source_of, usage_of
from worker.turn.claim import Claim, claim_turn
from worker.turn.outcome import NOTHING, Answer, Completed, Failed, Requeued, Stopped
from worker.turn.settle import Settlement, UnpayableError, settle

pytestmark = pytest.mark.usefixtures("one_day")

WORKERS = (new_id(), new_id())
SWEEPER = new_id()
LEASE_SECONDS = 600.0  # no lease runs out by itself: only `lapse` lets one
MOST_ATTEMPTS = 3
MOST_TURNS = 3

# By hand: the statuses that one statement may lead to from each. Not derived from shared.turn.turns.
LEGAL = {
    None: {"queued"},
    "queued": {"running", "stopped", "expired"},
    "running": {"running", "stopping", "completed", "stopped", "failed", "queued"},
    "stopping": {"stopping", "completed", "stopped", "failed"},
    "completed": set(),
    "stopped": set(),
    "failed": set(),
    "expired": set(),
}
ENDED = {"completed", "stopped", "failed", "expired"}
ENDINGS = {
    "completed": lambda answer: Completed(answer, FinishReason.STOP),
    "stopped": lambda answer: Stopped(answer, StopReason.USER),
    "failed": lambda answer: Failed(answer, Fault.PROVIDER_TIMEOUT, "it fell silent"),
    "handed back": lambda answer: Requeued(answer, handed_back=True),
}
ANSWERS = st.one_of(
    st.just(NOTHING),
    st.builds(
        lambda words, tokens: Answer(
            "word " * words,
            "",
            called=True,
            usage=Usage(input_tokens=tokens, output_tokens=words),
            usage_source=UsageSource.ESTIMATED,
        ),
        st.integers(0, 3),
        st.integers(0, 9),
    ),
)


@dataclass(frozen=True)
class Books:
    """All that is stored of one session, and what its organization spent."""

    turns: dict[UUID, SimpleNamespace]
    ledger: list
    messages: list
    checkpoints: list
    session: SimpleNamespace
    spend: list
    holds: list


@dataclass
class Held:
    """A claim as a worker remembers it, whether or not it still counts."""

    worker: UUID
    claim: Claim
    is_settled: bool = False


class TurnMachine(RuleBasedStateMachine):
    """One session, two workers and a sweeper; `world` has the database, the organization and the provider."""

    world: SimpleNamespace

    @initialize()
    def open_session(self):
        self.session = new_id()
        self.held: list[Held] = []
        self.billable: set[tuple[UUID, int]] = set()  # attempts whose settlement said that they called
        self.recovery: dict[UUID, str] = {}
        self.caller = Caller(self.world.organization, None, "service", None, None)
        self.write(
            "insert into turnkeeper.sessions (organization_id, id, user_name, max_turns)"
            " values (:organization, :session, 'alice', 50)"
        )
        self.before = self.books()

    # What happens.

    @precondition(lambda self: len(self.before.turns) < MOST_TURNS)
    @rule(recovery=st.sampled_from(["restart", "fail"]), hold=st.integers(0, 9))
    def accept(self, recovery, hold=0):
        turn = new_id()
        self.write(
            "with asked as (insert into turnkeeper.turns (organization_id, id, session_id, number, user_name, status,"
            " recovery, user_message_id, answer_id, max_output_tokens, deadline_seconds, last_seq) values"
            " (:organization, :turn, :session, :number, 'alice', 'queued', :recovery, :message, :answer, 100, 60, 1)"
            " returning organization_id, id, session_id, number, user_message_id)"
            " insert into turnkeeper.messages (organization_id, id, session_id, turn_id, position, role, content,"
            " status) select organization_id, user_message_id, session_id, id, number * 2, 'user', 'question',"
            " 'complete' from asked",
            turn=turn,
            number=len(self.before.turns) + 1,
            recovery=recovery,
            message=new_id(),
            answer=new_id(),
        )
        self.recovery[turn] = recovery
        if hold:
            with self.world.database.of(self.world.organization) as db:
                db.execute(
                    text("select turnkeeper.take_hold(:organization, :turn, 1, :prompt, 0.000001, 1, 100)"),
                    {"organization": self.world.organization, "turn": turn, "prompt": Decimal(hold) / 1000},
                )

    @rule(room=st.none() | st.integers(0, 20))
    def set_budget(self, room):
        """From no budget to one that is used up: what was held stays held."""
        self.world.as_owner(
            "update turnkeeper.organizations set daily_usd = cast(:room as numeric) / 1000 + coalesce((select"
            " spent_usd + held_usd from turnkeeper.spend where organization_id = :organization and period = 'day'), 0)"
            " where id = :organization",
            organization=self.world.organization,
            room=room,
        )

    def is_barred(self, turn):
        """Whether the budget lets no attempt of the turn begin: it is 0, or spent while the turn has a hold."""
        ((is_barred,),) = self.world.as_owner(
            "select o.daily_usd = 0 or exists (select from turnkeeper.holds as h join turnkeeper.spend as p on"
            " p.organization_id = h.organization_id and p.period = 'day' and p.starts_on = h.day"
            " where h.turn_id = :turn and h.amount_usd > 0 and p.spent_usd >= o.daily_usd)"
            " from turnkeeper.organizations as o where o.id = :organization",
            organization=self.world.organization,
            turn=turn,
        )
        return is_barred

    @precondition(lambda self: self.before.turns)
    @rule(data=st.data(), worker=st.sampled_from(WORKERS))
    def claim(self, data, worker):
        turn = self.any_turn(data)
        row = self.before.turns[turn]
        earlier = [one for one in self.before.turns.values() if one.number < row.number]
        claim = claim_turn(
            self.world.database, turn, worker, lease_seconds=LEASE_SECONDS, context_tokens=10_000
        )
        if claim is None:
            is_behind = any(one.status not in ENDED for one in earlier)
            assert row.status != "queued" or is_behind or self.is_barred(turn)
            self.assert_nothing_changed()
            return
        assert row.status == "queued" or (row.status == "running" and row.is_lapsed)
        assert all(one.status in ENDED for one in earlier)
        assert claim.attempt == max(row.attempt, 1)
        self.held.append(Held(worker, claim))

    @precondition(
        lambda self: any(row.status in {"running", "stopping"} for row in self.before.turns.values())
    )
    @rule()
    def lapse(self):
        self.write(
            "update turnkeeper.turns set lease_expires_at = clock_timestamp() - interval '1 second'"
            " where organization_id = :organization and session_id = :session and status in ('running', 'stopping')"
        )

    @precondition(lambda self: self.held)
    @rule(data=st.data(), answer=ANSWERS)
    def renew(self, data, answer):
        held = data.draw(st.sampled_from(self.held))
        of_worker = {
            "worker_id": held.worker,
            "turns": [held.claim.turn_id],
            "attempts": [held.claim.attempt],
        }
        with self.world.database.across() as db:
            owned = db.execute(leases._RENEW, {**of_worker, "lease_seconds": LEASE_SECONDS}).all()
            # Also without the lease: what comes late must not overwrite what a newer attempt saved.
            db.execute(
                leases._SAVE,
                {
                    **of_worker,
                    "seqs": [7],
                    "calls": [answer.called],
                    "contents": [answer.content],
                    "reasonings": [""],
                    "inputs": [answer.usage.input_tokens],
                    "cache_reads": [0],
                    "cache_writes": [0],
                    "cache_writes_1h": [0],
                    "outputs": [answer.usage.output_tokens],
                    "reasoning_counts": [0],
                    "sources": ["estimated"],
                },
            )
        assert bool(owned) == self.is_current(held)
        if not owned:
            self.assert_nothing_changed()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), answer=ANSWERS, how=st.sampled_from(sorted(ENDINGS)))
    def settle(self, data, answer, how):
        held = data.draw(st.sampled_from(self.held))
        row = self.before.turns[held.claim.turn_id]
        may = self.is_current(held) and (how != "handed back" or row.status == "running")
        settled = self.write_outcome(held.claim.turn_id, held.claim.attempt, ENDINGS[how](answer))
        assert (settled is not None) == may
        if settled is None:
            self.assert_nothing_changed()

    @precondition(lambda self: self.before.turns)
    @rule(data=st.data())
    def stop(self, data):
        turn = self.any_turn(data)
        with self.world.database.of(self.world.organization) as db:
            stopped = stop_turn(db, self.caller, turn, StopReason.USER)
        was = self.before.turns[turn].status
        assert stopped.is_new == (was in {"queued", "running"})
        if not stopped.is_new:
            self.assert_nothing_changed()

    @precondition(lambda self: any(row.is_lapsed for row in self.before.turns.values()))
    @rule()
    def sweep(self):
        lapsed = {turn for turn, row in self.before.turns.items() if row.is_lapsed}
        with self.world.database.across() as db:
            lost = {row.turn_id for row in db.execute(sweeper._LOST, {"most": 200})}
        assert lapsed <= lost
        for turn in lapsed:
            self.take_up(turn)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), answer=ANSWERS)
    def sweep_what_is_not_lost(self, data, answer):
        """A sweeper that read a lapsed lease comes late: it was renewed, settled or claimed since."""
        held = data.draw(st.sampled_from(self.held))
        if self.is_current(held) and self.before.turns[held.claim.turn_id].is_lapsed:
            return
        ending = ENDINGS[data.draw(st.sampled_from(sorted(ENDINGS)))](answer)
        assert self.write_outcome(held.claim.turn_id, held.claim.attempt, ending, lost_to=SWEEPER) is None
        self.assert_nothing_changed()

    # What must be, whatever happened.

    @invariant()
    def the_books_are_right(self):
        before, now = self.before, self.books()
        for turn, row in now.turns.items():
            self.check_step(before.turns.get(turn), row)
            self.check_turn(now, row)
        running = [row for row in now.turns.values() if row.status in {"running", "stopping"}]
        assert len(running) <= 1
        costs = sum((row.cost_usd for row in now.ledger), Decimal(0))
        assert now.session.cost_usd == sum(row.cost_usd for row in now.turns.values()) == costs
        assert now.session.output_tokens == sum(row.output_tokens for row in now.ledger)
        assert len({row.spent_usd for row in now.spend} | {self.spent_by_ledger}) == 1 or not now.spend
        for total in now.spend:
            assert total.held_usd == self.held_by_holds
        assert {(row.turn_id, row.attempt) for row in now.ledger} == self.billable
        assert len(now.ledger) == len(self.billable)
        self.before = now

    def check_step(self, before, row):
        was = None if before is None else before.status
        assert row.status == was or row.status in LEGAL[was], (was, row.status)
        if before is None:
            return
        if before.status in ENDED:
            assert row == before
        assert 0 <= row.attempt - before.attempt <= 1  # I3
        was_given_up = before.status in {"running", "stopping"} and row.status == "queued"
        is_first_claim = (before.attempt, row.status) == (0, "running")
        was_taken = row.worker_id == SWEEPER and before.worker_id != SWEEPER
        assert (row.attempt > before.attempt) == (was_given_up or is_first_claim or was_taken)
        assert row.last_seq >= before.last_seq

    def check_turn(self, now, row):
        assert (row.status in ENDED) == (row.finished_at is not None)
        bills = [bill.attempt for bill in now.ledger if bill.turn_id == row.id]
        assert len(bills) == len(set(bills))  # I2
        assert all(1 <= attempt <= row.attempt for attempt in bills)
        answers = [
            message for message in now.messages if (message.turn_id, message.role) == (row.id, "assistant")
        ]
        assert len(answers) <= (row.status in ENDED)  # I2
        assert [message.id for message in answers] == ([] if row.message_id is None else [row.message_id])
        holds = [hold.attempt for hold in now.holds if hold.turn_id == row.id]
        assert holds in ([], [max(row.attempt, 1)] if row.status not in ENDED else [])  # I6
        if row.status in ENDED:
            assert row.id not in {checkpoint.turn_id for checkpoint in now.checkpoints}

    # How it is done and seen.

    def take_up(self, turn):
        row = self.before.turns[turn]
        with self.world.database.of(self.world.organization) as db:
            found = read_left_behind(db, self.world.organization, turn)
        content = found.content or ""
        usage = usage_of(found, content, "", 10_000)
        answer = Answer(content, "", called=bool(found.called), usage=usage, usage_source=source_of(found))
        ending = sweeper._ending(
            Left(found, answer, max(found.last_seq, found.checkpoint_seq or 0)), Capabilities()
        )
        match ending:
            case Stopped():
                assert row.status == "stopping"
            case Failed():
                used_up = row.attempt - row.handed_back >= MOST_ATTEMPTS
                assert row.status == "running"
                assert used_up or (self.recovery[turn] == "fail" and content)
            case Requeued():
                assert row.status == "running"
                assert row.attempt - row.handed_back < MOST_ATTEMPTS
        try:
            assert self.write_outcome(turn, row.attempt, ending, lost_to=SWEEPER) is not None
        except UnpayableError:
            assert isinstance(ending, Requeued)
            assert any(hold.turn_id == turn for hold in self.before.holds)
            self.assert_nothing_changed()
            stopped = Stopped(answer, StopReason.BUDGET)
            assert self.write_outcome(turn, row.attempt, stopped, lost_to=SWEEPER) is not None

    def write_outcome(self, turn, attempt, ending, lost_to=None):
        last_seq = self.before.turns[turn].last_seq + 2
        settled = settle(
            self.world.database,
            self.world.provider,
            Settlement(self.world.organization, turn, attempt, last_seq, lost_to=lost_to),
            ending,
        )
        if settled is not None and ending.answer.called:
            assert (turn, attempt) not in self.billable
            self.billable.add((turn, attempt))
        return settled

    def is_current(self, held):
        row = self.before.turns[held.claim.turn_id]
        return row.status in {"running", "stopping"} and row.attempt == held.claim.attempt

    def any_turn(self, data):
        return data.draw(st.sampled_from(sorted(self.before.turns)))

    def assert_nothing_changed(self):
        assert self.books() == self.before

    def write(self, statement, **parameters):
        with self.world.database.of(self.world.organization) as db:
            db.execute(text(statement), {**self.scope(), **parameters})

    def scope(self):
        return {"organization": self.world.organization, "session": self.session}

    def books(self):
        with self.world.database.of(self.world.organization) as db:

            def rows(statement):
                found = db.execute(text(statement), self.scope())
                return [SimpleNamespace(**row._mapping) for row in found]

            of_session = "where organization_id = :organization and session_id = :session"
            turns = rows(
                "select *, coalesce(status in ('running', 'stopping') and lease_expires_at < clock_timestamp(), false)"
                f" as is_lapsed from turnkeeper.turns {of_session} order by number"
            )
            (of_ledger,) = rows(
                "select coalesce(sum(cost_usd), 0) as spent from turnkeeper.ledger"
                " where organization_id = :organization"
            )
            self.spent_by_ledger = of_ledger.spent
            (of_holds,) = rows(
                "select coalesce(sum(amount_usd), 0) as held from turnkeeper.holds"
                " where organization_id = :organization"
            )
            self.held_by_holds = of_holds.held
            return Books(
                turns={row.id: row for row in turns},
                ledger=rows(f"select * from turnkeeper.ledger {of_session} order by id"),
                messages=rows(f"select * from turnkeeper.messages {of_session} order by position"),
                checkpoints=rows(
                    "select c.* from turnkeeper.checkpoints as c join turnkeeper.turns as t"
                    " on t.organization_id = c.organization_id and t.id = c.turn_id"
                    " where t.organization_id = :organization and t.session_id = :session order by c.turn_id"
                ),
                session=rows(
                    "select * from turnkeeper.sessions where organization_id = :organization and id = :session"
                )[0],
                holds=rows(
                    "select h.* from turnkeeper.holds as h join turnkeeper.turns as t"
                    " on t.organization_id = h.organization_id and t.id = h.turn_id"
                    " where t.organization_id = :organization and t.session_id = :session order by h.turn_id"
                ),
                spend=rows(
                    "select * from turnkeeper.spend where organization_id = :organization order by period"
                ),
            )


@pytest.fixture
def world(database, organization, settings, as_owner):
    return SimpleNamespace(
        database=database, organization=organization, provider=settings.provider, as_owner=as_owner
    )


def test_no_sequence_of_claims_lapses_stops_and_late_writes_breaks_the_books(world):
    longer = os.environ.get("TURN_MACHINE_EXAMPLES")
    machine = type("TurnMachineOfThisTest", (TurnMachine,), {"world": world})
    run_state_machine_as_test(
        machine,
        settings=hypothesis_settings(
            max_examples=int(longer or 25),
            stateful_step_count=30,
            derandomize=longer is None,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_lost_attempt_that_never_reached_the_provider_costs_nothing(world, settings, monkeypatch):
    machine = type("TurnMachineOfThisTest", (TurnMachine,), {"world": world})()
    machine.open_session()
    machine.accept("restart")
    (turn,) = machine.books().turns
    claim_turn(world.database, turn, WORKERS[0], lease_seconds=-1.0, context_tokens=10_000)
    keeper = sweeper.Sweeper(
        settings, choices_of(settings), SWEEPER, world.database, None, None, lambda turn_id, traceparent: None
    )
    monkeypatch.setattr(keeper, "_tell", lambda *event: None)  # what readers see is not the question
    keeper.sweep()
    keeper.stop()
    row = machine.books().turns[turn]
    assert row.status == "queued"
    assert (row.cost_usd, machine.books().session.cost_usd) == (0, 0)
