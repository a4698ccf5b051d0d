"""A switch that is off and a budget that is spent keep waiting turns from starting; a stop ends everything."""

import json

import pytest
import redis
from sqlalchemy import text

from shared.configuration.settings import load_settings
from shared.ids import new_id
from shared.metrics import table
from shared.redis.names import abort_key, log_key
from shared.turn.turns import FinishReason
from tests.integration.conftest import LONG_LEASES, choices_of, until
from tests.integration.test_holds import ANSWER, COST, bank, hold_of
from tests.integration.test_worker import Desk, counted, patience, patient_worker, provider
from turnkeeper.cli import main
from worker.recovery.barred import end_barred_turns
from worker.recovery.sweeper import Sweeper
from worker.turn.claim import claim_next_turn
from worker.turn.outcome import Completed, Requeued

__all__ = ["bank", "patience", "provider"]

WORKER = new_id()
SWITCH = {
    "enabled": True,
    "daily_usd": None,
    "monthly_usd": None,
    "max_turns_per_session": None,
    "turns_per_minute_per_user": None,
    "turns_per_hour": None,
    "max_concurrent_turns": None,
}


@pytest.fixture
def redis_client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def switch(api, keys):
    """Change the organization's budget as its admin does."""

    def change(**fields):
        answer = api.call("PUT", "/v1/budget", keys.admin, json={**SWITCH, **fields})
        assert answer.status_code == 200, answer.json

    return change


@pytest.fixture
def desk(database, environment, organization, provider, patience):
    settings = load_settings({**environment, "SCRIPTED_BASE_URL": f"{provider}/v1", **LONG_LEASES})
    worker = patient_worker(settings)
    worker.start()
    desk = Desk(database, organization, worker, settings, provider)
    yield desk
    desk.close()
    worker.stop()


def claimed(bank):
    claim = claim_next_turn(bank.database, WORKER, None, lease_seconds=600, context_tokens=10_000)
    return None if claim is None else claim.turn_id


def ended(bank, is_free=False):
    return [turn.id for _, batch in end_barred_turns(bank.database, is_free=is_free) for turn in batch]


def how(bank, turn):
    row = bank.turn(turn)
    return row.status, row.stop_reason, row.error and row.error["code"]


def test_nothing_starts_while_ai_is_off_and_what_waits_fails(bank, switch):
    turns = [bank.accepted() for _ in range(3)]
    switch(enabled=False)
    assert claimed(bank) is None
    assert sorted(ended(bank)) == sorted(turns)
    assert {how(bank, turn) for turn in turns} == {("failed", None, "ai_disabled")}
    switch()
    later = bank.accepted()
    assert claimed(bank) == later


@pytest.mark.parametrize("period", ["daily_usd", "monthly_usd"])
def test_nothing_starts_with_a_budget_of_zero_and_what_waits_is_stopped(bank, switch, period):
    switch(daily_usd="10")
    held = bank.accepted()
    switch()
    unheld = bank.accepted()
    switch(**{period: "0"})
    assert claimed(bank) is None
    assert sorted(ended(bank)) == sorted([held, unheld])
    assert {how(bank, turn) for turn in (held, unheld)} == {("stopped", "budget", None)}
    assert bank.holds() == []
    assert bank.totals()["day"] == (0, 0)


def test_nothing_starts_once_the_budget_was_lowered_below_what_is_spent(bank, switch):
    switch(daily_usd="10")
    first = bank.accepted()
    bank.settle(bank.claim(first), Completed(ANSWER, FinishReason.STOP))
    waiting = bank.accepted()
    switch(daily_usd=str(COST))
    assert claimed(bank) is None
    assert ended(bank) == [waiting]
    assert how(bank, waiting) == ("stopped", "budget", None)


def test_a_turn_without_a_hold_ends_as_well_once_the_budget_is_spent(bank, switch):
    first, waiting = bank.accepted(), bank.accepted()
    bank.settle(bank.claim(first), Completed(ANSWER, FinishReason.STOP))
    switch(monthly_usd=str(COST))
    assert ended(bank, is_free=True) == []  # it would cost nothing
    assert ended(bank) == [waiting]


def test_a_budget_that_pays_for_what_it_holds_stops_nothing(bank, switch):
    switch(daily_usd="10")
    turn = bank.accepted(max_output_tokens=100)
    switch(daily_usd=str(hold_of("question", 10)))  # less than is held, more than is spent
    assert ended(bank) == []
    assert claimed(bank) == turn


def test_a_free_model_starts_whatever_is_spent(bank, switch, as_owner):
    switch(daily_usd="10")
    turn = bank.accepted()
    as_owner("update turnkeeper.holds set amount_usd = 0")
    as_owner("update turnkeeper.spend set held_usd = 0, spent_usd = 10")
    assert ended(bank) == []
    assert claimed(bank) == turn
    as_owner("update turnkeeper.spend set spent_usd = 0")


def test_another_organization_neither_waits_nor_ends(bank, switch, strangers, as_owner):
    theirs = [bank.accepted() for _ in range(3)]
    session = bank.api.session(strangers.service, user="ada")
    other = bank.api.turn(strangers.service, session)
    switch(enabled=False)
    assert str(claimed(bank)) == other
    assert sorted(ended(bank)) == sorted(theirs)
    assert bank.api.get(f"/v1/turns/{other}", strangers.service).json["status"] == "running"


def test_a_running_turn_ends_as_usual_and_those_behind_it_at_once(bank, switch):
    session = bank.session()
    running = bank.accepted(session)
    behind = [bank.accepted(session, multitask_strategy="enqueue") for _ in range(3)]
    claim = bank.claim(running)
    switch(enabled=False)
    assert sorted(ended(bank)) == sorted(behind)
    assert bank.settle(claim, Completed(ANSWER, FinishReason.STOP)).status == "completed"


def test_no_further_attempt_begins_and_the_text_so_far_is_kept(bank, switch, as_owner):
    turn = bank.accepted()
    bank.settle(bank.claim(turn), Requeued(ANSWER, keeps_text=True))
    switch(enabled=False)
    assert claimed(bank) is None
    assert ended(bank) == [turn]
    assert how(bank, turn) == ("failed", None, "ai_disabled")
    (message,) = as_owner(
        "select content, status from turnkeeper.messages where turn_id = :t and role = 'assistant'", t=turn
    )
    assert (message.content, message.status) == ("hello", "partial")
    assert bank.turn(turn).cost_usd == COST


def test_a_long_queue_ends_in_one_sweep(bank, switch, as_owner, monkeypatch):
    session = bank.session()
    turn = bank.accepted(session)
    as_owner(
        "insert into turnkeeper.turns (organization_id, id, session_id, number, user_name, status, recovery,"
        " user_message_id, answer_id, max_output_tokens, deadline_seconds, last_seq, claimable_at)"
        " select organization_id, gen_random_uuid(), session_id, number + n, user_name, 'queued', 'restart',"
        " gen_random_uuid(), gen_random_uuid(), 100, 60, 1, null"
        " from turnkeeper.turns, generate_series(1, 1200) as n where id = :t",
        t=turn,
    )
    switch(enabled=False)
    told = []
    settings = bank.settings
    sweeper = Sweeper(settings, choices_of(settings), WORKER, bank.database, None, None, lambda *_: None)
    monkeypatch.setattr(sweeper, "_tell", lambda _, turn, *__: told.append(turn.id))
    sweeper.sweep()
    sweeper.stop()
    assert len(set(told)) == len(told) == 1201
    (left,) = as_owner("select count(*) as n from turnkeeper.turns where finished_at is null")
    assert left.n == 0


def test_a_turn_that_is_being_claimed_or_stopped_meanwhile_is_left_to_whoever_does(bank, switch, database):
    turn = bank.accepted()
    switch(enabled=False)
    with database.of(bank.organization) as db:
        db.execute(text("select from turnkeeper.turns where id = :t for no key update"), {"t": turn})
        assert ended(bank) == []
    assert ended(bank) == [turn]


def test_readers_of_waiting_turns_are_told_within_the_sweepers_second(desk, as_owner):
    running = desk.queue("[[tokens=400 rate=6]]")
    desk.ring(running)
    until(lambda: desk.is_streaming(running))
    behind = desk.queue("question")
    as_owner("update turnkeeper.turns set claimable_at = null where id = :t", t=behind)
    as_owner("update turnkeeper.organizations set ai_enabled = false where id = :o", o=desk.organization)
    events = desk.told(behind)
    assert [event["type"] for event in events[-2:]] == ["error", "done"]
    assert (events[-1]["status"], events[-1]["error"]["code"]) == ("failed", "ai_disabled")
    assert events[-1]["seq"] == desk.row(behind).last_seq
    assert desk.row(running).status == "running"
    assert counted(desk, table.TURNS, "failed", "ai_disabled") == 1
    desk.ask_to_stop(running)
    desk.ended(running)


def test_readers_of_turns_that_a_budget_stops_are_told_why(desk, as_owner):
    as_owner("update turnkeeper.organizations set monthly_usd = 0 where id = :o", o=desk.organization)
    turn = desk.queue("question")
    events = desk.told(turn)
    assert [event["type"] for event in events[-2:]] == ["stop_requested", "done"]
    assert (events[-1]["status"], events[-1]["stop_reason"]) == ("stopped", "budget")


# Stop everything.


def stopped(answer):
    assert answer.status_code == 200, answer.json
    return answer.json["queued"], answer.json["running"]


def test_a_stop_ends_what_waits_and_asks_what_runs(bank, keys, redis_client):
    waiting = [bank.accepted() for _ in range(3)]
    running = [bank.accepted() for _ in range(2)]
    for turn in running:
        bank.claim(turn)
    assert stopped(bank.api.post("/v1/organization/stop", keys.admin, json={})) == (3, 2)
    assert {how(bank, turn) for turn in waiting} == {("stopped", "user", None)}
    assert {how(bank, turn) for turn in running} == {("stopping", "user", None)}
    assert claimed(bank) is None
    bank.api.services.notices.drain()
    for turn in running:
        assert redis_client.get(abort_key(bank.turn(turn).session_id, turn)) == b"user"
    for turn in waiting:
        log = redis_client.xrange(log_key(bank.turn(turn).session_id, turn))
        last = json.loads(next(iter(log[-1][1].values())))
        assert (last["type"], last["status"], last["stop_reason"]) == ("done", "stopped", "user")
    assert stopped(bank.api.post("/v1/organization/stop", keys.admin, json={"reason": "again"})) == (0, 0)
    later = bank.accepted()
    assert claimed(bank) == later


def test_a_stop_frees_what_waiting_turns_held(bank, keys, switch):
    switch(daily_usd="10")
    for _ in range(3):
        bank.accepted()
    assert stopped(bank.api.post("/v1/organization/stop", keys.admin, json={})) == (3, 0)
    assert bank.holds() == []
    assert bank.totals()["day"] == (0, 0)


def test_a_stop_never_reaches_another_organization(bank, keys, strangers):
    bank.accepted()
    session = bank.api.session(strangers.service, user="ada")
    other = bank.api.turn(strangers.service, session)
    assert stopped(bank.api.post("/v1/organization/stop", keys.admin, json={})) == (1, 0)
    assert bank.api.get(f"/v1/turns/{other}", strangers.service).json["status"] == "queued"


@pytest.mark.parametrize("role", ["alice", "service"])
def test_only_an_admin_stops_everything(bank, keys, role):
    turn = bank.accepted()
    answer = bank.api.post("/v1/organization/stop", getattr(keys, role), json={})
    assert (answer.status_code, answer.json["code"]) == (403, "forbidden")
    assert bank.turn(turn).status == "queued"


@pytest.mark.parametrize("body", [{"reason": ""}, {"reason": "x" * 201}, {"why": "x"}, {"reason": 1}])
def test_a_body_that_makes_no_sense_stops_nothing(bank, keys, body):
    turn = bank.accepted()
    assert bank.api.post("/v1/organization/stop", keys.admin, json=body).status_code == 422
    assert bank.turn(turn).status == "queued"


def test_a_long_queue_is_stopped_in_parts(bank, keys, as_owner, redis_client):
    session = bank.session()
    turn = bank.accepted(session)
    as_owner(
        "insert into turnkeeper.turns (organization_id, id, session_id, number, user_name, status, recovery,"
        " user_message_id, answer_id, max_output_tokens, deadline_seconds, last_seq, claimable_at)"
        " select organization_id, gen_random_uuid(), session_id, number + n, user_name, 'queued', 'restart',"
        " gen_random_uuid(), gen_random_uuid(), 100, 60, 1, null"
        " from turnkeeper.turns, generate_series(1, 1200) as n where id = :t",
        t=turn,
    )
    assert stopped(bank.api.post("/v1/organization/stop", keys.admin, json={})) == (1201, 0)
    bank.api.services.notices.drain(60)
    last = bank.as_owner("select id from turnkeeper.turns order by number desc limit 1")[0].id
    assert redis_client.exists(log_key(session, last))


@pytest.mark.parametrize("by_id", [False, True])
def test_the_command_stops_one_organization(bank, strangers, environment, monkeypatch, capsys, by_id):
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, environment[name])
    waiting, running = bank.accepted(), bank.accepted()
    bank.claim(running)
    session = bank.api.session(strangers.service, user="ada")
    other = bank.api.turn(strangers.service, session)
    name = str(bank.organization) if by_id else "Acme"
    assert main(["orgs", "stop", name]) == 0
    said = capsys.readouterr().out
    assert "queued turns ended:       1" in said
    assert "running turns stopped:    1" in said
    assert how(bank, waiting) == ("stopped", "user", None)
    assert how(bank, running) == ("stopping", "user", None)
    assert bank.api.get(f"/v1/turns/{other}", strangers.service).json["status"] == "queued"
    assert main(["orgs", "stop", "Nobody"]) == 2
