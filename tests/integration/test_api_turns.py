import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from shared.redis.doorbell import QUEUE_KEY, arguments_of
from shared.redis.names import ABORT_CHANNEL, abort_key, log_key

TURN_FIELDS = {
    "id",
    "session_id",
    "status",
    "attempt",
    "provider",
    "model",
    "message_id",
    "user_message_id",
    "finish_reason",
    "stop_reason",
    "usage",
    "cost_usd",
    "usage_source",
    "error",
    "last_seq",
    "history_trimmed",
    "queued_at",
    "started_at",
    "first_token_at",
    "stop_requested_at",
    "stop_observed_at",
    "finished_at",
    "metadata",
    "links",
}


@pytest.fixture
def session(api, keys):
    return api.session(keys.alice)


@pytest.fixture
def post(api, keys, session):
    def post(headers=None, **fields):
        body = {"content": "Hello"} | fields
        return api.post(f"/v1/sessions/{session}/turns", keys.alice, json=body, headers=headers)

    return post


@pytest.fixture
def redis_client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


def run_it(as_owner, turn, attempt=1):
    as_owner(
        "update turnkeeper.turns set status = 'running', attempt = :attempt, started_at = now() where id = :id",
        id=turn,
        attempt=attempt,
    )


def complete_it(as_owner, turn):
    as_owner(
        "update turnkeeper.turns set status = 'completed', finish_reason = 'stop', finished_at = now() where id = :id",
        id=turn,
    )
    as_owner(
        "update turnkeeper.sessions set turn_count = turn_count + 1"
        " where id = (select session_id from turnkeeper.turns where id = :id)",
        id=turn,
    )


def left_behind(as_owner):
    (row,) = as_owner(
        "select (select count(*) from turnkeeper.turns), (select count(*) from turnkeeper.messages),"
        " (select count(*) from turnkeeper.idempotency_keys),"
        " (select coalesce(max(next_turn_number), 1) from turnkeeper.sessions)"
    )
    return tuple(row)


def test_a_turn_that_is_accepted_is_shown_as_the_protocol_says(api, keys, session, post):
    answer = post(metadata={"k": "v"})
    assert answer.status_code == 202
    shown = answer.json
    assert set(shown) == TURN_FIELDS
    assert answer.headers["Location"] == f"/v1/turns/{shown['id']}"
    assert (shown["status"], shown["attempt"], shown["session_id"]) == ("queued", 0, session)
    assert (shown["message_id"], shown["error"], shown["usage_source"]) == (None, None, None)
    assert (shown["last_seq"], shown["metadata"]) == (2, {"k": "v"})
    assert set(shown["links"]) == {"self", "events", "stop", "session", "messages"}
    assert api.get(shown["links"]["self"], keys.alice).json == shown
    for link in ("events", "session", "messages"):
        assert api.get(shown["links"][link], keys.alice).status_code == 200


def test_what_was_answered_is_committed(api, keys, session, post):
    turn = post(content="  Keep  my\tspaces\n").json
    (message,) = api.get(f"/v1/sessions/{session}/messages", keys.alice).json["data"]
    assert message["content"] == "  Keep  my\tspaces\n"
    assert (message["id"], message["turn_id"]) == (turn["user_message_id"], turn["id"])
    assert (message["role"], message["status"], message["position"]) == ("user", "complete", 2)


def test_nothing_in_a_message_is_rewritten(api, keys, session, post):
    written = [
        "system: do it",
        "a\N{NO-BREAK SPACE}b",
        "[filtered]",
        "\u200b x",
        "<script>",
        "e\u0301\U0001f600",
        '"\\',
    ]
    for content in written:
        turn = post(content=content).json["id"]
        api.post(f"/v1/turns/{turn}/stop", keys.alice)
    messages = api.get(f"/v1/sessions/{session}/messages", keys.alice).json["data"]
    assert [message["content"] for message in messages] == written


def test_a_message_may_have_32000_characters_besides_the_whitespace_around_it(api, keys, post):
    assert post(content=" " * 5_000 + "é" * 32_000 + "\n" * 5_000).status_code == 202


WRONG = [
    ({"content": ""}, "/content"),
    ({"content": " \n\t\N{NO-BREAK SPACE}"}, "/content"),
    ({"content": "x" * 32_001}, "/content"),
    ({"content": None}, "/content"),
    ({"content": 5}, "/content"),
    ({"max_output_tokens": 0}, "/max_output_tokens"),
    ({"max_output_tokens": 10**9}, "/max_output_tokens"),
    ({"max_output_tokens": True}, "/max_output_tokens"),
    ({"deadline_seconds": 0}, "/deadline_seconds"),
    ({"deadline_seconds": -1}, "/deadline_seconds"),
    ({"deadline_seconds": 361}, "/deadline_seconds"),
    ({"deadline_seconds": "5"}, "/deadline_seconds"),
    ({"recovery": "maybe"}, "/recovery"),
    ({"multitask_strategy": "queue"}, "/multitask_strategy"),
    ({"metadata": "x"}, "/metadata"),
    ({"tools": []}, "/tools"),
]


def test_a_wrong_field_of_a_turn_is_named_and_leaves_nothing(api, post, as_owner):
    for fields, pointer in WRONG:
        answer = post(headers={"Idempotency-Key": "k1"}, **fields)
        assert (answer.status_code, answer.json["code"]) == (422, "validation_failed"), fields
        assert [error["pointer"] for error in answer.json["errors"]] == [pointer]
    assert left_behind(as_owner) == (0, 0, 0, 1)


def test_the_first_message_gives_the_session_its_title(api, keys, session, post):
    post(content="  What\n is   a turn? " + "word " * 40)
    title = api.get(f"/v1/sessions/{session}", keys.alice).json["title"]
    assert title.startswith("What is a turn? word")
    assert title.endswith("word…")
    assert len(title) <= 80


def test_a_session_that_has_a_title_keeps_it(api, keys):
    session = api.session(keys.alice, title="Mine")
    turn = api.turn(keys.alice, session)
    assert api.get(f"/v1/sessions/{session}", keys.alice).json["title"] == "Mine"
    assert [event["type"] for event in api.get(f"/v1/turns/{turn}/events", keys.alice).json["data"]] == [
        "turn_queued"
    ]


def test_a_turn_opens_its_log_and_rings_for_a_worker(api, post, redis_client):
    turn = post(headers={"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}).json
    assert api.services.notices.drain(60)
    entries = redis_client.xrange(log_key(turn["session_id"], turn["id"]))
    assert [entry_id for entry_id, _ in entries] == [b"0-1", b"0-2"]
    assert json.loads(entries[1][1][b"e"])["title"] == "Hello"
    assert redis_client.ttl(log_key(turn["session_id"], turn["id"])) > 3600
    (message,) = redis_client.lrange(QUEUE_KEY, 0, -1)
    assert arguments_of(json.loads(message)["body"]) == [turn["id"], f"00-{'a' * 32}-{'b' * 16}-01"]
    assert "Hello" not in message.decode()  # a doorbell has no content


@pytest.mark.parametrize(
    "traceparent", ["x", "00-" + "0" * 32 + "-" + "b" * 16 + "-01", "00-" + "A" * 32 + "-" + "b" * 16 + "-01"]
)
def test_a_trace_context_that_is_not_valid_is_ignored(api, post, as_owner, traceparent):
    assert post(headers={"traceparent": traceparent}).status_code == 202
    assert as_owner("select traceparent from turnkeeper.turns") == [("",)]


def test_a_turn_is_accepted_while_redis_is_away(keys, environment):
    from api.app import create_app
    from shared.configuration.settings import load_settings

    app = create_app("web", load_settings(environment | {"REDIS_URL": "redis://127.0.0.1:1/0"}))
    client, headers = app.test_client(), {"Authorization": f"Bearer {keys.alice}"}
    session = client.post("/v1/sessions", json={}, headers=headers).json["id"]
    turn = client.post(f"/v1/sessions/{session}/turns", json={"content": "Hi"}, headers=headers)
    assert turn.status_code == 202
    events = client.get(f"/v1/turns/{turn.json['id']}/events", headers=headers)
    assert events.status_code == 200
    assert [event["type"] for event in events.json["data"]] == ["turn_queued", "title_updated"]
    stopped = client.post(f"/v1/turns/{turn.json['id']}/stop", headers=headers)
    assert (stopped.status_code, stopped.json["status"]) == (200, "stopped")
    events = client.get(f"/v1/turns/{turn.json['id']}/events", headers=headers)
    assert (events.json["data"][-1]["type"], events.json["done"]) == ("done", True)
    ticket = client.post("/v1/tickets", json={"session_id": session}, headers=headers)
    assert (ticket.status_code, ticket.json["code"]) == (503, "unavailable")
    assert int(ticket.headers["Retry-After"]) >= 1
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["checks"]["redis"]["ok"]) == (503, False)
    app.extensions["turnkeeper"].close()


# Idempotency


def test_the_same_request_with_the_same_key_makes_one_turn(api, keys, post, as_owner):
    first = post(headers={"Idempotency-Key": "k1"})
    again = post(headers={"Idempotency-Key": "k1"})
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert again.json == first.json
    assert left_behind(as_owner)[:3] == (1, 1, 1)


def test_a_replay_shows_the_turn_as_it_is_now(api, keys, session, post):
    turn = post(headers={"Idempotency-Key": "k1"}).json["id"]
    api.call("DELETE", f"/v1/sessions/{session}", keys.alice)
    again = post(headers={"Idempotency-Key": "k1"})  # although the session takes no turn by now
    assert (again.status_code, again.json["id"], again.json["status"]) == (200, turn, "stopped")


def test_a_default_that_is_spelled_out_is_the_same_request(api, post):
    first = post(headers={"Idempotency-Key": "k1"})
    again = post(headers={"Idempotency-Key": "k1"}, recovery="restart", multitask_strategy="reject")
    assert (again.status_code, again.json["id"]) == (200, first.json["id"])


def test_another_body_with_the_same_key_is_a_conflict(api, post, as_owner):
    post(headers={"Idempotency-Key": "k1"})
    answer = post(headers={"Idempotency-Key": "k1"}, content="Other")
    assert (answer.status_code, answer.json["code"]) == (422, "idempotency_conflict")
    assert left_behind(as_owner)[:3] == (1, 1, 1)


def test_another_session_with_the_same_key_is_a_conflict_for_a_user_and_for_an_organization(api, keys, post):
    post(headers={"Idempotency-Key": "k1"})
    first = api.session(keys.service, user="carol")
    api.turn(keys.service, first, headers={"Idempotency-Key": "k1"})
    for key, user in ((keys.alice, "alice"), (keys.service, "carol"), (keys.admin, "dave")):
        other = api.session(key, user=user)
        answer = api.post(
            f"/v1/sessions/{other}/turns", key, json={"content": "Hello"}, headers={"Idempotency-Key": "k1"}
        )
        assert (answer.status_code, answer.json["code"]) == (422, "idempotency_conflict")


def test_another_organization_may_use_the_same_key(api, post, strangers):
    post(headers={"Idempotency-Key": "k1"})
    other = api.session(strangers.alice)
    api.turn(strangers.alice, other, headers={"Idempotency-Key": "k1"})


def test_a_key_that_is_too_old_counts_as_absent(api, keys, session, post, as_owner):
    first = post(headers={"Idempotency-Key": "k1"}).json["id"]
    api.post(f"/v1/turns/{first}/stop", keys.alice)
    as_owner("update turnkeeper.idempotency_keys set created_at = now() - interval '25 hours'")
    second = post(headers={"Idempotency-Key": "k1"}, content="Other")
    assert second.status_code == 202
    assert second.json["id"] != first
    assert post(headers={"Idempotency-Key": "k1"}, content="Other").json["id"] == second.json["id"]


def test_a_refused_request_does_not_use_its_key_up(api, keys, post):
    first = post(headers={"Idempotency-Key": "k0"}).json["id"]
    assert post(headers={"Idempotency-Key": "k1"}).status_code == 409
    api.post(f"/v1/turns/{first}/stop", keys.alice)
    assert post(headers={"Idempotency-Key": "k1"}).status_code == 202


def test_a_key_that_is_not_visible_ascii_is_refused(api, post):
    for key in ("", "x" * 256, "a b", "é", "tab\t"):
        answer = post(headers={"Idempotency-Key": key.encode().decode("latin-1")})
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/headers/Idempotency-Key")


def test_fifty_requests_at_once_with_one_key_make_one_turn(api, post, as_owner):  # A1
    start = threading.Barrier(50)

    def send(_):
        start.wait(60)
        return post(headers={"Idempotency-Key": "k1"})

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    assert sorted({answer.status_code for answer in answers}) == [200, 202]
    assert sum(answer.status_code == 202 for answer in answers) == 1
    assert len({answer.json["id"] for answer in answers}) == 1
    assert left_behind(as_owner)[:3] == (1, 1, 1)


def test_a_first_request_that_hangs_is_in_progress_for_the_second(api, post, database, organization):
    from sqlalchemy import event, text

    @event.listens_for(api.services.database._engine, "checkout")
    def wait_for_a_moment(connection, *_):
        connection.pgconn.exec_(b"set lock_timeout = '100ms'")

    with database.of(organization) as db:  # the first request, which does not end
        db.execute(
            text(
                "select pg_advisory_xact_lock(hashtextextended(cast(:organization as text) || '/' || :key, 0))"
            ),
            {"organization": organization, "key": " " + hashlib.sha256(b"alice\0k1").hexdigest()},
        )
        answer = post(headers={"Idempotency-Key": "k1"})
    assert (answer.status_code, answer.json["code"]) == (409, "idempotency_in_progress")
    assert answer.json["retryable"] is True
    assert answer.json["retry_after_ms"] > 0
    assert "Retry-After" in answer.headers


# What a session does not take


def test_two_posts_at_once_make_one_turn_and_one_refusal(api, post, as_owner):  # A3
    start = threading.Barrier(2)

    def send(_):
        start.wait(60)
        return post()

    with ThreadPoolExecutor(2) as pool:
        one, other = sorted(pool.map(send, range(2)), key=lambda answer: answer.status_code)
    assert (one.status_code, other.status_code) == (202, 409)
    assert (other.json["code"], other.json["active_turn_id"]) == ("session_busy", one.json["id"])
    assert left_behind(as_owner) == (1, 1, 0, 2)


def test_a_session_with_an_active_turn_is_busy(api, keys, session, post, as_owner):
    turn = post().json["id"]
    for status in ("queued", "running", "stopping"):
        if status == "running":
            run_it(as_owner, turn)
        if status == "stopping":
            api.post(f"/v1/turns/{turn}/stop", keys.alice)
        assert api.get(f"/v1/sessions/{session}", keys.alice).json["active_turn_id"] == turn
        assert api.get(f"/v1/turns/{turn}", keys.alice).json["status"] == status
        answer = post()
        assert (answer.status_code, answer.json["active_turn_id"]) == (409, turn)


def test_a_turn_that_ended_makes_room_for_the_next(api, keys, session, post, as_owner):
    complete_it(as_owner, post().json["id"])
    assert post().status_code == 202
    numbers = as_owner("select number from turnkeeper.turns order by number")
    assert [number for (number,) in numbers] == [1, 2]


def test_a_session_whose_turns_are_used_up_takes_none(api, keys, as_owner):
    session = api.session(keys.alice, max_turns=1)
    complete_it(as_owner, api.turn(keys.alice, session))
    before = left_behind(as_owner)
    answer = api.post(f"/v1/sessions/{session}/turns", keys.alice, json={"content": "Hi"})
    assert (answer.status_code, answer.json["code"], answer.json["max_turns"]) == (
        429,
        "turn_limit_reached",
        1,
    )
    assert left_behind(as_owner) == before


def test_a_turn_that_never_reached_the_provider_uses_no_turn_up(api, keys):
    session = api.session(keys.alice, max_turns=1)
    api.post(f"/v1/turns/{api.turn(keys.alice, session)}/stop", keys.alice)
    assert api.get(f"/v1/sessions/{session}", keys.alice).json["turn_count"] == 0
    api.turn(keys.alice, session)


def test_an_organization_without_ai_takes_no_turn(api, post, as_owner):
    as_owner("update turnkeeper.organizations set ai_enabled = false")
    answer = post(headers={"Idempotency-Key": "k1"})
    assert (answer.status_code, answer.json["code"]) == (403, "ai_disabled")
    assert left_behind(as_owner) == (0, 0, 0, 1)


@pytest.mark.parametrize(("column", "age"), [("last_activity_at", "3 hours"), ("created_at", "25 hours")])
def test_a_session_over_its_limits_is_expired_for_every_request(
    api, keys, session, post, as_owner, column, age
):
    as_owner(f"update turnkeeper.sessions set {column} = now() - cast(:age as interval)", age=age)
    for _ in range(2):
        answer = post(headers={"Idempotency-Key": "k1"})
        assert (answer.status_code, answer.json["code"]) == (410, "session_expired")
    shown = api.get(f"/v1/sessions/{session}", keys.alice).json
    assert shown["status"] == "expired"
    assert left_behind(as_owner) == (0, 0, 0, 1)
    assert api.post(f"/v1/sessions/{session}/pause", keys.alice).status_code == 410


def test_a_session_does_not_expire_under_its_running_turn(api, post, as_owner):
    turn = post().json["id"]
    as_owner("update turnkeeper.sessions set last_activity_at = now() - interval '3 hours'")
    answer = post()
    assert (answer.status_code, answer.json["active_turn_id"]) == (409, turn)


# Reading


def test_turns_are_listed_newest_first(api, keys, session, post):
    made = []
    for _ in range(3):
        made.append(post().json["id"])
        api.post(f"/v1/turns/{made[-1]}/stop", keys.alice)
    path = f"/v1/sessions/{session}/turns"
    first = api.get(f"{path}?limit=2", keys.alice).json
    second = api.get(f"{path}?limit=2&cursor={first['next_cursor']}", keys.alice).json
    assert [turn["id"] for turn in first["data"] + second["data"]] == made[::-1]
    assert second["next_cursor"] is None


def test_waiting_ends_when_the_turn_does(api, keys, post, as_owner):
    turn = post().json["id"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.get, f"/v1/turns/{turn}?wait=60", keys.alice)
        as_owner("select 1")
        assert not waiting.done()
        run_it(as_owner, turn)
        complete_it(as_owner, turn)
        answer = waiting.result(timeout=60)
    assert answer.json["status"] == "completed"


def test_waiting_ends_when_its_time_is_over(api, keys, post):
    turn = post().json["id"]
    assert api.get(f"/v1/turns/{turn}?wait=0.1", keys.alice).json["status"] == "queued"


def test_a_wait_that_is_no_number_up_to_60_is_refused(api, keys, post):
    turn = post().json["id"]
    for wait in ("-1", "61", "abc", "nan", "inf", "1e1", ""):
        answer = api.get(f"/v1/turns/{turn}?wait={wait}", keys.alice)
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/query/wait"), wait


# Stop


def test_a_queued_turn_is_stopped_at_once_and_says_so(api, keys, session, post, redis_client):
    turn = post().json["id"]
    answer = api.post(f"/v1/turns/{turn}/stop", keys.alice)
    assert (answer.status_code, answer.json["status"], answer.json["stop_reason"]) == (200, "stopped", "user")
    assert answer.json["stop_requested_at"] == answer.json["stop_observed_at"] == answer.json["finished_at"]
    assert answer.json["last_seq"] == 4
    assert api.services.notices.drain(60)
    entries = redis_client.xrange(log_key(session, turn))
    assert [json.loads(entry[b"e"])["type"] for _, entry in entries] == [
        "turn_queued",
        "title_updated",
        "stop_requested",
        "done",
    ]
    assert [json.loads(entry[b"e"])["seq"] for _, entry in entries] == [1, 2, 3, 4]


def test_a_stop_is_idempotent(api, keys, post):
    turn = post().json["id"]
    first = api.post(f"/v1/turns/{turn}/stop", keys.alice)
    again = api.post(f"/v1/turns/{turn}/stop", keys.alice, json={})
    assert (again.status_code, again.json) == (200, first.json)


def test_a_running_turn_is_asked_and_its_worker_nudged(api, keys, session, post, as_owner, redis_client):
    turn = post().json["id"]
    run_it(as_owner, turn)
    nudges = redis_client.pubsub()
    nudges.subscribe(ABORT_CHANNEL)
    assert nudges.get_message(timeout=60)["type"] == "subscribe"
    first = api.post(f"/v1/turns/{turn}/stop", keys.alice)
    assert (first.status_code, first.json["status"], first.json["finished_at"]) == (202, "stopping", None)
    assert nudges.get_message(timeout=60)["data"] == turn.encode()
    assert redis_client.get(abort_key(session, turn)) == b"user"
    assert 0 < redis_client.ttl(abort_key(session, turn)) <= 900
    again = api.post(f"/v1/turns/{turn}/stop", keys.alice)
    assert (again.status_code, again.json) == (202, first.json)
    nudges.close()


def test_a_stop_waits_for_the_end_when_it_is_told_to(api, keys, post, as_owner):
    turn = post().json["id"]
    run_it(as_owner, turn)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(api.post, f"/v1/turns/{turn}/stop", keys.alice, json={"wait_ms": 30_000})
        deadline = threading.Event()
        while not as_owner("select 1 from turnkeeper.turns where status = 'stopping'"):
            assert not deadline.wait(0.01)
        as_owner("update turnkeeper.turns set status = 'stopped', finished_at = now()")
        answer = stopping.result(timeout=60)
    assert (answer.status_code, answer.json["status"]) == (200, "stopped")


def test_a_wait_of_a_stop_is_checked(api, keys, post):
    turn = post().json["id"]
    for wait_ms in (-1, 30_001, "5", 1.5, True):
        answer = api.post(f"/v1/turns/{turn}/stop", keys.alice, json={"wait_ms": wait_ms})
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/wait_ms"), wait_ms
    assert api.get(f"/v1/turns/{turn}", keys.alice).json["status"] == "queued"


def test_a_late_stop_changes_nothing_of_the_turn_that_ended_or_of_the_next(api, keys, post, as_owner):
    earlier = post().json["id"]
    complete_it(as_owner, earlier)
    later = post().json["id"]
    answer = api.post(f"/v1/turns/{earlier}/stop", keys.alice)
    assert (answer.status_code, answer.json["status"], answer.json["stop_reason"]) == (200, "completed", None)
    assert api.get(f"/v1/turns/{later}", keys.alice).json["status"] == "queued"


def test_a_stop_in_the_queue_keeps_what_an_earlier_attempt_had_shown(
    api, keys, session, post, as_owner
):  # I5
    turn = post().json["id"]
    as_owner("update turnkeeper.turns set attempt = 1 where id = :id", id=turn)
    as_owner(
        "insert into turnkeeper.checkpoints (organization_id, turn_id, attempt, seq, called, content, reasoning)"
        " select organization_id, id, 1, 7, true, 'Half an ans', 'hm' from turnkeeper.turns"
    )
    stopped = api.post(f"/v1/turns/{turn}/stop", keys.alice).json
    _, kept = api.get(f"/v1/sessions/{session}/messages", keys.alice).json["data"]
    assert (kept["content"], kept["status"], kept["position"]) == ("Half an ans", "partial", 3)
    assert (stopped["message_id"], stopped["last_seq"]) == (kept["id"], 9)
    assert as_owner("select 1 from turnkeeper.checkpoints") == []


def test_stops_and_claims_at_once_never_lose_a_turn(api, keys, post, as_owner, database):  # C8
    from uuid import uuid4

    from sqlalchemy import text

    turn = post().json["id"]
    start = threading.Barrier(2)

    def claim():
        start.wait(60)
        with database.across() as db:
            found = db.execute(
                text("select turnkeeper.claim_turn(cast(:turn as uuid), :worker, 10)"),
                {"turn": turn, "worker": uuid4()},
            )
            return found.scalar_one_or_none() is not None

    def stop():
        start.wait(60)
        return api.post(f"/v1/turns/{turn}/stop", keys.alice)

    with ThreadPoolExecutor(2) as pool:
        claimed, stopped = pool.submit(claim), pool.submit(stop)
        answer = stopped.result(60)
        if claimed.result(60):
            assert (answer.status_code, answer.json["status"]) == (202, "stopping")
        else:
            assert (answer.status_code, answer.json["status"]) == (200, "stopped")
