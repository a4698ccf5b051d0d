"""Corrections of the ledger: rows that are added, and counted everywhere that the ledger is."""

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sqlalchemy import text

from shared.ids import new_id
from shared.money.usage import Usage, UsageSource
from shared.turn.turns import FinishReason, StopReason
from tests.integration.test_holds import COST, bank
from tests.refused import refused
from turnkeeper.cli import main
from worker.recovery.retention import forget_old_sessions
from worker.turn.outcome import Answer, Completed, Requeued, Stopped

__all__ = ["bank"]

WRONG = Answer(
    "hello",
    "",
    called=True,
    usage=Usage(input_tokens=10, output_tokens=4000, reasoning_tokens=3000),
    usage_source=UsageSource.PROVIDER,
)
WRONG_COST = Decimal("0.06003")
WHY = ("--reason", "the provider counted wrongly", "--by", "ops", "--yes")


@pytest.fixture
def billed(bank):
    """Return a turn that was billed too much, within a budget that it used up."""
    bank.budget(Decimal("0.07"), Decimal("0.07"))
    turn = bank.accepted(max_output_tokens=4000)
    bank.settle(bank.claim(turn), Completed(WRONG, FinishReason.STOP))
    bank.budget(Decimal("0.061"), Decimal("0.061"))
    return turn


def correct(row, *options, expected=0):
    assert main(["ledger", "correct", str(row), *WHY, *options]) == expected


def rows(bank):
    return bank.rows(
        "select * from turnkeeper.ledger where organization_id = :o order by turn_id, attempt, correction"
    )


def session_of(bank, turn):
    (session,) = bank.rows(
        "select * from turnkeeper.sessions where organization_id = :o and id = :s",
        s=bank.turn(turn).session_id,
    )
    return session


def test_a_correction_is_a_row_of_its_own_that_frees_the_budget(bank, keys, billed):
    bank.refused(max_output_tokens=1000)
    before = rows(bank)
    correct(billed, "--output-tokens", "5")
    wrong, correction = rows(bank)
    assert [wrong] == before  # as it was
    assert (correction.output_tokens, correction.reasoning_tokens) == (-3995, -2995)
    assert correction.cost_usd == COST - WRONG_COST
    assert (correction.corrects, correction.correction, correction.attempt) == (wrong.id, 1, 1)
    assert (correction.day, correction.created_at) == (wrong.day, wrong.created_at)
    assert (correction.reason, correction.corrected_by) == ("the provider counted wrongly", "ops")
    assert bank.totals() == {"day": (COST, 0), "month": (COST, 0)}
    turn, session = bank.turn(billed), session_of(bank, billed)
    assert (turn.cost_usd, turn.output_tokens) == (session.cost_usd, session.output_tokens) == (COST, 5)
    bank.accepted(max_output_tokens=1000)


def test_it_is_in_the_ledger_usage_and_budget_that_are_shown(bank, keys, billed):
    correct(billed, "--output-tokens", "5")
    shown = bank.api.get("/v1/ledger", keys.admin).json["data"]
    of_kind = {row["kind"]: row for row in shown}
    usage, correction = of_kind["usage"], of_kind["correction"]
    assert (correction["corrects"], correction["reason"]) == (usage["id"], "the provider counted wrongly")
    assert (correction["cost_usd"], correction["usage"]["output_tokens"]) == ("-0.059925", -3995)
    assert (usage["corrects"], usage["reason"], usage["corrected_at"]) == (None, None, None)
    assert correction["corrected_at"] is not None
    day = datetime.now(UTC).date().isoformat()
    for group in ("day", "user", "model"):
        report = bank.api.get(f"/v1/usage?from={day}&to={day}&group_by={group}", keys.admin).json
        for totals in (report["totals"], *report["data"]):
            assert (totals["attempts"], totals["turns"], totals["cost_usd"]) == (1, 1, "0.000105")
    assert bank.api.get("/v1/budget", keys.admin).json["day"]["spent_usd"] == "0.000105"
    assert bank.api.get(f"/v1/turns/{billed}", bank.key).json["cost_usd"] == "0.000105"


def test_it_is_a_number_in_a_spreadsheet(bank, keys, billed):
    correct(billed, "--output-tokens", "5", "--reason", "=1+1")
    answer = bank.api.get("/v1/ledger", keys.admin, headers={"Accept": "text/csv"})
    table = list(csv.DictReader(io.StringIO(answer.get_data(as_text=True), newline="")))
    by_kind = {row["kind"]: row for row in table}
    assert sum(Decimal(row["cost_usd"]) for row in table) == COST
    assert sum(int(row["output_tokens"]) for row in table) == 5
    assert by_kind["correction"]["reason"] == "'=1+1"
    assert by_kind["correction"]["corrects"] == by_kind["usage"]["id"]


def test_repeating_it_adds_nothing(bank, billed, capsys):
    correct(billed, "--output-tokens", "5")
    once = rows(bank)
    correct(billed, "--output-tokens", "5")
    correct(once[0].id, "--usd", "0.000105")
    assert rows(bank) == once
    assert "says so already" in capsys.readouterr().out


def test_a_row_can_be_corrected_again_and_back(bank, billed):
    correct(billed, "--usd", "0")
    assert bank.totals()["day"] == (0, 0)
    correct(billed, "--usd", "0.06003")
    assert [row.correction for row in rows(bank)] == [0, 1, 2]
    assert bank.totals()["day"] == (WRONG_COST, 0)
    assert bank.turn(billed).output_tokens == 4000  # an amount alone changes no tokens


@pytest.mark.parametrize("amount", ["-0.01", "NaN", "1e-30", "Infinity", "much"])
def test_no_row_can_come_to_less_than_nothing(bank, billed, amount):
    correct(billed, f"--usd={amount}", expected=2)
    assert len(rows(bank)) == 1


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--output-tokens", "-1"),
        ("--output-tokens", "5", "--reasoning-tokens", "6"),
        ("--cache-write-1h-tokens", "1"),
        ("--usd", "0", "--reason", " "),
        ("--usd", "0", "--reason", "two\nlines"),
    ],
)
def test_what_makes_no_sense_is_refused(bank, billed, options):
    correct(billed, *options, expected=2)
    assert len(rows(bank)) == 1


def test_who_and_why_must_be_said_and_somebody_must_agree(bank, billed, capsys):
    assert main(["ledger", "correct", str(billed), "--usd", "0", "--by", "ops", "--yes"]) == 2
    assert main(["ledger", "correct", str(billed), "--usd", "0", "--reason", "wrong", "--yes"]) == 2
    assert main(["ledger", "correct", str(billed), "--usd", "0", "--reason", "wrong", "--by", "ops"]) == 2
    assert "--yes is required" in capsys.readouterr().err
    assert len(rows(bank)) == 1


def test_an_unknown_row_is_named_and_so_is_anothers(bank, billed, strangers, capsys):
    correct(new_id(), "--usd", "0", expected=2)
    correct(billed, "--usd", "0", "--org", "Globex", expected=2)
    assert "no row of the ledger" in capsys.readouterr().err
    assert len(rows(bank)) == 1


def test_a_turn_with_several_rows_asks_which(bank, capsys):
    turn = bank.accepted()
    bank.settle(bank.claim(turn), Requeued(WRONG))
    bank.settle(bank.claim(turn), Stopped(WRONG, StopReason.USER))
    correct(turn, "--usd", "0", expected=2)
    first, second = rows(bank)
    said = capsys.readouterr().err
    assert str(first.id) in said
    assert str(second.id) in said
    correct(second.id, "--usd", "0")
    assert bank.turn(turn).cost_usd == WRONG_COST


def test_a_turn_that_has_not_ended_can_be_corrected(bank):
    turn = bank.accepted()
    bank.settle(bank.claim(turn), Requeued(WRONG))
    correct(turn, "--usd", "0")
    bank.settle(bank.claim(turn), Stopped(WRONG, StopReason.USER))
    assert bank.turn(turn).cost_usd == WRONG_COST


def test_the_service_can_neither_correct_nor_change_nor_remove_a_row(bank, database, billed):
    correct(billed, "--usd", "0")
    (usage, _) = rows(bank)
    forged = {
        "organization_id": usage.organization_id,
        "id": new_id(),
        "turn_id": usage.turn_id,
        "session_id": usage.session_id,
        "user_name": usage.user_name,
        "attempt": usage.attempt,
        "provider": usage.provider,
        "model": usage.model,
        "input_tokens": 0,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "output_tokens": 0,
        "reasoning_tokens": 0,
        "usage_source": "provider",
        "price": json.dumps(usage.price),
        "cost_usd": Decimal("-0.01"),
        "day": usage.day,
        "correction": 9,
        "corrects": usage.id,
        "reason": "mine",
        "corrected_by": "me",
        "corrected_at": datetime.now(UTC),
    }
    insert = f"insert into turnkeeper.ledger ({', '.join(forged)}) values ({', '.join(f':{name}' for name in forged)})"
    for statement in (
        insert,
        "update turnkeeper.ledger set cost_usd = 0",
        "delete from turnkeeper.ledger",
    ):
        with (
            refused(r"row-level security|permission denied"),
            database.of(bank.organization) as db,
        ):
            db.execute(text(statement), forged if statement is insert else {})
    assert len(rows(bank)) == 2


def test_the_check_knows_a_correction_that_was_only_half_written(bank, billed, as_owner, capsys):
    correct(billed, "--usd", "0")
    as_owner("update turnkeeper.ledger set cost_usd = -1 where correction = 1")
    assert not bank.agrees()
    said = capsys.readouterr().out
    assert "with its corrections" in said
    assert "the ledger says" in said
    as_owner("update turnkeeper.ledger set cost_usd = :cost where correction = 1", cost=-WRONG_COST)
    as_owner("update turnkeeper.ledger set corrects = :other where correction = 1", other=new_id())
    assert not bank.agrees()
    assert "corrects no row of its turn" in capsys.readouterr().out
    (usage, _) = rows(bank)
    as_owner("update turnkeeper.ledger set corrects = :row where correction = 1", row=usage.id)


def test_retention_keeps_it(bank, database, billed, as_owner):
    correct(billed, "--usd", "0")
    as_owner("update turnkeeper.sessions set status = 'closed', closed_at = now() - interval '9 days'")
    with database.across() as db:
        forget_old_sessions(db, 1)
    assert [row.correction for row in rows(bank)] == [0, 1]


def test_erasing_a_user_keeps_it_under_the_pseudonym(bank, billed, environment, monkeypatch):
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, environment[name])
    correct(billed, "--usd", "0")
    user = bank.turn(billed).user_name
    assert main(["users", "erase", user, "--yes", "--organization", str(bank.organization)]) == 0
    names = {row.user_name for row in rows(bank)}
    assert len(rows(bank)) == 2
    assert len(names) == 1
    assert user not in names
