"""The effect of a new turn on those before it: `reject`, `enqueue`, `interrupt`, `rollback`, and races."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import redis

from shared.ids import new_id
from shared.money.usage import Usage, UsageSource
from shared.redis.names import abort_key, log_key
from shared.turn.events import decode_header
from shared.turn.turns import FinishReason, StopReason
from tests.integration.conftest import until
from worker.turn.claim import claim_next_turn
from worker.turn.outcome import Answer, Completed, Requeued, Stopped
from worker.turn.settle import Settlement, settle

WORKER = new_id()
ROUNDS = 12


def answer_of(content):
    used = Usage(input_tokens=10, output_tokens=5)
    return Answer(content, "", called=True, usage=used, usage_source=UsageSource.PROVIDER)


class Table:
    """A session, whose turns are posted through the API and run by hand."""

    def __init__(self, api, keys, database, settings) -> None:
        self.api, self.key, self.database, self.settings = api, keys.alice, database, settings
        self.session = api.session(self.key)

    def try_post(self, content, strategy="enqueue", **options):
        body = {"content": content, "multitask_strategy": strategy}
        return self.api.post(f"/v1/sessions/{self.session}/turns", self.key, json=body, **options)

    def post(self, content, strategy="enqueue"):
        answer = self.try_post(content, strategy)
        assert answer.status_code == 202, answer.json
        return answer.json["id"]

    def claim(self, hint=None):
        return claim_next_turn(self.database, WORKER, hint, lease_seconds=60, context_tokens=10_000)

    def claimed(self):
        claim = self.claim()
        return None if claim is None else str(claim.turn_id)

    def settle(self, claim, ending):
        settlement = Settlement(claim.organization_id, claim.turn_id, claim.attempt, last_seq=9)
        return settle(self.database, self.settings.provider, settlement, ending)

    def complete(self, claim, content="answer"):
        return self.settle(claim, Completed(answer_of(content), FinishReason.STOP))

    def turn(self, turn):
        return self.api.get(f"/v1/turns/{turn}", self.key).json

    def how(self, turn):
        shown = self.turn(turn)
        return shown["status"], shown["stop_reason"]

    def stop(self, turn):
        return self.api.post(f"/v1/turns/{turn}/stop", self.key)

    def messages(self):
        data = self.api.get(f"/v1/sessions/{self.session}/messages", self.key).json["data"]
        return [message["content"] for message in data]


@pytest.fixture
def table(api, keys, database, settings):
    return Table(api, keys, database, settings)


@pytest.fixture
def redis_client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


def at_once(*calls):
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait(60)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(run, call) for call in calls]]


# Enqueue


def test_enqueued_turns_of_a_session_run_first_in_first_out_and_one_at_a_time(table):
    turns = [table.post(content) for content in ("one", "two", "three")]
    for turn in turns:
        claim = table.claim()
        assert str(claim.turn_id) == turn
        assert table.claim() is None  # the next one waits for this one's end
        table.complete(claim, f"answer to {turn}")
    assert table.claim() is None


def test_an_answer_stands_behind_its_question_also_when_the_next_was_queued_before_it(table):
    table.post("one")
    first = table.claim()
    table.post("two")
    table.post("three")
    table.complete(first, "answer to one")
    second = table.claim()
    assert [message.content for message in second.history] == ["one", "answer to one", "two"]
    table.complete(second, "answer to two")
    assert table.messages() == ["one", "answer to one", "two", "answer to two", "three"]


def test_the_next_turn_can_be_claimed_as_soon_as_the_one_before_it_ended_however(table):
    turns = [table.post(content) for content in ("one", "two", "three", "four")]
    first = table.claim()
    table.stop(turns[0])
    assert table.claim() is None  # asked, and not yet observed
    table.settle(first, Stopped(answer_of("par"), StopReason.USER))
    table.stop(turns[2])  # one that waits in the middle
    second = table.claim()
    assert str(second.turn_id) == turns[1]
    table.complete(second)
    assert table.claimed() == turns[3]


def test_a_turn_that_waits_again_after_a_lost_attempt_stays_its_sessions_next(table):
    first, second = table.post("one"), table.post("two")
    table.settle(table.claim(), Requeued(answer_of("void")))
    again = table.claim()
    assert (str(again.turn_id), again.attempt) == (first, 2)
    table.complete(again)
    assert table.claimed() == second


def test_stopping_a_turn_that_waits_wakes_a_worker_for_the_one_behind_it(table, redis_client):
    first = table.post("one")
    table.post("two")
    assert table.api.services.notices.drain(60)
    rung = redis_client.llen("turns:turns")
    table.stop(first)
    assert table.api.services.notices.drain(60)
    assert redis_client.llen("turns:turns") == rung + 1


def test_a_session_that_is_closed_ends_all_that_waits_in_it(table):
    turns = [table.post(content) for content in ("one", "two", "three")]
    running = table.claim()
    assert table.api.call("DELETE", f"/v1/sessions/{table.session}", table.key).status_code == 204
    assert [table.how(turn) for turn in turns[1:]] == [("stopped", "session_closed")] * 2
    assert table.how(turns[0]) == ("stopping", "session_closed")
    table.settle(running, Stopped(answer_of("par"), StopReason.USER))
    assert table.claim() is None


def test_turns_that_wait_count_against_the_sessions_limit(api, keys, database, settings):
    table = Table(api, keys, database, settings)
    table.session = api.session(keys.alice, max_turns=2)
    for content in ("one", "two"):
        table.post(content)
    refused = table.try_post("three")
    assert (refused.status_code, refused.json["code"]) == (429, "turn_limit_reached")
    assert table.messages() == ["one", "two"]


# Interrupt


def test_interrupting_stops_the_running_turn_keeps_its_text_and_then_runs(table, redis_client):
    first = table.post("one")
    running = table.claim()
    second = table.post("two", "interrupt")
    assert table.how(first) == ("stopping", "superseded")
    assert table.api.services.notices.drain(60)
    assert redis_client.get(abort_key(table.session, first)) == b"superseded"
    assert table.claim() is None
    table.settle(running, Stopped(answer_of("par"), StopReason.SUPERSEDED))
    assert table.how(first) == ("stopped", "superseded")
    claim = table.claim()
    assert str(claim.turn_id) == second
    assert [message.content for message in claim.history] == ["one", "par", "two"]


def test_interrupting_ends_what_waits_and_its_readers_are_told(table, redis_client):
    first, second = table.post("one"), table.post("two")
    third = table.post("three", "interrupt")
    assert [table.how(turn) for turn in (first, second)] == [("stopped", "superseded")] * 2
    assert table.api.services.notices.drain(60)
    for turn in (first, second):
        types = [
            decode_header(fields[b"e"]).type
            for _, fields in redis_client.xrange(log_key(table.session, turn))
        ]
        assert types[-2:] == ["stop_requested", "done"]
    assert table.claimed() == third
    assert table.messages() == ["one", "two", "three"]


def test_interrupting_a_turn_that_has_just_completed_leaves_it_completed(table):
    first = table.post("one")
    table.complete(table.claim(), "whole")
    second = table.post("two", "interrupt")
    assert table.how(first) == ("completed", None)
    assert table.claimed() == second
    assert table.messages() == ["one", "whole", "two"]


def test_an_interrupted_turn_whose_answer_ended_first_is_completed_and_the_next_runs(table):
    first = table.post("one")
    running = table.claim()
    second = table.post("two", "interrupt")
    table.complete(running, "whole")
    assert table.turn(first)["status"] == "completed"
    assert table.claimed() == second


def test_a_turn_that_a_user_stopped_before_it_was_interrupted_keeps_the_users_reason(table):
    first = table.post("one")
    table.claim()
    table.stop(first)
    table.post("two", "interrupt")
    assert table.how(first) == ("stopping", "user")


def test_a_late_stop_does_not_hit_the_turn_that_came_after(table):
    first = table.post("one")
    running = table.claim()
    second = table.post("two", "interrupt")
    table.settle(running, Stopped(answer_of("par"), StopReason.SUPERSEDED))
    assert table.claimed() == second
    assert table.stop(first).status_code == 200
    assert table.how(second) == ("running", None)


# Rollback


def test_a_rolled_back_turn_leaves_no_message_and_its_cost_stays(table, as_owner):
    first = table.post("one")
    running = table.claim()
    second = table.post("two", "rollback")
    assert table.how(first) == ("stopping", "superseded")
    assert table.messages() == ["two"]
    settled = table.settle(running, Stopped(answer_of("par"), StopReason.SUPERSEDED))
    assert settled.dropped
    assert settled.cost_usd > 0
    assert table.messages() == ["two"]
    assert table.turn(first)["message_id"] is None
    assert as_owner("select sum(cost_usd) from turnkeeper.ledger") == [(settled.cost_usd,)]
    claim = table.claim()
    assert str(claim.turn_id) == second
    assert [message.content for message in claim.history] == ["two"]


def test_a_rolled_back_turn_whose_answer_ended_first_still_leaves_no_message(table):
    first = table.post("one")
    running = table.claim()
    table.post("two", "rollback")
    table.complete(running, "whole")
    shown = table.turn(first)
    assert (shown["status"], shown["message_id"]) == ("completed", None)
    assert table.messages() == ["two"]


def test_a_turn_that_completed_before_the_rollback_is_not_rolled_back(table):
    table.post("one")
    table.complete(table.claim(), "whole")
    table.post("two", "rollback")
    assert table.messages() == ["one", "whole", "two"]


def test_the_done_of_a_rolled_back_turn_is_that_of_no_text(table):
    first = table.post("one")
    table.claim()
    table.api.services.notices.drain(60)
    second = table.post("two", "enqueue")
    table.post("three", "rollback")
    events = table.api.get(f"/v1/turns/{second}/events", table.key).json["data"]
    assert (events[-1]["type"], events[-1]["stop_reason"]) == ("done", "superseded")
    assert events[-1]["content_sha256"] == hashlib.sha256(b"").hexdigest()
    assert table.messages() == ["three"]
    assert table.how(first) == ("stopping", "superseded")


def test_a_rolled_back_turn_that_waited_again_does_not_keep_what_was_shown(table, as_owner):
    first = table.post("one")
    table.settle(table.claim(), Requeued(answer_of("void")))
    as_owner(
        "insert into turnkeeper.checkpoints (organization_id, turn_id, attempt, seq, called, content, reasoning)"
        " select organization_id, id, 1, 5, true, 'shown', '' from turnkeeper.turns where id = :turn",
        turn=first,
    )
    table.post("two", "rollback")
    assert table.how(first) == ("stopped", "superseded")
    assert table.messages() == ["two"]
    assert as_owner("select 1 from turnkeeper.checkpoints") == []


# Races


@pytest.mark.parametrize("strategy", ["reject", "enqueue", "interrupt", "rollback"])
def test_two_posts_at_once_leave_a_session_that_runs_its_turns_one_after_another(table, strategy):
    for _ in range(ROUNDS):
        answers = at_once(*[lambda: table.try_post("hello", strategy) for _ in range(3)])
        accepted = [answer.json["id"] for answer in answers if answer.status_code == 202]
        match strategy:
            case "reject":
                assert len(accepted) == 1
                assert {answer.json["code"] for answer in answers if answer.status_code != 202} == {
                    "session_busy"
                }
            case "enqueue":
                assert len(accepted) == 3
            case _:
                assert len(accepted) == 3
                superseded = [turn for turn in accepted if table.how(turn) == ("stopped", "superseded")]
                assert len(superseded) == 2
        for _ in range(len(accepted) if strategy == "enqueue" else 1):
            claim = table.claim()
            assert str(claim.turn_id) in accepted
            table.complete(claim)
        assert table.claim() is None


@pytest.mark.parametrize("strategy", ["enqueue", "interrupt", "rollback"])
def test_a_post_that_meets_the_end_of_the_turn_before_neither_deadlocks_nor_is_left_waiting(table, strategy):
    for _ in range(ROUNDS):
        first = table.post("one", "reject")
        claim = table.claim()
        settled, answer = at_once(lambda: table.complete(claim), lambda: table.try_post("two", strategy))  # noqa: B023
        assert settled is not None
        assert answer.status_code == 202
        assert table.turn(first)["status"] == "completed"
        second = table.claim()
        assert second is not None, "the second turn waits for nothing"
        assert str(second.turn_id) == answer.json["id"]
        table.complete(second)


def test_a_stop_of_the_next_turn_that_meets_the_end_of_the_one_before_lets_the_third_go_on(table):
    for _ in range(ROUNDS):
        table.post("one")
        second, third = table.post("two"), table.post("three")
        claim = table.claim()
        at_once(lambda: table.complete(claim), lambda: table.stop(second), lambda: table.stop(second))  # noqa: B023
        assert table.how(second) == ("stopped", "user")
        following = table.claim()
        assert following is not None, "the third turn waits for nothing"
        assert str(following.turn_id) == third
        table.complete(following)


def test_interrupts_stops_and_ends_at_once_never_deadlock(table):
    for _ in range(ROUNDS):
        first = table.post("one", "interrupt")
        claim = table.claim()
        waiting = table.post("two", "enqueue")
        answers = at_once(
            lambda: table.complete(claim),  # noqa: B023
            lambda: table.try_post("three", "interrupt"),
            lambda: table.try_post("four", "rollback"),
            lambda: table.stop(first),  # noqa: B023
            lambda: table.stop(waiting),  # noqa: B023
        )
        assert [answer.status_code for answer in answers[1:3]] == [202, 202]
        last = table.claim()
        assert last is not None
        table.complete(last)
        assert table.claim() is None


def test_two_turns_of_a_session_that_end_at_the_same_time_let_the_third_go_on(table, owner_url, as_owner):
    first, second, third = table.post("one"), table.post("two"), table.post("three")
    table.claim()
    end = "update turnkeeper.turns set status = %s, finished_at = now() where id = %s"
    with psycopg.connect(owner_url, connect_timeout=10) as db, ThreadPoolExecutor(1) as pool:
        db.execute(end, ("expired", second))  # as a sweeper does, and not committed yet
        ending = pool.submit(
            as_owner,
            "update turnkeeper.turns set status = 'completed', finished_at = now() where id = :id",
            id=first,
        )
        until(lambda: ending.done() or is_waiting(as_owner))
        db.commit()
        ending.result(timeout=60)
    assert table.claimed() == third


def is_waiting(as_owner):
    return as_owner(
        "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    )
