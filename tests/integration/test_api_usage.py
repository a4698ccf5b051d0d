"""Usage over HTTP: sums of the ledger."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from shared.ids import new_id

pytestmark = pytest.mark.usefixtures("one_day")

YEAR = "from=2026-01-01&to=2026-12-31"


def usage(api, key, query=""):
    answer = api.get(f"/v1/usage?{query}", key)
    assert answer.status_code == 200, answer.json
    return answer.json


def groups(report):
    return [(row["group"], row["cost_usd"], row["attempts"], row["turns"]) for row in report["data"]]


def test_days_are_utc_days_and_both_ends_are_included(api, keys, bill):
    bill("2025-12-31T23:59:59.999999Z", "100")
    bill("2026-01-01T00:00:00Z", "0.1")
    bill("2026-01-01T20:30:00-03:30", "0.2")  # the second, in UTC
    bill("2026-01-03T23:59:59.999999Z", "0.000000000000001")
    bill("2026-01-04T00:00:00Z", "100")
    report = usage(api, keys.admin, "from=2026-01-01&to=2026-01-03")
    assert groups(report) == [
        ("2026-01-03", "0.000000000000001", 1, 1),
        ("2026-01-02", "0.200000", 1, 1),
        ("2026-01-01", "0.100000", 1, 1),
    ]
    assert report["totals"]["cost_usd"] == "0.300000000000001"
    assert usage(api, keys.admin, "from=2026-01-02&to=2026-01-02")["totals"]["cost_usd"] == "0.200000"


def test_each_class_of_tokens_is_added_up(api, keys, bill):
    bill("2026-02-01T00:00:00Z")
    bill("2026-02-01T01:00:00Z", input_tokens=2**40, reasoning_tokens=0)
    (row,) = usage(api, keys.admin, YEAR)["data"]
    assert row["usage"] == {
        "input_tokens": 2**40 + 10,
        "cache_read_tokens": 8,
        "cache_write_tokens": 6,
        "output_tokens": 10,
        "reasoning_tokens": 2,
    }


def test_a_turn_is_counted_once_in_each_group_and_once_in_all(api, keys, bill):
    turn, late = new_id(), new_id()
    bill("2026-03-01T10:00:00Z", "1", turn_id=turn, attempt=1)
    bill("2026-03-01T11:00:00Z", "1", turn_id=turn, attempt=2)
    bill("2026-03-02T00:00:00Z", "1", turn_id=turn, attempt=4, model="claude-y")
    bill("2026-03-02T00:00:00Z", "1", turn_id=late, attempt=3)  # the first two reached no provider
    by_day = usage(api, keys.admin, YEAR)
    assert groups(by_day) == [("2026-03-02", "2.000000", 2, 2), ("2026-03-01", "2.000000", 2, 1)]
    assert (by_day["totals"]["attempts"], by_day["totals"]["turns"]) == (4, 2)
    by_model = usage(api, keys.admin, f"{YEAR}&group_by=model")
    assert groups(by_model) == [("claude-x", "3.000000", 3, 2), ("claude-y", "1.000000", 1, 1)]
    assert by_model["totals"] == by_day["totals"]
    # A turn whose first attempt lies before the first day is counted where it goes on.
    second = usage(api, keys.admin, "from=2026-03-02&to=2026-03-02")
    assert second["totals"]["turns"] == 2


@pytest.mark.parametrize("group_by", ["day", "user", "model"])
def test_pages_show_every_group_once_with_the_totals_of_all(api, keys, bill, group_by):
    names = ["a", "B", "ä", "ab", "a b", "é" * 200, "\N{GRINNING FACE}" * 200, "'--", '"', "2026-04-01"]
    for number, name in enumerate(names):
        bill(f"2026-04-{number + 1:02}T12:00:00Z", str(number), user_name=name, model=name)
    whole = usage(api, keys.admin, f"{YEAR}&group_by={group_by}&limit=100")
    paged, cursor = [], ""
    while cursor is not None:
        report = usage(api, keys.admin, f"{YEAR}&group_by={group_by}&limit=3{cursor and '&cursor=' + cursor}")
        assert len(report["data"]) <= 3
        assert report["totals"] == whole["totals"]
        paged += report["data"]
        cursor = report["next_cursor"]
    assert paged == whole["data"]
    expected = sorted(names) if group_by != "day" else [f"2026-04-{day:02}" for day in range(10, 0, -1)]
    assert [row["group"] for row in paged] == expected
    assert sum(Decimal(row["cost_usd"]) for row in paged) == Decimal(whole["totals"]["cost_usd"]) == 45


def test_the_most_expensive_come_first_when_asked_for(api, keys, bill):
    for name, cost in (("ann", "1"), ("bob", "3"), ("cid", "0.000001"), ("ann", "1.5"), ("dan", "3")):
        bill("2026-04-01T12:00:00Z", cost, user_name=name)
    report = usage(api, keys.admin, f"{YEAR}&group_by=user&sort=cost&limit=3")
    assert [(row["group"], row["cost_usd"]) for row in report["data"]] == [
        ("bob", "3.000000"),
        ("dan", "3.000000"),
        ("ann", "2.500000"),
    ]
    assert (report["totals"]["cost_usd"], report["next_cursor"]) == ("8.500001", None)
    following = usage(api, keys.admin, f"{YEAR}&group_by=user&limit=3")["next_cursor"]
    answer = api.get(f"/v1/usage?{YEAR}&group_by=user&sort=cost&cursor={following}", keys.admin)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/query/cursor")


def test_without_days_it_is_the_last_thirty(api, keys, bill):
    now = datetime.now(UTC)
    bill(now.isoformat(), "1")
    bill((now - timedelta(days=29)).isoformat(), "1")
    bill((now - timedelta(days=30)).isoformat(), "100")
    report = usage(api, keys.admin)
    # Should the day have ended meanwhile, the oldest has gone out of sight.
    assert report["totals"]["cost_usd"] == (
        "2.000000" if datetime.now(UTC).date() == now.date() else "1.000000"
    )
    last = (now - timedelta(days=30)).date()
    assert usage(api, keys.admin, f"to={last}")["totals"]["cost_usd"] == "100.000000"


def test_where_nothing_was_used_there_are_totals_of_nothing(api, keys):
    for query in ("", "group_by=user", "group_by=model", "from=0001-01-01&to=0001-01-01", "to=9999-12-31"):
        report = usage(api, keys.admin, query)
        assert (report["data"], report["next_cursor"]) == ([], None)
        assert report["totals"]["cost_usd"] == "0.000000"
        assert (report["totals"]["attempts"], report["totals"]["turns"]) == (0, 0)
        assert set(report["totals"]["usage"].values()) == {0}


def test_days_and_cursors_that_are_none_are_refused(api, keys):
    for query, pointer in (
        ("from=2026-13-01", "/query/from"),
        ("from=2026-02-30", "/query/from"),
        ("from=2026-2-3", "/query/from"),
        ("from=20260203", "/query/from"),
        ("from=0000-01-01", "/query/from"),
        ("from=1769904000", "/query/from"),
        ("from=2026-01-01T00:00:00Z", "/query/from"),
        ("to=today", "/query/to"),
        ("to=", "/query/to"),
        ("from=2026-01-02&to=2026-01-01", "/query/to"),
        ("from=2025-01-01&to=2026-01-02", "/query/from"),
        ("from=0001-01-01", "/query/from"),
        ("group_by=week", "/query/group_by"),
        ("limit=101", "/query/limit"),
        ("cursor=x", "/query/cursor"),
        ("cursor=WyJhIl0", "/query/cursor"),  # ["a"], which is no day
        ("group_by=user&cursor=WyJcdTAwMDAiXQ", "/query/cursor"),  # ["\u0000"]
        ("group_by=user&cursor=WyJcdWQ4MDAiXQ", "/query/cursor"),  # ["\ud800"]
    ):
        answer = api.get(f"/v1/usage?{query}", keys.admin)
        assert (answer.status_code, answer.json["code"]) == (422, "validation_failed"), query
        assert answer.json["errors"][0]["pointer"] == pointer, query


def test_a_leap_year_is_the_most_that_is_added_up(api, keys):
    assert api.get("/v1/usage?from=2024-01-01&to=2024-12-31", keys.admin).status_code == 200
    assert api.get("/v1/usage?from=2024-01-01&to=2025-01-01", keys.admin).status_code == 422


def test_usage_is_an_admins_and_the_organizations_own(api, keys, strangers, bill):
    bill("2026-05-01T00:00:00Z")
    for key in (keys.alice, keys.service):
        answer = api.get("/v1/usage", key)
        assert (answer.status_code, answer.json["code"]) == (403, "forbidden")
    for group_by in ("day", "user", "model"):
        report = usage(api, strangers.admin, f"{YEAR}&group_by={group_by}")
        assert (report["data"], report["totals"]["attempts"]) == ([], 0)


def test_a_cost_is_of_the_day_whose_budget_held_it(api, keys, bill):
    bill("2026-03-02T00:04:00+00:00", "0.25", day=date(2026, 3, 1))  # accepted before midnight, settled after
    answer = api.get("/v1/usage?from=2026-03-01&to=2026-03-01&group_by=day", keys.admin)
    assert [(row["group"], row["cost_usd"]) for row in answer.json["data"]] == [("2026-03-01", "0.250000")]
    answer = api.get("/v1/usage?from=2026-03-02&to=2026-03-02&group_by=day", keys.admin)
    assert answer.json["data"] == []
