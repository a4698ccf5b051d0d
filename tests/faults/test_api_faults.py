"""Requests that are repeated, crossed or cut short (rows A of the fault matrix)."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx
import pytest
from celery import Celery

from shared.failpoints import Failpoint
from shared.redis.doorbell import QUEUE_NAME, TASK_NAME
from tests.e2e.protocol_client import wait_until
from tests.faults.proxy import Moment
from tests.faults.world import END_SECONDS, World, kill, stopped
from worker.process.celery_settings import celery_settings


def test_a1_fifty_posts_at_once_with_one_key_make_one_turn(world: World):
    session, key = world.api.session(user="alice"), uuid.uuid4().hex
    reader = world.read(session)
    clients = [world.service.api() for _ in range(10)]
    at_once = threading.Barrier(50)

    def post(number: int) -> tuple[int, dict]:
        at_once.wait()
        answer = clients[number % 10].call(
            "POST",
            f"/v1/sessions/{session}/turns",
            json={"content": f"[[tokens=3]] {key}"},
            headers={"Idempotency-Key": key},
        )
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(post, range(50)))
    assert [status for status, _ in answers].count(202) == 1
    assert {status for status, _ in answers} <= {200, 202, 409}
    assert {body["code"] for status, body in answers if status == 409} <= {"idempotency_in_progress"}
    (turn_id,) = {body["id"] for status, body in answers if status != 409}
    world.check(turn_id, key, reader.until_done())
    assert len(world.oracle.records(key)) == 1


def test_a2_one_key_with_another_body_is_a_conflict_that_leaves_nothing(world: World):
    asked = world.ask("tokens=3")
    asked.check()
    key, path = uuid.uuid4().hex, f"/v1/sessions/{asked.session_id}/turns"
    first = world.api.call(
        "POST", path, json={"content": "[[tokens=2]] one"}, headers={"Idempotency-Key": key}
    )
    second = world.api.call(
        "POST", path, json={"content": "[[tokens=2]] two"}, headers={"Idempotency-Key": key}
    )
    assert first.status_code == 202
    assert (second.status_code, second.json()["code"]) == (422, "idempotency_conflict")
    world.api.final(first.json()["id"])
    assert len(world.rows("select 1 as x from turnkeeper.turns where session_id = %s", asked.session_id)) == 2


def test_a3_of_two_posts_in_one_session_one_is_refused(world: World):
    session = world.api.session(user="alice")
    clients, at_once = [world.service.api() for _ in range(4)], threading.Barrier(4)

    def post(number: int) -> int:
        at_once.wait()
        path = f"/v1/sessions/{session}/turns"
        return clients[number].call("POST", path, json={"content": "[[tokens=40 rate=40]] me"}).status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(post, range(4))) == [202, 409, 409, 409]
    (row,) = world.rows("select id from turnkeeper.turns where session_id = %s", session)
    assert world.api.final(str(row["id"]))["status"] == "completed"


def test_a4_turns_whose_api_died_between_commit_and_doorbell_run(world: World):
    session, key = world.api.session(user="alice"), uuid.uuid4().hex
    reader = world.read(session)
    api, pids = world.service.api(), set(world.service.pids("web"))
    with world.failing(Failpoint.AFTER_ACCEPT), pytest.raises(httpx.HTTPError):
        api.call("POST", f"/v1/sessions/{session}/turns", json={"content": f"[[tokens=3]] {key}"})
    posted_at = time.monotonic()
    (row,) = world.rows("select id from turnkeeper.turns where session_id = %s", session)
    assert world.check(str(row["id"]), key, reader.until_done())["status"] == "completed"
    assert time.monotonic() - posted_at < 20
    (killed,) = wait_until(lambda: pids - set(world.service.pids("web")), "the death to be seen", END_SECONDS)
    world.await_replaced("web", [killed])


def test_a5_doorbells_five_times_out_of_order_and_late_run_a_turn_once(world: World):
    app = Celery("five-times", set_as_current=False)
    app.conf.update(celery_settings(world.redis_server.url))

    def ring(turn_id: str) -> None:
        app.send_task(TASK_NAME, args=[turn_id, ""], queue=QUEUE_NAME, ignore_result=True)

    with stopped(*world.service.pids("worker")):
        asked = [world.ask("tokens=10 rate=40") for _ in range(4)]
        for _ in range(5):
            for each in reversed(asked):
                ring(each.turn_id)
    for each in asked:
        turn = each.check()
        assert (turn["status"], turn["attempt"]) == ("completed", 1)
        ring(each.turn_id)
        ring(str(uuid.uuid4()))
    wait_until(lambda: not world.redis().llen("turns:turns"), "the doorbells to be heard", END_SECONDS)
    for each in asked:
        assert len(each.requests()) == 1
        each.check()
    app.close()


def test_a8_a_sweeper_that_stands_still_does_not_stop_the_others(world: World):
    asked = world.streaming("tokens=60 rate=40", 1)
    holder = asked.worker()
    with world.postgres_proxy.trap(
        b"turnkeeper.lost_turns(", Moment.BEFORE, pids=world.pids("worker"), times=1
    ) as sweeping:
        sweeping.await_sprung()
        # One sweeper hangs with the lock in its hand; the other must get it when that transaction is given up.
        kill(holder)
        turn = asked.check()
    assert (turn["status"], turn["attempt"]) == ("completed", 2)
    world.await_replaced("worker", [holder])


def test_a6_of_a_hundred_posts_for_a_budget_of_ten_turns_ten_are_accepted(world: World):
    output, sessions = 100, [world.api.session(user=f"user-{number}") for number in range(100)]
    clients, at_once = [world.service.api() for _ in range(10)], threading.Barrier(25)

    def body(number: int) -> dict:
        return {"content": f"[[tokens=3]] {number:03d}", "max_output_tokens": output}

    def post(number: int) -> tuple[int, dict]:
        if number < 25:
            at_once.wait(END_SECONDS)
        path = f"/v1/sessions/{sessions[number]}/turns"
        answer = clients[number % 10].call("POST", path, json=body(number))
        return answer.status_code, answer.json()

    # By hand: a byte of the prompt may be a token, at $3 a million here, a token of the answer is at $15.
    hold = Decimal(len(body(0)["content"]) + 8 + 128) * 3 / 1_000_000 + Decimal(output) * 15 / 1_000_000
    spent = world.spent_today()
    with world.budget(spent + hold * 10):
        with stopped(*world.service.pids("worker")), ThreadPoolExecutor(25) as pool:
            answers = list(pool.map(post, range(100)))
        assert [status for status, _ in answers].count(202) == 10
        refused = [body for status, body in answers if status != 202]
        assert {(body["code"], body["period"]) for body in refused} == {("budget_exceeded", "day")}
        for status, turn in answers:
            if status == 202:
                assert world.api.final(turn["id"])["status"] == "completed"
        assert spent < world.spent_today() <= spent + hold * 10
    assert world.rows("select * from turnkeeper.holds") == []


def test_a15_what_waits_ends_while_its_organization_is_switched_off_and_what_runs_goes_on(world: World):
    running = world.ask("tokens=400 rate=20")
    running.reader.await_text(1)
    path = f"/v1/sessions/{running.session_id}/turns"
    body = {"content": "[[tokens=3]] behind", "multitask_strategy": "enqueue"}
    behind = [world.api.expect(202, "POST", path, json=body)["id"] for _ in range(5)]
    switch = "update turnkeeper.organizations set ai_enabled = %s returning id"
    world.rows(switch, False)
    try:
        for turn_id in behind:
            turn = world.api.final(turn_id)
            assert (turn["status"], turn["error"]["code"]) == ("failed", "ai_disabled")
        assert world.status(running.turn_id) == "running"
    finally:
        world.rows(switch, True)
    world.api.call("POST", f"/v1/turns/{running.turn_id}/stop", json={})
    assert world.api.final(running.turn_id)["status"] == "stopped"


def test_a16_everything_that_an_organization_has_queued_and_running_is_stopped(world: World):
    running = world.ask("tokens=400 rate=20")
    running.reader.await_text(1)
    sessions = [world.api.session(user=f"user-{number}") for number in range(60)]
    with stopped(*world.service.pids("worker")):
        posted = [
            world.api.expect(202, "POST", f"/v1/sessions/{session}/turns", json={"content": "[[tokens=3]] x"})
            for session in sessions
        ]
        admin = world.service.api("admin")
        told = admin.expect(200, "POST", "/v1/organization/stop", json={"reason": "a test"})
        assert told == {"queued": len(posted), "running": 1}
        assert admin.expect(200, "POST", "/v1/organization/stop", json={}) == {"queued": 0, "running": 0}
    for turn in posted:
        ended = world.api.final(turn["id"])
        assert (ended["status"], ended["stop_reason"]) == ("stopped", "user")
    assert world.api.final(running.turn_id)["stop_reason"] == "user"
    running.reader.until_done()
