"""The websocket protocol itself, spoken wrongly on purpose, and the handshake (C7 of the fault matrix)."""

import json
import socket
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.relay.frames import Opcode
from tests.integration.relay_world import LIMIT_SECONDS, Service, eventually, read_until, receive, send

HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Authorization: Bearer good-key\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture(scope="module")
def service(redis_server, tmp_path_factory):
    service = Service(redis_server.url, tmp_path_factory.mktemp("relay"))
    yield service
    service.close()


class Peer:
    """A client that may break every rule."""

    def __init__(self, service, extra=b""):
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=LIMIT_SECONDS)
        self.socket.sendall(HANDSHAKE + extra + b"\r\n")
        self.read = self.socket.makefile("rb")
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            self.head += self.read.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.read.close()
        self.socket.close()

    def send(self, opcode, payload=b"", first=None, mask=b"abcd", length=None):
        size = len(payload) if length is None else length
        bit = 0x80 if mask else 0
        head = bytes([0x80 | opcode if first is None else first])
        if size < 126:
            head += bytes([bit | size])
        elif size < 1 << 16:
            head += bytes([bit | 126]) + size.to_bytes(2)
        else:
            head += bytes([bit | 127]) + size.to_bytes(8)
        body = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload)) if mask else payload
        self.socket.sendall(head + mask + body)

    def frame(self):
        first, second = self.read.read(2)
        assert not second & 0x80, "a server masks nothing"
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(self.read.read(2))
        return first, self.read.read(size)

    def close_code(self):
        """Return the code of the next frame, a close, and see the end of the connection."""
        first, payload = self.frame()
        assert first == 0x80 | Opcode.CLOSE
        # Whoever answers late finds the connection closed already, which is as good an end.
        with suppress(ConnectionError):
            self.send(Opcode.CLOSE, payload[:2])
            assert self.read.read() == b""
        return int.from_bytes(payload[:2])


def text(**fields):
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"opcode": Opcode.BINARY, "payload": b"{}"}, 1003),
        ({"opcode": Opcode.TEXT, "payload": b"\xff\xfe"}, 1007),
        ({"opcode": Opcode.TEXT, "payload": b"{}", "mask": b""}, 1002),
        ({"opcode": Opcode.TEXT, "payload": b"{}", "first": 0xC1}, 1002),
        ({"opcode": Opcode.TEXT, "payload": b"{}", "first": 0x83}, 1002),
        ({"opcode": Opcode.PING, "payload": b"{}", "first": 0x09}, 1002),
        ({"opcode": Opcode.CONTINUATION, "payload": b"{}"}, 1002),
        ({"opcode": Opcode.TEXT, "length": 16 * 1024 + 1}, 1009),
        ({"opcode": Opcode.TEXT, "length": 2**62}, 1009),
        ({"opcode": Opcode.CLOSE, "payload": b"\x03"}, 1002),
        ({"opcode": Opcode.TEXT, "payload": b"no json"}, 4400),
        ({"opcode": Opcode.TEXT, "payload": b"[" * 10_000}, 4400),
        ({"opcode": Opcode.TEXT, "payload": text(op="dance")}, 4400),
        ({"opcode": Opcode.TEXT, "payload": text(op="subscribe")}, 4400),
        ({"opcode": Opcode.TEXT, "payload": text(op="subscribe", session_id="s", after="x")}, 4400),
        ({"opcode": Opcode.TEXT, "payload": text(op="subscribe", session_id="s", after=-1)}, 4400),
        ({"opcode": Opcode.TEXT, "payload": text(op="subscribe", session_id=5)}, 4400),
        ({"opcode": Opcode.TEXT, "payload": text(op="subscribe", session_id="s", replay="all")}, 4400),
    ],
)
def test_a_frame_that_breaks_the_rules_closes_with_its_code(service, frame, code):
    with Peer(service) as peer:
        peer.send(**frame)
        assert peer.close_code() == code
    eventually(lambda: service.health()["websockets"] == 0)


def test_fragments_may_not_grow_past_the_limit(service):
    with Peer(service) as peer:
        peer.send(Opcode.TEXT, b"x" * 9000, first=0x01)
        peer.send(Opcode.CONTINUATION, b"x" * 9000, first=0x00)
        assert peer.close_code() == 1009


def test_a_message_in_fragments_is_one_message(service):
    with Peer(service) as peer:
        peer.send(Opcode.TEXT, b'{"op":', first=0x01)
        peer.send(Opcode.PING, b"between")
        peer.send(Opcode.CONTINUATION, b'"ping"}')
        assert peer.frame() == (0x80 | Opcode.PONG, b"between")
        assert json.loads(peer.frame()[1]) == {"type": "pong"}


def test_a_flood_of_pings_is_closed(service):
    with Peer(service) as peer:
        for _ in range(2000):
            try:
                peer.send(Opcode.PING, b"!")
            except OSError:
                break
        first = 0x80 | Opcode.PONG
        while first == 0x80 | Opcode.PONG:
            first, payload = peer.frame()
        assert (first, int.from_bytes(payload[:2])) == (0x80 | Opcode.CLOSE, 4429)


def test_the_closing_handshake_is_answered_with_the_same_code(service):
    with Peer(service) as peer:
        peer.send(Opcode.CLOSE, (3001).to_bytes(2) + b"bye")
        assert peer.frame() == (0x80 | Opcode.CLOSE, (3001).to_bytes(2))
        assert peer.read.read() == b""


def test_a_peer_that_vanishes_is_forgotten(service):
    peer = Peer(service)
    eventually(lambda: service.health()["websockets"] == 1)
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    with peer:
        pass
    eventually(lambda: service.health()["websockets"] == 0)


def test_compression_is_never_accepted(service):
    with Peer(service, b"Sec-WebSocket-Extensions: permessage-deflate\r\n") as peer:
        assert b"101" in peer.head
        assert b"extensions" not in peer.head.lower()


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"key": None}, 401),
        ({"key": "bad-key"}, 401),
        ({"key": None, "subprotocols": ["turnkeeper.v1", "ticket.bad"]}, 401),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"subprotocols": ["other.v1"]}, 400),
    ],
)
def test_a_refused_handshake_is_an_http_problem(service, options, status):
    with pytest.raises(InvalidStatus) as refused:
        service.socket(**options)
    assert refused.value.response.status_code == status
    assert refused.value.response.headers["Content-Type"] == "application/problem+json"


LINES = {
    "Host": "relay",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Authorization": "Bearer good-key",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def shake(service, request_line=b"GET /v1/stream HTTP/1.1", **changed):
    """Send a handshake with changed lines, None for none; return status, headers and body."""
    lines = {name.replace("-", "_"): (name, value) for name, value in LINES.items()}
    for name, value in changed.items():
        lines[name] = (name.replace("_", "-"), value)
    sent = [f"{name}: {value}".encode("latin-1") for name, value in lines.values() if value is not None]
    with socket.create_connection(("127.0.0.1", service.port), timeout=LIMIT_SECONDS) as client:
        client.sendall(b"\r\n".join([request_line, *sent, b"", b""]))
        with client.makefile("rb") as read:
            status = int(read.readline().split()[1])
            headers = {}
            while line := read.readline().strip().decode("latin-1"):
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = b"" if status == 101 else read.read(int(headers.get("content-length", 0)))
    return status, headers, body


@pytest.mark.parametrize(
    "changed",
    [
        {"Sec_WebSocket_Key": None},
        {"Sec_WebSocket_Key": ""},
        {"Sec_WebSocket_Key": "not base64!"},
        {"Sec_WebSocket_Key": "c2hvcnQ="},
        {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ"},
        {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="},
        {"Sec_WebSocket_Key": "\xff" * 22 + "=="},
        {"Upgrade": None},
        {"Upgrade": ""},
        {"Upgrade": "h2c"},
        {"Upgrade": "websocket, h2c"},
        {"Upgrade": "websocket/13"},
        {"Connection": None},
        {"Connection": "keep-alive"},
        {"Connection": "close"},
        {"Connection": "upgraded"},
        {"Content_Length": "5"},
        {"Transfer_Encoding": "chunked"},
        {"Sec_WebSocket_Protocol": "x" * 4000},
        {"Sec_WebSocket_Protocol": "turnkeeper.v2"},
        {"request_line": b"GET /v1/stream HTTP/1.0"},
        {"request_line": b"HEAD /v1/stream HTTP/1.1"},
    ],
)
def test_a_malformed_handshake_is_a_bad_request(service, changed):
    status, headers, body = shake(service, **changed)
    assert status == 400
    assert headers["content-type"] == "application/problem+json"
    if changed.get("request_line", b"").startswith(b"HEAD"):
        return
    assert json.loads(body)["code"] == "invalid_request"


@pytest.mark.parametrize("version", [None, "", "8", "0", "14", "13, 8", "x", "13" * 50])
def test_another_version_of_the_protocol_is_told_which_one_there_is(service, version):
    status, headers, body = shake(service, Sec_WebSocket_Version=version)
    assert (status, json.loads(body)["code"]) == (426, "upgrade_required")
    assert (headers["sec-websocket-version"], headers["upgrade"]) == ("13", "websocket")


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"PATCH"])
def test_another_method_opens_no_websocket(service, method):
    assert shake(service, method + b" /v1/stream HTTP/1.1")[0] in {400, 405}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"Upgrade": "WebSocket"},
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "UPGRADE"},
        {"Sec_WebSocket_Protocol": "turnkeeper.v1"},
        {"Sec_WebSocket_Protocol": ",, turnkeeper.v1 ,other,(odd) \xff,, "},
        {"Sec_WebSocket_Protocol": "turnkeeper.v1," + ",".join(f"p{number}" for number in range(900))},
        {"Sec_WebSocket_Extensions": "permessage-deflate; =;;, \xfe"},
    ],
)
def test_an_odd_but_valid_handshake_opens_a_stream(service, changed):
    status, headers, _ = shake(service, **changed)
    assert (status, headers["sec-websocket-accept"]) == (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    expected = "turnkeeper.v1" if "Sec_WebSocket_Protocol" in changed else None
    assert headers.get("sec-websocket-protocol") == expected


@pytest.mark.parametrize("name", ["Sec_WebSocket_Key", "Sec_WebSocket_Protocol", "X_More"])
def test_oversized_headers_are_refused(service, name):
    assert 400 <= shake(service, **{name: "x" * 20_000})[0] < 500


@pytest.mark.parametrize("options", [{"origin": "https://app.example"}, {"subprotocols": []}])
def test_an_allowed_handshake_opens_a_stream(service, options):
    with service.socket(**options) as ws:
        send(ws, "ping")
        assert receive(ws) == {"type": "pong"}


def test_what_is_not_a_websocket_is_a_problem(service):
    connection = HTTPConnection("127.0.0.1", service.port, timeout=LIMIT_SECONDS)
    connection.request("GET", "/v1/stream")
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (400, "invalid_request")
    connection.close()


def test_more_subscriptions_than_allowed_close_the_socket(service):
    with service.socket() as ws:
        for _ in range(501):
            send(ws, "subscribe", session_id=str(service.rows.session()))
        with pytest.raises(ConnectionClosed) as closed:
            read_until(ws, "never")
        assert closed.value.rcvd.code == 4429


def test_no_descriptor_is_left_behind(service):
    pid = service.health()["pid"]

    def descriptors():
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    def visit():
        for _ in range(20):
            with service.socket() as ws:
                send(ws, "ping")
                receive(ws)
        eventually(lambda: service.health()["websockets"] == 0)

    visit()  # what the process opens once is open now
    before = descriptors()
    visit()
    eventually(lambda: descriptors() <= before + 1)


@pytest.mark.parametrize(("origin", "answers"), [("https://evil.example", {403}), (None, {400, 405})])
def test_a_page_that_was_refused_can_ask_why(service, origin, answers):
    """A browser does not tell a page why its handshake failed, but what a POST to the same address is answered."""
    status, _, body = shake(
        service, b"POST /v1/stream HTTP/1.1", Origin=origin, Upgrade=None, Connection=None
    )
    assert status in answers
    assert (json.loads(body)["code"] == "forbidden") is (origin is not None)
