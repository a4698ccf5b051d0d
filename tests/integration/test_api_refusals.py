"""Turns refused by limits, as an admin sees them."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from api.caller import Caller
from api.refusal_counts import Refusals
from shared.errors import ProblemCode, RefusedError
from shared.ids import new_id

pytestmark = pytest.mark.usefixtures("one_day")

UNLIMITED = {
    "enabled": True,
    "daily_usd": None,
    "monthly_usd": None,
    "max_turns_per_session": None,
    "turns_per_minute_per_user": None,
    "turns_per_hour": None,
    "max_concurrent_turns": None,
}


def refused(api, key, query=""):
    api.services.refusals.add()
    answer = api.get(f"/v1/refusals?{query}", key)
    assert answer.status_code == 200, answer.json
    return [
        (row["user"], row["code"], row["scope"], row["refused"]) for row in answer.json["data"]
    ], answer.json["refused"]


def limit(api, keys, **limits):
    assert api.call("PUT", "/v1/budget", keys.admin, json=UNLIMITED | limits).status_code == 200


def post(api, key, session):
    return api.post(f"/v1/sessions/{session}/turns", key, json={"content": "Hello"})


def test_who_was_refused_by_which_limit_is_counted_whoever_asked(api, keys):
    of_alice, of_carol = api.session(keys.alice), api.session(keys.service, user="carol")
    limit(api, keys, turns_per_minute_per_user=0)
    for key, session in ((keys.alice, of_alice), (keys.alice, of_alice), (keys.service, of_carol)):
        assert post(api, key, session).status_code == 429
    limit(api, keys, daily_usd="0")
    assert post(api, keys.alice, of_alice).status_code == 402
    limit(api, keys, max_concurrent_turns=0)
    assert post(api, keys.alice, of_alice).json["code"] == "too_many_turns"
    assert refused(api, keys.admin) == (
        [
            ("alice", "rate_limited", "user", 2),
            ("alice", "budget_exceeded", "day", 1),
            ("alice", "too_many_turns", None, 1),
            ("carol", "rate_limited", "user", 1),
        ],
        5,
    )
    assert refused(api, keys.admin, "limit=1") == ([("alice", "rate_limited", "user", 2)], 5)


def test_what_is_no_limit_is_not_counted(api, keys, missing_id):
    session = api.session(keys.alice)
    api.turn(keys.alice, session)
    assert post(api, keys.alice, session).status_code == 409
    assert post(api, keys.alice, missing_id).status_code == 404
    limit(api, keys, enabled=False)
    assert post(api, keys.alice, session).json["code"] == "ai_disabled"
    assert refused(api, keys.admin) == ([], 0)


def test_days_are_utc_days_and_old_ones_are_forgotten(api, keys, organization, as_owner):
    today = datetime.now(UTC).date()
    for days in (0, 29, 30, 92, 93):
        as_owner(
            "insert into turnkeeper.refusals (organization_id, day, user_name, code, refused, last_at)"
            " values (:organization, :day, 'ada', 'queue_full', 1, now())",
            organization=organization,
            day=today - timedelta(days=days),
        )
    assert refused(api, keys.admin) == ([("ada", "queue_full", None, 2)], 2)
    assert refused(api, keys.admin, f"from={today - timedelta(days=93)}")[1] == 5
    session = api.session(keys.alice)
    limit(api, keys, max_concurrent_turns=0)
    post(api, keys.alice, session)
    assert refused(api, keys.admin, f"from={today - timedelta(days=93)}")[1] == 5  # one came, the oldest went
    for query in ("from=2026-01-02&to=2026-01-01", "from=2024-01-01&to=2025-01-01", "limit=101", "to=x"):
        assert api.get(f"/v1/refusals?{query}", keys.admin).status_code == 422, query


def test_refusals_are_an_admins_and_the_organizations_own(api, keys, strangers):
    session = api.session(keys.alice)
    limit(api, keys, max_concurrent_turns=0)
    post(api, keys.alice, session)
    assert refused(api, keys.admin)[1] == 1
    assert refused(api, strangers.admin) == ([], 0)
    for key in (keys.alice, keys.service):
        assert api.get("/v1/refusals", key).json["code"] == "forbidden"


@pytest.fixture
def counted(database, organization, as_owner):
    """Returns how many refusals the database holds, by user."""

    def read() -> dict[str, int]:
        return {
            row.user_name: row.refused
            for row in as_owner(
                "select user_name, sum(refused)::int as refused from turnkeeper.refusals group by 1"
            )
        }

    return read


def refuse(refusals, organization, user):
    with (
        pytest.raises(RefusedError),
        refusals.noted(Caller(organization, None, "user", user, None), new_id()),
    ):
        raise RefusedError(ProblemCode.QUEUE_FULL, "full")


def test_refusals_are_added_in_the_background_and_by_threads_at_once(database, organization, counted):
    added = threading.Event()

    class Watched(Refusals):
        def add(self) -> None:
            super().add()
            added.set()

    refusals = Watched(database, add_seconds=0.05)
    threads = [threading.Thread(target=refuse, args=(refusals, organization, "ada")) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert added.wait(60)
    refusals.close()
    assert counted() == {"ada": 16}


def test_an_addition_that_runs_when_the_process_ends_is_waited_for(database, organization, counted):
    is_adding, may_go_on = threading.Event(), threading.Event()

    class HeldUp:
        """A database that the first addition is held up in."""

        def of(self, organization_id):
            is_adding.set()
            assert may_go_on.wait(60)
            return database.of(organization_id)

    refusals = Refusals(HeldUp(), add_seconds=0.01)
    refuse(refusals, organization, "ada")
    assert is_adding.wait(60)
    closing = threading.Thread(target=refusals.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    may_go_on.set()
    closing.join(60)
    assert counted() == {"ada": 1}


def test_a_flood_of_users_takes_a_bounded_room_and_what_is_left_is_added_at_the_end(
    database, organization, counted
):
    refusals = Refusals(database, add_seconds=600)
    for number in range(400):
        refuse(refusals, organization, f"u{number}")
    refuse(refusals, organization, "u0")
    assert counted() == {}
    refusals.close()
    assert len(counted()) == 250  # of one organization; a process has room for a thousand
    assert counted()["u0"] == 2


def test_a_process_that_is_told_to_end_adds_what_it_has_counted(api, keys, as_owner):
    api.services.refusals._add_seconds = 600
    limit(api, keys, turns_per_minute_per_user=0)
    assert post(api, keys.alice, api.session(keys.alice)).status_code == 429
    api.app.extensions["turnkeeper_shutdown"]()
    ((added,),) = as_owner("select refused from turnkeeper.refusals")
    assert added == 1
