"""Marked secrets and marked content go through everything that goes wrong, and are looked for everywhere (I10).

Secrets may stand nowhere but in the request that carries them. Content may stand in rows, in a turn's log and in
its events, and in no log line, error, key name, task or command line.
"""

import base64
import json
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import psutil
import psycopg
import pytest
import redis
from websockets.exceptions import WebSocketException

from shared.postgres.accounts import create_key, create_organization
from tests.doorbells import check_push
from tests.e2e.conftest import PROVIDER_KEY, Service, running_service, temporary_folder
from tests.e2e.protocol_client import SUBPROTOCOL, Api, Oracle, wait_until, websocket
from tests.monitor import Monitor
from turnkeeper.up.embedded import EmbeddedPostgres, EmbeddedRedis, temporary_postgres, temporary_redis


def mark(what: str) -> str:
    return f"{what}{uuid.uuid4().hex[:12]}"


CONTENT = {
    name: mark(name)
    for name in ("question", "answer", "system", "title", "metadata", "reason", "user", "search", "garbage")
}


@dataclass
class Aftermath:
    """Everything that was sent, written and stored."""

    secrets: dict[str, str]
    answers: list[httpx.Response]
    closings: list[str]
    events: str
    logs: dict[str, str]
    commands: list[list[str]]
    keys: list[str]
    redis_values: str
    rows: str
    activity: str
    command_lines: str


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with temporary_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Iterator[EmbeddedRedis]:
    with temporary_redis() as server:
        yield server


@pytest.fixture(scope="module")
def aftermath(
    postgres: EmbeddedPostgres, redis_server: EmbeddedRedis, scripted: Oracle
) -> Iterator[Aftermath]:
    with ExitStack() as stack:
        commands: list[list[str]] = []
        overheard = stack.enter_context(ExitStack())
        overheard.enter_context(Monitor(redis_server.url, commands.append))
        folder = stack.enter_context(temporary_folder())
        service = stack.enter_context(
            running_service(
                folder,
                MCP_LLM_PROVIDER="openai-compatible",
                MCP_LLM_BASE_URL=f"{scripted.url}/v1",
                MCP_LLM_MODEL="scripted",
                MCP_LLM_API_KEY=PROVIDER_KEY,
                DATABASE_URL=postgres.app_url,
                DATABASE_OWNER_URL=postgres.owner_url,
                REDIS_URL=redis_server.url,
                LOG_LEVEL="DEBUG",
            )
        )
        drive = Drive(service, scripted, postgres, redis_server)
        drive.everything()
        overheard.close()
        with redis.Redis.from_url(redis_server.url) as client:
            keys = [key.decode() for key in client.scan_iter(count=1000)]
            kept = " ".join(str(client.dump(key)) + str(readable(client, key)) for key in keys)
        with psycopg.connect(postgres.owner_url) as db:
            tables = db.execute("select tablename from pg_tables where schemaname = 'turnkeeper'").fetchall()
            rows = "\n".join(
                str(db.execute(f"select to_jsonb(t)::text from turnkeeper.{table} t").fetchall())
                for (table,) in tables
            )
            activity = str(db.execute("select query, application_name from pg_stat_activity").fetchall())
        family = [
            service.process.pid,
            *(each.pid for each in psutil.Process(service.process.pid).children(True)),
        ]
        lines = []
        for pid in family:
            with suppress(psutil.NoSuchProcess):
                lines.append(" ".join(psutil.Process(pid).cmdline()))
        logs = {
            path.name: path.read_text(errors="replace")
            for path in [*(folder / "data" / "logs").glob("*"), folder / "output"]
        }
        logs["postgres"] = Path(postgres.log).read_text(errors="replace")
        logs["redis"] = Path(redis_server.log).read_text(errors="replace")
        yield Aftermath(
            secrets=drive.secrets,
            answers=drive.answers,
            closings=drive.closings,
            events=drive.events,
            logs=logs,
            commands=commands,
            keys=keys,
            redis_values=kept,
            rows=rows,
            activity=activity,
            command_lines="\n".join(lines),
        )


def readable(client: redis.Redis, key: bytes) -> Any:
    match client.type(key):
        case b"stream":
            return client.xrange(key)
        case b"list":
            return client.lrange(key, 0, -1)
        case b"string":
            return client.get(key)
        case _:
            return None


class Drive:
    """Uses a service in every way that might reveal too much."""

    def __init__(
        self, service: Service, scripted: Oracle, postgres: EmbeddedPostgres, redis_server: EmbeddedRedis
    ) -> None:
        self.answers: list[httpx.Response] = []
        self.closings: list[str] = []
        self.events = ""
        self._service, self._scripted = service, scripted
        self._postgres, self._redis = postgres, redis_server
        other = create_organization(postgres.owner_url, "Globex")
        self.secrets = {
            "provider key": PROVIDER_KEY,
            "owner's password": unquote(urlsplit(postgres.owner_url).password or ""),
            "database password": unquote(urlsplit(postgres.app_url).password or ""),
            "redis password": unquote(urlsplit(redis_server.url).password or ""),
            "user key": create_key(postgres.owner_url, other, "user", user=CONTENT["user"]),
            "service key": create_key(postgres.owner_url, other, "service"),
            "admin key": create_key(postgres.owner_url, other, "admin"),
            "revoked key": create_key(postgres.owner_url, other, "service", name="to be revoked"),
            "unknown key": "tsk_aaaaaaaa_" + uuid.uuid4().hex + "a" * 11,
            "no key": mark("notakey"),
        }
        assert all(len(secret) >= 16 for secret in self.secrets.values())
        self._api = Api(service.url, self.secrets["service key"])
        self._client = httpx.Client(base_url=service.url, timeout=70, trust_env=False)

    def everything(self) -> None:
        try:
            self.talk()
            self.make_mistakes()
            self.speak_bad_http()
            self.have_a_bad_provider()
            self.open_websockets()
            self.lose_servers()
            self.manage_keys()
        finally:
            self._client.close()
            self._api.close()

    def call(self, method: str, path: str, key: str = "service key", **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.secrets[key]}", **more.pop("headers", {})}
        self.answers.append(self._client.request(method, path, headers=headers, **more))
        return self.answers[-1]

    def session(self) -> str:
        fields = {
            "user": CONTENT["user"],
            "title": CONTENT["title"],
            "system_prompt": CONTENT["system"],
            "metadata": {"note": CONTENT["metadata"]},
        }
        return str(self.call("POST", "/v1/sessions", json=fields).json()["id"])

    def turn(self, session: str, directives: str = "tokens=3", **fields: Any) -> str:
        body = {
            "content": f"[[{directives}]] {CONTENT['question']}",
            "metadata": {"note": CONTENT["metadata"]},
            **fields,
        }
        headers = {"Idempotency-Key": f"{CONTENT['garbage']}-{uuid.uuid4().hex}"}
        return str(
            self.call("POST", f"/v1/sessions/{session}/turns", json=body, headers=headers).json()["id"]
        )

    def end_of(self, turn: str) -> dict[str, Any]:
        found = self.call("GET", f"/v1/turns/{turn}?wait=60").json()
        self.events += json.dumps(self._api.page(turn))
        return dict(found)

    def talk(self) -> None:
        session = self.session()
        turn = self.turn(session, f"text={CONTENT['answer']}")
        assert self.end_of(turn)["status"] == "completed"
        assert CONTENT["answer"] in self.events
        for path in ("", "/messages", "/turns"):
            self.call("GET", f"/v1/sessions/{session}{path}")
        self.call("GET", "/v1/sessions/search", params={"q": CONTENT["search"]})
        self.call("GET", "/v1/sessions", params={"user": CONTENT["user"]})
        self.call("PATCH", f"/v1/sessions/{session}", json={"title": CONTENT["title"]})
        self.call("POST", f"/v1/sessions/{session}/flag", json={"reason": CONTENT["reason"]})
        long = self.turn(session, "tokens=100000 rate=50")
        self.call("POST", f"/v1/turns/{long}/stop", json={"wait_ms": 20_000})
        self.call("DELETE", f"/v1/sessions/{session}")
        self.call("POST", f"/v1/sessions/{session}/turns", json={"content": CONTENT["question"]})

    def make_mistakes(self) -> None:
        session, garbage, question = self.session(), CONTENT["garbage"], CONTENT["question"]
        turns = f"/v1/sessions/{session}/turns"
        self.call("POST", turns, content='{"content": "' + question)
        self.call(
            "POST", turns, content=question.encode("utf-16"), headers={"Content-Type": "application/json"}
        )
        self.call("POST", turns, content=json.dumps({"content": question}), headers={"Content-Type": garbage})
        for wrong in (
            {"content": [question]},
            {"content": {"text": question}},
            {"content": question, "recovery": garbage},
            {"content": question, "max_output_tokens": garbage},
            {"content": question, "deadline_seconds": garbage},
            {"content": question + "\0"},
            {"content": question + "x" * 33_000},
            {"content": question, "metadata": {"note": garbage + "x" * 20_000}},
        ):
            self.call("POST", turns, json=wrong)
        # Its end is not read, so the connection goes with it.
        too_large = {"content": question + "x" * 1_100_000}
        self.call("POST", turns, json=too_large, headers={"Connection": "close"})
        for headers in (
            {"Idempotency-Key": garbage + "x" * 300},
            {"traceparent": garbage, "X-Request-Id": f"{garbage} {garbage}"},
        ):
            self.call("POST", turns, json={"content": question}, headers=headers)
        for path in (
            f"/v1/sessions/{garbage}",
            f"/v1/{garbage}",
            f"/{garbage}",
            f"/page/{garbage}",
            f"/v1/sessions?limit={garbage}",
            f"/v1/sessions?cursor={garbage}",
            f"/v1/sessions?status={garbage}",
            f"/v1/turns/{garbage}/events?after={garbage}",
            f"/v1/stream?key={garbage}",
        ):
            self.call("GET", path)
        self.call(garbage.upper(), "/v1/sessions")
        self.call("GET", "/v1/sessions", headers={"Host": f"{garbage}@{garbage}"})
        for key in ("unknown key", "no key"):
            self.call("GET", "/v1/sessions", key)
        self.call("GET", "/v1/sessions", headers={"Authorization": f"Basic {self.secrets['no key']}"})
        self.call("GET", "/v1/sessions", headers={"Cookie": f"key={self.secrets['no key']}"})

    def speak_bad_http(self) -> None:
        """What gunicorn refuses by itself, before the application sees it."""
        garbage, secret = CONTENT["garbage"], self.secrets["no key"]
        parts = urlsplit(self._service.url)
        plain = "GET /v1/sessions HTTP/1.1\r\nHost: x\r\n"
        for sent in (
            f"GET /{garbage} HTTP/9.9\r\n\r\n",
            f"{garbage} {garbage}\r\n\r\n",
            f"GET /{garbage * 1000} HTTP/1.1\r\n\r\n",
            plain + f"Authorization Bearer {secret}\r\n\r\n",
            plain + f"Authorization : Bearer {secret}\r\n\r\n",
            plain + f"X: {secret}\0{garbage}\r\n\r\n",
            plain + f"{secret}\0: x\r\n\r\n",
            plain + f"Authorization: {secret * 600}\r\n\r\n",
            plain + "".join(f"X-{number}: {secret}\r\n" for number in range(100)) + "\r\n",
            plain + f"Content-Length: {garbage}\r\n\r\n",
            plain + f"Transfer-Encoding: {garbage}\r\n\r\n",
            plain + f"Transfer-Encoding: chunked\r\n\r\n{garbage}\r\n",
        ):
            with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
                connection.sendall(sent.encode())
                connection.shutdown(socket.SHUT_WR)
                answer = b""
                with suppress(ConnectionResetError):
                    while more := connection.recv(65_536):
                        answer += more
            assert answer.startswith(b"HTTP/1.1 4"), (sent[:200], answer)
            assert b"application/problem+json" in answer.partition(b"\r\n\r\n")[0], sent[:200]
            self.closings.append(answer.decode(errors="replace"))

    def have_a_bad_provider(self) -> None:
        # Its own words are logged; what they repeat of the question and the key is not.
        said = {"error_type": PROVIDER_KEY, "error_code": f"{CONTENT['question']} {PROVIDER_KEY}"}
        for script in (
            {"status": 400, **said},
            {"status": 401, **said},
            {"status": 429, "retry_after": 3000, **said},
            {"error_after": 2, **said},
            {"json": True, **said},
            {"html": True},
            {"garbage": 2},
            {"cut": 2},
            {"redirect": f"http://127.0.0.1:9/{PROVIDER_KEY}/{CONTENT['garbage']}"},
        ):
            session = self.session()
            with self._scripted.scripted(tokens=5, **script):
                turn = self.call(
                    "POST",
                    f"/v1/sessions/{session}/turns",
                    json={"content": CONTENT["question"], "recovery": "fail"},
                ).json()["id"]
                assert self.end_of(turn)["status"] == "failed", script

    def open_websockets(self) -> None:
        session, garbage = self.session(), CONTENT["garbage"]
        for number in range(2):
            ticket = self.call("POST", "/v1/tickets", json={"session_id": session}).json()["ticket"]
            self.secrets[f"ticket {number}"] = ticket
            with websocket(self._service.url, None, SUBPROTOCOL, f"ticket.{ticket}") as opened:
                opened.subscribe(session)
            # Used up, and one that never was.
            self.fail_to_open(SUBPROTOCOL, f"ticket.{ticket}")
        self.fail_to_open(SUBPROTOCOL, f"ticket.{self.secrets['no key']}")
        self.fail_to_open(SUBPROTOCOL, headers={"Authorization": f"Bearer {self.secrets['unknown key']}"})
        self.fail_to_open(garbage)
        self.fail_to_open(SUBPROTOCOL, headers={"Origin": f"https://{garbage}.example"})
        for frame in (
            garbage,
            json.dumps({"op": garbage}),
            json.dumps({"op": "subscribe", "session_id": session, garbage: garbage}),
            garbage.encode(),
            garbage * 2000,
        ):
            with websocket(self._service.url, self.secrets["service key"]) as opened:
                with suppress(WebSocketException):
                    opened.connection.send(frame)
                    while True:
                        opened.receive(20)
                closed = opened.connection.protocol.close_rcvd
                assert closed is not None, frame
                self.closings.append(f"{closed.code} {closed.reason}")
        with websocket(self._service.url, self.secrets["service key"]) as opened:
            for operation in (
                {"op": "subscribe", "session_id": garbage},
                {"op": "stop", "turn_id": garbage},
            ):
                opened.send(**operation)
                assert opened.receive()["type"] == "refused"

    def fail_to_open(self, *subprotocols: str, **more: Any) -> None:
        with (
            pytest.raises(WebSocketException) as refused,
            websocket(self._service.url, None, *subprotocols, **more),
        ):
            pass
        response = getattr(refused.value, "response", None)
        assert response is not None, refused.value
        self.closings.append(f"{response.status_code} {dict(response.headers)} {response.body!r}")

    def lose_servers(self) -> None:
        """Cut every connection in the middle of a turn, then kill the worker."""
        session = self.session()
        turn = self.turn(session, f"tokens=60 rate=20 text={CONTENT['answer']}")
        with psycopg.connect(self._postgres.owner_url, autocommit=True) as db:
            db.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where pid <> pg_backend_pid() and backend_type = 'client backend'"
            )
        with redis.Redis.from_url(self._redis.url) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        for _ in range(3):
            self.call(
                "POST",
                f"/v1/sessions/{self.session_or(session)}/turns",
                json={"content": CONTENT["question"]},
            )
        self.end_of(turn)
        with self._scripted.scripted(rate=4):  # slow enough to be met by a kill
            again = self.turn(self.session(), "tokens=60")
            self._api.await_text(again)
        self._service.await_pids("worker", self._service.kill_workers(again))
        assert wait_until(lambda: self.end_of(again)["finished_at"], "the turn's end")

    def session_or(self, known: str) -> str:
        with suppress(KeyError):
            return self.session()
        return known

    def manage_keys(self) -> None:
        made = self.call("POST", "/v1/keys", "admin key", json={"role": "service", "name": "made over HTTP"})
        self.secrets["key made over HTTP"] = made.json()["key"]
        listed = self.call("GET", "/v1/keys", "admin key").json()["data"]
        (revoked,) = [key["id"] for key in listed if key["name"] == "to be revoked"]
        self.call("GET", "/v1/sessions", "revoked key")
        self.call("DELETE", f"/v1/keys/{revoked}", "admin key")
        self.call("GET", "/v1/sessions", "revoked key")
        self.call("GET", "/v1/sessions", "key made over HTTP")
        self.call("POST", "/v1/keys", "admin key", json={"role": self.secrets["no key"]})
        for path in ("/healthz", "/readyz", "/openapi.json", "/metrics"):
            self.call("GET", path)


def found(texts: dict[str, str] | list[str] | str, marks: dict[str, str]) -> list[tuple[str, str]]:
    """The marks and where they were put."""
    named = texts if isinstance(texts, dict) else {"": texts if isinstance(texts, str) else "\n".join(texts)}
    return [(place, name) for place, text in named.items() for name, each in marks.items() if each in text]


def test_no_secret_and_no_content_stands_in_a_log_of_any_process_or_server(aftermath: Aftermath):
    assert {"worker", "web", "relay"} <= {name.partition("-")[0].partition(".")[0] for name in aftermath.logs}
    assert all(aftermath.logs.values())
    assert found(aftermath.logs, aftermath.secrets) == []
    assert found(aftermath.logs, CONTENT) == []


def test_no_secret_stands_in_any_answer_but_the_one_that_gives_it_out(aftermath: Aftermath):
    for answer in aftermath.answers:
        given_out = {}
        if answer.status_code == 201 and answer.request.url.path in {"/v1/keys", "/v1/tickets"}:
            given_out = {answer.json().get("key"), answer.json().get("ticket")}
        kept = {name: secret for name, secret in aftermath.secrets.items() if secret not in given_out}
        assert found(answer.text + str(answer.headers), kept) == [], answer.request.url
    assert found(aftermath.closings, aftermath.secrets) == []
    assert found(aftermath.events, aftermath.secrets) == []


def test_no_error_repeats_content(aftermath: Aftermath):
    errors = [answer for answer in aftermath.answers if answer.status_code >= 400]
    assert len({answer.status_code for answer in errors}) >= 6
    for answer in errors:
        assert found(answer.text + str(answer.headers), CONTENT) == [], (answer.request.url, answer.text)
    assert len(aftermath.closings) >= 10
    assert found(aftermath.closings, CONTENT) == []
    failed = [
        answer.json()["error"]
        for answer in aftermath.answers
        if answer.status_code == 200 and '"status":"failed"' in answer.text
    ]
    assert len(failed) >= 8
    assert found(str(failed), CONTENT) == []


def test_no_secret_stands_in_an_address(aftermath: Aftermath):
    assert found([str(answer.request.url) for answer in aftermath.answers], aftermath.secrets) == []
    assert found([str(answer.headers.get("location", "")) for answer in aftermath.answers], CONTENT) == []


def test_redis_holds_content_in_events_alone_and_no_secret(aftermath: Aftermath):
    spoken = [" ".join(command) for command in aftermath.commands]
    assert found(spoken, {"answer": CONTENT["answer"]}), "nothing was overheard"
    assert found(spoken, aftermath.secrets) == []
    assert found(aftermath.redis_values, aftermath.secrets) == []
    assert found(aftermath.keys, CONTENT) == []
    for name, *words in aftermath.commands:
        # Events travel by script, and what the script does with them.
        if name.upper() in {"EVALSHA", "EVAL"}:
            names = words[2 : 2 + int(words[1])]
            assert found(names, CONTENT) == []
        elif name.upper() in {"XADD", "PUBLISH", "SPUBLISH"}:
            assert found(words[0], CONTENT) == []
        else:
            assert found(words, CONTENT) == [], name


def test_a_task_says_a_turns_id_and_nothing_else(aftermath: Aftermath):
    rung = [words for words in aftermath.commands if words[0].upper() == "LPUSH"]
    assert len(rung) >= 10
    for words in rung:
        check_push(words)
        message = json.loads(json.loads(f'"{words[-1]}"'))
        is_encoded = message["properties"].get("body_encoding") == "base64"
        body = json.loads(base64.b64decode(message["body"]) if is_encoded else message["body"])
        assert found(str(message) + str(body), {**CONTENT, **aftermath.secrets}) == []


def test_the_database_holds_no_secret_and_shows_no_content_in_its_activity(aftermath: Aftermath):
    assert CONTENT["answer"] in aftermath.rows
    assert found(aftermath.rows, aftermath.secrets) == []
    assert found(aftermath.activity, {**CONTENT, **aftermath.secrets}) == []


def test_no_command_line_holds_a_secret(aftermath: Aftermath):
    assert "worker" in aftermath.command_lines
    assert found(aftermath.command_lines, aftermath.secrets) == []
