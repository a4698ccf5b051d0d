"""What a provider says it used and cannot have: billed up to the bound, kept beside the bill, and shown."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from shared.configuration.settings import load_settings
from shared.metrics import table
from shared.money.usage import Reported, Usage, UsageSource
from shared.turn.turns import FinishReason, StopReason
from tests.integration.conftest import LONG_LEASES
from tests.integration.test_holds import bank
from tests.integration.test_worker import Desk, counted, patience, patient_worker, provider
from turnkeeper.scripted.figures import INFLATED
from worker.turn.outcome import Answer, Completed, Requeued, Stopped

__all__ = ["bank", "patience", "provider"]

SAID = Reported(Usage(10, output_tokens=10**9))
DISPUTED = Answer(
    "hello",
    "",
    called=True,
    usage=Usage(10, output_tokens=500),
    usage_source=UsageSource.DISPUTED,
    reported=SAID,
)
HONEST = Answer("hello", "", called=True, usage=Usage(10, output_tokens=5), usage_source=UsageSource.PROVIDER)
MOST_OUTPUT = 500


def rows_of(bank, turn):
    return bank.as_owner("select * from turnkeeper.ledger where turn_id = :t order by attempt", t=turn)


@pytest.mark.parametrize(
    "ending", [Completed(DISPUTED, FinishReason.STOP), Stopped(DISPUTED, StopReason.USER)]
)
def test_the_ledger_keeps_what_the_provider_said_beside_what_is_billed(bank, keys, ending):
    turn = bank.accepted()
    bank.settle(bank.claim(turn), ending)
    (row,) = rows_of(bank, turn)
    assert (row.usage_source, row.output_tokens, row.reported) == ("disputed", 500, SAID.as_dict())
    assert bank.turn(turn).usage_source == "disputed"
    assert bank.api.get(f"/v1/turns/{turn}", bank.key).json["usage_source"] == "disputed"
    (shown,) = bank.api.get("/v1/ledger?usage_source=disputed", keys.admin).json["data"]
    assert (shown["usage"]["output_tokens"], shown["reported"]["output_tokens"]) == (500, 10**9)
    csv = bank.api.get("/v1/ledger", keys.admin, headers={"Accept": "text/csv"}).get_data(as_text=True)
    assert '""output_tokens"":1000000000' in csv


def test_what_an_attempt_disputes_its_turn_does(bank):
    turn = bank.accepted()
    bank.settle(bank.claim(turn), Requeued(DISPUTED))
    bank.settle(bank.claim(turn), Completed(HONEST, FinishReason.STOP))
    assert [row.usage_source for row in rows_of(bank, turn)] == ["disputed", "provider"]
    assert bank.turn(turn).usage_source == "disputed"


def test_a_contradiction_is_kept_and_billed_as_it_is(bank):
    turn = bank.accepted()
    said = Reported(Usage(10, output_tokens=5), 40)
    answer = Answer("hello", "", True, Usage(10, output_tokens=5), UsageSource.PROVIDER, reported=said)
    bank.settle(bank.claim(turn), Completed(answer, FinishReason.STOP))
    (row,) = rows_of(bank, turn)
    assert (row.usage_source, row.reported["total_tokens"]) == ("provider", 40)


def test_a_dead_attempts_checkpoint_keeps_what_the_provider_said(bank, monkeypatch):
    turn = bank.accepted(recovery="fail")
    claim = bank.claim(turn)
    bank.as_owner(
        "insert into turnkeeper.checkpoints (organization_id, turn_id, attempt, seq, called, content, reasoning,"
        " input_tokens, output_tokens, usage_source, reported) values (:o, :t, 1, 3, true, 'hello', '', 10, 500,"
        " 'disputed', cast(:said as jsonb))",
        o=bank.organization,
        t=turn,
        said=json.dumps(SAID.as_dict()),
    )
    bank.as_owner(
        "update turnkeeper.turns set lease_expires_at = now() - interval '1 s' where id = :t", t=turn
    )
    bank.sweep(monkeypatch)
    (row,) = rows_of(bank, turn)
    assert (row.attempt, row.usage_source, row.reported) == (claim.attempt, "disputed", SAID.as_dict())


@pytest.fixture
def desk(database, environment, organization, provider, patience):
    settings = load_settings({**environment, "SCRIPTED_BASE_URL": f"{provider}/v1", **LONG_LEASES})
    worker = patient_worker(settings)
    worker.start()
    desk = Desk(database, organization, worker, settings, provider)
    yield desk
    desk.close()
    worker.stop()


@pytest.mark.parametrize("has_budget", [False, True])
def test_a_lying_provider_is_billed_the_bound_with_and_without_a_budget(desk, as_owner, caplog, has_budget):
    if has_budget:
        as_owner("update turnkeeper.organizations set daily_usd = 1 where id = :o", o=desk.organization)
    content = "[[tokens=5 usage=inflated]]"
    turn = desk.queue(content)
    desk.ring(turn)
    row = desk.ended(turn)
    assert (row.status, row.finish_reason) == (
        "completed",
        "stop",
    )  # its text is whole: no figure costs the answer
    (billed,) = desk.sql("select * from turnkeeper.ledger where turn_id = :t", t=turn)
    most_prompt = len(content) + 8 + 128
    assert (billed.usage_source, billed.input_tokens + billed.cache_read_tokens) == ("disputed", most_prompt)
    assert billed.output_tokens == MOST_OUTPUT
    assert billed.reported["output_tokens"] > INFLATED
    assert billed.cost_usd < Decimal("0.02")
    (spent,) = desk.sql(
        "select spent_usd from turnkeeper.spend where period = 'day' and starts_on = :d",
        d=datetime.now(UTC).date(),
    )
    assert spent.spent_usd == billed.cost_usd
    assert desk.told(turn)[-1]["usage_source"] == "disputed"
    assert counted(desk, table.DISPUTED) == 1
    assert any("more tokens than the turn can have used" in record.message for record in caplog.records)


def test_an_honest_provider_is_not_disputed(desk):
    turn = desk.queue("[[tokens=40 reasoning=20]]")
    desk.ring(turn)
    desk.ended(turn)
    (billed,) = desk.sql("select * from turnkeeper.ledger where turn_id = :t", t=turn)
    assert (billed.usage_source, billed.reported) == ("provider", None)
    assert counted(desk, table.DISPUTED) == 0
