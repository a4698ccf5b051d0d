"""The operators' view over HTTP: their own organization's turns, and which workers are alive."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from shared.errors import Fault, fault_error
from shared.ids import new_id

PATHS = ("summary", "delays", "turns", "workers", "flagged")


def ask(api, key, path):
    answer = api.get(f"/v1/operations/{path}", key)
    assert answer.status_code == 200, answer.json
    return answer.json


@pytest.fixture
def turn(api, keys, as_owner):
    """Makes a turn of Alice's in the state that the test needs."""

    def make(**columns) -> str:
        turn_id = api.turn(keys.alice, api.session(keys.alice))
        if columns.get("status") == "failed":
            columns = {"error": json.dumps(fault_error(Fault.PROVIDER_TIMEOUT, "too slow")), **columns}
        if columns:
            assignments = ", ".join(f"{name} = :{name}" for name in columns)
            as_owner(f"update turnkeeper.turns set {assignments} where id = :id", id=turn_id, **columns)
        return turn_id

    return make


def test_turns_are_counted_as_they_stand_and_the_oldest_is_named(api, keys, turn):
    now = datetime.now(UTC)
    oldest = turn(claimable_at=now - timedelta(seconds=90))
    turn()
    turn(claimable_at=None)
    turn(status="running", started_at=now)
    turn(status="stopping", started_at=now, stop_reason="user")
    turn(status="completed", started_at=now, finished_at=now)
    summary = ask(api, keys.admin, "summary")
    assert [summary[name] for name in ("queued", "claimable", "running", "stopping")] == [3, 2, 1, 1]
    assert summary["oldest_turn_id"] == oldest
    assert 90 <= summary["oldest_wait_seconds"] < 120
    assert summary["failures"] == []


def test_failures_of_a_day_are_counted_by_their_code(api, keys, turn, as_owner):
    now = datetime.now(UTC)
    turn(status="failed", finished_at=now)
    last = turn(status="failed", finished_at=now)
    expired = turn(status="expired", finished_at=now)
    turn(status="stopped", stop_reason="user", finished_at=now)
    of_yesterday = turn(status="failed", finished_at=now)
    for statement in (
        "delete from turnkeeper.messages where turn_id = :id",
        "update turnkeeper.turns set id = '01890a5d-ac96-774b-bcce-b302099a8057' where id = :id",
    ):
        as_owner(statement, id=of_yesterday)
    assert ask(api, keys.admin, "summary")["failures"] == [
        {"code": "provider_timeout", "turns": 2, "last_turn_id": last},
        {"code": "expired", "turns": 1, "last_turn_id": expired},
    ]


def test_delays_are_those_of_the_rows(api, keys, turn):
    now = datetime.now(UTC)
    began = now - timedelta(minutes=7)  # in the last stretch but one
    for wait, first in ((1, 2), (2, 4), (3, 6)):
        turn(
            status="completed",
            queued_at=began - timedelta(seconds=wait),
            claimable_at=began - timedelta(seconds=wait),
            started_at=began,
            first_token_at=began + timedelta(seconds=first),
            finished_at=now,
        )
    turn(
        status="failed",
        queued_at=began,
        started_at=began,
        claimable_at=began + timedelta(seconds=5),
        finished_at=now,
    )
    turn(status="running", started_at=now - timedelta(hours=2))
    delays = ask(api, keys.admin, "delays")
    assert [delays[name] for name in ("turns", "completed", "stopped", "failed", "is_cut")] == [
        4,
        3,
        0,
        1,
        False,
    ]
    assert [stretch["turns"] for stretch in delays["data"]] == [0] * 10 + [4, 0]
    stretch = delays["data"][10]
    assert stretch["worker_wait"] == {"p50_seconds": 2.0, "p95_seconds": pytest.approx(2.9)}
    assert stretch["model_wait"] == {"p50_seconds": 4.0, "p95_seconds": pytest.approx(5.8)}
    assert stretch["first_token"] == {"p50_seconds": 6.0, "p95_seconds": pytest.approx(8.7)}
    assert delays["data"][11]["first_token"] is None


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", [4, 3, 2, 1, 0]),
        ("status=queued", [0]),
        ("status=failed", [3, 2]),
        ("code=internal", [3]),
        ("status=failed&code=provider_timeout", [2]),
        ("status=expired", []),
        ("status=stopped&code=internal", []),
        ("status=stopped", [4]),
        ("status=completed", [1]),
    ],
)
def test_turns_are_listed_newest_first_by_status_and_code(api, keys, turn, query, shown):
    now = datetime.now(UTC)
    made = [
        turn(),
        turn(status="completed", finished_at=now),
        turn(status="failed", finished_at=now),
        turn(status="failed", finished_at=now, error='{"code": "internal"}'),
        turn(status="stopped", stop_reason="user", finished_at=now),
    ]
    paged, cursor = [], ""
    while cursor is not None:
        page = ask(api, keys.admin, f"turns?limit=1&{query}{cursor and '&cursor=' + cursor}")
        paged += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
    assert paged == [made[number] for number in shown]


def test_a_turns_report_has_its_times_and_its_attempts_and_nothing_that_was_said(api, keys, turn, bill):
    now = datetime.now(UTC)
    at = [now + timedelta(seconds=seconds) for seconds in range(6)]
    turn_id = turn(
        status="stopped",
        queued_at=at[0],
        claimable_at=at[0],
        started_at=at[1],
        first_token_at=at[2],
        stop_requested_at=at[3],
        stop_observed_at=at[4],
        finished_at=at[5],
        stop_reason="user",
    )
    bill(now.isoformat(), "0.25", turn_id=turn_id, attempt=1)
    bill((now + timedelta(seconds=1)).isoformat(), "0.5", turn_id=turn_id, attempt=2)
    answer = api.get(f"/v1/operations/turns/{turn_id}", keys.admin)
    report = answer.json
    assert [(entry["moment"], entry["after_seconds"]) for entry in report["timeline"]] == [
        ("accepted", 0),
        ("claimed", 1),
        ("first_token", 2),
        ("stop_requested", 3),
        ("stop_observed", 4),
        ("done", 5),
    ]
    assert [(row["attempt"], row["cost_usd"]) for row in report["attempts"]] == [
        (1, "0.250000"),
        (2, "0.500000"),
    ]
    assert (report["user"], report["turn"]["id"], report["held_usd"]) == ("alice", turn_id, None)
    assert "Hello" not in answer.text


def test_a_turn_that_waited_behind_another_says_when_it_could_be_claimed(api, keys, turn):
    now = datetime.now(UTC)
    turn_id = turn(queued_at=now, claimable_at=now + timedelta(seconds=3))
    timeline = ask(api, keys.admin, f"turns/{turn_id}")["timeline"]
    assert [(entry["moment"], entry["after_seconds"]) for entry in timeline] == [
        ("accepted", 0),
        ("claimable", 3),
    ]


def test_what_a_turn_holds_of_the_budget_is_told(api, keys, as_owner, turn):
    as_owner("update turnkeeper.organizations set daily_usd = 100")
    turn_id = turn()
    (held,) = as_owner("select amount_usd from turnkeeper.holds")
    assert float(ask(api, keys.admin, f"turns/{turn_id}")["held_usd"]) == float(held.amount_usd)


def test_workers_are_told_apart_and_each_has_the_organizations_own_turns_alone(
    api, keys, strangers, turn, as_owner
):
    hearing, deaf, gone, forgotten = (new_id() for _ in range(4))
    as_owner(
        "insert into turnkeeper.workers (id, started_at, heard_at, renewed_at, running) values"
        " (:hearing, now() - interval '3 hours', now(), now(), 7),"
        " (:deaf, now() - interval '2 hours', now() - interval '61 seconds', now(), 0),"
        " (:gone, now() - interval '1 hour', now(), now() - interval '16 seconds', 0)",
        hearing=hearing,
        deaf=deaf,
        gone=gone,
    )
    now = datetime.now(UTC)
    first = turn(status="running", started_at=now, worker_id=hearing)
    second = turn(
        status="stopping", stop_reason="user", started_at=now + timedelta(seconds=1), worker_id=hearing
    )
    lost = turn(status="running", started_at=now, worker_id=forgotten)
    turn(status="completed", started_at=now, finished_at=now, worker_id=hearing)
    shown = [
        (worker["id"], worker["state"], worker["running"], [held["id"] for held in worker["turns"]])
        for worker in ask(api, keys.admin, "workers")["data"]
    ]
    assert shown == [
        (str(hearing), "hearing", 2, [first, second]),
        (str(deaf), "deaf", 0, []),
        (str(gone), "gone", 0, []),
        (str(forgotten), "gone", 1, [lost]),
    ]
    of_others = ask(api, strangers.admin, "workers")["data"]
    assert [(worker["id"], worker["running"], worker["turns"]) for worker in of_others] == [
        (str(worker), 0, []) for worker in (hearing, deaf, gone)
    ]


def test_flagged_sessions_are_listed_until_their_flag_is_taken(api, keys):
    sessions = [api.session(keys.alice, title=f"<b>{number}</b>") for number in range(3)]
    for number, session in enumerate(sessions):
        api.post(f"/v1/sessions/{session}/flag", keys.alice, json={"reason": f"<i>{number}</i>"})
    api.session(keys.alice)
    first = ask(api, keys.admin, "flagged?limit=2")
    second = ask(api, keys.admin, f"flagged?limit=2&cursor={first['next_cursor']}")
    rows = first["data"] + second["data"]
    assert [(row["id"], row["title"], row["flag_reason"], row["flagged_by"]) for row in rows] == [
        (sessions[number], f"<b>{number}</b>", f"<i>{number}</i>", "alice") for number in (2, 1, 0)
    ]
    assert second["next_cursor"] is None
    api.call("DELETE", f"/v1/sessions/{sessions[1]}/flag", keys.admin)
    assert [row["id"] for row in ask(api, keys.admin, "flagged")["data"]] == [sessions[2], sessions[0]]


def test_what_the_provider_said_is_shown_to_admins_alone_and_forgotten_with_the_content(
    api, keys, turn, organization, as_owner
):
    turn_id = turn(status="failed", provider_error="400: no such model: x", finished_at=datetime.now(UTC))
    path = f"/v1/turns/{turn_id}"
    session_id = api.get(path, keys.admin).json["session_id"]
    for where in (path, f"/v1/sessions/{session_id}/turns"):
        shown = api.get(where, keys.admin).json
        assert shown.get("data", [shown])[0]["provider_error"] == "400: no such model: x"
        for key in (keys.alice, keys.service):
            shown = api.get(where, key).json
            assert "provider_error" not in shown.get("data", [shown])[0]
    report = api.get(f"/v1/operations/turns/{turn_id}", keys.admin).json
    assert report["turn"]["provider_error"] == "400: no such model: x"
    as_owner(
        "select turnkeeper.forget_content(:organization, array[cast(:session as uuid)])",
        organization=organization,
        session=session_id,
    )
    assert "provider_error" not in api.get(path, keys.admin).json


def test_operations_are_an_admins_and_the_organizations_own(api, keys, strangers, turn, missing_id):
    now = datetime.now(UTC)
    turns = [
        turn(),
        turn(status="running", started_at=now),
        turn(status="failed", started_at=now, finished_at=now),
    ]
    api.post(f"/v1/sessions/{api.session(keys.alice, title='secret')}/flag", keys.alice, json={})
    for path in (*PATHS, f"turns/{turns[0]}"):
        for key in (keys.alice, keys.service):
            assert api.get(f"/v1/operations/{path}", key).json["code"] == "forbidden", path
    summary = ask(api, strangers.admin, "summary")
    assert (summary["queued"], summary["running"], summary["oldest_turn_id"], summary["failures"]) == (
        0,
        0,
        None,
        [],
    )
    assert ask(api, strangers.admin, "delays")["turns"] == 0
    for path in ("turns", "turns?status=failed", "turns?code=provider_timeout", "flagged", "workers"):
        assert ask(api, strangers.admin, path)["data"] == [], path
    for turn_id in (turns[0], missing_id, "x"):
        answer = api.get(f"/v1/operations/turns/{turn_id}", strangers.admin)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")
