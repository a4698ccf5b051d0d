"""Rate limits on real Redis and PostgreSQL: exact, without cost for a refused request, and never in the way of chat."""

import dataclasses
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from uuid import uuid4

import pytest
import redis

from api.app import create_app
from shared.redis.limit_scripts import TAKE
from shared.redis.names import organization_turns_key, user_turns_key
from tests.integration.conftest import LIMIT_SECONDS, Api, be_patient, until
from turnkeeper.up.embedded import temporary_redis

HOUR = 3600
ANSWER_SECONDS = 0.3


@pytest.fixture
def limit(as_owner, organization):
    """Sets the organization's own limits."""

    def set_limits(**columns):
        for name, value in columns.items():
            as_owner(
                f"update turnkeeper.organizations set {name} = :value where id = :id",
                value=value,
                id=organization,
            )

    return set_limits


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def patient(api):
    """The API, whose Redis may take its time: this machine may be busy, and Redis is not what is slow then."""
    pool = api.services.limits._redis.connection_pool
    pool.connection_kwargs.update(socket_timeout=LIMIT_SECONDS, socket_connect_timeout=LIMIT_SECONDS)
    return api


def ask(api, key, session, content="Hello", **options):
    body = {"content": content, "multitask_strategy": "enqueue"}
    return api.post(f"/v1/sessions/{session}/turns", key, json=body, **options)


def now_in(client):
    seconds, microseconds = client.time()
    return seconds * 1_000_000 + microseconds


def accepted_of(answers):
    assert {answer.status_code for answer in answers} <= {202, 429}
    return [answer for answer in answers if answer.status_code == 202]


def in_parallel(count, call):
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait(timeout=60)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_of_parallel_requests_exactly_the_limit_is_accepted(patient, keys, limit, client, organization):
    limit(turns_per_minute_per_user=10)
    sessions = [patient.session(keys.alice) for _ in range(50)]
    answers = in_parallel(50, lambda number: ask(patient, keys.alice, sessions[number]))
    assert len(accepted_of(answers)) == 10
    assert client.llen(user_turns_key(organization, "alice")) == 10


def test_the_organizations_limit_is_for_all_of_its_users_together(patient, keys, limit, strangers):
    limit(turns_per_hour=7)
    of_both = [(key, patient.session(key)) for key in (keys.alice, keys.bob) for _ in range(15)]
    answers = in_parallel(30, lambda number: ask(patient, *of_both[number]))
    assert len(accepted_of(answers)) == 7
    assert ask(patient, strangers.alice, patient.session(strangers.alice)).status_code == 202


def test_one_users_limit_is_not_anothers(patient, keys, limit):
    limit(turns_per_minute_per_user=1)
    alices, bobs = patient.session(keys.alice), patient.session(keys.bob)
    assert ask(patient, keys.alice, alices).status_code == 202
    assert ask(patient, keys.alice, alices).status_code == 429
    assert ask(patient, keys.bob, bobs).status_code == 202


def test_a_service_asks_on_the_account_of_the_sessions_user(patient, keys, limit):
    limit(turns_per_minute_per_user=1)
    alices, bobs = patient.session(keys.service, user="alice"), patient.session(keys.service, user="bob")
    assert ask(patient, keys.service, alices).status_code == 202
    assert ask(patient, keys.alice, patient.session(keys.alice)).status_code == 429
    assert ask(patient, keys.service, alices).status_code == 429
    assert ask(patient, keys.service, bobs).status_code == 202


def test_a_refusal_says_what_was_reached_and_when_to_come_back(patient, keys, limit):
    limit(turns_per_minute_per_user=2, turns_per_hour=100)
    session = patient.session(keys.alice)
    first, second, refused = (ask(patient, keys.alice, session) for _ in range(3))
    assert first.headers["RateLimit-Policy"] == '"user";q=2;w=60, "organization";q=100;w=3600'
    assert first.headers["RateLimit"] == '"user";r=1;t=60, "organization";r=99;t=3600'
    assert second.headers["RateLimit"].startswith('"user";r=0;t=')
    assert (refused.status_code, refused.json["code"], refused.json["retryable"]) == (
        429,
        "rate_limited",
        True,
    )
    assert (refused.json["scope"], refused.json["limit"], refused.json["window_seconds"]) == ("user", 2, 60)
    assert 0 < refused.json["retry_after_ms"] <= 60_000
    assert int(refused.headers["Retry-After"]) == -(-refused.json["retry_after_ms"] // 1000)
    assert refused.headers["RateLimit-Policy"] == first.headers["RateLimit-Policy"]
    assert re.fullmatch(
        r'"user";r=0;t=\d+, "organization";r=98;t=\d+', refused.headers["RateLimit"]
    )  # the refused one is not counted in the organization's window


def test_of_two_full_windows_the_one_to_wait_for_longest_is_named(patient, keys, limit):
    limit(turns_per_minute_per_user=1, turns_per_hour=1)
    session = patient.session(keys.alice)
    assert ask(patient, keys.alice, session).status_code == 202
    refused = ask(patient, keys.alice, session).json
    assert (refused["scope"], refused["limit"], refused["window_seconds"]) == ("organization", 1, HOUR)
    assert refused["retry_after_ms"] > 60_000


def test_zero_allows_nothing(patient, keys, limit):
    limit(turns_per_hour=0)
    assert ask(patient, keys.alice, patient.session(keys.alice)).json["scope"] == "organization"


def test_a_stream_says_its_limits_too(patient, keys, limit):
    limit(turns_per_hour=1)
    session = patient.session(keys.alice)
    turn = ask(patient, keys.alice, session, headers={"Accept": "text/event-stream"}, buffered=False)
    assert turn.status_code == 200
    assert turn.headers["RateLimit"] == '"organization";r=0;t=3600'
    turn.close()
    assert (
        ask(patient, keys.alice, session, headers={"Accept": "text/event-stream"}).json["code"]
        == "rate_limited"
    )


def test_a_replay_costs_nothing_and_is_answered_when_the_window_is_full(
    patient, keys, limit, client, organization
):
    limit(turns_per_hour=2)
    session = patient.session(keys.alice)
    once = {"headers": {"Idempotency-Key": "once"}}
    first = ask(patient, keys.alice, session, **once)
    for _ in range(5):
        again = ask(patient, keys.alice, session, **once)
        assert (again.status_code, again.json["id"]) == (200, first.json["id"])
    assert client.llen(organization_turns_key(organization)) == 1
    assert ask(patient, keys.alice, session).status_code == 202
    assert ask(patient, keys.alice, session, **once).status_code == 200
    assert ask(patient, keys.alice, session, "Other", **once).status_code == 429
    assert ask(patient, keys.alice, session, headers={"Idempotency-Key": "new"}).status_code == 429


def test_a_request_that_makes_no_turn_gives_its_place_back(
    patient, keys, limit, missing_id, client, organization
):
    limit(turns_per_hour=2, turns_per_minute_per_user=2)
    session = patient.session(keys.alice)
    patient.turn(keys.alice, session)
    assert patient.post(f"/v1/sessions/{session}/turns", keys.alice, json={"content": "x"}).status_code == 409
    for key in (keys.alice, keys.service):
        assert ask(patient, key, missing_id).status_code == 404
    assert client.llen(organization_turns_key(organization)) == 1
    assert client.llen(user_turns_key(organization, "alice")) == 1
    assert ask(patient, keys.alice, session).status_code == 202


def test_an_organizations_own_limit_goes_before_the_services(settings, keys, limit):
    app = create_app("web", dataclasses.replace(settings, turns_per_hour=1, turns_per_minute_per_user=1))
    api = Api(app)
    try:
        session = api.session(keys.alice)
        assert ask(api, keys.alice, session).status_code == 202
        assert ask(api, keys.alice, session).json["limit"] == 1
        limit(turns_per_hour=3, turns_per_minute_per_user=5)
        bob = api.session(keys.bob)  # a key that was not seen before: what is known of a key is kept a moment
        answers = [ask(api, keys.bob, bob) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [202, 202, 429, 429]
        assert answers[-1].json["limit"] == 3
    finally:
        app.extensions["turnkeeper"].close()


def test_without_limits_redis_is_not_asked(api, keys, client, monkeypatch):
    def fail(*_):
        raise AssertionError("redis was asked")

    monkeypatch.setattr(api.services.limits, "_take_places", fail)
    answer = ask(api, keys.alice, api.session(keys.alice))
    assert answer.status_code == 202
    assert "RateLimit" not in answer.headers


def test_no_key_in_redis_names_a_user(patient, keys, limit, client, organization):
    limit(turns_per_minute_per_user=5, turns_per_hour=5)
    ask(patient, keys.alice, patient.session(keys.alice))
    names = [name.decode() for name in client.keys("tk:*:turns:*")]
    assert len(names) == 2
    assert not [name for name in names if "alice" in name]
    assert {name[name.index("{") : name.index("}")] for name in names} == {"{" + str(organization)}


# The script's window, with times of the past written into it.


def take(client, key, limit, window):
    return client.eval(TAKE, 1, key, limit, window)


def test_a_request_counts_until_the_very_end_of_its_window(client):
    window = 500_000
    began = now_in(client)
    assert take(client, "w", 1, window)[0] == 0
    while (reply := take(client, "w", 1, window))[0] == 1:
        assert now_in(client) - began < LIMIT_SECONDS * 1_000_000
        assert 0 < reply[2] <= window
    assert now_in(client) - began >= window


def test_what_left_the_window_is_dropped_and_what_is_in_it_counts(client):
    hour = HOUR * 1_000_000
    now = now_in(client)
    old = [now - hour - 10_000_000 + number for number in range(5000)]
    young = [now - hour + 60_000_000 + number for number in range(3)]
    client.rpush("w", *old, *young)
    assert take(client, "w", 5, hour)[:2] == [0, 1]
    assert client.llen("w") == 4
    assert take(client, "w", 5, hour)[:2] == [0, 0]
    refused = take(client, "w", 5, hour)
    assert refused[0] == 1
    assert 60_000_000 - (now_in(client) - now) <= refused[2] <= 60_000_000
    assert client.llen("w") == 5
    assert 0 < client.pttl("w") <= HOUR * 1000


def test_a_limit_that_was_lowered_waits_until_enough_have_left(client):
    minute = 60_000_000
    now = now_in(client)
    client.rpush("w", *[now - minute + 20_000_000 + number * 1_000_000 for number in range(10)])
    refused = take(client, "w", 4, minute)
    assert refused[:2] == [1, 0]
    # Seven have to leave: the last of them was written six seconds after the first.
    assert 26_000_000 - (now_in(client) - now) <= refused[2] <= 26_000_000


def test_a_clock_that_was_set_back_blocks_nobody_for_longer_than_a_window(client):
    minute = 60_000_000
    now = now_in(client)
    client.rpush("w", now + 5_000_000)
    assert take(client, "w", 2, minute)[0] == 0
    assert take(client, "w", 2, minute)[0] == 1
    client.delete("w")
    client.rpush("w", *[now + 86_400_000_000] * 2)
    assert take(client, "w", 2, minute)[0] == 0


def test_a_refusal_writes_nothing_to_any_window(client):
    minute = 60_000_000
    keys = [f"{{x}}{uuid4()}", f"{{x}}{uuid4()}"]
    assert client.eval(TAKE, 2, *keys, 1, minute, 5, minute)[0] == 0
    for _ in range(3):
        assert client.eval(TAKE, 2, *keys, 1, minute, 5, minute)[0] == 1
    assert [client.llen(key) for key in keys] == [1, 1]


# Redis down.


@contextmanager
def paused(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def apart(environment, settings):
    """An API with a separate Redis, which the test may stop."""
    with temporary_redis() as server:
        app = create_app("web", dataclasses.replace(settings, redis_url=server.url))
        be_patient(app.extensions["turnkeeper"].database)
        yield Api(app), server
        app.extensions["turnkeeper"].close()


def test_while_redis_hangs_chat_goes_on_fast_and_limits_hold(apart, keys, limit, monkeypatch):
    api, server = apart
    limits, asked = api.services.limits, []
    ask_redis = limits._take_in_redis

    def counted(windows):
        asked.append(time.monotonic())
        return ask_redis(windows)

    monkeypatch.setattr(limits, "_take_in_redis", counted)
    limit(turns_per_hour=150, turns_per_minute_per_user=1000)
    sessions = [api.session(key, max_turns=500) for key in (keys.alice, keys.bob)]
    before = [ask(api, keys.alice, sessions[0]) for _ in range(20)]
    assert len(accepted_of(before)) == 20
    with paused(server.pid):
        answers = []
        asked.clear()
        for number in range(140):
            answers.append(ask(api, (keys.alice, keys.bob)[number % 2], sessions[number % 2]))
        # The process knows what it let through before, so that a failure opens no second window.
        assert [answer.status_code for answer in answers] == [202] * 130 + [429] * 10
        assert answers[-1].json["scope"] == "organization"
        assert answers[0].headers["RateLimit"].startswith('"user";r=')
        # Who asks Redis waits so long at most, and nobody else waits for it; how long that takes, the bench says.
        limit_of = limits._redis.connection_pool.connection_kwargs
        assert limit_of["socket_timeout"] + limit_of["socket_connect_timeout"] <= ANSWER_SECONDS
        assert all(later - earlier >= 1 for earlier, later in pairwise(asked))  # not for every request
    assert api.services.limits._away_until is not None


def test_redis_counts_again_when_it_is_back(apart, keys, limit, organization):
    api, server = apart
    limit(turns_per_hour=1000)
    session = api.session(keys.alice, max_turns=500)
    with paused(server.pid):
        assert ask(api, keys.alice, session).status_code == 202
    limits, key = api.services.limits, organization_turns_key(organization)
    with redis.Redis.from_url(server.url) as client:
        before = client.llen(key)

        def counts_again():
            # Until then it is not asked, and a quick machine would use the limit up.
            until(lambda: limits._away_until is None or time.monotonic() >= limits._away_until)
            assert ask(api, keys.alice, session).status_code == 202
            return limits._away_until is None and client.llen(key) >= before + 2

        until(counts_again)


def test_a_full_redis_and_one_that_is_gone_stop_no_turn(apart, keys, limit):
    api, server = apart
    limit(turns_per_hour=3)
    session = api.session(keys.alice)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 1)
    assert [ask(api, keys.alice, session).status_code for _ in range(2)] == [202, 202]
    server.stop()
    assert [ask(api, keys.alice, session).status_code for _ in range(2)] == [202, 429]
    server.start()
