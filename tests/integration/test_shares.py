"""What organizations and users share with each other: a hostile one takes its share and nothing of another's."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

import pytest
import redis

from api.app import create_app
from api.ticket_limits import TICKETS_OF_ONE_USER
from shared.configuration.settings import load_settings
from shared.errors import ProblemCode, RefusedError
from shared.redis.doorbell import QUEUE_KEY
from shared.redis.names import log_key
from tests.integration.conftest import Api, be_patient, until
from tests.integration.test_fairness import Floor, hears
from turnkeeper.up.embedded import temporary_redis
from worker.turn.claim import claim_next_turn

SLOTS = 16
BUDGET = {
    "enabled": True,
    **dict.fromkeys(
        ("daily_usd", "monthly_usd", "max_turns_per_session", "turns_per_minute_per_user", "turns_per_hour")
    ),
}


@pytest.fixture
def floor(owner_url, database, settings):
    floor = Floor(owner_url, database, settings)
    yield floor
    floor.engine.dispose()


@pytest.fixture
def serving(environment):
    """Start the API with more of a configuration."""
    begun = []

    def begin(**variables) -> Api:
        app = create_app("web", load_settings({**environment, **variables}))
        be_patient(app.extensions["turnkeeper"].database)
        begun.append(app)
        return Api(app)

    yield begin
    for app in begun:
        app.extensions["turnkeeper"].close()


def post(api, key, session, content="Hello", **headers):
    return api.post(f"/v1/sessions/{session}/turns", key, json={"content": content}, headers=headers)


def ask(api, key):
    return post(api, key, api.session(key))


# The queue.


def test_a_queue_that_one_organization_fills_is_full_for_that_one_alone(
    api, floor, organization, keys, strangers
):
    hears(floor, seconds_ago=0, since=300)
    assert ask(api, keys.alice).status_code == 202
    floor.sql(
        "update turnkeeper.turns set claimable_at = now() - interval '61 seconds' where organization_id = :o",
        o=organization,
    )
    refused = until(lambda: answer if (answer := ask(api, keys.alice)).status_code == 503 else None)
    assert (refused.json["code"], refused.headers["Retry-After"]) == ("queue_full", "5")
    for _ in range(3):
        assert ask(api, strangers.alice).status_code == 202
    assert ask(api, keys.alice).status_code == 503


def test_turns_that_wait_have_a_bound_of_which_nobody_takes_the_part_of_another(serving, keys, strangers):
    api = serving(MAX_QUEUED_TURNS="8")
    taken = [ask(api, keys.alice).status_code for _ in range(4)]
    assert taken == [202] * 4
    refused = until(lambda: answer if (answer := ask(api, keys.alice)).status_code == 503 else None)
    assert refused.json["code"] == "queue_full"
    assert [ask(api, strangers.alice).status_code for _ in range(4)] == [202] * 4
    until(lambda: ask(api, strangers.alice).status_code == 503)


def test_an_organization_without_a_limit_of_its_own_has_the_services(serving, keys, strangers):
    api = serving(MAX_CONCURRENT_TURNS="2")
    assert [ask(api, keys.alice).status_code for _ in range(3)] == [202, 202, 429]
    assert ask(api, strangers.alice).status_code == 202
    assert (
        api.call("PUT", "/v1/budget", keys.admin, json=BUDGET | {"max_concurrent_turns": 3}).status_code
        == 200
    )
    answers = [ask(api, keys.alice) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 429]
    assert (answers[1].json["code"], answers[1].json["limit"]) == ("too_many_turns", 3)


# Redis's memory; what workers do about it is in `test_log_shares`.


def test_while_redis_is_short_of_memory_a_turn_that_waits_has_no_log_and_is_rung_for(serving, keys):
    with temporary_redis() as server, redis.Redis.from_url(server.url) as client:
        api = serving(REDIS_URL=server.url)
        asked = [ask(api, keys.alice).json]
        api.services.notices.drain()
        assert client.exists(log_key(asked[0]["session_id"], asked[0]["id"]))
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.3))

        def has_no_log():
            asked.append(ask(api, keys.alice).json)
            api.services.notices.drain()
            return not client.exists(log_key(asked[-1]["session_id"], asked[-1]["id"]))

        until(has_no_log)
        assert client.llen(QUEUE_KEY) == len(asked)
        # Its events are read as ever.
        page = api.get(f"/v1/turns/{asked[-1]['id']}/events", keys.alice).json
        assert page["data"][0]["type"] == "turn_queued"


# Slots.


def claims(floor, most_of_one):
    def claim():
        return claim_next_turn(
            floor.database, floor.worker, None, lease_seconds=60, context_tokens=1000, most_of_one=most_of_one
        )

    return list(iter(claim, None))


def test_long_turns_of_one_organization_leave_slots_that_another_finds_free(floor, settings):
    most_of_one = replace(settings, worker_turns=SLOTS).most_turns_of_one
    assert most_of_one == 14
    hostile, quiet = floor.organization("hostile"), floor.organization("quiet")
    floor.fill(hostile, 100)
    assert [claim.organization_id for claim in claims(floor, most_of_one)] == [hostile] * most_of_one
    # None of them ends: they are turns of minutes. The other's turn is claimed at the first attempt nevertheless.
    floor.fill(quiet, 1, waited=0)
    assert [claim.organization_id for claim in claims(floor, most_of_one)] == [quiet]
    # Another worker has slots of its own.
    floor.worker = type(floor.worker)(int=1)
    assert len(claims(floor, most_of_one)) == most_of_one


def test_an_organization_that_is_alone_has_all_slots(floor):
    floor.fill(floor.organization("alone"), 20)
    assert len(claims(floor, 3)) == 20


@pytest.mark.parametrize(
    ("slots", "own", "most"),
    [("1", "", 1), ("7", "", 7), ("8", "", 7), ("512", "", 448), ("10", "4", 4), ("3", "9", 3)],
)
def test_seven_eighths_of_the_slots_are_one_organizations_unless_the_operator_says_otherwise(
    environment, slots, own, most
):
    variables = {"WORKER_TURNS": slots, "WORKER_TURNS_PER_ORGANIZATION": own}
    assert load_settings({**environment, **variables}).most_turns_of_one == most


# Idempotency keys.


def keyed(api, key, session, content="Hello", name="once"):
    return post(api, key, session, content, **{"Idempotency-Key": name})


def test_two_users_who_send_the_same_key_do_not_meet(api, keys):
    sessions = {name: api.session(name) for name in (keys.alice, keys.bob)}
    first = {name: keyed(api, name, session) for name, session in sessions.items()}
    assert [answer.status_code for answer in first.values()] == [202, 202]
    assert len({answer.json["id"] for answer in first.values()}) == 2
    for name, session in sessions.items():
        again = keyed(api, name, session)
        assert (again.status_code, again.json["id"]) == (200, first[name].json["id"])
        assert keyed(api, name, session, "another").json["code"] == "idempotency_conflict"


def test_a_users_key_and_a_services_do_not_meet(api, keys):
    session = api.session(keys.alice)
    of_service = api.session(keys.service, user="alice")
    assert keyed(api, keys.alice, session).status_code == 202
    assert keyed(api, keys.service, of_service).status_code == 202
    assert (
        keyed(api, keys.service, api.session(keys.service, user="bob")).json["code"] == "idempotency_conflict"
    )
    assert keyed(api, keys.alice, session).status_code == 200


def test_a_users_key_of_a_release_before_is_still_found_and_anothers_is_not(api, keys, floor):
    """It was kept as sent, with the user in the fingerprint."""
    session = api.session(keys.alice)
    first = keyed(api, keys.alice, session).json["id"]
    floor.sql("update turnkeeper.idempotency_keys set key = 'once'")
    assert keyed(api, keys.alice, session).json["id"] == first
    assert keyed(api, keys.bob, api.session(keys.bob)).status_code == 202


def test_a_user_who_sends_one_key_many_times_at_once_makes_one_turn(api, keys):
    session = api.session(keys.alice)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: keyed(api, keys.alice, session), range(8)))
    assert {answer.status_code for answer in answers} <= {200, 202, 409}
    assert len({answer.json["id"] for answer in answers if answer.status_code in (200, 202)}) == 1
    assert sum(answer.status_code == 202 for answer in answers) == 1, json.dumps(
        [each.json for each in answers]
    )


# Searches.


@pytest.fixture
def long_search(api, keys, floor, organization, monkeypatch):
    """Sessions whose messages take far longer to read through than the limit, which is set low."""
    api.turn(keys.alice, api.session(keys.alice))
    with floor.engine.begin() as db:
        db.exec_driver_sql("set local session_replication_role = replica")
        db.exec_driver_sql(
            "insert into turnkeeper.messages"
            " (organization_id, id, session_id, turn_id, position, role, content, status)"
            " select s.organization_id, gen_random_uuid(), s.id, gen_random_uuid(), 10 + n, 'user',"
            " repeat(md5(n::text), 200), 'complete' from turnkeeper.sessions as s, generate_series(1, 3000) as n"
        )
    monkeypatch.setattr("api.statements.sessions.SEARCH_SECONDS", 0.02)


def search(api, key, q="nowhere"):
    return api.get(f"/v1/sessions/search?q={q}", key)


@pytest.mark.usefixtures("long_search")
def test_a_search_that_takes_too_long_ends_and_its_connection_serves_others(api, keys, strangers):
    api.turn(strangers.alice, api.session(strangers.alice), "a needle")
    for _ in range(3):
        refused = search(api, keys.alice)
        assert (refused.status_code, refused.json["code"]) == (503, "unavailable")
        assert "too long" in refused.json["detail"]
        assert refused.headers["Retry-After"] == "5"
        assert len(search(api, strangers.alice, "needle").json["data"]) == 1


def test_searches_of_one_user_and_one_organization_leave_places_to_others(serving, keys, strangers):
    api = serving(WEB_THREADS="16")
    searches, caller = api.services.searches, api.services.authenticator
    of_alice, of_bob, of_service = (caller.of_key(key) for key in (keys.alice, keys.bob, keys.service))
    with searches.place(of_alice):
        refused = search(api, keys.alice)
        assert (refused.status_code, refused.json["code"], refused.json["scope"]) == (
            429,
            "rate_limited",
            "user",
        )
        assert refused.headers["Retry-After"] == "1"
        with searches.place(of_bob):
            assert search(api, keys.service).json["scope"] == "organization"
            with searches.place(caller.of_key(strangers.service)):
                # The hostile organization is at its worst, and another finds what it found before.
                assert search(api, strangers.alice).status_code == 200
    with searches.place(of_service):
        assert search(api, keys.alice).status_code == 200
    assert not searches._running
    assert not searches._users


# Tickets.


def test_tickets_of_one_user_do_not_use_up_those_of_others(serving, keys, strangers):
    api = serving(MAX_SOCKETS="1000")
    sessions = {key: api.session(key) for key in (keys.alice, keys.bob, strangers.alice)}

    def ticket(key):
        return api.post("/v1/tickets", key, json={"session_id": sessions[key]})

    answers = [ticket(keys.alice) for _ in range(TICKETS_OF_ONE_USER + 1)]
    assert {answer.status_code for answer in answers[:-1]} == {201}
    refused = answers[-1]
    assert (refused.status_code, refused.json["code"], refused.json["scope"]) == (429, "rate_limited", "user")
    assert int(refused.headers["Retry-After"]) >= 1
    assert ticket(keys.bob).status_code == ticket(strangers.alice).status_code == 201


# Counts of refusals.


def test_an_organization_that_is_refused_for_many_users_leaves_room_to_count_others(
    api, keys, strangers, organization, floor
):
    callers = api.services.authenticator
    hostile, quiet = callers.of_key(keys.service), callers.of_key(strangers.alice)
    refusals = api.services.refusals

    def refuse(caller, session):
        with pytest.raises(RefusedError), refusals.noted(caller, session):
            raise RefusedError(ProblemCode.TOO_MANY_TURNS, "no")

    for number in range(1500):
        refuse(hostile, UUID(int=number))
    session = api.session(strangers.alice)
    refuse(quiet, UUID(session))
    refusals.add()
    until(lambda: floor.sql("select 1 from turnkeeper.refusals where organization_id <> :o", o=organization))
