"""Which content of old sessions is removed, what is kept, and that a sweeper does it."""

import dataclasses
from decimal import Decimal
from types import SimpleNamespace

import pytest

from shared.errors import UnavailableError
from tests.integration.conftest import choices_of
from worker.recovery.retention import forget_old_sessions
from worker.recovery.sweeper import Sweeper

DAYS = 30
CONTENT = "words that must go"


@pytest.fixture
def run(as_owner):
    """Ends turns and passes time."""

    def complete(turn):
        as_owner(
            "update turnkeeper.turns set status = 'completed', finish_reason = 'stop', message_id = answer_id,"
            " attempt = 1, output_tokens = 5, cost_usd = 0.5, usage_source = 'provider', finished_at = now()"
            " where id = :id",
            id=turn,
        )
        as_owner(
            "insert into turnkeeper.messages"
            " (organization_id, id, session_id, turn_id, position, role, content, status)"
            " select organization_id, answer_id, session_id, id, number * 2 + 1, 'assistant', :content, 'complete'"
            " from turnkeeper.turns where id = :id",
            id=turn,
            content=CONTENT,
        )
        as_owner(
            "insert into turnkeeper.ledger (organization_id, id, turn_id, session_id, user_name, attempt, provider,"
            " model, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,"
            " usage_source, price, cost_usd) select organization_id, gen_random_uuid(), id, session_id, user_name, 1,"
            " 'p', 'm', 1, 0, 0, 5, 0, 'provider', '{}', 0.5 from turnkeeper.turns where id = :id",
            id=turn,
        )

    def ended(session, days, status="closed"):
        as_owner(
            "update turnkeeper.sessions set status = :status, closed_at = now() - make_interval(days => :days)"
            " where id = :id",
            id=session,
            days=days,
            status=status,
        )

    return SimpleNamespace(complete=complete, ended=ended)


@pytest.fixture
def full_session(api, keys, run):
    """Makes a session with content in every place that can hold some."""

    def make(key=keys.alice, **fields):
        session = api.session(key, title=CONTENT, system_prompt=CONTENT, metadata={"note": CONTENT}, **fields)
        answer = api.post(
            f"/v1/sessions/{session}/turns",
            key,
            json={"content": CONTENT, "metadata": {"note": CONTENT}},
            headers={"Idempotency-Key": f"key-{session}"},
        )
        assert answer.status_code == 202
        run.complete(answer.json["id"])
        assert api.post(f"/v1/sessions/{session}/flag", key, json={"reason": CONTENT}).status_code == 200
        return session, answer.json["id"]

    return make


def everything(as_owner):
    """Return all rows as text: what is not in it is nowhere."""
    tables = as_owner("select tablename from pg_tables where schemaname = 'turnkeeper'")
    return "\n".join(
        str(row) for (table,) in tables for row in as_owner(f"select t::text from turnkeeper.{table} as t")
    )


def forget(database, days=DAYS, **options):
    with database.across() as db:
        return forget_old_sessions(db, days, **options)


@pytest.mark.parametrize("status", ["closed", "expired"])
def test_an_old_sessions_content_goes_and_what_it_cost_stays(
    api, keys, database, as_owner, run, full_session, status
):
    session, turn = full_session()
    run.ended(session, DAYS + 1, status)
    as_owner(
        "insert into turnkeeper.checkpoints (organization_id, turn_id, attempt, seq, called, content, reasoning)"
        " select organization_id, id, 1, 1, true, :content, '' from turnkeeper.turns",
        content=CONTENT,
    )
    before = api.get(f"/v1/turns/{turn}", keys.alice).json
    assert CONTENT in everything(as_owner)
    assert forget(database) == 1
    assert CONTENT not in everything(as_owner)
    assert api.get(f"/v1/sessions/{session}/messages", keys.alice).json["data"] == []
    shown = api.get(f"/v1/sessions/{session}", keys.alice).json
    assert (shown["status"], shown["title"], shown["system_prompt"], shown["metadata"]) == (
        status,
        None,
        None,
        {},
    )
    assert shown["flagged"] is True
    after = api.get(f"/v1/turns/{turn}", keys.alice).json
    assert after == {**before, "message_id": None, "metadata": {}}
    assert as_owner("select cost_usd, user_name from turnkeeper.ledger") == [(Decimal("0.5"), "alice")]
    assert as_owner("select count(*) from turnkeeper.idempotency_keys") == [(0,)]


def test_a_reader_of_a_forgotten_turn_is_told_its_end(api, keys, database, run, full_session):
    session, turn = full_session()
    run.ended(session, DAYS + 1)
    forget(database)
    events = api.get(f"/v1/turns/{turn}/events", keys.alice).json
    assert events["done"] is True
    assert events["data"][-1]["type"] == "done"


def test_young_open_and_busy_sessions_keep_their_content(api, keys, database, as_owner, run, full_session):
    young, _ = full_session()
    run.ended(young, DAYS - 1)
    open_session, _ = full_session()
    as_owner("update turnkeeper.sessions set created_at = now() - interval '90 days'")
    busy, _ = full_session()
    api.turn(keys.alice, busy, "waits")
    run.ended(busy, DAYS + 1)
    assert forget(database) == 0
    for session in (young, open_session, busy):
        assert api.get(f"/v1/sessions/{session}/messages", keys.alice).json["data"], session


def test_batches_go_on_where_the_last_one_ended_and_repeat_nothing(database, run, full_session, as_owner):
    for number in range(5):
        run.ended(full_session()[0], DAYS + 1 + number)
    assert [forget(database, most=2) for _ in range(4)] == [2, 2, 1, 0]
    assert CONTENT not in everything(as_owner)


def test_a_batch_ends_with_the_session_that_makes_it_large(database, run, full_session, as_owner):
    for number in range(3):
        run.ended(full_session()[0], DAYS + 9 - number)
    as_owner("update turnkeeper.sessions set next_turn_number = 10000")
    assert [forget(database) for _ in range(4)] == [1, 1, 1, 0]


def test_what_is_written_into_a_forgotten_session_goes_too(api, keys, database, as_owner, run, full_session):
    session, _ = full_session()
    run.ended(session, DAYS + 1, "expired")
    forget(database)
    assert (
        api.call("PATCH", f"/v1/sessions/{session}", keys.alice, json={"title": CONTENT}).status_code == 200
    )
    assert forget(database) == 1
    assert api.post(f"/v1/sessions/{session}/flag", keys.alice, json={"reason": CONTENT}).status_code == 200
    assert forget(database) == 1
    assert CONTENT not in everything(as_owner)


def test_what_is_removed_is_logged_by_counts_only(database, run, full_session, caplog):
    run.ended(full_session()[0], DAYS + 1)
    with caplog.at_level("INFO", "turnkeeper.retention"):
        forget(database)
        forget(database)
    (record,) = [record for record in caplog.records if record.name == "turnkeeper.retention"]
    assert (record.sessions, record.messages) == (1, 2)
    assert CONTENT not in str(vars(record))


@pytest.fixture
def sweeper(settings, database):
    """Makes a sweeper for a number of days; nothing here needs its publisher."""

    def make(days):
        kept = dataclasses.replace(settings, retention_days=days)
        return Sweeper(kept, choices_of(kept), None, database, None, None, lambda *_: None)

    return make


def until_forgotten(sweeper, rounds=40):
    for _ in range(rounds):
        sweeper.sweep()


def test_a_sweeper_forgets_after_the_days_that_are_set(sweeper, run, full_session, as_owner):
    run.ended(full_session()[0], 3)
    until_forgotten(sweeper(None))
    until_forgotten(sweeper(4))
    assert CONTENT in everything(as_owner)
    until_forgotten(sweeper(2))
    assert CONTENT not in everything(as_owner)


def test_a_sweeper_whose_retention_fails_has_done_its_other_duties(
    sweeper, run, full_session, api, keys, as_owner, monkeypatch
):
    def fail(*_):
        raise UnavailableError("no")

    monkeypatch.setattr("worker.recovery.sweeper.forget_old_sessions", fail)
    idle = api.session(keys.alice)
    as_owner(
        "update turnkeeper.sessions set last_activity_at = now() - interval '3 hours' where id = :id", id=idle
    )
    swept, failures = sweeper(1), 0
    for _ in range(40):
        try:
            swept.sweep()
        except UnavailableError:
            failures += 1
    assert failures == 2
    assert api.get(f"/v1/sessions/{idle}", keys.alice).json["status"] == "expired"


@pytest.mark.parametrize(("column", "age"), [("last_activity_at", "3 hours"), ("created_at", "25 hours")])
def test_a_sweeper_expires_idle_and_old_sessions_in_their_rows(sweeper, api, keys, as_owner, column, age):
    idle, busy, young = (api.session(keys.alice) for _ in range(3))
    api.turn(keys.alice, busy)
    as_owner(
        f"update turnkeeper.sessions set {column} = now() - cast(:age as interval) where id = any(:ids)",
        age=age,
        ids=[idle, busy],
    )
    swept = sweeper(None)
    for _ in range(15):
        swept.sweep()
    found = {
        str(row.id): (row.status, row.closed_at is not None)
        for row in as_owner("select * from turnkeeper.sessions")
    }
    assert found == {idle: ("expired", True), busy: ("active", False), young: ("active", False)}
