"""Turns while PostgreSQL restarts, is down, hangs or does not report what it did (rows P)."""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.e2e.protocol_client import wait_until
from tests.faults.proxy import Moment
from tests.faults.world import END_SECONDS, Asked, World, kill

SETTLE = b"insert into turnkeeper.ledger"
ACCEPT = b"insert into turnkeeper.turns"
COMMIT = b"COMMIT"


@pytest.fixture(autouse=True)
def postgres_is_back(world: World):
    if not world.postgres.pid:
        world.postgres.start()
    world.await_ready()


def ledger(world: World, asked: Asked) -> list[dict]:
    return world.rows("select * from turnkeeper.ledger where turn_id = %s order by attempt", asked.turn_id)


@pytest.mark.parametrize("how", ["fast", "crash"])
def test_p1_a_restart_in_mid_stream_is_survived_within_the_lease(world: World, how: str):
    ending = [world.streaming("tokens=20 rate=20", 1) for _ in range(2)]
    going_on = [world.streaming("tokens=150 rate=40", 1) for _ in range(2)]
    if how == "crash":
        kill(world.postgres.pid)
        wait_until(lambda: not world.postgres.pid, "the end of PostgreSQL")
    world.postgres.stop()
    world.postgres.start()
    for each in (*ending, *going_on):
        turn = each.check()
        assert turn["status"] == "completed"
        # With a machine that is slow to start it again the lease ran out, and another attempt did it.
        assert len(ledger(world, each)) == turn["attempt"] <= 2


def test_p2_while_it_is_away_posts_are_refused_and_running_turns_pause_until_it_is_back(world: World):
    asked = [world.streaming("tokens=2000 rate=40", 1) for _ in range(2)]
    keeping = world.streaming("tokens=2000 rate=40", 1, recovery="fail")
    api, session = world.service.api(), world.api.session(user="alice")
    world.postgres.stop()
    stopped_at = time.monotonic()
    answer = api.call("POST", f"/v1/sessions/{session}/turns", json={"content": "hello"})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]
    for each in (*asked, keeping):
        # Fenced by its own clock: it closes the connection, or shows nothing more.
        wait_until(lambda each=each: quiet_for(each, 2.0), "silence", END_SECONDS)
    assert time.monotonic() - stopped_at < 20
    world.postgres.start()
    back_at = time.monotonic()
    for each in (*asked, keeping):
        # The worker's renewal and the sweeper race: the turn continues, begins again or has failed.
        each.reader.await_after(back_at)
        world.api.stop(each.turn_id)
        turn = each.check()
        assert turn["status"] == "stopped" or (each is keeping and turn["status"] == "failed")
        # The stop may have come before the next attempt had begun; then that called nobody.
        assert len(ledger(world, each)) == len(each.requests()) >= turn["attempt"] - 1


def quiet_for(asked: Asked, seconds: float) -> bool:
    """Return whether the reader received nothing for so long."""
    return time.monotonic() - asked.reader.times[-1][0] > seconds


def test_p3_a_settlement_whose_commit_is_not_answered_is_written_once(world: World):
    with world.postgres_proxy.trap(
        COMMIT, Moment.AFTER, after=SETTLE, pids=world.pids("worker"), times=3, cuts=True
    ) as lost:
        asked = [world.ask("tokens=8") for _ in range(3)]
        lost.await_sprung(3)
    for each in asked:
        turn = each.check()
        assert (turn["status"], turn["attempt"]) == ("completed", 1)
        assert len(ledger(world, each)) == len(each.requests()) == 1


def test_p3_a_post_whose_commit_is_not_answered_makes_one_turn_when_it_is_sent_again(world: World):
    session, key = world.api.session(user="alice"), uuid.uuid4().hex
    reader = world.read(session)
    body = {"content": f"[[tokens=4]] {key}"}
    path, headers = f"/v1/sessions/{session}/turns", {"Idempotency-Key": key}
    with world.postgres_proxy.trap(
        COMMIT, Moment.AFTER, after=ACCEPT, pids=world.pids("web"), cuts=True
    ) as lost:
        refused = world.api.call("POST", path, json=body, headers=headers)
        lost.await_sprung()
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    answer = world.api.call("POST", path, json=body, headers=headers)
    assert answer.headers["idempotency-replayed"] == "true"
    assert answer.status_code == 200
    turn = world.check(answer.json()["id"], key, reader.until_done())
    assert turn["status"] == "completed"
    assert len(world.oracle.records(key)) == 1


def test_p5_locks_and_slow_queries_starve_nobody(world: World):
    running = world.streaming("tokens=60 rate=40", 1)
    with psycopg.connect(world.postgres.owner_url) as db:
        db.execute("lock table turnkeeper.turns in access exclusive mode")
        api = world.service.api()
        began = time.monotonic()
        answer = api.call("GET", f"/v1/turns/{running.turn_id}")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert time.monotonic() - began < 15
        assert api.call("GET", "/healthz").status_code == 200
    assert running.check()["status"] == "completed"
    with world.postgres_proxy.delaying(0.1):
        assert world.ask("tokens=10 rate=20").check()["status"] == "completed"


def test_p7_without_a_free_connection_posts_are_refused_and_leases_are_kept(world: World):
    running = world.streaming("tokens=200 rate=40", 1)
    session = world.api.session(user="alice")
    with psycopg.connect(world.postgres.owner_url, autocommit=True) as db:
        # Those that are open stay open; new ones are refused.
        db.execute("alter role turnkeeper_login connection limit 0")
        db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'turnkeeper_login'"
            " and query not like '%renew_leases%' and query not like '%turnkeeper.workers%'"
        )
        try:
            began = time.monotonic()
            answer = world.service.api().call(
                "POST", f"/v1/sessions/{session}/turns", json={"content": "hello"}
            )
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert time.monotonic() - began < 8
        finally:
            db.execute("alter role turnkeeper_login connection limit -1")
    turn = running.check()
    assert turn["status"] == "completed"
    assert world.ask("tokens=3").check()["status"] == "completed"


def test_p8_a_deadlock_with_a_settlement_is_tried_again(world: World):
    asked = world.streaming("tokens=30 rate=40", 1)
    with psycopg.connect(world.postgres.owner_url) as db:
        db.execute("set local deadlock_timeout = '10s'")  # the other side is to be the victim
        db.execute("select 1 from turnkeeper.sessions where id = %s for update", [asked.session_id])
        wait_until(lambda: waits_for_lock(world), "the settlement to wait", END_SECONDS)
        blocked = threading.Thread(
            target=lambda: db.execute(
                "select 1 from turnkeeper.turns where id = %s for update", [asked.turn_id]
            )
        )
        blocked.start()
        blocked.join(END_SECONDS)
        assert not blocked.is_alive()
    turn = asked.check()
    assert turn["status"] == "completed"
    assert len(ledger(world, asked)) == turn["attempt"]


def waits_for_lock(world: World) -> bool:
    return bool(
        world.rows(
            "select 1 as x from pg_stat_activity where wait_event_type = 'Lock' and ltrim(query, E' \\n') like %s",
            "with given as%",
        )
    )


REFUSALS = {
    "read-only": (
        "alter system set default_transaction_read_only = on",
        "alter system reset default_transaction_read_only",
    ),
    "no rights": (
        "revoke insert, update, delete on all tables in schema turnkeeper from turnkeeper_app",
        None,
    ),
}


@contextmanager
def refusing(world: World, how: str) -> Iterator[None]:
    """Let PostgreSQL answer every write with an error; afterwards it serves as before."""
    with psycopg.connect(world.postgres.owner_url, autocommit=True) as db:
        granted = db.execute(
            "select table_name, privilege_type from information_schema.role_table_grants"
            " where table_schema = 'turnkeeper' and grantee = 'turnkeeper_app'"
            " and privilege_type in ('INSERT', 'UPDATE', 'DELETE')"
        ).fetchall()
        columns = db.execute(
            "select table_name, column_name, privilege_type from information_schema.role_column_grants"
            " where table_schema = 'turnkeeper' and grantee = 'turnkeeper_app'"
            " and privilege_type in ('INSERT', 'UPDATE')"
        ).fetchall()
        begin, end = REFUSALS[how]
        db.execute(begin)
        db.execute("select pg_reload_conf()")
        try:
            yield
        finally:
            db.execute("set default_transaction_read_only = off")
            if end is not None:
                db.execute(end)
                db.execute("select pg_reload_conf()")
            else:
                for table, privilege in granted:
                    db.execute(f"grant {privilege} on turnkeeper.{table} to turnkeeper_app")
                for table, column, privilege in columns:
                    db.execute(f"grant {privilege} ({column}) on turnkeeper.{table} to turnkeeper_app")


def failed_renewals(world: World) -> list[int]:
    """Count, for each worker, how often its leases were not renewed."""
    logs = [Path(f"/proc/{pid}/fd/2").readlink() for pid in world.service.pids("worker")]
    return [log.read_text(errors="replace").count("leases were not renewed") for log in logs]


@pytest.mark.parametrize("how", REFUSALS)
def test_p10_a_server_that_refuses_to_write_ruins_no_worker(world: World, how: str):
    workers = set(world.worker_pids().values())
    running = [world.streaming("tokens=400 rate=40", 1) for _ in range(2)]
    api, session = world.service.api(), world.api.session(user="alice")
    with refusing(world, how):
        answers = []

        def is_refused() -> bool:
            answers.append(api.call("POST", f"/v1/sessions/{session}/turns", json={"content": "hello"}))
            return answers[-1].status_code == 503

        wait_until(is_refused, "the refusal to arrive", END_SECONDS)
        for _ in range(5):
            answer = api.call("POST", "/v1/sessions", json={"user": "alice"})
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"]
        # With a thread that dies of the first, no second one follows.
        wait_until(lambda: min(failed_renewals(world)) >= 3, "renewals that fail", END_SECONDS)
    # Every connection of every process serves again at once.
    for _ in range(20):
        assert api.call("POST", "/v1/sessions", json={"user": "alice"}).status_code == 201
    assert world.ask("tokens=3").check()["status"] == "completed"
    for each in running:
        turn = each.check()
        assert turn["status"] == "completed"
        assert len(ledger(world, each)) == turn["attempt"] <= 2
    # A turn of more than its lease's length shows that leases are renewed again.
    long = world.streaming("tokens=440 rate=40", 1).check()
    assert (long["status"], long["attempt"]) == ("completed", 1)
    assert set(world.worker_pids().values()) == workers
