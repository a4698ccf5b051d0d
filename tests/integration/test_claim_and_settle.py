"""Claiming and settling against a real PostgreSQL, as the application's role: once, whatever happens."""

import threading
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import text

from shared.configuration.provider_settings import PRICED, ProviderName
from shared.errors import Fault
from shared.ids import new_id
from shared.money.price_table import read_price_table
from shared.money.usage import Usage, UsageSource
from shared.turn.turns import FinishReason, StopReason
from worker.turn.claim import claim_turn
from worker.turn.outcome import NOTHING, Answer, Completed, Failed, Requeued, Stopped
from worker.turn.settle import Settlement, read_settled, settle

pytestmark = pytest.mark.usefixtures("one_day")

WORKER, OTHER_WORKER = new_id(), new_id()
USED = Usage(input_tokens=10, output_tokens=5)
ANSWER = Answer("hello", "hm", called=True, usage=USED, usage_source=UsageSource.PROVIDER)
COST = Decimal("0.000105")  # 10 × $3 and 5 × $15 per million: the scripted provider's price


class Ledgers:
    """One organization's rows, made and read as the api would."""

    def __init__(self, database, organization: UUID) -> None:
        self.database = database
        self.organization = organization
        self.session = new_id()
        self.number = 0
        self.write(
            "insert into turnkeeper.sessions (organization_id, id, user_name, max_turns)"
            " values (:organization, :session, 'alice', 50)",
            session=self.session,
        )

    def write(self, statement, **parameters):
        with self.database.of(self.organization) as db:
            return db.execute(text(statement), {"organization": self.organization, **parameters})

    def rows(self, statement, **parameters):
        with self.database.of(self.organization) as db:
            return db.execute(text(statement), {"organization": self.organization, **parameters}).all()

    def queue_turn(self, content="question") -> UUID:
        self.number += 1
        turn, message = new_id(), new_id()
        ids = {"session": self.session, "turn": turn, "message": message, "number": self.number}
        with self.database.of(self.organization) as db:
            db.execute(
                text(
                    "insert into turnkeeper.turns (organization_id, id, session_id, number, user_name, status,"
                    " recovery, user_message_id, answer_id, max_output_tokens, deadline_seconds, last_seq) values"
                    " (:organization, :turn, :session, :number, 'alice', 'queued', 'restart', :message, :answer, 100,"
                    " 60, 1)"
                ),
                {"organization": self.organization, "answer": new_id(), **ids},
            )
            db.execute(
                text(
                    "insert into turnkeeper.messages (organization_id, id, session_id, turn_id, position, role,"
                    " content, status) values (:organization, :message, :session, :turn, :number * 2, 'user', :content,"
                    " 'complete')"
                ),
                {"organization": self.organization, "content": content, **ids},
            )
        return turn

    def turn(self, turn):
        (row,) = self.rows("select * from turnkeeper.turns where id = :turn", turn=turn)
        return row

    def session_row(self):
        (row,) = self.rows("select * from turnkeeper.sessions where id = :session", session=self.session)
        return row

    def claim(self, turn, worker=WORKER, lease_seconds=600.0):
        return claim_turn(self.database, turn, worker, lease_seconds=lease_seconds, context_tokens=10_000)


@pytest.fixture
def ledgers(database, organization):
    return Ledgers(database, organization)


def settlement(claim, **options):
    return Settlement(claim.organization_id, claim.turn_id, claim.attempt, last_seq=9, **options)


def test_a_turn_is_claimed_once_by_one_of_many_workers(ledgers):
    turn = ledgers.queue_turn()
    claims, barrier = [], threading.Barrier(8)

    def rush():
        barrier.wait(timeout=60)
        claims.append(ledgers.claim(turn, new_id()))

    threads = [threading.Thread(target=rush) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [claim.attempt for claim in claims if claim is not None] == [1]
    assert ledgers.turn(turn).status == "running"


def test_a_doorbell_that_rings_again_later_or_for_no_turn_claims_nothing(ledgers, settings):
    turn = ledgers.queue_turn()
    claim = ledgers.claim(turn)
    assert ledgers.claim(turn) is None
    settle(ledgers.database, settings.provider, settlement(claim), Completed(ANSWER, FinishReason.STOP))
    assert ledgers.claim(turn) is None
    assert ledgers.claim(new_id()) is None


def test_a_claim_reads_the_history_below_the_turn_and_the_question_once(ledgers, settings):
    first = ledgers.claim(ledgers.queue_turn("one"))
    settle(ledgers.database, settings.provider, settlement(first), Completed(ANSWER, FinishReason.STOP))
    second = ledgers.queue_turn("two")
    ledgers.queue_turn("three, which waits behind")
    history = ledgers.claim(second).history
    assert [(message.role, message.content) for message in history] == [
        ("user", "one"),
        ("assistant", "hello"),
        ("user", "two"),
    ]


def test_a_turn_waits_for_the_earlier_ones_of_its_session(ledgers, settings):
    first, second = ledgers.queue_turn(), ledgers.queue_turn()
    assert ledgers.claim(second) is None
    claim = ledgers.claim(first)
    assert ledgers.claim(second) is None
    settle(ledgers.database, settings.provider, settlement(claim), Completed(ANSWER, FinishReason.STOP))
    assert ledgers.claim(second) is not None


def test_a_completed_turn_leaves_one_answer_one_ledger_row_and_its_totals(ledgers, settings):
    claim = ledgers.claim(ledgers.queue_turn())
    ended = Completed(ANSWER, FinishReason.LENGTH)
    row = settle(ledgers.database, settings.provider, settlement(claim, first_token_ago_seconds=0.5), ended)
    assert (row.status, row.finish_reason, row.cost_usd, row.last_seq) == ("completed", "length", COST, 9)
    (message,) = ledgers.rows("select * from turnkeeper.messages where role = 'assistant'")
    assert (message.content, message.reasoning, message.status) == ("hello", "hm", "complete")
    assert (message.position, message.id) == (3, ledgers.turn(claim.turn_id).message_id)
    (bill,) = ledgers.rows("select * from turnkeeper.ledger")
    assert (bill.attempt, bill.cost_usd, bill.usage_source, bill.provider) == (
        1,
        COST,
        "provider",
        "scripted",
    )
    assert bill.price["input_per_m_usd"] == "3"
    session = ledgers.session_row()
    assert (session.turn_count, session.cost_usd, session.output_tokens) == (1, COST, 5)
    totals = ledgers.rows("select period, spent_usd, attempts from turnkeeper.spend order by period")
    assert [tuple(total) for total in totals] == [("day", COST, 1), ("month", COST, 1)]


def test_a_settled_turn_cannot_be_settled_again(ledgers, settings):
    claim = ledgers.claim(ledgers.queue_turn())
    assert settle(
        ledgers.database, settings.provider, settlement(claim), Completed(ANSWER, FinishReason.STOP)
    )
    failed = Failed(ANSWER, Fault.INTERNAL, "again")
    assert settle(ledgers.database, settings.provider, settlement(claim), failed) is None
    assert read_settled(ledgers.database, settlement(claim)).status == "completed"
    assert len(ledgers.rows("select 1 from turnkeeper.ledger")) == 1
    assert ledgers.session_row().turn_count == 1


def test_a_worker_that_lost_its_lease_cannot_write(ledgers, settings):
    turn = ledgers.queue_turn()
    zombie = ledgers.claim(turn, WORKER, lease_seconds=-1.0)
    assert (
        ledgers.claim(turn, OTHER_WORKER) is None
    )  # only a sweeper gives it to another: it bills the dead attempt
    settle(ledgers.database, settings.provider, settlement(zombie, lost_to=OTHER_WORKER), Requeued(NOTHING))
    newer = ledgers.claim(turn, OTHER_WORKER)
    assert (zombie.attempt, newer.attempt) == (1, 2)
    assert (
        settle(ledgers.database, settings.provider, settlement(zombie), Completed(ANSWER, FinishReason.STOP))
        is None
    )
    assert ledgers.rows("select 1 from turnkeeper.ledger") == []
    assert ledgers.turn(turn).status == "running"


def test_a_stopped_turn_keeps_its_text_and_is_billed_for_what_it_used(ledgers, settings):
    claim = ledgers.claim(ledgers.queue_turn())
    ledgers.write(
        "update turnkeeper.turns set status = 'stopping', stop_reason = 'session_closed' where id = :turn",
        turn=claim.turn_id,
    )
    row = settle(ledgers.database, settings.provider, settlement(claim), Stopped(ANSWER, StopReason.USER))
    assert (row.status, row.stop_reason, row.cost_usd) == ("stopped", "session_closed", COST)
    (message,) = ledgers.rows("select * from turnkeeper.messages where role = 'assistant'")
    assert (message.content, message.status) == ("hello", "partial")


def test_cache_writes_of_an_hour_are_billed_apart_and_stand_in_the_ledger(ledgers, settings):
    claim = ledgers.claim(ledgers.queue_turn())
    used = Usage(input_tokens=10, cache_write_tokens=7, cache_write_1h_tokens=3, output_tokens=5)
    answer = Answer("hello", "", called=True, usage=used, usage_source=UsageSource.PROVIDER)
    settle(ledgers.database, settings.provider, settlement(claim), Completed(answer, FinishReason.STOP))
    (row,) = ledgers.rows("select * from turnkeeper.ledger")
    assert (row.cache_write_tokens, row.cache_write_1h_tokens) == (7, 3)
    assert row.cost_usd == COST + (4 * Decimal("3.75") + 3 * 6) / 1_000_000
    assert row.price["cache_write_1h_per_m_usd"] == "6"
    assert row.price["assumed"] is False


LONG_PROMPTS = """
[[prices]]
provider = "openai-compatible"
model = "m"
input = 1
output = 2
long_prompt = { above_tokens = 100, input = 10, output = 20 }
"""


@pytest.mark.parametrize(("longest", "rate"), [(60, 1), (100, 1), (101, 10), (None, 10)])
def test_calls_of_an_attempt_are_not_billed_as_one_long_prompt(ledgers, settings, tmp_path, longest, rate):
    prices = tmp_path / "prices.toml"
    prices.write_text(LONG_PROMPTS)
    table = read_price_table(prices, PRICED, [])
    provider = replace(
        settings.provider, name=ProviderName.OPENAI_COMPATIBLE, model="m", prices=table, declared_price=None
    )
    claim = ledgers.claim(ledgers.queue_turn())
    used = Usage(input_tokens=120, output_tokens=5)
    answer = Answer(
        "hello",
        "",
        called=True,
        usage=used,
        usage_source=UsageSource.ESTIMATED,
        longest=None if longest is None else Usage(input_tokens=longest),
    )
    row = settle(ledgers.database, provider, settlement(claim), Completed(answer, FinishReason.STOP))
    assert row.cost_usd == Decimal(rate * (120 + 2 * 5)) / 1_000_000


def test_what_the_provider_said_is_kept_with_a_turn_that_failed_or_waits_again(ledgers, settings):
    turn_id = ledgers.queue_turn()
    claim = ledgers.claim(turn_id)
    waits = Requeued(NOTHING, fault=Fault.PROVIDER_OVERLOADED, said="503: no capacity")
    settle(ledgers.database, settings.provider, settlement(claim), waits)
    said = "select provider_error from turnkeeper.turns"
    assert ledgers.rows(said) == [("503: no capacity",)]
    claim = ledgers.claim(turn_id)
    failed = Failed(NOTHING, Fault.PROVIDER_REJECTED, "no", said="400: no such model")
    row = settle(ledgers.database, settings.provider, settlement(claim), failed)
    assert "said" not in row.error
    assert ledgers.rows(said) == [("400: no such model",)]


def test_a_turn_that_failed_before_its_call_costs_nothing_and_does_not_count(ledgers, settings):
    claim = ledgers.claim(ledgers.queue_turn())
    failed = Failed(NOTHING, Fault.PROVIDER_UNREACHABLE, "no route")
    row = settle(ledgers.database, settings.provider, settlement(claim), failed)
    assert (row.status, row.cost_usd, row.usage_source) == ("failed", 0, None)
    assert row.error["code"] == "provider_unreachable"
    assert row.error["retryable"] is True
    assert ledgers.rows("select 1 from turnkeeper.ledger") == []
    assert ledgers.rows("select 1 from turnkeeper.messages where role = 'assistant'") == []
    assert ledgers.session_row().turn_count == 0


def test_a_failed_turn_moves_the_sessions_last_activity(ledgers, settings):
    claim = ledgers.claim(ledgers.queue_turn())
    ledgers.write("update turnkeeper.sessions set last_activity_at = now() - interval '1 hour'")
    before = ledgers.session_row().last_activity_at
    settle(ledgers.database, settings.provider, settlement(claim), Failed(ANSWER, Fault.INTERNAL, "x"))
    assert ledgers.session_row().last_activity_at > before


def test_a_requeued_turn_bills_its_dead_attempt_and_counts_once_when_it_ends(ledgers, settings):
    turn = ledgers.queue_turn()
    dead = ledgers.claim(turn, lease_seconds=-1.0)
    row = settle(
        ledgers.database, settings.provider, settlement(dead, lost_to=OTHER_WORKER), Requeued(ANSWER)
    )
    assert (row.status, row.finished_at) == ("queued", None)
    assert ledgers.session_row().turn_count == 0
    again = ledgers.claim(turn)
    assert again.attempt == 2
    settle(ledgers.database, settings.provider, settlement(again), Completed(ANSWER, FinishReason.STOP))
    bills = ledgers.rows("select attempt, cost_usd from turnkeeper.ledger order by attempt")
    assert [tuple(bill) for bill in bills] == [(1, COST), (2, COST)]
    assert ledgers.turn(turn).cost_usd == ledgers.session_row().cost_usd == 2 * COST
    assert ledgers.session_row().turn_count == 1


@pytest.mark.parametrize(
    "ending", [Requeued(ANSWER), Failed(ANSWER, Fault.WORKER_LOST, "x"), Stopped(ANSWER, StopReason.USER)]
)
def test_who_settles_in_place_of_a_dead_worker_raises_the_attempt_and_bills_the_dead_one(
    ledgers, settings, ending
):
    dead = ledgers.claim(ledgers.queue_turn(), lease_seconds=-1.0)
    if isinstance(ending, Stopped):
        ledgers.write("update turnkeeper.turns set status = 'stopping', stop_reason = 'user'")
    row = settle(ledgers.database, settings.provider, settlement(dead, lost_to=OTHER_WORKER), ending)
    assert (row.attempt, ledgers.turn(dead.turn_id).attempt) == (2, 2)
    (bill,) = ledgers.rows("select attempt from turnkeeper.ledger")
    assert bill.attempt == 1
    if isinstance(ending, Requeued):
        assert ledgers.claim(dead.turn_id).attempt == 2


def test_an_attempt_that_its_worker_ends_keeps_its_number(ledgers, settings):
    claim = ledgers.claim(ledgers.queue_turn())
    row = settle(ledgers.database, settings.provider, settlement(claim), Completed(ANSWER, FinishReason.STOP))
    assert row.attempt == 1


def test_a_sweeper_cannot_take_a_turn_whose_lease_is_good(ledgers, settings):
    claim = ledgers.claim(ledgers.queue_turn())
    taken = settle(
        ledgers.database, settings.provider, settlement(claim, lost_to=OTHER_WORKER), Requeued(ANSWER)
    )
    assert taken is None
    assert ledgers.turn(claim.turn_id).status == "running"


def test_writes_after_the_stream_pass_row_level_security_because_the_row_says_whose_they_are(
    ledgers, settings, database, owner_url
):
    claim = ledgers.claim(ledgers.queue_turn())
    # A pooled connection that served another organization just before must carry nothing over.
    with database.of(new_id()) as db:
        assert db.execute(text("select count(*) from turnkeeper.turns")).scalar_one() == 0
    assert settle(database, settings.provider, settlement(claim), Completed(ANSWER, FinishReason.STOP))
