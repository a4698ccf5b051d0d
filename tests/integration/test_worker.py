"""A whole worker, except Celery, against real PostgreSQL, Redis and a provider over HTTP."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from dataclasses import replace
from hashlib import sha256

import httpx
import pytest
import redis
from sqlalchemy import text

from shared.configuration.settings import load_settings
from shared.ids import new_id
from shared.metrics import table
from shared.metrics.registry import PLACES
from shared.redis.log_scripts import APPEND, Appended
from shared.redis.names import ABORT_CHANNEL, abort_key, call_key, events_channel, log_key
from tests.integration.conftest import LONG_LEASES, be_patient, until
from worker import ending
from worker.main import Worker
from worker.recovery import sweeper
from worker.recovery.left_behind import left_behind
from worker.turn.claim import claim_turn
from worker.turn.settle import settle

DEADLINE_SECONDS = 60


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    port_file = tmp_path_factory.mktemp("provider") / "port"
    command = [
        sys.executable,
        "-c",
        "import sys; from turnkeeper.scripted import main; sys.exit(main(sys.argv[1:]))",
    ]
    with subprocess.Popen(
        [*command, "--port", "0", "--port-file", str(port_file)], stdout=subprocess.DEVNULL
    ) as process:
        try:
            until(lambda: port_file.exists() and port_file.read_text().strip())
            yield f"http://127.0.0.1:{port_file.read_text().strip()}"
        finally:
            process.terminate()


class Desk:
    """Queues turns, rings for them and reads their results."""

    def __init__(self, database, organization, worker, settings, provider) -> None:
        self.database = database
        self.organization = organization
        self.worker = worker
        self.settings = settings
        self.redis = redis.Redis.from_url(settings.redis_url)
        self.provider = httpx.Client(base_url=provider)
        self.threads: list[threading.Thread] = []
        self.begin_session()

    def begin_session(self):
        self.session = new_id()
        self.number = 0
        self.sql(
            "insert into turnkeeper.sessions (organization_id, id, user_name, max_turns) values (:o, :s, 'u', 50)"
        )

    def sql(self, statement, **parameters):
        with self.database.of(self.organization) as db:
            result = db.execute(text(statement), {"o": self.organization, "s": self.session, **parameters})
            return result.all() if result.returns_rows else []

    def queue(self, content, recovery="restart"):
        self.number += 1
        turn = new_id()
        message = new_id()
        self.sql(
            "insert into turnkeeper.turns (organization_id, id, session_id, number, user_name, status, recovery,"
            " user_message_id, answer_id, max_output_tokens, deadline_seconds, last_seq, title) values"
            " (:o, :t, :s, :n, 'u', 'queued', :r, :m, :a, 500, 60, 2, 'Title')",
            t=turn, n=self.number, r=recovery, m=message, a=new_id(),
        )  # fmt: skip
        self.sql(
            "insert into turnkeeper.messages (organization_id, id, session_id, turn_id, position, role, content,"
            " status)"
            " values (:o, :m, :s, :t, :n * 2, 'user', :c, 'complete')",
            m=message, t=turn, n=self.number, c=content,
        )  # fmt: skip
        return turn

    def ring(self, turn):
        thread = threading.Thread(target=self.worker.runner.run, args=(turn, ""))
        thread.start()
        self.threads.append(thread)

    def claimed_elsewhere(self, turn):
        """Claim it for a worker that is not heard of again once it has written: `lapse` comes after that."""
        return claim_turn(self.database, turn, new_id(), lease_seconds=3600, context_tokens=1000)

    def lapse(self, turn):
        self.sql(
            "update turnkeeper.turns set lease_expires_at = now() - interval '1 s' where id = :t", t=turn
        )

    def row(self, turn):
        return self.sql("select * from turnkeeper.turns where id = :t", t=turn)[0]

    def ended(self, turn):
        return until(lambda: row if (row := self.row(turn)).finished_at else None)

    def log(self, turn):
        return [
            json.loads(next(iter(fields.values())))
            for _, fields in self.redis.xrange(log_key(self.session, turn))
        ]

    def told(self, turn):
        """Return the log once `done` is in it."""
        until(lambda: any(event["type"] == "done" for event in self.log(turn)))
        return self.log(turn)

    def shown(self, turn):
        """Return the text of a turn that has ended, as its readers have it."""
        content = ""
        for event in self.told(turn):
            match event["type"]:
                case "content_delta":
                    content += event["delta"]
                case "message_reset":
                    content = ""
                case "snapshot":  # of a log that began again, when Redis had said nothing for too long
                    content = event["content"]
        return content

    def answer(self, turn):
        rows = self.sql(
            "select content, status from turnkeeper.messages where turn_id = :t and role = 'assistant'",
            t=turn,
        )
        return rows[0] if rows else None

    def is_streaming(self, turn):
        return any(event["type"] == "content_delta" for event in self.log(turn))

    def ask_to_stop(self, turn):
        self.sql(
            "update turnkeeper.turns set status = 'stopping', stop_reason = 'user', stop_requested_at = now()"
            " where id = :t and status = 'running'",
            t=turn,
        )

    def close(self):
        for thread in self.threads:
            thread.join(timeout=DEADLINE_SECONDS)
            assert not thread.is_alive()
        self.redis.close()
        self.provider.close()


def patient_worker(settings):
    worker = Worker(settings)
    for database in (worker._database, worker._lease_database, worker._sweep_database):
        be_patient(database)
    return worker


@pytest.fixture
def patience(monkeypatch):
    """What is told reaches Redis, however long that takes here: what becomes of it otherwise is not asked."""
    for module in (ending, sweeper):
        for name in ("_TELL_SECONDS", "_TOLD_SECONDS", "_SHOWN_SECONDS"):
            monkeypatch.setattr(module, name, float(DEADLINE_SECONDS), raising=False)


@pytest.fixture
def desk(database, environment, organization, provider, patience):
    settings = load_settings(
        {
            **environment,
            "SCRIPTED_BASE_URL": f"{provider}/v1",
            **LONG_LEASES,
        }
    )
    worker = patient_worker(settings)
    worker.start()
    desk = Desk(database, organization, worker, settings, provider)
    yield desk
    desk.close()
    worker.stop()


def test_a_turn_is_told_from_its_acceptance_to_done_and_stored_as_it_was_shown(desk):
    turn = desk.queue("[[tokens=30 rate=300]]")
    desk.ring(turn)
    row = desk.ended(turn)
    events = desk.told(turn)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["type"] for event in events if event["type"] != "content_delta"]
    assert kinds == ["turn_queued", "title_updated", "turn_started", "message_start", "message_end", "done"]
    content, status = desk.answer(turn)
    assert (content, status) == (desk.shown(turn), "complete")
    done = events[-1]
    assert done["content_sha256"] == sha256(content.encode()).hexdigest()
    assert (done["status"], done["seq"], done["usage"]["output_tokens"]) == ("completed", row.last_seq, 30)
    assert row.first_token_at is not None
    assert row.cost_usd > 0


def test_the_provider_gets_the_question_once_after_the_history(desk):
    first = desk.queue("[[text=one]]")
    desk.ring(first)
    desk.ended(first)
    second = desk.queue("[[text=two]] and a question")
    desk.ring(second)
    desk.ended(second)
    (record,) = desk.provider.get("/_log", params={"contains": "two]] and a question"}).json()["data"]
    assert [message["content"] for message in record["messages"]] == [
        "[[text=one]]",
        "one",
        "[[text=two]] and a question",
    ]


def test_a_stop_reaches_the_worker_by_its_flag_and_nudge(desk):
    turn = desk.queue("[[tokens=400 rate=6]]")
    desk.ring(turn)
    until(lambda: desk.is_streaming(turn))
    desk.ask_to_stop(turn)
    desk.redis.set(abort_key(desk.session, turn), "user", ex=60)
    desk.redis.publish(ABORT_CHANNEL, str(turn))
    row = desk.ended(turn)
    assert (row.status, row.stop_reason) == ("stopped", "user")
    assert row.stop_observed_at is not None
    assert [event["type"] for event in desk.told(turn)[-2:]] == ["stop_requested", "done"]
    content, status = desk.answer(turn)
    assert (content, status) == (desk.shown(turn), "partial")
    assert row.cost_usd > 0
    assert row.usage_source == "estimated"


def test_a_stop_reaches_the_worker_by_the_lease_renewal_when_redis_says_nothing(desk):
    turn = desk.queue("[[hang=3]]")
    desk.ring(turn)
    until(lambda: desk.is_streaming(turn))
    desk.ask_to_stop(turn)
    assert desk.ended(turn).status == "stopped"


def test_a_failed_turn_says_why_and_keeps_its_text(desk):
    turn = desk.queue("[[tokens=20 cut=5]]", recovery="fail")
    desk.ring(turn)
    row = desk.ended(turn)
    assert (row.status, row.error["code"]) == ("failed", "provider_protocol")
    events = desk.told(turn)
    assert [event["type"] for event in events[-2:]] == ["error", "done"]
    assert events[-1]["seq"] == row.last_seq
    assert desk.answer(turn).status == "partial"


def test_a_turn_whose_worker_died_is_run_again_and_its_readers_are_told(desk):
    turn = desk.queue("[[tokens=40 rate=200]]")
    dead = desk.claimed_elsewhere(turn)
    assert dead.attempt == 1
    for seq, event in enumerate(
        (
            {"type": "turn_queued"},
            {"type": "title_updated", "title": "Title"},
            {"type": "turn_started"},
            {"type": "message_start", "message_id": str(dead.turn.answer_id)},
            {"type": "content_delta", "delta": "void"},
        ),
        start=1,
    ):
        attempt = 0 if seq < 3 else 1
        encoded = json.dumps({"session_id": "s", "turn_id": "t", "seq": seq, "attempt": attempt, **event})
        desk.redis.xadd(log_key(desk.session, turn), {"e": encoded}, id=f"{attempt}-{seq}")
    desk.lapse(turn)
    until(lambda: desk.row(turn).status == "queued")
    desk.ring(turn)
    row = desk.ended(turn)
    assert (row.status, row.attempt) == ("completed", 2)
    events = desk.told(turn)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events][5:7] == ["message_reset", "turn_started"]
    assert desk.answer(turn).content == desk.shown(turn)
    assert "void" not in desk.shown(turn)
    bills = desk.sql(
        "select attempt, usage_source from turnkeeper.ledger where turn_id = :t order by 1", t=turn
    )
    assert [tuple(bill) for bill in bills] == [(1, "estimated"), (2, "provider")]


def test_a_turn_whose_log_was_spoiled_is_taken_up_all_the_same(desk):
    turn = desk.queue("[[tokens=3]]")
    desk.claimed_elsewhere(turn)
    desk.redis.xadd(log_key(desk.session, turn), {"e": b"no event"}, id="0-1")
    desk.lapse(turn)
    until(lambda: desk.row(turn).status == "queued")
    desk.ring(turn)
    row = desk.ended(turn)
    assert (row.status, row.attempt) == ("completed", 2)

    def last_told():
        return json.loads(desk.redis.xrevrange(log_key(desk.session, turn), count=1)[0][1][b"e"])

    until(lambda: last_told()["type"] == "done")
    assert last_told()["seq"] == row.last_seq


def test_a_turn_that_cannot_be_taken_up_keeps_no_other_waiting(desk, monkeypatch, caplog):
    """A bug in handing one turn back must not affect every turn (I1)."""
    stuck = desk.queue("[[tokens=3]]")
    desk.begin_session()
    other = desk.queue("[[tokens=3]]")
    real = left_behind

    def mistaken(row, *rest):
        if row.id == stuck:
            raise RuntimeError("a mistake")
        return real(row, *rest)

    monkeypatch.setattr("worker.recovery.sweeper.left_behind", mistaken)
    for turn in (stuck, other):  # the first whose lease ran out is the first that is looked at
        desk.claimed_elsewhere(turn)
        desk.lapse(turn)
    until(lambda: desk.row(other).status == "queued")
    assert desk.row(stuck).status == "running"
    assert "a turn could not be taken up" in caplog.text


def bills_of(desk, turn):
    rows = desk.sql(
        "select attempt, usage_source, input_tokens > 0, output_tokens from turnkeeper.ledger"
        " where turn_id = :t order by 1", t=turn,
    )  # fmt: skip
    return [tuple(row) for row in rows]


@pytest.mark.parametrize(("noted", "billed"), [(1, True), (None, False), (7, False)])
def test_a_call_that_a_dead_attempt_noted_is_billed_before_any_renewal(desk, noted, billed):
    turn = desk.queue("[[tokens=3]]")
    dead = desk.claimed_elsewhere(turn)
    if noted is not None:
        desk.redis.set(call_key(desk.session, turn), noted)
    told_by(desk, dead, {"type": "turn_started"})
    desk.lapse(turn)
    until(lambda: desk.row(turn).status == "queued")
    desk.ring(turn)
    assert desk.ended(turn).status == "completed"
    first = [(1, "estimated", True, 0)] if billed else []
    assert bills_of(desk, turn) == [*first, (2, "provider", True, 3)]


@pytest.mark.parametrize(
    ("noted", "billed"),
    [
        ("1 partial 7 3 4 2", ("partial", 7, 3, 4, 2, 1)),
        ("1 estimated 14 6 8 4", ("estimated", 14, 6, 8, 4, 1)),
        ("1 estimated 0 0 0 0", ("estimated", 0, 0, 0, 0, 1)),
        ("7 partial 7 3 4 2", ("estimated", 3, 0, 0, 0, 1)),
        ("1 partial 7 3", ("estimated", 3, 0, 0, 0, 1)),
    ],
)
def test_a_dead_attempt_is_billed_the_prompt_that_its_provider_told(desk, noted, billed):
    turn = desk.queue("[[tokens=3]]")
    dead = desk.claimed_elsewhere(turn)
    desk.redis.set(call_key(desk.session, turn), noted)
    start = {"type": "message_start", "message_id": str(dead.turn.answer_id)}
    told_by(desk, dead, {"type": "turn_started"}, start, {"type": "content_delta", "delta": "void"})
    desk.lapse(turn)
    until(lambda: desk.row(turn).status == "queued")
    bills = desk.sql(
        "select usage_source, input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens,"
        " output_tokens from turnkeeper.ledger where turn_id = :t", t=turn,
    )  # fmt: skip
    assert [tuple(bill) for bill in bills] == [billed]


def test_a_worker_notes_the_prompts_figures_as_the_provider_tells_them(desk):
    turn = desk.queue("[[tokens=9 hang=2 usage=continuous input=7 cached=3]]")
    desk.ring(turn)
    until(lambda: desk.redis.get(call_key(desk.session, turn)) == b"1 partial 7 3 0 0")
    desk.ask_to_stop(turn)
    desk.redis.set(abort_key(desk.session, turn), "user", ex=60)
    assert desk.ended(turn).status == "stopped"


def test_the_estimate_of_a_call_that_died_has_the_system_prompt_in_it(desk):
    system = "Be brief. " * 40
    desk.sql("update turnkeeper.sessions set system_prompt = :p where id = :s", p=system)
    content = "[[tokens=3]] and a question"
    turn = desk.queue(content)
    desk.claimed_elsewhere(turn)
    desk.redis.set(call_key(desk.session, turn), 1)
    desk.lapse(turn)
    until(lambda: desk.row(turn).status == "queued")
    bills = desk.sql("select input_tokens from turnkeeper.ledger where turn_id = :t", t=turn)
    assert [bill.input_tokens for bill in bills] == [(len(system) + len(content)) // 4]


def test_a_worker_notes_its_call_before_the_provider_answers(desk):
    turn = desk.queue("[[hang_headers=true]]")
    desk.ring(turn)
    until(lambda: desk.redis.get(call_key(desk.session, turn)) == b"1")
    assert [event["type"] for event in desk.log(turn)][-1] == "turn_started"
    desk.ask_to_stop(turn)
    desk.redis.set(abort_key(desk.session, turn), "user", ex=60)
    assert desk.ended(turn).status == "stopped"


def told_by(desk, dead, *events):
    """Write the log of a worker that is dead, from its acceptance on."""
    told = [{"type": "turn_queued"}, {"type": "title_updated", "title": "Title"}, *events]
    for seq, event in enumerate(told, start=1):
        attempt = 0 if seq < 3 else dead.attempt
        envelope = {"session_id": "s", "turn_id": "t", "seq": seq, "attempt": attempt}
        encoded = json.dumps({**event, **envelope}, separators=(",", ":"))
        desk.redis.xadd(log_key(desk.session, dead.turn_id), {"e": encoded}, id=f"{attempt}-{seq}")


def late(desk, dead, seq):
    """Execute a command of a dead worker that hung in its connection."""
    keys = (log_key(desk.session, dead.turn_id), events_channel(desk.session))
    encoded = json.dumps(
        {"type": "content_delta", "seq": seq, "attempt": dead.attempt, "delta": "late"}, separators=(",", ":")
    )
    return desk.redis.eval(APPEND, 2, *keys, dead.attempt, seq, 1000, 0, encoded)


@pytest.mark.parametrize("recovery", ["restart", "fail"])
def test_what_a_dead_worker_sent_is_refused_once_its_turn_was_taken_up(desk, recovery):
    """I3, I5: the sweeper has read the log; what comes later would be shown and not be stored."""
    turn = desk.queue("[[text=whole]]", recovery=recovery)
    dead = desk.claimed_elsewhere(turn)
    told_by(desk, dead, {"type": "turn_started"}, {"type": "content_delta", "delta": "shown"})
    desk.lapse(turn)
    told = until(lambda: desk.log(turn) if desk.log(turn)[-1]["attempt"] == 2 else None)
    for seq in (5, 6, 7):
        assert late(desk, dead, seq) == Appended.FENCED
    if recovery == "restart":
        desk.ring(turn)
    desk.ended(turn)
    assert desk.told(turn)[: len(told)] == told
    assert [event["seq"] for event in desk.log(turn)] == list(range(1, len(desk.log(turn)) + 1))
    assert desk.answer(turn).content == desk.shown(turn) == {"restart": "whole", "fail": "shown"}[recovery]


def test_text_that_a_dead_worker_shows_late_is_reset_by_the_attempt_that_follows(desk):
    """The sweeper knew of no text, so it reset none; or it died before it could."""
    turn = desk.queue("[[text=whole]]")
    dead = desk.claimed_elsewhere(turn)
    told_by(desk, dead, {"type": "turn_started"})
    desk.lapse(turn)
    until(lambda: desk.row(turn).status == "queued")
    assert late(desk, dead, 4) == Appended.WRITTEN
    desk.ring(turn)
    desk.ended(turn)
    kinds = [event["type"] for event in desk.told(turn)]
    assert kinds[3:6] == ["content_delta", "message_reset", "turn_started"]
    assert desk.answer(turn).content == desk.shown(turn) == "whole"


def test_a_turn_that_is_to_fail_when_its_worker_dies_keeps_what_was_shown(desk):
    turn = desk.queue("anything", recovery="fail")
    desk.claimed_elsewhere(turn)
    encoded = json.dumps({"type": "snapshot", "session_id": "s", "turn_id": "t", "seq": 4, "attempt": 1,
                          "message_id": "m", "content": "kept", "reasoning": "", "status": "running"})  # fmt: skip
    desk.redis.xadd(log_key(desk.session, turn), {"s": encoded}, id="1-4")
    desk.lapse(turn)
    row = desk.ended(turn)
    assert (row.status, row.error["code"]) == ("failed", "worker_lost")
    assert desk.answer(turn).content == "kept"
    assert [event["seq"] for event in desk.told(turn)] == [4, 5, 6]


def test_what_a_dead_worker_wrote_to_caches_is_billed_as_its_checkpoint_says(desk):
    turn, dead = desk.queue("[[tokens=2]]"), new_id()
    claim_turn(desk.database, turn, dead, lease_seconds=60.0, context_tokens=1000)
    desk.sql(
        "select turnkeeper.save_checkpoints(:w, array[cast(:t as uuid)], array[1], array[cast(3 as bigint)],"
        " array[true], array['kept'], array[''], array[cast(10 as bigint)], array[cast(0 as bigint)],"
        " array[cast(7 as bigint)], array[cast(3 as bigint)], array[cast(5 as bigint)], array[cast(0 as bigint)],"
        " array['partial'])",
        w=dead, t=turn,
    )  # fmt: skip
    desk.lapse(turn)
    rows = until(
        lambda: desk.sql("select * from turnkeeper.ledger where turn_id = :t and attempt = 1", t=turn)
    )
    (row,) = rows
    assert (row.cache_write_tokens, row.cache_write_1h_tokens, row.usage_source) == (7, 3, "partial")


def test_a_stop_of_a_turn_whose_worker_died_ends_it_stopped(desk):
    turn = desk.queue("anything")
    desk.claimed_elsewhere(turn)
    desk.ask_to_stop(turn)
    desk.lapse(turn)
    assert desk.ended(turn).status == "stopped"
    assert desk.told(turn)[-1]["type"] == "done"


def test_a_turn_whose_doorbell_was_lost_is_rung_again(desk):
    turn = desk.queue("anything")
    desk.sql("update turnkeeper.turns set rung_at = now() - interval '1 minute' where id = :t", t=turn)
    until(lambda: desk.redis.llen("turns:turns") > 0)


def test_a_turn_that_no_worker_took_expires_and_done_says_so(desk):
    turn = desk.queue("anything")
    # Counted from when it could first be claimed: a turn that waited behind another's six minutes is not late.
    desk.sql("update turnkeeper.turns set claimable_at = now() - interval '1 day' where id = :t", t=turn)
    assert desk.ended(turn).status == "expired"
    assert desk.told(turn)[-1]["status"] == "expired"
    until(lambda: counted(desk, table.TURNS, "expired", "") == 1)


def counted(desk, metric, *labels):
    return desk.worker._registry.values[PLACES[metric, labels]]


def test_an_attempt_that_lost_its_lease_and_the_turn_that_a_sweeper_takes_up_are_counted(desk):
    turn = desk.queue("[[tokens=4000 rate=6]]")
    desk.ring(turn)
    until(lambda: desk.is_streaming(turn))
    desk.sql(
        "update turnkeeper.turns set attempt = attempt + 1, lease_expires_at = now() where id = :t", t=turn
    )
    until(lambda: counted(desk, table.ATTEMPTS, "fenced") == 1)
    until(lambda: counted(desk, table.TAKEN_UP) == 1)
    assert counted(desk, table.LEASES_LOST) == 1


def test_a_worker_says_that_it_is_alive(desk):
    ((before,),) = desk.sql("select max(renewed_at) from turnkeeper.workers")
    until(lambda: desk.sql("select 1 from turnkeeper.workers where renewed_at > :before", before=before))


def test_a_draining_worker_claims_nothing(desk):
    desk.worker.runner.drain()
    turn = desk.queue("anything")
    desk.ring(turn)
    desk.threads[-1].join(timeout=DEADLINE_SECONDS)
    assert desk.row(turn).status == "queued"


def test_a_worker_that_ends_hands_its_turns_back_without_counting_the_attempt(desk):
    turn = desk.queue("[[tokens=400 rate=6]]")
    desk.ring(turn)
    until(lambda: desk.is_streaming(turn))
    desk.worker._leases.hand_back_all()
    desk.threads[-1].join(timeout=DEADLINE_SECONDS)
    row = desk.row(turn)
    assert (row.status, row.attempt, row.handed_back) == ("queued", 2, 1)
    assert desk.log(turn)[-1]["type"] == "message_reset"
    assert desk.log(turn)[-1]["seq"] == row.last_seq
    (bill,) = desk.sql("select usage_source, cost_usd from turnkeeper.ledger where turn_id = :t", t=turn)
    assert bill.cost_usd > 0
    assert desk.redis.llen("turns:turns") > 0
    assert counted(desk, table.ATTEMPTS, "handed_back") == 1
    assert counted(desk, table.COST) == pytest.approx(float(bill.cost_usd))
    assert counted(desk, table.LEASES_LOST) == 0


def test_a_turn_that_is_to_fail_when_its_worker_ends_keeps_what_was_shown(desk):
    turn = desk.queue("[[tokens=400 rate=6]]", recovery="fail")
    desk.ring(turn)
    until(lambda: desk.is_streaming(turn))
    desk.worker._leases.hand_back_all()
    row = desk.ended(turn)
    assert (row.status, row.error["code"]) == ("failed", "worker_lost")
    events = desk.told(turn)
    assert [event["type"] for event in events[-2:]] == ["error", "done"]
    assert events[-1]["seq"] == row.last_seq == len(events)
    assert desk.answer(turn).content == desk.shown(turn)


def test_numbers_that_were_lost_with_worker_and_log_are_not_given_again(desk):
    turn = desk.queue("[[text=whole]]")
    dead = desk.claimed_elsewhere(turn)
    assert dead.attempt == 1
    desk.lapse(turn)
    until(lambda: desk.row(turn).status == "queued")
    desk.ring(turn)
    row = desk.ended(turn)
    assert row.status == "completed"
    (snapshot, *events) = desk.told(turn)
    assert snapshot["type"] == "snapshot"
    assert snapshot["seq"] > 1_000_000  # more than any reader can have had
    assert [event["seq"] for event in events] == list(range(snapshot["seq"] + 1, row.last_seq + 1))
    assert desk.answer(turn).content == desk.shown(turn) == "whole"


@pytest.mark.parametrize("how", ["completed", "handed back"])
def test_a_renewal_that_comes_between_the_settlement_and_done_costs_no_event(desk, monkeypatch, how):
    """I4: it does not find the turn, which is no longer running, and that is no lost lease."""
    turn = desk.queue("[[tokens=40]]" if how == "completed" else "[[tokens=400 rate=6]]")
    is_shown = threading.Event()
    trust = desk.worker._publisher._is_trusted
    monkeypatch.setattr(desk.worker._publisher, "_is_trusted", lambda: is_shown.is_set() and trust())

    def settle_then_renew(*arguments):
        row = settle(*arguments)
        desk.worker._leases._renew()
        desk.worker._loop_thread.call(asyncio.sleep(0))  # what the renewal handed to the loop is done
        is_shown.set()
        return row

    monkeypatch.setattr(ending, "settle", settle_then_renew)
    desk.ring(turn)
    if how == "handed back":
        until(lambda: (held := desk.worker._leases.attempt_of(turn)) and held.first_text_at)
        desk.worker._leases.hand_back_all()
        desk.threads[-1].join(timeout=DEADLINE_SECONDS)
        last = desk.row(turn).last_seq
        assert desk.log(turn)[-1]["type"] == "message_reset"
    else:
        last = desk.ended(turn).last_seq
        assert desk.told(turn)[-1]["type"] == "done"
        assert desk.answer(turn).content == desk.shown(turn)
    assert [event["seq"] for event in desk.log(turn)] == list(range(1, last + 1))


def test_an_error_of_ours_in_the_loop_leaves_no_lease_that_is_renewed_for_nobody(desk, monkeypatch, caplog):
    turn = desk.queue("[[text=whole]]")
    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR, "turnkeeper.runner"):
        opener = desk.worker.runner._opener
        broken.setattr(opener, "_services", replace(opener._services, aborts=None))
        desk.worker.runner.run(turn, "")
    assert [record.getMessage() for record in caplog.records] == ["an attempt failed"]
    assert desk.worker._leases.running() == 0  # what is not among them is not renewed
    desk.lapse(turn)
    until(lambda: desk.row(turn).status == "queued")
    desk.ring(turn)
    assert desk.ended(turn).status == "completed"
    assert desk.answer(turn).content == desk.shown(turn) == "whole"
