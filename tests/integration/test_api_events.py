"""A turn's events as JSON pages and as streams."""

import json
from uuid import UUID

import pytest
import redis

from shared.redis.names import log_key
from shared.turn.events import ContentDelta, EventEncoder


@pytest.fixture
def turn(api, keys):
    session = api.session(keys.alice, title="t")
    turn = api.turn(keys.alice, session)
    assert api.services.notices.drain(60)
    return session, turn


@pytest.fixture
def log(redis_url, turn):
    with redis.Redis.from_url(redis_url) as client:
        encoder = EventEncoder(UUID(turn[0]), UUID(turn[1]))

        class Log:
            key = log_key(*turn)

            def append(self, first, last, attempt=1):
                for seq in range(first, last + 1):
                    event = encoder.encode(ContentDelta(f"{seq} "), seq, attempt, "2026-01-31T09:30:00.000Z")
                    client.xadd(self.key, {"e": event}, id=f"{attempt}-{seq}")

            def trim(self, keep):
                client.xtrim(self.key, maxlen=keep, approximate=False)

            def lose(self):
                client.flushall()

        yield Log()


def read(api, keys, turn, query=""):
    answer = api.get(f"/v1/turns/{turn[1]}/events{query}", keys.alice)
    assert answer.status_code == 200, answer.json
    return answer.json


def seqs(page):
    return [event["seq"] for event in page["data"]]


def test_events_are_read_from_a_cursor_in_order(api, keys, turn, log):
    log.append(2, 10)
    assert seqs(read(api, keys, turn)) == list(range(1, 11))
    page = read(api, keys, turn, "?after=4")
    assert (seqs(page), page["last_seq"], page["done"]) == (list(range(5, 11)), 10, False)
    page = read(api, keys, turn, "?after=10")
    assert (seqs(page), page["last_seq"]) == ([], 10)


def test_pages_of_events_have_a_limit(api, keys, turn, log):
    log.append(2, 1200)
    page = read(api, keys, turn)
    assert (len(page["data"]), page["last_seq"]) == (500, 500)
    page = read(api, keys, turn, "?after=500&limit=1000")
    assert (len(page["data"]), page["last_seq"]) == (700, 1200)
    for query in ("limit=0", "limit=1001", "after=-1", "after=x"):
        assert api.get(f"/v1/turns/{turn[1]}/events?{query}", keys.alice).status_code == 422


def test_last_event_id_comes_before_the_urls_cursor(api, keys, turn, log):
    log.append(2, 5)
    answer = api.get(f"/v1/turns/{turn[1]}/events?after=1", keys.alice, headers={"Last-Event-ID": "3"})
    assert seqs(answer.json) == [4, 5]
    answer = api.get(f"/v1/turns/{turn[1]}/events?after=1", keys.alice, headers={"Last-Event-ID": "garbage"})
    assert seqs(answer.json) == [2, 3, 4, 5]


def test_a_log_that_was_cut_is_made_up_for_by_a_gap_and_a_snapshot(api, keys, turn, log, as_owner):
    log.append(2, 10)
    log.trim(4)
    as_owner("update turnkeeper.turns set status = 'running', attempt = 1")
    as_owner(
        "insert into turnkeeper.checkpoints (organization_id, turn_id, attempt, seq, called, content, reasoning)"
        " select organization_id, id, 1, 8, true, '2 3 4 5 6 7 8 ', '' from turnkeeper.turns"
    )
    page = read(api, keys, turn)
    gap, snapshot, *_ = page["data"]
    assert (gap["type"], gap["from"], gap["to"]) == ("gap", 1, 10)
    assert (snapshot["type"], snapshot["content"]) == ("snapshot", "2 3 4 5 6 7 8 9 10 ")
    assert page["last_seq"] == 10


def test_a_turn_whose_log_was_lost_is_read_from_its_row(api, keys, turn, log, as_owner):
    as_owner(
        "with t as (update turnkeeper.turns set status = 'completed', finish_reason = 'stop', attempt = 1,"
        " last_seq = 9, finished_at = now(), message_id = answer_id returning *)"
        " insert into turnkeeper.messages (organization_id, id, session_id, turn_id, position, role, content, status)"
        " select organization_id, answer_id, session_id, id, 3, 'assistant', 'The whole answer', 'complete' from t"
    )
    log.lose()
    page = read(api, keys, turn)
    gap, snapshot, done = page["data"]
    assert (gap["from"], gap["to"]) == (1, 8)
    assert snapshot["content"] == "The whole answer"
    assert (done["type"], done["seq"], page["done"], page["last_seq"]) == ("done", 9, True, 9)
    page = read(api, keys, turn, "?after=8")
    assert [event["type"] for event in page["data"]] == ["done"]
    page = read(api, keys, turn, "?after=9")
    assert page["done"] is True


def test_a_cursor_from_the_future_never_hangs(api, keys, turn, log):
    page = read(api, keys, turn, "?after=999999")
    assert page["data"][-1]["type"] == "snapshot"
    assert page["last_seq"] < 999_999


def frames(text):
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            yield fields


def test_a_stream_of_events_ends_after_done(api, keys, turn):
    api.post(f"/v1/turns/{turn[1]}/stop", keys.alice)
    answer = api.get(f"/v1/turns/{turn[1]}/events", keys.alice, headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.mimetype) == (200, "text/event-stream")
    assert answer.headers["X-Accel-Buffering"] == "no"
    received = list(frames(answer.text))
    assert [frame["event"] for frame in received] == ["turn_queued", "stop_requested", "done"]
    assert [frame["id"] for frame in received] == ["1", "2", "3"]
    assert json.loads(received[-1]["data"])["status"] == "stopped"


def test_a_stranger_gets_no_stream(api, keys, strangers, turn):
    for key in (keys.bob, strangers.admin):
        answer = api.get(f"/v1/turns/{turn[1]}/events", key, headers={"Accept": "text/event-stream"})
        assert answer.status_code == 404


def test_a_post_that_accepts_a_stream_gets_the_turns_events_from_the_first(api, keys):
    session = api.session(keys.alice)
    path, headers = f"/v1/sessions/{session}/turns", {"Accept": "text/event-stream", "Idempotency-Key": "k1"}
    with api.post(path, keys.alice, json={"content": "Hi"}, headers=headers, buffered=False) as answer:
        assert (answer.status_code, answer.mimetype) == (200, "text/event-stream")
        (turn,) = api.get(path, keys.alice).json["data"]
        assert answer.headers["Location"] == f"/v1/turns/{turn['id']}"
        assert "Idempotency-Replayed" not in answer.headers
        api.post(f"/v1/turns/{turn['id']}/stop", keys.alice)
        expected = ["turn_queued", "title_updated", "stop_requested", "done"]
        assert [frame["event"] for frame in frames(answer.text)] == expected
    replayed = api.post(path, keys.alice, json={"content": "Hi"}, headers=headers)
    assert replayed.headers["Idempotency-Replayed"] == "true"
    assert [frame["event"] for frame in frames(replayed.text)] == expected


def test_accepting_anything_is_not_asking_for_a_stream(api, keys, turn):
    for accept in ("*/*", "application/json", "text/event-stream;q=0", ""):
        answer = api.get(f"/v1/turns/{turn[1]}/events", keys.alice, headers={"Accept": accept})
        assert answer.mimetype == "application/json", accept


def test_a_refused_post_is_a_problem_whatever_it_accepts(api, keys, missing_id):
    answer = api.post(
        f"/v1/sessions/{missing_id}/turns",
        keys.alice,
        json={"content": "Hi"},
        headers={"Accept": "text/event-stream"},
    )
    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")
