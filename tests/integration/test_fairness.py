"""Which organization's turn runs next, what the choice costs, and which turns a full queue refuses."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
import redis
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from api.app import create_app
from api.backlog import Backlog
from shared.configuration.settings import load_settings
from shared.ids import new_id
from shared.postgres.accounts import create_organization
from shared.turn.turns import FinishReason
from tests.integration.conftest import LONG_LEASES, choices_of, until
from tests.integration.test_worker import patient_worker
from worker import ending, runner
from worker.recovery.sweeper import Sweeper
from worker.turn.claim import claim_next_turn
from worker.turn.outcome import NOTHING, Completed
from worker.turn.settle import Settlement, settle

DEADLINE_SECONDS = 60
DOORBELLS = "turns:turns"

# One session for each turn; with `per_session`, that many turns wait one behind the other.
_FILL = """
with made as (
    select n, (n - 1) % (:most / :per_session) as of_session, gen_random_uuid() as id, gen_random_uuid() as question
    from generate_series(1, :most) as n
), opened as (
    insert into turnkeeper.sessions (organization_id, id, user_name, max_turns)
    select :organization, md5(:organization || :status || of_session)::uuid, 'alice', 50
    from (select distinct of_session from made) as s
), queued as (
    insert into turnkeeper.turns (organization_id, id, session_id, number, user_name, status, attempt, recovery,
        user_message_id, answer_id, max_output_tokens, deadline_seconds, last_seq, queued_at, claimable_at,
        lease_expires_at)
    select :organization, id, md5(:organization || :status || of_session)::uuid, n, 'alice', :status,
        (:status = 'running')::integer, 'restart', question, gen_random_uuid(), 100, 60, 1,
        clock_timestamp() - :waited * interval '1 second' + n * interval '1 millisecond',
        case when n <= :most / :per_session then clock_timestamp() end,
        case when :status = 'running' then clock_timestamp() + interval '1 hour' end
    from made
)
insert into turnkeeper.messages (organization_id, id, session_id, turn_id, position, role, content, status)
select :organization, question, md5(:organization || :status || of_session)::uuid, id, n * 2, 'user',
    '[[tokens=2 rate=1000]]', 'complete' from made
"""


class Floor:
    """Organizations and their waiting turns."""

    def __init__(self, owner_url, database, settings) -> None:
        self.engine = create_engine(make_url(owner_url).set(drivername="postgresql+psycopg"))
        self.owner_url, self.database, self.settings = owner_url, database, settings
        self.worker = new_id()

    def sql(self, statement, **parameters):
        with self.engine.begin() as db:
            result = db.execute(text(statement), parameters)
            return result.all() if result.returns_rows else []

    def organization(self, name, weight=1) -> UUID:
        organization = create_organization(self.owner_url, name)
        self.sql("update turnkeeper.organizations set weight = :w where id = :o", w=weight, o=organization)
        return organization

    def fill(self, organization, most, status="queued", per_session=1, waited=10):
        # In replica mode no foreign key is checked: the statement's parts see nothing of each other.
        with self.engine.begin() as db:
            db.execute(text("set local session_replication_role = replica"))
            db.execute(
                text(_FILL.replace(":organization", f"'{organization}'").replace(":status", f"'{status}'")),
                {"most": most, "per_session": per_session, "waited": waited},
            )

    def claim(self, hint=None):
        return claim_next_turn(self.database, self.worker, hint, lease_seconds=60, context_tokens=1000)

    def complete(self, claim):
        settlement = Settlement(claim.organization_id, claim.turn_id, claim.attempt, last_seq=5)
        settle(self.database, self.settings.provider, settlement, Completed(NOTHING, FinishReason.STOP))

    def turns_of(self, organization):
        return self.sql(
            "select id, status from turnkeeper.turns where organization_id = :o order by queued_at",
            o=organization,
        )


@pytest.fixture
def floor(owner_url, database, settings):
    floor = Floor(owner_url, database, settings)
    yield floor
    floor.engine.dispose()


def test_the_organization_with_fewer_running_turns_comes_first_whoever_waits_longer(floor):
    many, few = floor.organization("many"), floor.organization("few")
    floor.fill(many, 20)
    floor.fill(few, 2)
    claimed = [floor.claim().organization_id for _ in range(6)]
    assert {*claimed[:2]} == {*claimed[2:4]} == {many, few}
    assert claimed[4:] == [many, many]  # what is free is given to who wants it


def test_with_one_slot_a_backlog_does_not_go_before_who_came_later(floor):
    many, few = floor.organization("many"), floor.organization("few")
    floor.fill(many, 20)
    floor.complete(floor.claim())
    floor.fill(few, 2, waited=0)
    next_of_many = floor.turns_of(many)[1].id
    claimed = []
    for _ in range(5):  # none runs when the next is claimed
        claim = floor.claim(next_of_many)
        claimed.append(claim.organization_id)
        floor.complete(claim)
    assert claimed == [few, many, few, many, many]


def test_an_organization_of_twice_the_weight_runs_twice_the_turns(floor):
    heavy, light = floor.organization("heavy", weight=2), floor.organization("light")
    floor.fill(light, 20)
    floor.fill(heavy, 20)
    claimed = [floor.claim().organization_id for _ in range(12)]
    assert (claimed.count(heavy), claimed.count(light)) == (8, 4)


def test_within_an_organization_the_oldest_comes_first(floor):
    own = floor.organization("own")
    floor.fill(own, 5)
    assert [floor.claim().turn_id for _ in range(5)] == [row.id for row in floor.turns_of(own)]
    assert floor.claim() is None


def test_the_turn_that_a_doorbell_names_is_taken_when_its_organization_is_as_entitled_as_any(floor):
    one, two = floor.organization("one"), floor.organization("two")
    floor.fill(one, 3)
    floor.fill(two, 3)
    last_of_two = floor.turns_of(two)[-1].id
    assert floor.claim(last_of_two).turn_id == last_of_two
    # Now it has one turn running and the other none: its doorbell wakes a worker for the other's.
    assert floor.claim(floor.turns_of(two)[-2].id).organization_id == one


def test_a_doorbell_for_what_is_gone_takes_what_waits(floor):
    own = floor.organization("own")
    floor.fill(own, 1)
    assert floor.claim(new_id()) is not None
    assert floor.claim(new_id()) is None


def test_workers_that_claim_at_once_take_different_turns_and_leave_none(floor):
    floor.fill(floor.organization("one"), 20)
    floor.fill(floor.organization("two"), 20)
    start = threading.Barrier(8)

    def take():
        start.wait(DEADLINE_SECONDS)
        return [claim.turn_id for _ in range(5) if (claim := floor.claim()) is not None]

    with ThreadPoolExecutor(8) as pool:
        taken = [
            turn for turns in [pool.submit(take) for _ in range(8)] for turn in turns.result(DEADLINE_SECONDS)
        ]
    assert len(set(taken)) == len(taken)
    assert len(taken) + sum(1 for _ in iter(floor.claim, None)) == 40


def cost_of_a_claim(floor):
    """Return pages read, sequential scans of the turns and milliseconds of a claim, which is taken back."""
    with floor.engine.connect() as db, db.begin() as transaction:
        scans = text(
            "select coalesce(sum(seq_scan), 0) from pg_stat_xact_user_tables where relname = 'turns'"
        )
        before = db.execute(scans).scalar_one()
        plan = db.execute(
            text(
                "explain (analyze, buffers, format json)"
                " select * from turnkeeper.claim_next_turn(gen_random_uuid(), 10, gen_random_uuid())"
            )
        ).scalar_one()[0]
        after = db.execute(scans).scalar_one()
        transaction.rollback()
    top = plan["Plan"]
    assert top["Actual Rows"] == 1
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"], after - before, plan["Execution Time"]


@pytest.mark.parametrize("per_session", [1, 50])
def test_a_claim_is_cheap_with_5000_turns_queued_and_512_running(floor, per_session):
    floor.sql("truncate turnkeeper.organizations cascade")  # dead rows of other tests would be read as well
    many, few = floor.organization("many"), floor.organization("few")
    floor.fill(many, 5000, per_session=per_session)
    floor.fill(many, 512, status="running")
    floor.fill(few, 1)
    floor.sql("analyze turnkeeper.turns")
    costs = [cost_of_a_claim(floor) for _ in range(3)]
    assert {scans for _, scans, _ in costs} == {0}
    # The 512 running rows are counted; looking at each row that waits would read some 5,000 more.
    assert min(pages for pages, _, _ in costs) < 1000, costs


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    port_file = tmp_path_factory.mktemp("provider") / "port"
    command = "import sys; from turnkeeper.scripted import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", command, "--port", "0", "--port-file", str(port_file)],
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            until(lambda: port_file.exists() and port_file.read_text().strip())
            yield f"http://127.0.0.1:{port_file.read_text().strip()}/v1"
        finally:
            process.terminate()


@pytest.fixture
def worker(environment, provider, monkeypatch):
    # No thread goes back to listen because this machine was slow: nobody rings for it here.
    monkeypatch.setattr(runner, "_UNHEARD_SECONDS", 3600.0)
    # With room for one turn each thread is the last that could hear a doorbell, so it goes on by itself.
    wanted = {**environment, **LONG_LEASES, "SCRIPTED_BASE_URL": provider, "WORKER_TURNS": "1"}
    worker = patient_worker(load_settings(wanted))
    worker.start()
    yield worker
    worker.stop()


def test_a_thousand_turns_of_one_organization_delay_anothers_by_no_more_than_a_slot(floor, worker):
    many, few = floor.organization("many"), floor.organization("few")
    floor.fill(many, 1000)
    # Two slots, woken once each: a thread that has settled takes the next turn without a doorbell.
    slots = [threading.Thread(target=worker.runner.run, args=(new_id(), "")) for _ in range(2)]
    for slot in slots:
        slot.start()
    until(lambda: sum(row.status == "completed" for row in floor.turns_of(many)) >= 5)
    floor.fill(few, 1, waited=0)
    # From here on every claim sees the turn; each slot may be amid one that did not.
    ((there,),) = floor.sql("select clock_timestamp()")
    until(lambda: floor.turns_of(few)[0].status != "queued")
    worker.runner.drain()
    for slot in slots:
        slot.join(timeout=DEADLINE_SECONDS)
        assert not slot.is_alive()
    ((passed,),) = floor.sql(
        "select count(*) from turnkeeper.turns as t, turnkeeper.turns as b where b.organization_id = :few"
        " and t.organization_id = :many and t.started_at between :there and b.started_at",
        few=few, many=many, there=there,
    )  # fmt: skip
    assert passed <= 2


def test_a_worker_runs_the_next_turn_of_a_session_without_a_doorbell(floor, worker):
    own = floor.organization("own")
    floor.fill(own, 3, per_session=3)
    worker.runner.run(floor.turns_of(own)[0].id, "")
    assert [row.status for row in floor.turns_of(own)] == ["completed"] * 3


def test_a_worker_that_ends_leaves_the_next_turn_to_another_and_rings_for_it(
    floor, worker, redis_url, monkeypatch
):
    worker._sweeper.stop()  # which rings, too
    own = floor.organization("own")
    floor.fill(own, 2, per_session=2)

    def settle_while_draining(*arguments):
        worker.runner.drain()  # it is told to end while the first turn runs
        return settle(*arguments)

    monkeypatch.setattr(ending, "settle", settle_while_draining)
    worker.runner.run(floor.turns_of(own)[0].id, "")
    assert [row.status for row in floor.turns_of(own)] == ["completed", "queued"]
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen(DOORBELLS) == 1


def test_a_worker_that_is_always_busy_goes_back_to_listen_now_and_then(floor, worker, monkeypatch, redis_url):
    monkeypatch.setattr(runner, "_UNHEARD_SECONDS", 0.0)
    worker._sweeper.stop()  # which rings, too
    own = floor.organization("own")
    floor.fill(own, 2)
    worker.runner.run(new_id(), "")
    assert sorted(row.status for row in floor.turns_of(own)) == ["completed", "queued"]
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen(DOORBELLS) == 1


def test_a_sweeper_leaves_no_more_doorbells_in_redis_than_workers_could_hear(floor, worker, redis_url):
    floor.fill(floor.organization("many"), 1000)
    floor.sql("update turnkeeper.turns set rung_at = to_timestamp(0)")
    with redis.Redis.from_url(redis_url) as client:
        until(lambda: client.llen(DOORBELLS) == 200)
        floor.sql("update turnkeeper.turns set rung_at = to_timestamp(0)")
        for _ in range(2):
            worker._sweeper.sweep()
        assert client.llen(DOORBELLS) <= 200


# Admission


def left_behind(floor):
    return floor.sql(
        "select (select count(*) from turnkeeper.turns), (select count(*) from turnkeeper.messages),"
        " (select count(*) from turnkeeper.idempotency_keys), (select max(next_turn_number) from turnkeeper.sessions)"
    )[0]


def limit_turns(floor, organization, most):
    floor.sql(
        "update turnkeeper.organizations set max_concurrent_turns = :m where id = :o", m=most, o=organization
    )


def post(api, keys, session, **fields):
    return api.post(
        f"/v1/sessions/{session}/turns",
        keys.alice,
        json={"content": "hi", **fields},
        headers={"Idempotency-Key": str(new_id())},
    )


def test_an_organization_at_its_limit_is_told_and_nothing_is_left(floor, api, keys, organization):
    limit_turns(floor, organization, 2)
    sessions = [api.session(keys.alice) for _ in range(3)]
    turns = [post(api, keys, session).json["id"] for session in sessions[:2]]
    before = left_behind(floor)
    refused = post(api, keys, sessions[2])
    assert (refused.status_code, refused.json["code"], refused.json["limit"]) == (429, "too_many_turns", 2)
    assert "Retry-After" in refused.headers
    assert left_behind(floor) == before
    api.post(f"/v1/turns/{turns[0]}/stop", keys.alice)
    assert post(api, keys, sessions[2]).status_code == 202


def test_a_limit_of_0_allows_nothing_and_none_allows_all(floor, api, keys, organization):
    session = api.session(keys.alice)
    limit_turns(floor, organization, 0)
    assert post(api, keys, session).json["code"] == "too_many_turns"
    limit_turns(floor, organization, None)
    assert post(api, keys, session).status_code == 202


def test_posts_at_once_do_not_pass_the_limit_of_turns(floor, api, keys, organization):
    limit_turns(floor, organization, 3)
    sessions = [api.session(keys.alice) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda session: post(api, keys, session), sessions))
    assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 5


def test_interrupting_at_the_limit_takes_the_place_of_what_it_stops(floor, api, keys, organization):
    limit_turns(floor, organization, 1)
    session = api.session(keys.alice)
    post(api, keys, session)
    refused = post(api, keys, session, multitask_strategy="enqueue")
    assert refused.json["code"] == "too_many_turns"
    assert post(api, keys, session, multitask_strategy="interrupt").status_code == 202


def test_a_full_queue_is_told_with_when_to_come_again_and_nothing_is_left(floor, api, keys, organization):
    session, other = api.session(keys.alice), api.session(keys.alice)
    turn = post(api, keys, session).json["id"]
    floor.sql(
        "update turnkeeper.turns set claimable_at = now() - interval '61 seconds' where id = :t", t=turn
    )
    before = left_behind(floor)
    # What was found before is good for a second.
    refused = until(
        lambda: answer if (answer := post(api, keys, other)).status_code == 503 else undo(floor, answer)
    )
    assert refused.json["code"] == "queue_full"
    assert int(refused.headers["Retry-After"]) >= 1
    assert left_behind(floor)[0] == before[0]
    assert before[1:3] == left_behind(floor)[1:3]


def undo(floor, answer):
    assert answer.status_code in (202, 409), answer.json
    if answer.status_code == 202:
        turn = answer.json["id"]
        floor.sql("delete from turnkeeper.idempotency_keys where turn_id = :t", t=turn)
        floor.sql("delete from turnkeeper.messages where turn_id = :t", t=turn)
        floor.sql("delete from turnkeeper.turns where id = :t", t=turn)


def test_what_waits_behind_its_own_session_does_not_fill_the_queue(floor, settings):
    own = floor.organization("own")
    floor.fill(own, 1)
    claim = floor.claim()
    floor.sql(
        "insert into turnkeeper.turns (organization_id, id, session_id, number, user_name, status, recovery,"
        " user_message_id, answer_id, max_output_tokens, deadline_seconds, last_seq, queued_at, claimable_at)"
        " select organization_id, gen_random_uuid(), session_id, 2, 'alice', 'queued', 'restart', gen_random_uuid(),"
        " gen_random_uuid(), 100, 60, 1, now() - interval '5 minutes', null from turnkeeper.turns"
    )
    assert not is_full(floor, settings)
    floor.complete(claim)
    # It may run from now on, and has waited for a worker for no time at all.
    assert not is_full(floor, settings)
    assert floor.claim() is not None


def is_full(floor, settings):
    """Return whether the queue of the only organization is full."""
    ((organization,),) = floor.sql("select id from turnkeeper.organizations")
    backlog = Backlog(settings.queue_full_seconds, settings.queue_timeout_seconds)
    with floor.database.of(organization) as db:
        found = db.execute(
            text("select seconds, heard_seconds, has_too_many from turnkeeper.own_wait(:most)"),
            {"most": settings.max_queued_turns},
        ).one()
    backlog.learn(found.seconds, found.heard_seconds, has_too_many=found.has_too_many)
    return backlog.is_full()


def hears(floor, *, seconds_ago, since):
    """Add a live worker that last received a doorbell so long ago."""
    floor.sql(
        "insert into turnkeeper.workers (id, heard_at, hearing_since) values (gen_random_uuid(),"
        " now() - make_interval(secs => :ago), now() - make_interval(secs => :since))",
        ago=seconds_ago,
        since=since,
    )


def wait_for(floor, seconds):
    floor.sql(
        "update turnkeeper.turns set claimable_at = now() - make_interval(secs => :seconds)", seconds=seconds
    )


def test_what_no_worker_could_hear_of_does_not_fill_the_queue(floor, settings):
    floor.fill(floor.organization("own"), 1)
    wait_for(floor, 70)
    hears(floor, seconds_ago=65, since=600)  # Redis went away just after the turn came
    assert not is_full(floor, settings)
    floor.sql("update turnkeeper.workers set heard_at = now(), hearing_since = now()")  # and came back
    assert not is_full(floor, settings)
    # With Redis down for very long, turns would be accepted that expire before they can run.
    wait_for(floor, settings.queue_timeout_seconds / 2 + 1)
    assert is_full(floor, settings)


def test_what_workers_hear_of_and_do_not_take_fills_the_queue(floor, settings):
    floor.fill(floor.organization("own"), 1)
    wait_for(floor, 70)
    hears(floor, seconds_ago=1, since=600)
    hears(floor, seconds_ago=3, since=10)  # has just been started
    assert is_full(floor, settings)


def test_a_request_that_was_answered_before_is_replayed_although_the_queue_is_full(floor, keys, environment):
    app = create_app("web", load_settings(environment | {"QUEUE_FULL_SECONDS": "0.001"}))
    client = app.test_client()
    headers = {"Authorization": f"Bearer {keys.alice}", "Idempotency-Key": "k"}
    session = client.post("/v1/sessions", json={}, headers=headers).json["id"]
    path = f"/v1/sessions/{session}/turns"
    first = client.post(path, json={"content": "hi"}, headers=headers)
    assert first.status_code == 202
    full = until(
        lambda: (
            answer
            if (
                answer := client.post(
                    path, json={"content": "other"}, headers=headers | {"Idempotency-Key": "o"}
                )
            ).json["code"]
            == "queue_full"
            else None
        )
    )
    assert full.status_code == 503
    again = client.post(path, json={"content": "hi"}, headers=headers)
    assert (again.status_code, again.json["id"]) == (200, first.json["id"])
    app.extensions["turnkeeper"].close()


def test_the_sweeper_is_back_when_the_next_lease_runs_out(floor, monkeypatch):
    """A dead worker's turns wait for the end of its lease, not for the next full second as well."""
    own = floor.organization("own")
    keeper = Sweeper(
        floor.settings, choices_of(floor.settings), new_id(), floor.database, None, None, lambda *_: None
    )
    assert keeper.sweep() == 1.0
    floor.fill(own, 2)
    monkeypatch.setattr("worker.recovery.sweeper._EVERY_SECONDS", 1000.0)
    for lease_seconds in (300, 100):
        claim_next_turn(floor.database, floor.worker, None, lease_seconds=lease_seconds, context_tokens=1000)
        assert lease_seconds - 60 < keeper.sweep() <= lease_seconds
    keeper.stop()
