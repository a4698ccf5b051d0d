"""Connections of strangers and of organizations that take all they can, with real sockets and a real gunicorn.

The application has four request threads. What would hold them is started first; then somebody else is answered.
"""

import http.client
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

from tests.marks import leaks_in_files
from tests.ports import free_port
from turnkeeper.up.front import Front, Kind
from turnkeeper.up.pid_file import noted_pid

LIMIT_SECONDS = 60.0
THREADS = 4
LARGE_BYTES = 6 * 2**20
APP = f"""
import os, threading
from flask import Flask, Response, request
def create_app(role):
    app = Flask(__name__)
    going_on = threading.Event()
    @app.get("/healthz")
    def healthz():
        return {{"status": "ok"}}
    @app.get("/readyz")
    def readyz():
        return {{"status": "ok"}}
    @app.route("/echo", methods=["GET", "POST"])
    def echo():
        return {{"said": request.get_data().decode(), "query": request.query_string.decode()}}
    @app.get("/large")
    def large():
        return Response(b"x" * {LARGE_BYTES})
    @app.get("/endless")
    def endless():
        return Response(b"x" * 2**20 for _ in range(64))
    @app.get("/slow")
    def slow():
        started.release()
        going_on.wait(60)
        return {{"slow": True}}
    @app.get("/started")
    def count():
        return {{"started": started._value}}
    @app.get("/go-on")
    def go_on():
        going_on.set()
        return {{}}
    started = threading.Semaphore(0)
    unserved = []
    @app.get("/unserved")
    def refused():
        return {{"codes": unserved}}
    app.extensions["turnkeeper_unserved"] = lambda code: unserved.append(code.value)
    app.extensions["turnkeeper_tenant_of"] = lambda said: said.partition(b" ")[2] or None
    return app
"""


def environ_of(folder: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MCP_", "ANTHROPIC_"))},
        "PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]),
        "DATABASE_URL": "postgresql://nowhere",
        "REDIS_URL": "redis://nowhere",
        "MCP_LLM_PROVIDER": "scripted",
        "SCRIPTED_BASE_URL": "http://127.0.0.1:9/v1",
        "WEB_THREADS": str(THREADS),
    }


@contextmanager
def serving(folder: Path, *where: str, files: int | None = None) -> Iterator[None]:
    """Run a web process of four threads, with at most `files` open files."""
    (folder / "strange.py").write_text(APP)
    command = [sys.executable, "-m", "turnkeeper", "web", *where, "--pid-file", str(folder / "pid")]
    command += ["--app", "strange:create_app", "--grace", "5"]

    def limited() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, env=environ_of(folder), stderr=log, preexec_fn=limited) as master,  # noqa: PLW1509
    ):
        try:
            deadline = time.monotonic() + LIMIT_SECONDS
            while noted_pid(folder / "pid") == 0:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.01)
            yield
        finally:
            master.terminate()
            master.wait(LIMIT_SECONDS)
    assert leaks_in_files([folder / "log"]) == []


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tk-") as short:
        yield Path(short)


@pytest.fixture
def alone(folder: Path) -> Iterator[tuple[str, int]]:
    """A process that accepts by itself, as behind nginx."""
    port = free_port()
    with serving(folder, "--bind", f"127.0.0.1:{port}"):
        yield "127.0.0.1", port


@pytest.fixture
def fronted(folder: Path) -> Iterator[tuple[str, int]]:
    """A process behind the front of `turnkeeper up`."""
    with serving(folder, "--handoff", str(folder / "web.sock")), socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        front = Front(listener, {Kind.WEB: [folder / "web.sock"]})
        front.start()
        try:
            yield listener.getsockname()
        finally:
            front.close()


@pytest.fixture(params=["alone", "fronted"])
def address(request: pytest.FixtureRequest) -> tuple[str, int]:
    return request.getfixturevalue(request.param)


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=LIMIT_SECONDS)


def get(address: tuple[str, int], path: str, key: str = "") -> tuple[int, dict]:
    client = http.client.HTTPConnection(*address, timeout=LIMIT_SECONDS)
    with ExitStack() as stack:
        stack.callback(client.close)
        client.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        answer = client.getresponse()
        return answer.status, json.loads(answer.read())


class Line:
    """A connection whose answers are read one after another: `HTTPResponse` alone reads ahead and drops the rest."""

    def __init__(self, client: socket.socket) -> None:
        self._file = client.makefile("rb")
        self.close = lambda: None
        self.flush = lambda: None

    def makefile(self, _: str) -> "Line":
        return self

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def answer(self) -> tuple[http.client.HTTPResponse, bytes]:
        answer = http.client.HTTPResponse(self)
        answer.begin()
        return answer, answer.read()


def read_answer(client: socket.socket) -> tuple[http.client.HTTPResponse, bytes]:
    return Line(client).answer()


def is_answered(address: tuple[str, int]) -> None:
    assert get(address, "/echo?well-behaved") == (200, {"said": "", "query": "well-behaved"})
    assert get(address, "/healthz") == (200, {"status": "ok"})
    assert get(address, "/readyz") == (200, {"status": "ok"})


HOST = b"Host: here\r\n"
HALVES = {
    "nothing": b"",
    "half a line": b"GET /ec",
    "half a head": b"GET /echo HTTP/1.1\r\n" + HOST,
    "a head and no body": b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n",
    "half a body": b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n" + b"x" * 100_000,
    "half a chunk": b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n10\r\nabc",
    "an answer to Expect": (
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"
    ),
    "answers that it does not read": (b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n") * 4,
    "checks that it does not read": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") * 500,
}


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
def test_forty_connections_that_go_on_no_further_hold_up_nobody(address, sent: bytes):
    with ExitStack() as stack:
        for _ in range(40):
            stranger = stack.enter_context(socket.socket())
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stranger.settimeout(LIMIT_SECONDS)
            stranger.connect(address)
            stranger.sendall(sent)
        is_answered(address)


def test_two_hundred_strangers_of_all_kinds_hold_up_nobody(address):
    with ExitStack() as stack:
        strangers = []
        for number in range(200):
            stranger = stack.enter_context(connect(address))
            stranger.sendall(list(HALVES.values())[number % len(HALVES)])
            strangers.append(stranger)
        is_answered(address)
        for stranger in strangers:  # and one byte more from each
            with suppress(OSError):
                stranger.sendall(b"x")
        is_answered(address)


def test_a_request_that_stops_half_way_is_answered_408_and_the_connection_closed(alone):
    halves = {"half a head": "head", "a head and no body": "body", "half a chunk": "body"}
    with ExitStack() as stack:
        strangers = [(stack.enter_context(connect(alone)), what, half) for half, what in halves.items()]
        for stranger, _, half in strangers:
            stranger.sendall(HALVES[half])
        for stranger, what, _ in strangers:
            answer, body = read_answer(stranger)
            assert (answer.status, answer.getheader("Connection")) == (408, "close")
            assert json.loads(body)["code"] == "request_timeout"
            assert what in json.loads(body)["detail"]
            assert stranger.recv(1) == b""


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET /echo HTTP/1.1\r\n\r\n", 400, "invalid_request"),
        (b"GET /echo HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400, "invalid_request"),
        (b"GET /echo HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "invalid_request"),
        (b"GET /echo HTTP/1.1\r\nHost: user@here\r\n\r\n", 400, "invalid_request"),
        (b"GET /echo HTTP/1.1\r\nHost: here:http\r\n\r\n", 400, "invalid_request"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400, "invalid_request"),
        (b"GET /echo HTTP/1.1\nHost: here\n\n", 400, "invalid_request"),
        (b"GET /echo HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * 10_000 + b"\r\n", 431, "headers_too_large"),
        (b"GET /echo HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 100_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431, "headers_too_large"),
        (b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1048577\r\n\r\n", 413, "payload_too_large"),
        (
            b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 9999999\r\nExpect: 100-continue\r\n\r\n",
            413,
            "payload_too_large",
        ),
        (
            b"POST /echo HTTP/1.1\r\n"
            + HOST
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"1\r\nx\r\n" * 100_000,
            413,
            "payload_too_large",
        ),
    ],
)
def test_what_is_no_request_of_ours_gets_a_clear_answer_and_the_end(
    address, sent: bytes, status: int, code: str
):
    with connect(address) as stranger:
        with suppress(ConnectionError):
            stranger.sendall(sent)
        answer, body = read_answer(stranger)
        assert (answer.status, json.loads(body)["code"]) == (status, code)
        assert answer.getheader("Connection") == "close"
        assert stranger.recv(1) == b""
    is_answered(address)
    assert get(address, "/unserved") == (200, {"codes": [code]})


def test_tls_towards_a_plain_port_is_refused_at_once(address):
    with connect(address) as stranger, pytest.raises((ssl.SSLError, ConnectionError)):
        ssl._create_unverified_context().wrap_socket(stranger)
    is_answered(address)


def test_http_1_0_needs_no_host(address):
    with connect(address) as client:
        client.sendall(b"GET /echo HTTP/1.0\r\n\r\n")
        answer, _ = read_answer(client)
        assert answer.status == 200
        assert client.recv(1) == b""


def test_requests_sent_together_are_answered_in_order_on_one_connection(address):
    together = b"".join(
        b"POST /echo?%d HTTP/1.1\r\n" % number + HOST + b"Content-Length: 2\r\n\r\n%02d" % number
        for number in range(50)
    )
    with connect(address) as client:
        client.sendall(together)
        line = Line(client)
        for number in range(50):
            answer, body = line.answer()
            assert json.loads(body) == {"said": f"{number:02d}", "query": str(number)}
            assert answer.getheader("Connection") == "keep-alive"


def test_a_request_sent_byte_by_byte_is_read_like_any_other(address):
    with connect(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for coding in (
            b"Content-Length: 5\r\n\r\nhello",
            b"Transfer-Encoding: Chunked\r\n\r\n2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n",
        ):
            for byte in b"\r\nPOST /echo HTTP/1.1\r\n" + HOST + coding:
                client.sendall(bytes([byte]))
            _, body = read_answer(client)
            assert json.loads(body)["said"] == "hello"


def test_a_client_that_expects_100_continue_is_told_to_go_on_once(address):
    with connect(address) as client:
        client.sendall(
            b"POST /echo HTTP/1.1\r\n" + HOST + b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"ok")
        first = client.recv(17)
        assert first == b"HTTP/1.1 200 OK\r\n"


def test_an_answer_larger_than_the_sockets_take_arrives_whole_and_the_next_after_it(address):
    with connect(address) as client:
        client.sendall((b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n") * 3)
        line = Line(client)
        for _ in range(3):
            _, body = line.answer()
            assert body == b"x" * LARGE_BYTES


def test_a_download_larger_than_what_is_kept_arrives_whole(address):
    client = http.client.HTTPConnection(*address, timeout=LIMIT_SECONDS)
    with ExitStack() as stack:
        stack.callback(client.close)
        client.request("GET", "/endless")
        answer = client.getresponse()
        assert len(answer.read()) == 64 * 2**20


def test_downloads_that_nobody_reads_leave_threads_to_the_others(address):
    with ExitStack() as stack:
        for _ in range(20):
            hostile = stack.enter_context(connect(address))
            hostile.sendall(b"GET /endless HTTP/1.1\r\n" + HOST + b"Authorization: Bearer greedy\r\n\r\n")
        is_answered(address)


def wait_for(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_organization_with_slow_requests_leaves_threads_to_the_others(address):
    with ExitStack() as stack:
        slow = []
        for _ in range(20):
            hostile = stack.enter_context(connect(address))
            hostile.sendall(b"GET /slow HTTP/1.1\r\n" + HOST + b"Authorization: Bearer greedy\r\n\r\n")
            slow.append(hostile)
        wait_for(lambda: get(address, "/started", "modest")[1]["started"] >= THREADS - 1)
        is_answered(address)
        assert get(address, "/started", "modest")[1]["started"] == THREADS - 1
        assert get(address, "/go-on", "modest")[0] == 200
        for hostile in slow:  # they waited, and were not refused
            assert json.loads(read_answer(hostile)[1]) == {"slow": True}


def test_a_process_that_runs_out_of_open_files_serves_again(folder: Path):
    port = free_port()
    address = ("127.0.0.1", port)
    with serving(folder, "--bind", f"127.0.0.1:{port}", files=64), ExitStack() as stack:
        pid = noted_pid(folder / "pid")
        strangers = [stack.enter_context(connect(address)) for _ in range(200)]
        for stranger in strangers:
            with suppress(OSError):
                stranger.sendall(b"GET /ec")
        is_answered(address)
        assert noted_pid(folder / "pid") == pid


def test_a_front_that_runs_out_of_open_files_goes_on(fronted):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    with_twenty_free = next(most for most in count() if most - sum(one < most for one in used) == 20)
    with ExitStack() as stack:
        # The clients are of this process, too: of twenty files they take twelve, and the front cannot have twelve more.
        resource.setrlimit(resource.RLIMIT_NOFILE, (with_twenty_free, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with ExitStack() as strangers:
            for _ in range(12):
                strangers.enter_context(connect(fronted)).sendall(b"GET /ec")
        is_answered(fronted)
    is_answered(fronted)


def test_bodies_that_wait_for_a_thread_have_a_bound_and_leave_room_for_another(alone):
    body = b"x" * 2**20
    head = b"POST /echo HTTP/1.1\r\n" + HOST + b"Authorization: Bearer greedy\r\nContent-Length: %d\r\n\r\n"
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(alone)) for _ in range(3)]
        for client in slow:  # all the threads that it gets
            client.sendall(b"GET /slow HTTP/1.1\r\n" + HOST + b"Authorization: Bearer greedy\r\n\r\n")
        wait_for(lambda: get(alone, "/started", "watcher")[1]["started"] == len(slow))
        waiting = []
        for _ in range(110):  # one after another, so that none is refused while it arrives
            client = stack.enter_context(connect(alone))
            client.sendall(head % len(body) + body)
            waiting.append(client)
            get(alone, "/healthz")
        wait_for(lambda: "rate_limited" in get(alone, "/unserved", "watcher")[1]["codes"])
        with connect(alone) as other:
            other.sendall(head.replace(b"greedy", b"modest") % 500_000 + body[:500_000])
            assert read_answer(other)[0].status == 200
        get(alone, "/go-on", "watcher")
        statuses = [read_answer(client)[0].status for client in waiting]
        assert set(statuses) == {200, 429}
        assert statuses.count(429) >= 10
