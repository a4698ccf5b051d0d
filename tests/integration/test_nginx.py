"""The nginx configuration, run: what goes where, what is passed on, and what is logged."""

import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.certificates import make_certificates
from tests.integration.conftest import until
from tests.nginx import (
    LIMIT_SECONDS,
    MISSING,
    PROGRAM,
    TLS,
    configuration,
    replaced,
    running_nginx,
)
from tests.ports import closed_port, free_port
from turnkeeper.up.front import route

MEBIBYTE = 1 << 20

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)


class Backend(BaseHTTPRequestHandler):
    """Says which kind of process it is and what it was asked; `/events` sends one event and waits."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Upgrade"):
            self.send_response(101)
            self.send_header("Upgrade", self.headers["Upgrade"])
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            self.wfile.write(self.rfile.read(4))
            self.close_connection = True
        elif self.path.endswith("/events") and self.headers["Accept"] == "text/event-stream":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b"data: first\n\n")
            self.server.may_go_on.wait(LIMIT_SECONDS)
            self.wfile.write(b"data: last\n\n")
            self.close_connection = True
        else:
            self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/hang-up":
            self.server.hung_up += 1
            self.close_connection = True
        else:
            self.answer()

    def answer(self) -> None:
        said = {"kind": self.server.kind, "path": self.path, "headers": dict(self.headers)}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("X-Request-Id", "req-1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class World:
    """nginx before a web and a relay."""

    port: int
    backends: dict[str, ThreadingHTTPServer]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> httpx.Response:
        with httpx.Client(base_url=self.url, timeout=LIMIT_SECONDS, trust_env=False) as client:
            return client.request(method, path, content=body, headers=headers)


@contextlib.contextmanager
def backend(kind: str) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    server.kind, server.may_go_on, server.hung_up = kind, threading.Event(), 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.may_go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("nginx")
    port = free_port()
    with backend("web") as web, backend("relay") as relay:
        text = configuration(port, [web.server_port], [relay.server_port])
        with running_nginx(folder, port, text):
            yield World(port, {"web": web, "relay": relay}, folder / "access.log")


@pytest.mark.parametrize(
    ("method", "path", "accept"),
    [
        ("GET", "/", "*/*"),
        ("GET", "/healthz", "*/*"),
        ("POST", "/v1/sessions", "*/*"),
        ("GET", "/v1/sessions/1/turns", "text/event-stream"),
        ("POST", "/v1/sessions/1/turns", "application/json"),
        ("POST", "/v1/sessions/1/turns", "text/event-stream"),
        ("POST", "/v1/sessions/1/turns", "application/json, text/event-stream;q=0.9"),
        ("GET", "/v1/turns/1?wait=30", "*/*"),
        ("GET", "/v1/turns/1/events?after=3", "*/*"),
        ("GET", "/v1/stream", "*/*"),
        ("GET", "/v1/streams", "*/*"),
    ],
)
def test_a_request_goes_where_the_front_of_up_would_send_it(
    world: World, method: str, path: str, accept: str
):
    expected = route(f"{method} {path} HTTP/1.1\r\nAccept: {accept}\r\n\r\n".encode())
    said = world.ask(method, path, b"{}" if method == "POST" else None, Accept=accept).json()
    assert (said["kind"], said["path"]) == (expected, path)


def test_the_process_sees_the_host_and_the_client(world: World):
    said = world.ask("GET", "/", Host="chat.example.com:8443").json()
    assert said["headers"]["Host"] == "chat.example.com:8443"
    assert said["headers"]["X-Forwarded-For"] == "127.0.0.1"
    assert "Upgrade" not in said["headers"]


def test_an_upgrade_is_passed_on_in_both_directions(world: World):
    with socket.create_connection(("127.0.0.1", world.port), timeout=LIMIT_SECONDS) as client:
        client.sendall(
            b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        received = b""
        while b"\r\n\r\n" not in received:
            received += client.recv(4096)
        assert received.startswith(b"HTTP/1.1 101 ")
        client.sendall(b"ping")
        assert client.recv(4) == b"ping"


def test_an_event_arrives_before_the_next_one_is_sent(world: World):
    world.backends["relay"].may_go_on.clear()
    headers = {"Accept": "text/event-stream"}
    with (
        httpx.Client(base_url=world.url, timeout=LIMIT_SECONDS, trust_env=False) as client,
        client.stream("GET", "/v1/turns/1/events", headers=headers) as answer,
    ):
        pieces = answer.iter_raw()
        assert next(pieces) == b"data: first\n\n"
        world.backends["relay"].may_go_on.set()
        assert b"".join(pieces) == b"data: last\n\n"


def test_a_body_of_a_mebibyte_passes_and_one_byte_more_is_refused_as_a_problem(world: World):
    assert world.ask("POST", "/v1/sessions", b"x" * MEBIBYTE).status_code == 200
    refused = world.ask("POST", "/v1/sessions", b"x" * (MEBIBYTE + 1))
    assert (refused.status_code, refused.headers["Content-Type"]) == (413, "application/problem+json")
    problem = refused.json()
    assert problem["code"] == "payload_too_large"
    assert problem["request_id"] == refused.headers["X-Request-Id"]


def test_processes_that_are_away_are_unavailable(tmp_path: Path):
    port = free_port()
    with (
        closed_port() as web,
        closed_port() as relay,
        running_nginx(tmp_path, port, configuration(port, [web], [relay])),
    ):
        answer = World(port, {}, tmp_path).ask("GET", "/v1/sessions/search?q=private")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        problem = answer.json()
        assert (problem["code"], problem["retryable"]) == ("unavailable", True)
    assert "private" not in "".join(path.read_text() for path in tmp_path.glob("*.log"))


def test_while_one_process_is_away_the_other_takes_every_request(tmp_path: Path):
    port = free_port()
    with backend("web") as web, backend("relay") as relay, closed_port() as away:
        text = configuration(port, [away, web.server_port], [relay.server_port])
        with running_nginx(tmp_path, port, text):
            world = World(port, {}, tmp_path)
            assert {world.ask("POST", "/v1/sessions", b"{}").status_code for _ in range(8)} == {200}


def test_a_post_whose_answer_does_not_come_is_not_sent_to_another(tmp_path: Path):
    port = free_port()
    with backend("web") as one, backend("web") as other, backend("relay") as relay:
        text = configuration(port, [one.server_port, other.server_port], [relay.server_port])
        with running_nginx(tmp_path, port, text):
            answer = World(port, {}, tmp_path).ask("POST", "/hang-up", b"{}")
        assert answer.status_code == 503
        assert one.hung_up + other.hung_up == 1


def test_a_log_line_has_the_path_and_the_id_and_no_query(world: World):
    world.ask("GET", "/v1/sessions/search?q=private", Authorization="Bearer tsk_private")
    whole_line = re.compile(r"^.*/v1/sessions/search.*\n", re.MULTILINE)
    (line,) = until(lambda: whole_line.findall(world.log.read_text()))
    assert "private" not in world.log.read_text()
    entry = json.loads(line)
    assert (entry["method"], entry["status"], entry["request_id"]) == ("GET", 200, "req-1")


def test_tls_ends_at_it_with_the_lines_of_the_page(tmp_path: Path):
    make_certificates(tmp_path)
    port = free_port()
    lines = replaced(
        TLS.take(),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/nginx/tls/fullchain.pem", str(tmp_path / "good.pem")),
        ("/etc/nginx/tls/privkey.pem", str(tmp_path / "leaf.key")),
    )
    trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    with backend("web") as web, backend("relay") as relay:
        text = configuration(
            port, [web.server_port], [relay.server_port], (f"listen 127.0.0.1:{port} default_server;", lines)
        )
        with (
            running_nginx(tmp_path, port, text),
            httpx.Client(verify=trusting, timeout=LIMIT_SECONDS, trust_env=False) as client,
        ):
            answer = client.get(f"https://localhost:{port}/healthz")
    assert (answer.status_code, answer.json()["kind"]) == (200, "web")
