"""The front and the hand-off, with real sockets and a real gunicorn."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.marks import leaks_in_files
from turnkeeper.up import front as front_module
from turnkeeper.up.front import Front, Kind, hand_over, take_over
from turnkeeper.up.pid_file import noted_pid

LIMIT_SECONDS = 60.0
HEAD = b"GET %s HTTP/1.1\r\nHost: here\r\n\r\n"


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, f"waited too long for: {what}"
        time.sleep(0.01)


class Taker(threading.Thread):
    """Replaces a process: takes connections over and answers each with its name."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(16)
        self.listener.settimeout(LIMIT_SECONDS)
        self.answer = path.name.encode()
        self.peers: list[tuple[str, int]] = []

    def run(self) -> None:
        with suppress(OSError):
            while True:
                connection, peer = take_over(self.listener, LIMIT_SECONDS)
                with connection:
                    connection.settimeout(LIMIT_SECONDS)
                    self.peers.append(peer)
                    connection.sendall(self.answer + b" " + connection.recv(65536).split(b" ")[1])

    def end(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join(LIMIT_SECONDS)


@pytest.fixture(autouse=True)
def patience(monkeypatch) -> None:
    """A slow machine is given time; a test of a limit sets it."""
    monkeypatch.setattr(front_module, "HEAD_LIMIT_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(front_module, "PLACE_LIMIT_SECONDS", LIMIT_SECONDS)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tk-") as short:
        yield Path(short)


@contextmanager
def fronting(backends) -> Iterator[tuple[str, int]]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    front = Front(listener, backends)
    front.start()
    try:
        yield listener.getsockname()
    finally:
        front.close()


def ask(address: tuple[str, int], path: bytes = b"/") -> bytes:
    with socket.create_connection(address, timeout=LIMIT_SECONDS) as client:
        client.sendall(HEAD % path)
        return b"".join(iter(lambda: client.recv(4096), b""))


@pytest.fixture
def takers(folder: Path) -> Iterator[dict[str, Taker]]:
    with ExitStack() as stack:
        made = {name: Taker(folder / name) for name in ("web-1", "web-2", "relay-1")}
        for taker in made.values():
            taker.start()
            stack.callback(taker.end)
        yield made


@pytest.fixture
def address(folder: Path, takers) -> Iterator[tuple[str, int]]:
    backends = {Kind.WEB: [folder / "web-1", folder / "web-2"], Kind.RELAY: [folder / "relay-1"]}
    with fronting(backends) as where:
        yield where


def test_requests_go_round_the_processes_of_their_kind(address):
    assert {ask(address) for _ in range(4)} == {b"web-1 /", b"web-2 /"}
    assert ask(address, b"/v1/stream") == b"relay-1 /v1/stream"


def test_the_process_sees_the_whole_request_and_the_client_itself(address, takers):
    with socket.create_connection(address, timeout=LIMIT_SECONDS) as client:
        client.sendall(HEAD % b"/v1/turns/1/events")
        assert client.recv(100) == b"relay-1 /v1/turns/1/events"
        assert takers["relay-1"].peers == [client.getsockname()]


def test_a_dead_process_is_passed_over(folder: Path, takers):
    (folder / "dead").touch()
    with fronting({Kind.WEB: [folder / "none", folder / "dead", folder / "web-1"]}) as where:
        assert [ask(where) for _ in range(3)] == [b"web-1 /"] * 3


def test_without_a_relay_the_web_serves_streams_too(folder: Path, takers):
    with fronting({Kind.WEB: [folder / "web-1"], Kind.RELAY: [folder / "none"]}) as where:
        assert ask(where, b"/v1/stream") == b"web-1 /v1/stream"


def test_a_request_waits_for_a_process_that_is_being_restarted(folder: Path):
    with fronting({Kind.WEB: [folder / "late"]}) as where:
        answers: list[bytes] = []
        asking = threading.Thread(target=lambda: answers.append(ask(where)))
        asking.start()
        taker = Taker(folder / "late")
        taker.start()
        asking.join(LIMIT_SECONDS)
        taker.end()
    assert answers == [b"late /"]


def test_a_request_that_no_process_takes_is_answered_503(folder: Path, monkeypatch):
    monkeypatch.setattr(front_module, "PLACE_LIMIT_SECONDS", 0.05)
    with fronting({Kind.WEB: [folder / "none"]}) as (host, port):
        client = http.client.HTTPConnection(host, port, timeout=LIMIT_SECONDS)
        client.request("GET", "/")
        answer = client.getresponse()
        assert answer.status == 503
        assert json.loads(answer.read())["code"] == "unavailable"
        client.close()


def test_a_head_that_comes_in_pieces_is_waited_for(address):
    with socket.create_connection(address, timeout=LIMIT_SECONDS) as client:
        for piece in (b"GET /v1/str", b"eam HTTP/1.1\r\n", b"\r\n"):
            client.sendall(piece)
        assert client.recv(100).startswith(b"relay-1")


def test_a_client_that_says_nothing_is_dropped(address, monkeypatch):
    monkeypatch.setattr(front_module, "HEAD_LIMIT_SECONDS", 0.05)
    with socket.create_connection(address, timeout=LIMIT_SECONDS) as silent:
        assert silent.recv(1) == b""


def test_silent_clients_cannot_keep_others_out(address, monkeypatch):
    monkeypatch.setattr(front_module, "PENDING_LIMIT", 5)
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(address, timeout=LIMIT_SECONDS)) for _ in range(20)
        ]
        assert ask(address).startswith(b"web")
        assert silent[0].recv(1) == b""


def test_a_client_that_leaves_is_forgotten(address):
    with socket.create_connection(address, timeout=LIMIT_SECONDS) as client:
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert ask(address).startswith(b"web")


def test_a_closed_front_accepts_nothing(folder: Path):
    with fronting({Kind.WEB: [folder / "none"]}) as where:
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where, timeout=LIMIT_SECONDS)


def test_a_front_that_left_in_the_middle_hands_nothing_over(folder: Path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(folder / "s"))
        with pytest.raises(ConnectionAbortedError):
            take_over(listener, 1.0)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            take_over(listener, 1.0)


APP = """
import os, threading
from flask import Flask, abort, request, Response
def create_app(role):
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 2**20 + 1
    @app.get("/who")
    def who():
        return {"role": role, "pid": os.getpid(), "port": int(request.environ["REMOTE_PORT"])}
    @app.post("/v1/sessions/1/turns")
    def post():
        body = request.get_data()
        return {"bytes": len(body)} if len(body) <= 2**20 else abort(413)
    @app.post("/unread")
    def unread():
        return {"unread": True}
    @app.get("/until-shutdown")
    def until_shutdown():
        def body():
            yield "open\\n"
            closing.wait(60)
            yield "closed\\n"
        return Response(body())
    closing = threading.Event()
    app.extensions["turnkeeper_shutdown"] = closing.set
    return app
"""


@pytest.fixture
def process(folder: Path) -> Iterator[subprocess.Popen]:
    (folder / "apart.py").write_text(APP)
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MCP_", "ANTHROPIC_"))},
        "PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd())]),
        "DATABASE_URL": "postgresql://nowhere",
        "REDIS_URL": "redis://nowhere",
        "MCP_LLM_PROVIDER": "scripted",
        "SCRIPTED_BASE_URL": "http://127.0.0.1:9/v1",
    }
    command = [sys.executable, "-m", "turnkeeper", "relay", "--handoff", str(folder / "relay.sock")]
    command += ["--pid-file", str(folder / "pid"), "--app", "apart:create_app", "--grace", "15"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=environ, stderr=log) as master:
        try:
            wait_until(lambda: noted_pid(folder / "pid") != 0, "gunicorn to serve")
            yield master
        finally:
            master.terminate()
            master.wait(LIMIT_SECONDS)
    assert leaks_in_files([folder / "log"]) == []


@pytest.fixture
def client(folder: Path, process) -> Iterator[http.client.HTTPConnection]:
    with fronting({Kind.RELAY: [folder / "relay.sock"]}) as (host, port):
        connection = http.client.HTTPConnection(host, port, timeout=LIMIT_SECONDS)
        yield connection
        connection.close()


def get(client: http.client.HTTPConnection, path: str) -> dict:
    client.request("GET", path)
    return json.loads(client.getresponse().read())


def test_gunicorn_serves_a_connection_that_was_handed_over_and_keeps_it_alive(client, folder: Path):
    client.connect()
    port = client.sock.getsockname()[1]
    first, second = get(client, "/who"), get(client, "/who")
    assert first == second == {"role": "relay", "pid": noted_pid(folder / "pid"), "port": port}
    client.request("POST", "/v1/sessions/1/turns", body=b"x" * 300_000)
    assert json.loads(client.getresponse().read()) == {"bytes": 300_000}


@pytest.fixture
def connected(folder: Path, process) -> Iterator[socket.socket]:
    with (
        fronting({Kind.RELAY: [folder / "relay.sock"]}) as address,
        socket.create_connection(address, timeout=LIMIT_SECONDS) as client,
    ):
        yield client


def post(client: socket.socket, path: bytes, body: bytes) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    client.sendall(head % (path, len(body)) + body)


def chunks(size: int) -> bytes:
    return (b"10000\r\n" + b"x" * 0x10000 + b"\r\n") * (size // 0x10000) + b"0\r\n\r\n"


def answer_of(client: socket.socket) -> tuple[http.client.HTTPResponse, bytes]:
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer, answer.read()


def test_a_client_that_sends_too_much_gets_the_whole_refusal_and_is_told_of_the_close(connected):
    post(connected, b"/v1/sessions/1/turns", b"x" * 8 * 2**20)
    answer, body = answer_of(connected)
    assert (answer.status, answer.getheader("Connection")) == (413, "close")
    assert len(body) == int(answer.getheader("Content-Length")) > 0
    assert connected.recv(1) == b""


def test_a_client_that_sends_too_much_of_unknown_length_gets_the_whole_refusal_too(connected):
    head = b"POST /v1/sessions/1/turns HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
    connected.sendall(head + chunks(8 * 2**20))
    answer, body = answer_of(connected)
    assert (answer.status, answer.getheader("Connection")) == (413, "close")
    assert len(body) == int(answer.getheader("Content-Length")) > 0
    assert connected.recv(1) == b""


def test_a_body_that_nobody_reads_is_taken_off_the_connection(connected):
    connected.sendall(
        b"POST /v1/sessions/1/turns HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunks(2**19)
    )
    answer, read = answer_of(connected)
    assert (json.loads(read), answer.getheader("Connection")) == ({"bytes": 2**19}, "keep-alive")
    for body in (b"", b"x" * 60_000):
        post(connected, b"/unread", body)
        answer, _ = answer_of(connected)
        assert (answer.status, answer.getheader("Connection")) == (200, "keep-alive")
    post(connected, b"/v1/sessions/1/turns", b"x" * 2**20)
    answer, read = answer_of(connected)
    assert (json.loads(read), answer.getheader("Connection")) == ({"bytes": 2**20}, "keep-alive")
    post(connected, b"/unread", b"x" * 2**20)
    answer, read = answer_of(connected)
    assert (json.loads(read), answer.getheader("Connection")) == ({"unread": True}, "keep-alive")
    post(connected, b"/unread", b"x" * (2**20 + 1))
    answer, read = answer_of(connected)
    assert (answer.status, answer.getheader("Connection")) == (413, "close")


def test_a_client_that_never_ends_is_not_heard_out_for_ever(connected):
    head = b"POST /unread HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % 2**40
    connected.sendall(head)

    def send_a_gibibyte() -> None:
        for _ in range(2**10):
            connected.sendall(b"x" * 2**20)

    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        send_a_gibibyte()


def test_a_killed_process_is_replaced_and_no_request_is_refused_meanwhile(client, folder: Path):
    before = get(client, "/who")["pid"]
    client.close()
    os.kill(before, signal.SIGKILL)
    after = get(client, "/who")["pid"]
    assert after != before
    wait_until(lambda: noted_pid(folder / "pid") == after, "the new process to be named")


def test_open_streams_are_closed_as_soon_as_a_stop_is_asked_for(client, process):
    client.request("GET", "/until-shutdown")
    answer = client.getresponse()
    assert answer.readline() == b"open\n"
    process.terminate()
    assert answer.read() == b"closed\n"
    assert process.wait(LIMIT_SECONDS) == 0


def test_nobody_else_may_hand_connections_over(process, folder: Path):
    assert (folder / "relay.sock").stat().st_mode & 0o077 == 0


def test_a_connection_to_no_process_is_kept(folder: Path):
    one, other = socket.socketpair()
    with one, other:
        assert not hand_over(one, folder / "none")
        other.sendall(b"still open")
        assert one.recv(20) == b"still open"
