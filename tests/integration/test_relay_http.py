"""Event streams as HTTP: the end of a whole one can be told from a cut, by every client (C10 of the fault matrix)."""

import json
import os
import shutil
import signal
import socket
import subprocess
from contextlib import contextmanager

import httpx
import pytest

from tests.integration.relay_world import LIMIT_SECONDS, Service, Worker, eventually
from tests.nginx import running_nginx
from tests.ports import free_port

LAST_CHUNK = b"0\r\n\r\n"
NODE_READER = """
const answer = await fetch(process.argv[1], {method: process.argv[2] || "GET"});
const decoder = new TextDecoder();
let text = "";
try {
  for await (const part of answer.body) {
    text += decoder.decode(part, {stream: true});
    if (text.includes("message_start")) process.stderr.write("begun\\n");
  }
  const again = await fetch(new URL("/health", process.argv[1]), {method: "GET"});
  console.log(JSON.stringify({whole: text.includes("event: done"), again: again.status}));
} catch (error) {
  console.log(JSON.stringify({error: error.message}));
}
"""


@pytest.fixture
def service(redis_server, tmp_path):
    service = Service(redis_server.url, tmp_path, is_ours=True, HEARTBEAT="1")
    yield service
    service.close()


@pytest.fixture
def worker(service, redis_server):
    return Worker(service.rows, redis_server.url).accept().begin()


def path_of(worker):
    return f"/v1/turns/{worker.turn_id}/events"


def url_of(service, worker, port=None):
    return f"http://127.0.0.1:{port or service.port}{path_of(worker)}"


@contextmanager
def requested(service, worker, version="1.1", headers="", method="GET", buffer=None):
    """Send a request as bytes and return its socket."""
    with socket.socket() as client:
        client.settimeout(LIMIT_SECONDS)
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.connect(("127.0.0.1", service.port))
        client.sendall(f"{method} {path_of(worker)} HTTP/{version}\r\nHost: here\r\n{headers}\r\n".encode())
        yield client


def read_until(client, end):
    data = b""
    while end not in data:
        part = client.recv(65536)
        assert part, data
        data += part
    return data


def read_to_end(client):
    data = b""
    while part := client.recv(65536):
        data += part
    return data


def unchunked(body):
    """Return the data of a chunked body, and whether it has its last chunk with nothing behind it."""
    data = b""
    while body:
        size, separator, rest = body.partition(b"\r\n")
        if not separator or len(rest) < int(size, 16) + 2:
            return data, False
        if not int(size, 16):
            return data, rest == b"\r\n"
        data += rest[: int(size, 16)]
        assert rest[int(size, 16) : int(size, 16) + 2] == b"\r\n"
        body = rest[int(size, 16) + 2 :]
    return data, False


def test_a_whole_stream_is_chunked_and_its_last_chunk_follows_done(service, worker):
    worker.deltas(5)
    with requested(service, worker) as client:
        received = read_until(client, b"message_start")
        worker.deltas(5)
        worker.finish()
        received += read_until(client, LAST_CHUNK)
        head, _, body = received.partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head.lower()
        assert b"connection:" not in head.lower()
        data, is_whole = unchunked(body)
        assert is_whole
        assert data.startswith(b"retry: 1000\n\n")
        assert data.rstrip().rpartition(b"event: ")[2].startswith(b"done")


def test_the_connection_of_a_whole_stream_serves_the_next_request(service, worker):
    worker.finish()
    with requested(service, worker) as client:
        for _ in range(3):
            read_until(client, LAST_CHUNK)
            client.sendall(f"GET {path_of(worker)} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        read_until(client, LAST_CHUNK)
        client.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert b'"event_streams"' in read_to_end(client)


@pytest.mark.parametrize(
    "more", ["Connection: close\r\n\r\n", "\r\nGET /health HTTP/1.1\r\nHost: here\r\n\r\n"]
)
def test_a_connection_that_cannot_go_on_is_closed_after_the_last_chunk(service, worker, more):
    """The client asked for it, or has sent more than was read."""
    worker.finish()
    with requested(service, worker, headers=more.removesuffix("\r\n")) as client:
        body = read_to_end(client).partition(b"\r\n\r\n")[2]
        assert unchunked(body)[1]


def test_a_relay_that_stops_breaks_the_stream_off(service, worker):
    with requested(service, worker) as client:
        received = read_until(client, b"message_start")
        service.terminate()
        received += read_to_end(client)
    data, is_whole = unchunked(received.partition(b"\r\n\r\n")[2])
    assert b"message_start" in data
    assert not is_whole


def test_a_reader_that_is_given_up_sees_a_cut(service, worker):
    with requested(service, worker, buffer=4096) as client:
        read_until(client, b"message_start")
        before = service.health()["occurred"]["overflows"]
        while service.health()["occurred"]["overflows"] == before:
            worker.deltas(20, size=20_000)
        worker.finish()
        received = read_to_end(client)
    assert not received.endswith(LAST_CHUNK)
    assert b"event: done" not in received


def test_an_http_1_0_client_gets_no_chunks_and_sees_a_cut_as_a_reset(service, worker, redis_server):
    ended = Worker(service.rows, redis_server.url).accept().begin()
    ended.finish()
    with requested(service, ended, version="1.0") as client:
        head, _, body = read_to_end(client).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head.lower()
        assert body.startswith(b"retry: 1000\n\n")
        assert body.rstrip().rpartition(b"event: ")[2].startswith(b"done")
    with requested(service, worker, version="1.0") as client:
        read_until(client, b"message_start")
        service.terminate()
        with pytest.raises(ConnectionResetError):
            read_to_end(client)


def test_head_of_a_stream_says_what_get_would_and_keeps_the_connection(service, worker):
    with requested(service, worker, method="HEAD") as client:
        head = read_until(client, b"\r\n\r\n")
        assert b"text/event-stream" in head
        assert head.endswith(b"\r\n\r\n")
        client.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert read_to_end(client).startswith(b"HTTP/1.1 200")
    answer = httpx.options(url_of(service, worker), timeout=LIMIT_SECONDS, trust_env=False)
    assert (answer.status_code, "GET" in answer.headers["Allow"]) == (200, True)


NGINX = """
worker_processes 1;
pid {folder}/nginx.pid;
error_log /dev/stderr crit;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_buffering off; proxy_pass http://127.0.0.1:{backend}; }}
    }}
}}
"""


@pytest.fixture(params=["directly", "behind nginx"])
def port(request, service, tmp_path):
    """Where clients connect."""
    if request.param == "directly":
        yield service.port
        return
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    front = free_port()
    folder = tmp_path / "nginx"
    folder.mkdir()
    text = NGINX.format(folder=folder, port=front, backend=service.port)
    with running_nginx(folder, front, text):
        yield front


def curl(service, worker, port):
    return ["curl", "--silent", "--show-error", "--no-buffer", url_of(service, worker, port)]


def node(service, worker, port):
    return ["node", "--input-type=module", "-e", NODE_READER, "--", url_of(service, worker, port)]


@pytest.mark.parametrize("client", [curl, node])
@pytest.mark.parametrize("ending", ["whole", "SIGTERM", "SIGKILL"])
def test_curl_and_node_see_a_cut_as_an_error_and_an_end_as_none(service, worker, port, client, ending):
    if shutil.which(client.__name__) is None:
        pytest.skip(f"{client.__name__} is not installed")
    process = subprocess.Popen(
        client(service, worker, port), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    eventually(lambda: service.health()["event_streams"] == 1)
    match ending:
        case "whole":
            worker.deltas(3)
            worker.finish()
        case "SIGTERM":
            service.terminate()
        case "SIGKILL":
            pid = service.health()["pid"]
            os.kill(service.process.pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
    told, _ = process.communicate(timeout=LIMIT_SECONDS)
    if client is curl:
        assert (process.returncode == 0) is (ending == "whole"), told
    else:
        said = json.loads(told.splitlines()[-1])
        assert said == ({"whole": True, "again": 200} if ending == "whole" else {"error": "terminated"})


def test_httpx_sees_a_cut_as_an_error(service, worker):
    with (
        httpx.Client(timeout=LIMIT_SECONDS, trust_env=False) as client,
        client.stream("GET", url_of(service, worker)) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "retry: 1000"
        service.terminate()
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
