"""The budget over HTTP: who may change it, what it accepts, and that it is kept."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sqlalchemy import text

from api.auth import TRUST_SECONDS
from tests.refused import refused

pytestmark = pytest.mark.usefixtures("one_day")

OPEN = {
    "enabled": True,
    "daily_usd": None,
    "monthly_usd": None,
    "max_turns_per_session": None,
    "turns_per_minute_per_user": None,
    "turns_per_hour": None,
    "max_concurrent_turns": None,
}


def put(api, key, **changes):
    return api.call("PUT", "/v1/budget", key, json=OPEN | changes)


def test_an_organization_begins_without_limits_and_is_told_what_it_spent(api, keys):
    shown = api.get("/v1/budget", keys.admin)
    assert shown.status_code == 200
    day, month = shown.json.pop("day"), shown.json["month"]
    assert {name: value for name, value in shown.json.items() if name not in {"day", "month"}} == OPEN
    assert day["spent_usd"] == day["held_usd"] == month["spent_usd"] == month["held_usd"] == "0.000000"


def test_what_is_put_is_what_is_read(api, keys):
    limits = {
        "enabled": False,
        "daily_usd": "12.5",
        "monthly_usd": "0",
        "max_turns_per_session": 0,
        "turns_per_minute_per_user": 1_000_000,
        "turns_per_hour": 5,
        "max_concurrent_turns": 2_147_483_647,
    }
    answer = put(api, keys.admin, **limits)
    assert answer.status_code == 200
    assert answer.json == api.get("/v1/budget", keys.admin).json
    assert {name: answer.json[name] for name in OPEN} == limits | {
        "daily_usd": "12.500000",
        "monthly_usd": "0.000000",
    }
    # What was shown may be put back as it is.
    shown = {name: answer.json[name] for name in OPEN}
    assert put(api, keys.admin, **shown).json == answer.json


def test_what_today_and_this_month_cost_and_hold_is_shown_with_when_they_end(
    api, keys, as_owner, organization, strangers
):
    as_owner(
        "insert into turnkeeper.spend (organization_id, period, starts_on, spent_usd, held_usd)"
        " select :o, period, (date_trunc(period, now() at time zone 'UTC') - back * ('1 ' || period)::interval)::date,"
        " cost + back * 100, 0.25 from (values ('day', 1.5), ('month', 20.0000000005)) as p (period, cost),"
        " generate_series(0, 1) as back",
        o=organization,
    )
    before = datetime.now(UTC)
    shown = api.get("/v1/budget", keys.admin).json
    assert (shown["day"]["spent_usd"], shown["day"]["held_usd"]) == ("1.500000", "0.250000")
    assert (shown["month"]["spent_usd"], shown["month"]["held_usd"]) == ("20.0000000005", "0.250000")
    day, month = (datetime.fromisoformat(shown[period]["resets_at"]) for period in ("day", "month"))
    assert 0 < (day - before).total_seconds() <= 86_400
    assert (day.hour, day.minute, day.second, day.microsecond) == (0, 0, 0, 0)
    assert (month.day, month.hour) == (1, 0)
    assert 0 < (month - before).days + 1 <= 31
    assert api.get("/v1/budget", strangers.admin).json["month"]["spent_usd"] == "0.000000"


def test_a_put_replaces_the_whole_so_every_field_must_be_there(api, keys):
    for missing in OPEN:
        body = {name: value for name, value in OPEN.items() if name != missing}
        answer = api.call("PUT", "/v1/budget", keys.admin, json=body)
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, f"/{missing}")
        assert answer.json["errors"][0]["detail"] == "is required"


WRONG = [
    ({"enabled": None}, "/enabled"),
    ({"enabled": 1}, "/enabled"),
    ({"daily_usd": 10}, "/daily_usd"),
    ({"daily_usd": 0.1}, "/daily_usd"),
    *(
        ({"monthly_usd": wrong}, "/monthly_usd")
        for wrong in (
            "-1",
            "+1",
            "1e3",
            "NaN",
            "Infinity",
            "",
            " 1",
            "1\n",
            ".5",
            "1.",
            "1,5",
            "0x1",
            "١",
            "1" * 13,
            "0." + "1" * 13,
        )
    ),
    ({"turns_per_hour": -1}, "/turns_per_hour"),
    ({"turns_per_hour": 1_000_001}, "/turns_per_hour"),
    ({"turns_per_minute_per_user": 1_000_001}, "/turns_per_minute_per_user"),
    ({"turns_per_hour": "5"}, "/turns_per_hour"),
    ({"turns_per_hour": 5.0}, "/turns_per_hour"),
    ({"max_concurrent_turns": True}, "/max_concurrent_turns"),
    ({"max_turns_per_session": 2**31}, "/max_turns_per_session"),
    ({"max_turns_per_session": -1}, "/max_turns_per_session"),
    ({"weight": 5}, "/weight"),
    ({"day": {}}, "/day"),
]


def test_a_wrong_limit_is_named_and_changes_nothing(api, keys):
    before = api.get("/v1/budget", keys.admin).json
    for changes, pointer in WRONG:
        answer = put(api, keys.admin, **changes)
        assert (answer.status_code, answer.json["code"]) == (422, "validation_failed"), changes
        assert [error["pointer"] for error in answer.json["errors"]] == [pointer], changes
    assert api.get("/v1/budget", keys.admin).json == before


def test_only_an_admin_reads_and_sets_a_budget_and_only_its_own(api, keys, strangers):
    for key in (keys.alice, keys.service):
        for answer in (api.get("/v1/budget", key), put(api, key, enabled=False)):
            assert (answer.status_code, answer.json["code"]) == (403, "forbidden")
    assert put(api, strangers.admin, enabled=False, daily_usd="7").status_code == 200
    shown = api.get("/v1/budget", keys.admin).json
    assert (shown["enabled"], shown["daily_usd"]) == (True, None)


def test_switching_ai_off_refuses_turns_at_once_and_on_lets_them_through(api, keys):
    session = api.session(keys.alice)
    first = api.turn(keys.alice, session)
    put(api, keys.admin, enabled=False)
    answer = api.post(f"/v1/sessions/{session}/turns", keys.alice, json={"content": "Hi"})
    assert (answer.status_code, answer.json["code"]) == (403, "ai_disabled")
    assert api.get(f"/v1/turns/{first}", keys.alice).json["status"] == "queued"
    put(api, keys.admin)
    assert api.turn(keys.alice, api.session(keys.alice))


def test_a_rate_holds_at_once_in_the_process_that_was_told(api, keys):
    session = api.session(keys.alice)  # alice's key and its limits are known from here on
    put(api, keys.admin, turns_per_minute_per_user=0)
    answer = api.post(f"/v1/sessions/{session}/turns", keys.alice, json={"content": "Hi"})
    assert (answer.status_code, answer.json["code"]) == (429, "rate_limited")
    put(api, keys.admin, max_turns_per_session=3)
    assert api.post("/v1/sessions", keys.alice, json={}).json["max_turns"] == 3


def test_another_process_knows_of_a_rate_within_seconds(api, database, keys, organization):
    from api.auth import Authenticator

    now = [0.0]
    elsewhere = Authenticator(database, api.services.redis, clock=lambda: now[0])
    assert elsewhere.of_key(keys.alice).limits.turns_per_hour is None
    put(api, keys.admin, turns_per_hour=9)
    now[0] = TRUST_SECONDS
    assert elsewhere.of_key(keys.alice).limits.turns_per_hour == 9


def test_what_is_known_of_other_organizations_stays_known(api, keys, strangers, as_owner):
    api.get("/v1/sessions", strangers.alice)
    as_owner("update turnkeeper.api_keys set revoked_at = now() where user_name = 'alice'")
    put(api, keys.admin)
    assert api.get("/v1/sessions", strangers.alice).status_code == 200


def test_the_application_changes_limits_of_its_own_organization_and_nothing_else_of_it(
    database, as_owner, organization, strangers
):
    for statement in (
        "set name = 'x'",
        "set weight = 1000",
        "set id = gen_random_uuid()",
        "set created_at = now()",
    ):
        with refused("permission denied"), database.of(organization) as db:
            db.execute(text(f"update turnkeeper.organizations {statement}"))
    with database.of(organization) as db:
        assert db.execute(text("update turnkeeper.organizations set daily_usd = 3")).rowcount == 1
    limits = dict(list(as_owner("select id, daily_usd from turnkeeper.organizations")))
    assert limits.pop(organization) == Decimal(3)
    assert set(limits.values()) == {None}
    with refused("no organization"), database.across() as db:
        db.execute(text("update turnkeeper.organizations set daily_usd = 3"))
