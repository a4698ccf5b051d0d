"""A whole service with a proxy in front of each of its servers, and the checks of every turn at its end.

The checks compare three independent accounts: what a reader received, what PostgreSQL holds (read around the proxy,
as its owner), and the provider's record of what it was asked and sent.
"""

import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import redis
from psycopg.rows import dict_row
from websockets.exceptions import WebSocketException

from shared.failpoints import Failpoint
from tests.e2e.conftest import Service
from tests.e2e.protocol_client import (
    TERMINAL,
    Api,
    Oracle,
    Reading,
    sha256,
    wait_until,
    websocket,
)
from tests.faults.proxy import Pids, Proxy, Trap, ports_of
from tests.standby import Pair
from turnkeeper.up.embedded import EmbeddedPostgres, EmbeddedRedis

END_SECONDS = 60.0
"""How long any turn of these tests may take to end, after the worst fault."""
AGAIN_SECONDS = 0.05
SHORT_LEASE = {
    # A lease that runs out within a test, and still outlasts a machine that stalls for some seconds: a worker that lost
    # its lease to a stall would make another attempt.
    "LEASE_SECONDS": "8",
    "LEASE_TRUST_SECONDS": "6",
    "LEASE_RENEW_SECONDS": "1",
    "DRAIN_SECONDS": "2",
    # Every statement is sent as text, so that a trap can name it.
    "DATABASE_PREPARE": "false",
}


def through(url: str, proxy: Proxy) -> str:
    """Return `url` with the proxy's port."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{proxy.port}").geturl()


class Rereading(Reading):
    """A reading that may have to begin again.

    If Redis lost a turn's log and its worker died with events that were not checkpointed, the next attempt's
    numbers start again from below. Readers learn this from a gap that begins at the first event.
    """

    def take(self, event: dict) -> None:
        if event["type"] == "gap" and event["from"] == 1 and event["to"] <= self.seq:
            self.seq = 0
        super().take(event)


class Reader:
    """A reader that never gives up: after a cut it reconnects with its cursor."""

    def __init__(self, service: Service, session_id: str) -> None:
        self.reading: Reading | None = None
        self.connections = 0
        self.times: list[tuple[float, dict]] = []
        self.wants_end = threading.Event()
        self._service = service
        self._session_id = session_id
        self._live = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self._live.wait(END_SECONDS), "the reader found no stream"

    def await_event(self, is_wanted: Callable[[dict], bool], what: str) -> float:
        """Wait for an event and return when it arrived, in monotonic seconds."""

        def came() -> float | None:
            self._raise()
            return next((at for at, event in list(self.times) if is_wanted(event)), None)

        return wait_until(came, what, END_SECONDS)

    def await_type(self, event_type: str) -> float:
        return self.await_event(lambda event: event["type"] == event_type, event_type)

    def await_seq(self, seq: int) -> float:
        return self.await_event(lambda event: event.get("seq", 0) >= seq, f"event {seq}")

    def await_after(self, moment: float) -> None:
        """Wait until an event arrives after `moment`, in monotonic seconds."""
        wait_until(lambda: self._raise() or self.times[-1][0] > moment, "news", END_SECONDS)

    def await_text(self, characters: int) -> None:
        wait_until(
            lambda: self._raise() or (self.reading and len(self.reading.text) >= characters),
            f"{characters} characters",
            END_SECONDS,
        )

    def until_done(self) -> Reading:
        """Return the turn as this reader received it, once it is over."""
        self._thread.join(END_SECONDS)
        self._raise()
        assert self.reading is not None, "not one event"
        assert not self._thread.is_alive(), f"no done: {self.reading}"
        return self.reading

    def _raise(self) -> None:
        if self._failure is not None:
            raise AssertionError("a promise to the reader was broken") from self._failure

    def _read(self) -> None:
        give_up_at = time.monotonic() + 3 * END_SECONDS
        try:
            while not self._is_over() and time.monotonic() < give_up_at:
                # Whatever ends a stream, or keeps it from opening, is a reason to reconnect.
                with suppress(WebSocketException, OSError, EOFError):
                    self._read_once()
                self.wants_end.wait(AGAIN_SECONDS)
        except BaseException as failure:  # noqa: BLE001 -- raised again in the test's thread
            self._failure = failure

    def _is_over(self) -> bool:
        return self.wants_end.is_set() or (self.reading is not None and self.reading.done is not None)

    def _read_once(self) -> None:
        with websocket(self._service.url, self._service.key()) as socket:
            cursor = {}
            if self.reading is not None:
                cursor = {"turn_id": self.reading.turn_id, "after": self.reading.seq}
            socket.send("subscribe", session_id=self._session_id, **cursor)
            self.connections += 1
            while not self._is_over():
                try:
                    event = socket.receive(0.25)
                except TimeoutError:
                    continue
                match event["type"]:
                    case "subscribed":
                        pass
                    case "caught_up":
                        self._live.set()
                    case "refused":
                        return
                    case _:
                        self._take(event)

    def _take(self, event: dict) -> None:
        if self.reading is None:
            self.reading = Rereading(event["turn_id"], self._session_id)
        self.times.append((time.monotonic(), event))
        self.reading.take(event)


@dataclass
class Asked:
    """One turn, its reader, and the marker with which the provider's record of it is found."""

    world: "World"
    session_id: str
    turn_id: str
    marker: str
    reader: Reader

    def requests(self) -> list[dict]:
        return self.world.oracle.records(self.marker)

    def outcomes(self) -> list[str]:
        """Return how the calls ended, once the provider has recorded the end of each."""

        def ended() -> list[str] | None:
            found = [record["outcome"] for record in self.requests()]
            return None if "running" in found else found

        return wait_until(ended, "the provider to see the end of each call", END_SECONDS)

    def worker(self) -> int:
        """Return the process that is running it."""
        return wait_until(self._worker, "a worker", END_SECONDS)

    def _worker(self) -> int | None:
        (row,) = self.world.rows("select status, worker_id from turnkeeper.turns where id = %s", self.turn_id)
        if row["status"] not in ("running", "stopping"):
            return None
        return self.world.worker_pids().get(str(row["worker_id"]))

    def check(self, unnoted: int = 0) -> dict:
        """Wait for the turn's end and compare the three accounts; return the turn as the API shows it.

        Args:
            unnoted: How many attempts may have died before a renewal noted their call: these are not billed.
        """
        reading = self.reader.until_done()
        return self.world.check(self.turn_id, self.marker, reading, unnoted)


@dataclass
class World:
    """The service, the provider, the servers and the proxies between them."""

    service: Service
    oracle: Oracle
    postgres: EmbeddedPostgres | Pair
    redis_server: EmbeddedRedis
    postgres_proxy: Proxy
    redis_proxy: Proxy
    failpoints: Path
    readers: list[Reader] = field(default_factory=list)
    _api: Api | None = None

    @property
    def provider_port(self) -> int:
        return urlsplit(self.oracle.url).port or 0

    @property
    def api(self) -> Api:
        """A client with a working connection: the previous one may have been cut."""
        if self._api is not None:
            with suppress(Exception):
                if self._api.call("GET", "/healthz").status_code == 200:
                    return self._api
        self._api = self.service.api()
        return self._api

    def pids(self, *kinds: str) -> Pids:
        """Return a function that returns the processes of some kinds at the time of the call."""
        return lambda: [pid for kind in kinds for pid in self.service.pids(kind)]

    def worker_pids(self) -> dict[str, int]:
        """Return each worker's process by the id in its log."""
        found = {}
        for pid in self.service.pids("worker"):
            with suppress(OSError):
                log = Path(f"/proc/{pid}/fd/2").readlink().read_text(errors="replace")
                # A worker that has just started has not logged it yet.
                found |= dict.fromkeys(re.findall(r'"worker_id": "([0-9a-f-]+)"', log)[-1:], pid)
        return found

    def pid_of(self, port: int, kind: str) -> int:
        """Return the process whose end of a connection has this port."""
        return next(pid for pid in self.service.pids(kind) if port in ports_of([pid]))

    def kill_held(self, trap: Trap, kind: str) -> int:
        """Kill the process whose connection a trap holds; return its pid."""
        pid = self.pid_of(trap.held[-1].port, kind)
        kill(pid)
        return pid

    @contextmanager
    def failing(self, place: Failpoint) -> Iterator[Callable[[], None]]:
        """Kill the next process that reaches a place in the code; yields a function that waits for its death."""
        file = self.failpoints / place.value
        file.touch()
        try:
            yield lambda: wait_until(lambda: not file.exists(), f"a process at {place}", END_SECONDS)
        finally:
            file.unlink(missing_ok=True)

    def ask(self, script: str, api: Api | None = None, **fields: Any) -> Asked:
        """Begin a turn with a reader from its first event on."""
        marker = uuid.uuid4().hex
        api = api or self.api
        session = api.session(user="alice")
        reader = self.read(session)
        turn_id = api.turn(session, f"[[{script}]] {marker}", **fields)
        return Asked(self, session, turn_id, marker, reader)

    def read(self, session_id: str) -> Reader:
        self.readers.append(Reader(self.service, session_id))
        return self.readers[-1]

    def streaming(self, script: str, characters: int = 20, **fields: Any) -> Asked:
        """Begin a turn and return once its text arrives."""
        asked = self.ask(script, **fields)
        asked.reader.await_text(characters)
        return asked

    def rows(self, query: str, *parameters: Any) -> list[dict]:
        """Read PostgreSQL around the proxy, as its owner."""
        with psycopg.connect(
            self.postgres.owner_url, connect_timeout=10, row_factory=dict_row, autocommit=True
        ) as db:
            return db.execute(query, parameters).fetchall()

    def spent_today(self) -> Decimal:
        """Return the cost of the organization's turns of today."""
        rows = self.rows(
            "select spent_usd from turnkeeper.spend where period = 'day' order by starts_on desc limit 1"
        )
        return rows[0]["spent_usd"] if rows else Decimal(0)

    @contextmanager
    def budget(self, daily_usd: Decimal) -> Iterator[None]:
        """Give all organizations a daily budget, for as long as the context lasts."""
        change = "update turnkeeper.organizations set daily_usd = %s returning id"
        self.rows(change, daily_usd)
        try:
            yield
        finally:
            self.rows(change, None)

    def status(self, turn_id: str) -> str:
        (row,) = self.rows("select status from turnkeeper.turns where id = %s", turn_id)
        return row["status"]

    def await_status(self, turn_id: str, *statuses: str) -> None:
        wait_until(lambda: self.status(turn_id) in statuses, f"the status {statuses}", END_SECONDS)

    def redis(self) -> redis.Redis:
        """Return a client that does not use the proxy."""
        return redis.Redis.from_url(self.redis_server.url, socket_timeout=10)

    def await_replaced(self, kind: str, gone: list[int]) -> None:
        """Wait until the ended processes have been replaced and the service is ready again."""
        wait_until(
            lambda: (
                len(self.service.pids(kind)) == 2
                and not set(gone) & set(self.service.pids(kind))
                and all(psutil.pid_exists(pid) for pid in self.service.pids(kind))
            ),
            f"other {kind} processes",
            END_SECONDS,
        )
        self.await_ready()

    def await_ready(self) -> None:
        def is_ready() -> bool:
            with suppress(Exception):
                return self.api.call("GET", "/readyz").json()["status"] == "ok"
            return False

        wait_until(is_ready, "the service to be ready", END_SECONDS)

    def check(self, turn_id: str, marker: str, reading: Reading, unnoted: int = 0) -> dict:
        """Compare what a reader received with PostgreSQL and with the provider's record (I1 to I5)."""
        turn = self._final(turn_id)
        assert reading.is_whole, reading
        assert reading.seq == turn["last_seq"], (reading, turn)
        for name in ("status", "finish_reason", "stop_reason", "usage", "usage_source", "cost_usd", "error"):
            assert reading.done[name] == turn[name], (name, reading.done, turn)
        self._check_rows(turn, reading)
        self._check_provider(turn, marker, unnoted)
        self._check_again(turn, reading)
        return turn

    def _final(self, turn_id: str) -> dict:
        give_up_at = time.monotonic() + END_SECONDS
        while True:
            answer = self.api.call("GET", f"/v1/turns/{turn_id}?wait=5")
            if answer.status_code == 200 and answer.json()["status"] in TERMINAL:
                return answer.json()
            assert time.monotonic() < give_up_at, answer.text

    def _check_rows(self, turn: dict, reading: Reading) -> None:
        messages = self.rows("select * from turnkeeper.messages where turn_id = %s", turn["id"])
        answers = [row for row in messages if row["role"] == "assistant"]
        assert len([row for row in messages if row["role"] == "user"]) == 1
        assert len(answers) <= 1
        assert (answers[0]["content"] if answers else "") == reading.text
        assert sha256(reading.text) == reading.done["content_sha256"]
        if answers:
            assert answers[0]["status"] == ("complete" if turn["status"] == "completed" else "partial")
        ledger = self.rows("select * from turnkeeper.ledger where turn_id = %s order by attempt", turn["id"])
        attempts = [row["attempt"] for row in ledger]
        assert len(set(attempts)) == len(attempts) <= turn["attempt"]
        assert sum((row["cost_usd"] for row in ledger), Decimal(0)) == Decimal(turn["cost_usd"])
        for name, total in turn["usage"].items():
            assert sum(row[name] for row in ledger) == total, (name, ledger, turn["usage"])
        assert not self.rows("select 1 as left from turnkeeper.checkpoints where turn_id = %s", turn["id"])

    def _check_provider(self, turn: dict, marker: str, unnoted: int) -> None:
        """A completed turn is billed by the provider's figures; its other calls are not billed as nothing."""
        records = self.oracle.records(marker)
        ledger = self.rows("select * from turnkeeper.ledger where turn_id = %s order by attempt", turn["id"])
        said = [record for record in records if record["output_tokens"]]
        assert len(ledger) >= len(said) - unnoted or len(said) > turn["attempt"], (ledger, records)
        if turn["status"] == "completed":
            last = records[-1]
            assert last["outcome"] == "completed", records
            billed = ledger[-1]
            assert billed["attempt"] == turn["attempt"]
            told = (last["input_tokens"], last["output_tokens"])
            if billed["usage_source"] == "provider":
                assert (billed["input_tokens"], billed["output_tokens"]) == told
            else:  # calls before the last one are estimated on top
                assert billed["input_tokens"] >= told[0]
                assert billed["output_tokens"] >= told[1]

    def _check_again(self, turn: dict, reading: Reading) -> None:
        """A later reader gets the same; there is one `done`, and nothing after it."""
        later = self.api.read(turn["id"])
        assert later.is_whole
        assert (later.text, later.done) == (reading.text, reading.done)
        log = self.redis().xrange(f"tk:{{{turn['session_id']}}}:log:{turn['id']}")
        dones = [
            number for number, (_, entry) in enumerate(log) if b'"type":"done"' in b"".join(entry.values())
        ]
        assert dones in ([], [len(log) - 1]), log


def kill(pid: int) -> None:
    """End a process as a machine that is out of memory does."""
    os.kill(pid, signal.SIGKILL)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes (SIGSTOP) for as long as the context lasts."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def await_seconds(seconds: float) -> None:
    """Let a fault last for `seconds`: the only wait here that is for time itself."""
    threading.Event().wait(seconds)
