"""The ledger over HTTP: rows, filters, pages and CSV."""

import csv
import io
import json
import socket
from datetime import date
from itertools import pairwise

import pytest
from sqlalchemy import text

from api.downloads import PART_SECONDS, WHOLE_SECONDS, Downloads
from shared.errors import RefusedError, UnavailableError
from shared.ids import new_id
from tests.integration.conftest import until
from tests.refused import refused

CSV = {"Accept": "text/csv"}


def ledger(api, key, query=""):
    answer = api.get(f"/v1/ledger?{query}", key)
    assert answer.status_code == 200, answer.json
    return answer.json


def ids(page):
    return [row["id"] for row in page["data"]]


def table(answer):
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.get_data(as_text=True), newline="")))


def test_a_row_is_shown_as_the_protocol_says(api, keys, bill):
    turn, session = new_id(), new_id()
    price = {"input_per_m_usd": "3", "output_per_m_usd": "15", "assumed": False}
    written = bill(
        "2026-01-31T09:30:00.0004Z",
        "0.0000000012",
        turn_id=turn,
        session_id=session,
        attempt=2,
        usage_source="partial",
        price=json.dumps(price),
    )
    (row,) = ledger(api, keys.admin)["data"]
    assert row == {
        "id": written,
        "turn_id": str(turn),
        "session_id": str(session),
        "user": "alice",
        "attempt": 2,
        "provider": "anthropic",
        "model": "claude-x",
        "usage": {
            "input_tokens": 10,
            "cache_read_tokens": 4,
            "cache_write_tokens": 3,
            "output_tokens": 5,
            "reasoning_tokens": 2,
        },
        "usage_source": "partial",
        "price": price,
        "cost_usd": "0.0000000012",
        "day": "2026-01-31",
        "created_at": "2026-01-31T09:30:00.000Z",
        "reported": None,
        "kind": "usage",
        "corrects": None,
        "reason": None,
        "corrected_by": None,
        "corrected_at": None,
    }


def test_pages_show_every_row_once_newest_first(api, keys, bill):
    # Several in one microsecond: the id decides.
    written = {bill(f"2026-01-01T00:00:00.00000{number % 3}Z") for number in range(11)}
    paged, cursor = [], ""
    while cursor is not None:
        page = ledger(api, keys.admin, f"limit=2{cursor and '&cursor=' + cursor}")
        paged += page["data"]
        cursor = page["next_cursor"]
        bill("2026-06-01T00:00:00Z", user_name="late")  # comes meanwhile and is on no later page
    assert {row["id"] for row in paged} == written
    assert len(paged) == len(written)
    assert all(older["created_at"] <= newer["created_at"] for newer, older in pairwise(paged))


@pytest.fixture
def several(bill, api, keys):
    """Rows that differ in one thing each, by name; the session is a real one with a turn."""
    session = api.session(keys.alice)
    turn = api.turn(keys.alice, session)
    own = {"session_id": session, "turn_id": turn}
    return {
        **own,
        "plain": bill("2026-01-05T00:00:00Z"),
        "bobs": bill("2026-01-04T00:00:00Z", user_name="bob"),
        "other model": bill("2026-01-03T00:00:00Z", model="claude-y"),
        "second attempt": bill("2026-01-02T23:59:59.999999Z", attempt=2, **own),
        "first attempt": bill("2026-01-02T00:00:00Z", **own),
    }


def test_filters_find_exactly_what_they_say(api, keys, several):
    session, turn = several["session_id"], several["turn_id"]
    for query, found in (
        ("", ["plain", "bobs", "other model", "second attempt", "first attempt"]),
        ("user=bob", ["bobs"]),
        ("user=nobody", []),
        ("user=alice", ["plain", "other model", "second attempt", "first attempt"]),
        ("model=claude-y", ["other model"]),
        (f"session_id={session}", ["second attempt", "first attempt"]),
        (f"turn_id={turn}", ["second attempt", "first attempt"]),
        (f"turn_id={turn}&session_id={session}&user=alice&model=claude-x&limit=1", ["second attempt"]),
        (f"turn_id={turn}&session_id={new_id()}", []),
        (f"turn_id={new_id()}", []),
        (f"session_id={session}&user=bob", []),
        ("from=2026-01-04", ["plain", "bobs"]),
        ("to=2026-01-02", ["second attempt", "first attempt"]),
        ("from=2026-01-02&to=2026-01-03", ["other model", "second attempt", "first attempt"]),
        ("from=2026-01-06", []),
        ("from=0001-01-01&to=9999-12-31&user=bob", ["bobs"]),
    ):
        assert ids(ledger(api, keys.admin, query)) == [several[name] for name in found], query
        if "limit" not in query:
            rows = table(api.get(f"/v1/ledger?{query}", keys.admin, headers=CSV))
            assert [row["id"] for row in rows] == [several[name] for name in found], query


def test_days_are_those_that_paid_as_in_usage(api, keys, bill):
    paid_before_midnight = bill("2026-01-03T00:04:00Z", "1", day=date(2026, 1, 2))
    waited_long = bill("2026-01-09T23:59:59Z", "2", day=date(2026, 1, 2))
    same_day = bill("2026-01-03T00:05:00Z", "4")
    for days, found in (
        ("from=2026-01-02&to=2026-01-02", [waited_long, paid_before_midnight]),
        ("to=2026-01-02", [waited_long, paid_before_midnight]),
        ("from=2026-01-03", [same_day]),
        ("from=2026-01-03&to=2026-01-09", [same_day]),
        ("", [waited_long, same_day, paid_before_midnight]),
    ):
        assert ids(ledger(api, keys.admin, days)) == found, days
        rows = table(api.get(f"/v1/ledger?{days}", keys.admin, headers=CSV))
        assert [row["id"] for row in rows] == found, days
    assert {row["id"]: row["day"] for row in rows} == {
        paid_before_midnight: "2026-01-02",
        waited_long: "2026-01-02",
        same_day: "2026-01-03",
    }
    added = api.get("/v1/usage?from=2026-01-02&to=2026-01-02", keys.admin).json["totals"]["cost_usd"]
    assert added == "3.000000"


def test_a_filter_that_is_none_is_refused(api, keys):
    for query, pointer in (
        ("session_id=x", "/query/session_id"),
        ("turn_id=", "/query/turn_id"),
        ("user=", "/query/user"),
        ("user=%00", "/query/user"),
        ("model=" + "x" * 201, "/query/model"),
        ("from=yesterday", "/query/from"),
        ("from=2026-01-02&to=2026-01-01", "/query/to"),
        ("cursor=x", "/query/cursor"),
        ("limit=0", "/query/limit"),
    ):
        answer = api.get(f"/v1/ledger?{query}", keys.admin)
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, pointer), query


def test_the_ledger_is_an_admins_and_the_organizations_own(api, keys, strangers, several):
    for accept in ({}, CSV):
        for key in (keys.alice, keys.service):
            answer = api.get("/v1/ledger", key, headers=accept)
            assert (answer.status_code, answer.json["code"]) == (403, "forbidden")
    for query in ("", "user=alice", f"session_id={several['session_id']}", f"turn_id={several['turn_id']}"):
        assert ids(ledger(api, strangers.admin, query)) == []
        assert table(api.get(f"/v1/ledger?{query}", strangers.admin, headers=CSV)) == []


def test_a_table_has_every_row_with_what_the_cost_was_made_of(api, keys, bill, monkeypatch):
    monkeypatch.setattr("api.ledger._ROWS_OF_A_PART", 2)
    written = [bill(f"2026-01-0{day}T00:00:00Z", f"0.{day}") for day in range(1, 6)]
    answer = api.get("/v1/ledger?limit=1", keys.admin, headers=CSV)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="ledger.csv"'
    assert answer.headers["Cache-Control"] == "no-store"
    rows = table(answer)
    assert [row["id"] for row in rows] == written[::-1]
    assert rows[0] | {"id": "", "session_id": "", "turn_id": "", "price": ""} == {
        "id": "",
        "created_at": "2026-01-05T00:00:00.000Z",
        "day": "2026-01-05",
        "user": "alice",
        "session_id": "",
        "turn_id": "",
        "attempt": "1",
        "provider": "anthropic",
        "model": "claude-x",
        "input_tokens": "10",
        "cache_read_tokens": "4",
        "cache_write_tokens": "3",
        "cache_write_1h_tokens": "1",
        "output_tokens": "5",
        "reasoning_tokens": "2",
        "usage_source": "provider",
        "price": "",
        "cost_usd": "0.500000",
        "reported": "",
        "kind": "usage",
        "corrects": "",
        "reason": "",
        "corrected_by": "",
        "corrected_at": "",
    }
    assert json.loads(rows[0]["price"])["input_per_m_usd"] == "0"


def test_no_cell_of_a_table_is_a_formula_and_every_name_survives(api, keys, bill):
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", '=HYPERLINK("http://x","y")', "\uff1d1"]
    plain = ['say "hi"', "a,b", "line\r\nbreak", "'quoted", "ünïcode", "a=1"]
    for number, name in enumerate([*formulas, *plain]):
        bill(f"2026-01-{number + 1:02}T00:00:00Z", user_name=name, model=name)
    rows = table(api.get("/v1/ledger", keys.admin, headers=CSV))[::-1]
    for column in ("user", "model"):
        assert [row[column] for row in rows] == [f"'{name}" for name in formulas] + plain


def test_a_table_is_sent_to_whoever_prefers_it(api, keys, bill):
    bill("2026-01-01T00:00:00Z")
    for accept, kind in (
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json, text/csv", "application/json"),
        ("text/html, */*;q=0.8", "application/json"),
        ("text/csv;q=0", "application/json"),
        ("application/json;q=0.5, text/csv", "text/csv"),
        ("text/csv", "text/csv"),
        ("text/csv, */*;q=0.1", "text/csv"),
    ):
        answer = api.get("/v1/ledger", keys.admin, headers={} if accept is None else {"Accept": accept})
        assert (answer.status_code, answer.mimetype) == (200, kind), accept


def test_a_table_is_made_while_it_is_sent_and_holds_no_connection_meanwhile(
    api, keys, bill, monkeypatch, as_owner
):
    monkeypatch.setattr("api.ledger._ROWS_OF_A_PART", 1)
    for day in range(1, 4):
        bill(f"2026-01-0{day}T00:00:00Z")
    answer = api.get("/v1/ledger", keys.admin, headers=CSV, buffered=False)
    parts = iter(answer.response)
    assert b"2026-01-03" in next(parts)
    as_owner("delete from turnkeeper.ledger where created_at < '2026-01-02'")  # not read yet
    # None is held until the rest is read; what another thread asks for meanwhile ends.
    until(lambda: not as_owner("select 1 from pg_stat_activity where state like 'idle in transaction%'"))
    rest = b"".join(parts)
    assert b"2026-01-02" in rest
    assert b"2026-01-01" not in rest
    answer.close()


def test_more_tables_at_once_than_may_be_are_refused_until_one_has_ended(api, keys, bill):
    bill("2026-01-01T00:00:00Z")
    most = max(1, api.services.settings.web_threads // 4)
    running = [api.get("/v1/ledger", keys.admin, headers=CSV, buffered=False) for _ in range(most)]
    answer = api.get("/v1/ledger", keys.admin, headers=CSV)
    assert (answer.status_code, answer.json["code"], answer.json["scope"]) == (
        429,
        "rate_limited",
        "downloads",
    )
    assert int(answer.headers["Retry-After"]) >= 1
    assert ledger(api, keys.admin)["data"]
    running[0].close()  # unread: its client went away
    assert len(table(api.get("/v1/ledger", keys.admin, headers=CSV))) == 1
    for each in running[1:]:
        each.close()


def test_what_cannot_be_read_takes_no_place_and_is_refused_as_a_problem(api, keys, monkeypatch):
    def fail(*_args, **_kwargs):
        raise UnavailableError("the database cannot be reached")

    with monkeypatch.context() as broken:
        broken.setattr("api.ledger.ledger_rows", fail)
        for _ in range(50):
            answer = api.get("/v1/ledger", keys.admin, headers=CSV)
            assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
    assert api.get("/v1/ledger", keys.admin, headers=CSV).status_code == 200


def test_a_table_that_takes_too_long_or_breaks_is_broken_off(api):
    now = [0.0]
    downloads = Downloads(1, clock=lambda: now[0])
    with api.app.test_request_context():
        answer = downloads.send(iter(["one", "two", "three"]), {})
        parts = iter(answer.response)
        assert next(parts) == "one"
        now[0] = WHOLE_SECONDS
        assert next(parts) == "two"
        now[0] += 0.1
        with pytest.raises(UnavailableError):
            next(parts)
        with pytest.raises(RefusedError):
            downloads.send(iter(()), {})
        answer.close()
        downloads.send(iter(()), {}).close()


def test_a_client_that_takes_nothing_is_waited_for_so_long_only(api, keys):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        api.get("/v1/ledger", keys.admin, headers=CSV, environ_overrides={"gunicorn.socket": ours})
        assert ours.gettimeout() == PART_SECONDS


def test_the_application_adds_to_the_ledger_and_neither_changes_nor_removes_a_row(
    database, organization, bill, as_owner
):
    written = bill("2026-01-01T00:00:00Z")
    for statement in (
        "update turnkeeper.ledger set cost_usd = 0",
        "update turnkeeper.ledger set user_name = 'x' where false",
        "delete from turnkeeper.ledger",
        "truncate turnkeeper.ledger",
        (
            "insert into turnkeeper.ledger select * from turnkeeper.ledger"
            " on conflict (organization_id, id) do update set cost_usd = 0"
        ),
    ):
        with refused("permission denied"), database.of(organization) as db:
            db.execute(text(statement))
    assert [str(row.id) for row in as_owner("select id from turnkeeper.ledger")] == [written]
    (row,) = as_owner(
        "select has_table_privilege('turnkeeper_app', 'turnkeeper.ledger', 'INSERT') as adds,"
        " has_any_column_privilege('turnkeeper_app', 'turnkeeper.ledger', 'UPDATE') as changes,"
        " has_table_privilege('turnkeeper_across', 'turnkeeper.ledger', 'UPDATE, DELETE, TRUNCATE') as across"
    )
    assert (row.adds, row.changes, row.across) == (True, False, False)


def test_rows_are_found_by_whose_figures_were_billed(api, keys, bill):
    ids = {source: bill("2026-01-02T00:00:00Z", usage_source=source) for source in ("provider", "estimated")}
    for source in ("provider", "partial", "estimated"):
        answer = api.get(f"/v1/ledger?usage_source={source}", keys.admin)
        assert [row["id"] for row in answer.json["data"]] == [ids[known] for known in ids if known == source]
        table = api.get(f"/v1/ledger?usage_source={source}", keys.admin, headers={"Accept": "text/csv"})
        assert (ids.get(source, "no row") in table.text) == (source in ids)
    assert api.get("/v1/ledger?usage_source=guessed", keys.admin).status_code == 422
