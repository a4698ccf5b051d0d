"""`turnkeeper users`: what an export contains, what an erasure removes, and what a worker cannot restore."""

import json
import threading
import time
from contextlib import contextmanager

import pytest
import redis
from sqlalchemy import text

from shared.ids import new_id
from shared.money.usage import Usage, UsageSource
from shared.redis.joined import join
from shared.redis.names import joined_log_key, log_key
from shared.turn.turns import FinishReason, StopReason
from turnkeeper.cli import main
from turnkeeper.commands.erasure import Erasure
from worker.turn.claim import claim_turn
from worker.turn.outcome import Answer, Completed, Stopped
from worker.turn.settle import Settlement, settle

WORDS = "words that must go"
ANSWER = Answer(WORDS, WORDS, called=True, usage=Usage(3, 0, 0, 7, 0), usage_source=UsageSource.PROVIDER)


@pytest.fixture(autouse=True)
def operator(environment, owner_url, monkeypatch, tmp_path):
    """An operator's shell: the servers by their URLs, and no `.env` or `up` around."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("DATABASE_OWNER_URL", owner_url)


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as made:
        yield made


class Desk:
    """Asks as a user and answers as a worker."""

    def __init__(self, api, database, settings, organization, client):
        self.api = api
        self.database = database
        self.settings = settings
        self.organization = organization
        self.client = client

    def session(self, key, **fields):
        return self.api.session(key, title=WORDS, system_prompt=WORDS, metadata={"note": WORDS}, **fields)

    def ask(self, key, session, strategy="reject"):
        answer = self.api.post(
            f"/v1/sessions/{session}/turns",
            key,
            json={"content": WORDS, "metadata": {"note": WORDS}, "multitask_strategy": strategy},
            headers={"Idempotency-Key": str(new_id())},
        )
        assert answer.status_code == 202
        assert self.api.services.notices.drain(60)
        return answer.json["id"]

    def claim(self, turn):
        claim = claim_turn(self.database, turn, new_id(), lease_seconds=60, context_tokens=10_000)
        assert claim is not None
        return claim

    def settle(self, claim, ending=None):
        wanted = Settlement(claim.organization_id, claim.turn_id, claim.attempt, last_seq=9)
        return settle(
            self.database, self.settings.provider, wanted, ending or Completed(ANSWER, FinishReason.STOP)
        )

    def answered(self, key, **fields):
        """Open a session with an answered turn; return both ids."""
        session = self.session(key, **fields)
        turn = self.ask(key, session)
        self.settle(self.claim(turn))
        self.tell_done(session, turn)
        return session, turn

    def tell_done(self, session, turn):
        """Write the last event of the log, as a worker does after its commit."""
        named = {"session_id": str(session), "turn_id": str(turn)}
        done = json.dumps({"type": "done", **named, "seq": 9, "attempt": 1, "words": WORDS})
        self.client.xadd(log_key(session, turn), {"e": done}, id="1-9")


@pytest.fixture
def desk(api, database, settings, organization, client):
    return Desk(api, database, settings, organization, client)


def everything(as_owner, client):
    """Return all rows and all of Redis as text: what is not in it is nowhere."""
    tables = as_owner("select tablename from pg_tables where schemaname = 'turnkeeper'")
    rows = [
        str(row) for (table,) in tables for row in as_owner(f"select t::text from turnkeeper.{table} as t")
    ]
    logs = [str(client.xrange(key)) for key in client.keys("tk:*:log:*")]
    return "\n".join(rows + logs)


def erase(user="alice", *options, organization="Acme"):
    return main(["users", "erase", user, "--organization", organization, "--yes", *options])


def test_one_users_content_goes_and_what_it_cost_stays_under_another_name(
    desk, keys, as_owner, client, capsys
):
    session, turn = desk.answered(keys.alice)
    other = desk.session(keys.service, user="alice")
    desk.api.post(f"/v1/sessions/{session}/flag", keys.alice, json={"reason": WORDS})
    as_owner(
        "insert into turnkeeper.refusals (organization_id, day, user_name, code, refused, last_at)"
        " select id, '2026-01-02', 'alice', 'rate_limited', 1, now() from turnkeeper.organizations"
    )
    assert erase() == 0
    assert as_owner("select user_name from turnkeeper.refusals") == []
    assert WORDS not in everything(as_owner, client)
    assert client.keys("tk:*:log:*") == []
    (row,) = as_owner("select user_name, turn_id, cost_usd, output_tokens from turnkeeper.ledger")
    assert row.user_name.startswith("erased-")
    assert (str(row.turn_id), row.output_tokens) == (turn, 7)
    for table in ("sessions", "turns"):
        assert {found.user_name for found in as_owner(f"select user_name from turnkeeper.{table}")} == {
            row.user_name
        }
    assert as_owner("select distinct flagged_by from turnkeeper.sessions where flagged") == [(row.user_name,)]
    assert {str(found.status) for found in as_owner("select status from turnkeeper.sessions")} == {"closed"}
    assert desk.api.get(f"/v1/sessions/{other}", keys.alice).status_code == 404
    said = capsys.readouterr().out
    counts = dict(line.rsplit(":", 1) for line in said.splitlines())
    assert {name: count.strip() for name, count in counts.items()} == {
        "sessions emptied and closed": "2",
        "turns stopped": "0",
        "messages deleted": "2",
        "checkpoints deleted": "0",
        "idempotency keys deleted": "1",
        "logs deleted in Redis": "1",
        "ledger rows kept, renamed": "1",
        "name in place of the user's": row.user_name,
        "API keys still valid": "1 (see `turnkeeper keys list` and `revoke`)",
    }
    assert WORDS not in said


def test_a_log_that_was_joined_goes_like_any_other(desk, keys, client, capsys):
    session, turn = desk.answered(keys.alice)
    client.delete(log_key(session, turn))
    client.set(joined_log_key(session, turn), join([(b"1-9", b"e", WORDS.encode())]))
    assert erase() == 0
    assert "logs deleted in Redis:        1" in capsys.readouterr().out
    assert client.keys("tk:*:joined:*") == []


def test_nobody_else_loses_a_word(desk, keys, strangers, as_owner, client):
    bobs, _ = desk.answered(keys.bob)
    theirs = desk.api.session(strangers.alice, title=WORDS)
    desk.api.turn(strangers.alice, theirs, WORDS)
    desk.answered(keys.alice)
    assert erase() == 0
    assert len(desk.api.get(f"/v1/sessions/{bobs}/messages", keys.bob).json["data"]) == 2
    assert len(desk.api.get(f"/v1/sessions/{theirs}/messages", strangers.alice).json["data"]) == 1
    assert desk.api.get(f"/v1/sessions/{theirs}", strangers.alice).json["user"] == "alice"
    assert len(client.keys("tk:*:log:*")) == 2


def test_it_can_be_repeated_and_finds_nothing_the_second_time(desk, keys, as_owner, capsys):
    desk.answered(keys.alice)
    assert erase() == 0
    before = as_owner("select user_name from turnkeeper.ledger")
    capsys.readouterr()
    assert erase() == 0
    assert "sessions emptied and closed:  0" in capsys.readouterr().out
    assert as_owner("select user_name from turnkeeper.ledger") == before


def test_a_waiting_turn_is_stopped_and_a_running_one_is_waited_for(desk, keys, as_owner, client, monkeypatch):
    session = desk.session(keys.alice)
    claim = desk.claim(desk.ask(keys.alice, session))
    desk.ask(keys.alice, session, "enqueue")

    looked, polls = threading.Event(), []
    is_done, unfinished = Erasure._is_done, Erasure._unfinished

    def poll(erasure):
        polls.append(found := unfinished(erasure))
        return found

    def look(erasure, row):
        found = is_done(erasure, row)
        looked.set()
        return found

    monkeypatch.setattr(Erasure, "_is_done", look)
    monkeypatch.setattr(Erasure, "_unfinished", poll)

    def work():
        """Observe the stop as a worker does, settle, and tell readers only when the logs are about to go."""
        give_up_at = time.monotonic() + 60
        while desk.api.get(f"/v1/turns/{claim.turn_id}", keys.service).json["status"] != "stopping":
            assert time.monotonic() < give_up_at
        while len(polls) < 3:
            assert time.monotonic() < give_up_at
            threading.Event().wait(0.01)
        desk.settle(claim, Stopped(ANSWER, StopReason.SESSION_CLOSED))
        assert looked.wait(timeout=60)
        desk.tell_done(session, claim.turn_id)

    worker = threading.Thread(target=work)
    worker.start()
    assert erase() == 0
    worker.join(timeout=60)
    assert {row.status for row in as_owner("select status from turnkeeper.turns")} == {"stopped"}
    assert WORDS not in everything(as_owner, client)
    (row,) = as_owner("select user_name, output_tokens from turnkeeper.ledger")
    assert row.user_name.startswith("erased-")
    assert row.output_tokens == 7


def test_a_worker_that_settles_after_the_erasure_brings_nothing_back(desk, keys, as_owner, client, capsys):
    session = desk.session(keys.alice)
    claim = desk.claim(desk.ask(keys.alice, session))
    assert erase("alice", "--wait", "0") == 1
    assert "1 turns have not ended" in capsys.readouterr().err
    settled = desk.settle(claim)
    assert settled.dropped
    assert as_owner("select count(*) from turnkeeper.messages") == [(0,)]
    assert as_owner("select message_id from turnkeeper.turns") == [(None,)]
    assert as_owner("select user_name from turnkeeper.ledger") == [("alice",)]
    desk.tell_done(session, claim.turn_id)
    assert erase() == 0
    assert WORDS not in everything(as_owner, client)
    (row,) = as_owner("select user_name from turnkeeper.ledger")
    assert row.user_name.startswith("erased-")


def test_an_answer_that_is_being_written_while_its_session_is_emptied_goes_too(desk, keys, as_owner):
    """The settling transaction holds the turn when the content is removed, and commits afterwards."""
    session = desk.session(keys.alice)
    claim = desk.claim(desk.ask(keys.alice, session))
    settled, go_on = threading.Event(), threading.Event()

    class HeldUp:
        """The database of a worker that is held up between its statement and its commit."""

        @contextmanager
        def of(self, organization):
            with desk.database.of(organization) as db:
                yield db
                settled.set()
                assert go_on.wait(timeout=60)

    wanted = Settlement(claim.organization_id, claim.turn_id, claim.attempt, last_seq=9)
    ending = Completed(ANSWER, FinishReason.STOP)
    worker = threading.Thread(target=settle, args=(HeldUp(), desk.settings.provider, wanted, ending))
    worker.start()
    assert settled.wait(timeout=60)

    def forget():
        with desk.database.of(desk.organization) as db:
            db.execute(
                text("select turnkeeper.forget_content(:o, array[cast(:s as uuid)])"),
                {"o": desk.organization, "s": session},
            )

    forgetting = threading.Thread(target=forget)
    forgetting.start()
    give_up_at = time.monotonic() + 60
    while not as_owner(
        "select from pg_stat_activity where wait_event_type = 'Lock' and query like '%forget_content%'"
    ):
        assert time.monotonic() < give_up_at
    go_on.set()
    worker.join(timeout=60)
    forgetting.join(timeout=60)
    assert as_owner("select status, message_id from turnkeeper.turns") == [("completed", None)]
    assert as_owner("select count(*) from turnkeeper.messages") == [(0,)]


def test_a_turn_of_an_emptied_session_takes_no_answer_whoever_writes_it(desk, keys, as_owner):
    session = desk.session(keys.alice)
    claim = desk.claim(desk.ask(keys.alice, session))
    with desk.database.of(desk.organization) as db:
        db.execute(
            text("select turnkeeper.forget_content(:o, array[cast(:s as uuid)])"),
            {"o": desk.organization, "s": session},
        )
    assert desk.settle(claim).status == "completed"  # nobody had asked it to stop
    assert as_owner("select message_id from turnkeeper.turns") == [(None,)]
    assert as_owner("select count(*) from turnkeeper.messages") == [(0,)]


def test_without_redis_nothing_is_renamed_so_that_it_can_be_run_again(
    desk, keys, as_owner, monkeypatch, capsys, redis_url
):
    desk.answered(keys.alice)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
    assert erase() == 1
    assert "run it again" in capsys.readouterr().err
    assert as_owner("select user_name from turnkeeper.ledger") == [("alice",)]
    monkeypatch.setenv("REDIS_URL", redis_url)
    assert erase() == 0
    assert as_owner("select user_name from turnkeeper.ledger") != [("alice",)]


def test_nothing_is_erased_without_a_yes(desk, keys, as_owner, client, monkeypatch, capsys):
    desk.answered(keys.alice)
    command = ["users", "erase", "alice", "--organization", "Acme"]
    assert main(command) == 2
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "bob")
    assert main(command) == 1
    assert WORDS in everything(as_owner, client)
    assert "2 messages in 1 sessions" in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda _: "alice")
    assert main(command) == 0
    assert WORDS not in everything(as_owner, client)


def test_an_export_holds_every_session_with_its_turns_and_messages(desk, keys, strangers, capsys):
    made = [desk.answered(keys.alice)[0], desk.session(keys.service, user="alice")]
    desk.answered(keys.bob)
    desk.api.session(strangers.alice)
    assert main(["users", "export", "alice", "--organization", "Acme"]) == 0
    said = capsys.readouterr()
    assert "2 sessions" in said.err
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["id"] for line in lines] == made
    full = lines[0]
    shown = desk.api.get(f"/v1/sessions/{full['id']}", keys.alice).json
    same = set(shown) & set(full)
    assert {"user", "title", "system_prompt", "metadata", "usage", "cost_usd"} <= same
    assert {name: full[name] for name in same} == {name: shown[name] for name in same}
    messages = desk.api.get(f"/v1/sessions/{full['id']}/messages", keys.alice).json["data"]
    assert [{**message, "reasoning": None} for message in messages] == [
        {**message, "reasoning": None} for message in full["messages"]
    ]
    assert full["messages"][1]["reasoning"] == WORDS
    turn = desk.api.get(f"/v1/turns/{full['turns'][0]['id']}", keys.alice).json
    same = set(turn) & set(full["turns"][0])
    assert {"status", "usage", "cost_usd", "metadata", "queued_at", "error"} <= same
    assert {name: full["turns"][0][name] for name in same} == {name: turn[name] for name in same}


def test_an_export_goes_to_a_new_file_that_others_cannot_read(desk, keys, tmp_path, capsys):
    desk.answered(keys.alice)
    path = tmp_path / "alice.jsonl"
    command = ["users", "export", "alice", "--organization", "Acme", "--output", str(path)]
    assert main(command) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1
    assert main(command) == 2
    assert "name a new file" in capsys.readouterr().err


def test_a_long_export_is_written_page_by_page(desk, keys, monkeypatch, capsys):
    monkeypatch.setattr("turnkeeper.commands.export._PAGE", 2)
    made = [desk.api.session(keys.alice) for _ in range(5)]
    assert main(["users", "export", "alice", "--organization", "Acme"]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == made


def test_an_organization_that_is_not_there_and_a_powerful_login_are_refused(
    desk, monkeypatch, owner_url, capsys
):
    assert erase(organization="Nobody") == 2
    assert "must name one organization" in capsys.readouterr().err
    monkeypatch.setenv("DATABASE_URL", owner_url)
    assert erase() == 2
    assert "DATABASE_URL's role" in capsys.readouterr().err
    monkeypatch.delenv("REDIS_URL")
    assert erase() == 2
    assert "REDIS_URL is required" in capsys.readouterr().err
