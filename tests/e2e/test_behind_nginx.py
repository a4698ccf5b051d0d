"""Through nginx with the configuration of deploy/: two web, two relay and two worker processes behind it.

What the protocol promises is asked by the protocol's own tests, which meet another `stack` here.
"""

import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import psycopg
import pytest
from websockets.exceptions import ConnectionClosed

from api.relay.hub import StreamLimits
from tests.e2e import test_protocol as protocol
from tests.e2e.conftest import temporary_folder
from tests.e2e.formation import Formation, running_formation
from tests.e2e.protocol_client import LIMIT_SECONDS, Api, Reading, Socket, websocket
from tests.e2e.quick_relay import HEARTBEAT_SECONDS
from tests.nginx import MISSING, PROGRAM, ROOT, configuration, running_nginx
from tests.ports import free_port

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

QUICK_TIMEOUT_SECONDS = 5.0
LONGER_SECONDS = 1.2 * QUICK_TIMEOUT_SECONDS
READ_TIMEOUT = "proxy_read_timeout 75s;"
NGINX_DEFAULT_SECONDS = 60
SOAK_SECONDS = 600
CLIENTS = 4
TURNS_OF_EACH = 6


@pytest.fixture(scope="module")
def stack(openai_compatible: dict[str, str]) -> Iterator[Formation]:
    # So that a turn may be silent for as long as streams are held idle.
    patient = dict.fromkeys(("PROVIDER_FIRST_TOKEN_TIMEOUT_SECONDS", "TURN_TIMEOUT_SECONDS"), "3600")
    with temporary_folder() as folder, running_formation(folder, **openai_compatible, **patient) as formation:
        yield formation


@pytest.fixture
def api(stack: Formation) -> Iterator[Api]:
    client = stack.api()
    yield client
    client.close()


@pytest.fixture
def socket(stack: Formation) -> Iterator[Socket]:
    with websocket(stack.url, stack.key()) as opened:
        yield opened


test_idempotency = protocol.test_a_repeated_idempotency_key_gives_the_same_turn_and_another_body_is_refused
test_order = protocol.test_a_turns_events_come_in_the_described_order
test_same_on_every_way = protocol.test_a_page_websocket_and_event_stream_say_the_same
test_resume = protocol.test_an_event_stream_resumes_from_the_middle_while_the_turn_runs
test_posted_for_a_stream = (
    protocol.test_a_turn_posted_for_an_event_stream_is_answered_with_its_events_from_the_first
)
test_waiting = protocol.test_waiting_for_a_turn_ends_with_it_or_with_the_time
test_many_sessions = protocol.test_one_socket_follows_many_sessions_and_every_turn_of_each
test_joining = protocol.test_who_joins_in_the_middle_gets_the_active_turn_from_its_start
test_stop = protocol.test_a_socket_can_stop_a_turn
test_no_key = protocol.test_without_a_valid_key_there_is_no_socket
test_origin = protocol.test_a_foreign_origin_gets_no_socket_and_a_missing_one_does
test_ticket = protocol.test_a_ticket_opens_one_socket_for_its_session_and_no_other
test_too_large = protocol.test_what_is_not_json_is_refused_and_so_is_a_body_over_a_megabyte
test_unauthorized = protocol.test_a_request_without_a_valid_key_is_unauthorized
test_request_id = protocol.test_a_request_id_is_echoed_and_a_traceparent_goes_on_to_the_provider
test_ready = protocol.test_the_service_says_how_it_is_and_what_it_offers


def test_the_first_event_arrives_while_the_turn_runs(api: Api):
    session = api.session(user="alice")
    body = {"content": "[[tokens=100000 rate=20]] slowly"}
    with api.stream("POST", f"/v1/sessions/{session}/turns", json=body) as events:
        turn_id = next(events)["turn_id"]
        next(event for event in events if event["type"] == "content_delta")
        # Buffered, an answer of this speed would come after minutes, or in pieces of 4 KiB.
    other = Api(api.url, api.key)
    assert other.get_turn(turn_id)["status"] == "running"
    assert other.stopped(turn_id)["status"] == "stopped"
    other.close()


def test_a_stop_through_nginx_closes_the_providers_connection(api: Api, scripted):
    marker = uuid.uuid4().hex
    turn_id = api.turn(api.session(user="alice"), f"[[tokens=100000 rate=50]] {marker}")
    scripted.record(marker)
    api.stop(turn_id)
    assert api.final(turn_id)["status"] == "stopped"
    assert scripted.record(marker, has="finished_ns")["outcome"] == "client_disconnected"


# --- restarts ------------------------------------------------------------------------------------------


def test_a_relay_that_is_restarted_says_so_and_its_readers_go_on_at_the_other(stack: Formation, api: Api):
    sessions = [api.session(user="alice") for _ in range(6)]
    readings = {}
    sockets = []
    try:
        for session in sessions:
            opened = websocket(stack.url, stack.key())
            sockets.append((opened, opened.__enter__()))
            sockets[-1][1].subscribe(session)
            readings[session] = Reading(api.turn(session, protocol.ENDLESS), session)
        for (_, opened), session in zip(sockets, sessions, strict=True):
            opened.until(lambda event: event["type"] == "content_delta", readings[session])
        stack.end("relay-1")
        for reading in readings.values():
            api.stop(reading.turn_id)
        codes = [
            closed_with(opened, readings[session])
            for (_, opened), session in zip(sockets, sessions, strict=True)
        ]
    finally:
        for opened, _ in sockets:
            opened.__exit__(None, None, None)
    # nginx hands connections out in turn, so each relay had some.
    assert set(codes) == {1012, None}, codes
    try:
        for session, code in zip(sessions, codes, strict=True):
            if code is not None:
                with websocket(stack.url, stack.key()) as again:
                    reading = readings[session]
                    _, replayed = again.subscribe(session, turn_id=reading.turn_id, after=reading.seq)
                    for event in replayed:
                        reading.take(event)
                    again.until_done(reading)
    finally:
        stack.start("relay-1")
    assert all(reading.is_whole and not reading.snapshots for reading in readings.values())


def closed_with(opened: Socket, reading: Reading) -> int | None:
    """Read until the turn is over or the socket is closed; return the close code, None for no close."""
    try:
        opened.until_done(reading)
    except ConnectionClosed as closed:
        return closed.rcvd.code
    return None


def test_a_deploy_one_process_after_another_loses_and_repeats_no_turn(stack: Formation):
    """Clients post all along and repeat what was refused, as they are told to: with the same key."""
    stopping = False
    refused: list[int] = []

    def post(user: int) -> list[str]:
        turns = []
        with httpx.Client(
            base_url=stack.url,
            headers={"Authorization": f"Bearer {stack.key()}"},
            timeout=LIMIT_SECONDS,
            trust_env=False,
        ) as client:
            # Before, during and after: how long the deploy takes is the machine's affair.
            while not stopping or len(turns) < TURNS_OF_EACH:
                session = repeated(client, "/v1/sessions", {"user": f"user-{user}"})
                body = {"content": "[[tokens=20 rate=20]] deploy"}
                turns.append(repeated(client, f"/v1/sessions/{session}/turns", body))
                with contextlib.suppress(httpx.TransportError):
                    # As fast as turns are run, so that the restarts and not a backlog decide.
                    client.get(f"/v1/turns/{turns[-1]}?wait=5")
        return turns

    def repeated(client: httpx.Client, path: str, body: dict) -> str:
        key = {"Idempotency-Key": uuid.uuid4().hex} if path.endswith("/turns") else {}
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            answer = client.post(path, json=body, headers=key)
            if answer.status_code in {200, 201, 202}:
                return answer.json()["id"]
            assert answer.json()["retryable"], answer.text
            refused.append(answer.status_code)
            assert time.monotonic() < deadline, answer.text

    with ThreadPoolExecutor(CLIENTS) as pool:
        posting = [pool.submit(post, user) for user in range(CLIENTS)]
        try:
            for kind in ("web", "relay", "worker"):
                for name in stack.names(kind):
                    stack.restart(name)
        finally:
            stopping = True
        turns = [turn for each in posting for turn in each.result(LIMIT_SECONDS)]
    assert len(turns) == len(set(turns))
    api = stack.api()
    ended = [api.final(turn) for turn in turns]
    assert [(each["attempt"], each["error"]) for each in ended if each["status"] != "completed"] == []
    with psycopg.connect(stack.owner_url) as db:
        ((asked,),) = db.execute(
            "select count(*) from turnkeeper.messages where content like '%deploy' and role = 'user'"
        ).fetchall()
    assert asked == len(turns), "a post that was repeated made two turns"
    # The listener of a web process that ends may take a connection with it, of each client; two upstreams hide all
    # others, which would be hundreds while one starts.
    assert len(refused) <= CLIENTS * len(stack.names("web")), refused


# --- idle streams --------------------------------------------------------------------------------------


def test_pings_come_often_enough_for_nginx_by_default_and_as_configured():
    assert READ_TIMEOUT in (ROOT / "deploy" / "nginx.conf").read_text()
    read_timeout_seconds = float(READ_TIMEOUT.split()[1].rstrip("s;"))
    heartbeat_seconds = StreamLimits().heartbeat_seconds
    # One may be lost, and the next late.
    assert read_timeout_seconds >= 3 * heartbeat_seconds
    assert heartbeat_seconds * 3 <= NGINX_DEFAULT_SECONDS
    assert read_timeout_seconds > 60, "as long as `?wait=` holds an answer"
    # The test below is this, made shorter.
    assert read_timeout_seconds / heartbeat_seconds >= QUICK_TIMEOUT_SECONDS / HEARTBEAT_SECONDS


def idle(formation: Formation, seconds: float) -> None:
    """Hold a websocket and an event stream on which nothing happens; each must live through it."""
    api = formation.api()
    session = api.session(user="alice")
    turn_id = api.turn(session, "[[delay=3600]] silence")
    headers = {"Authorization": f"Bearer {formation.key()}", "Accept": "text/event-stream"}
    began = time.monotonic()
    try:
        with (
            websocket(formation.url, formation.key()) as opened,
            httpx.Client(
                base_url=formation.url, headers=headers, timeout=LIMIT_SECONDS, trust_env=False
            ) as client,
            client.stream("GET", f"/v1/turns/{turn_id}/events") as answer,
        ):
            opened.subscribe(session)
            chunks = answer.iter_raw()
            while time.monotonic() - began < seconds:
                assert next(chunks)
                said = json.loads(opened.connection.recv(timeout=LIMIT_SECONDS))
                assert said["type"] in {"ping", "turn_started"}
    finally:
        api.stop(turn_id)
        api.final(turn_id)


@contextlib.contextmanager
def impatient(stack: Formation, *relays: str) -> Iterator[Formation]:
    """The same processes behind a separate nginx, which does not wait long."""
    port = free_port()
    web, relay = ([stack.ports[name] for name in names] for names in (stack.names("web"), relays))
    waits = (READ_TIMEOUT, f"proxy_read_timeout {QUICK_TIMEOUT_SECONDS:g}s;")
    text = configuration(port, web, relay, waits)
    with temporary_folder() as folder, running_nginx(folder, port, text):
        yield replace(stack, url=f"http://127.0.0.1:{port}")


def test_idle_streams_live_longer_than_nginx_waits(stack: Formation):
    quick = replace(stack, relay_options=("--app", "tests.e2e.quick_relay:create_app"))
    quick.ports = {**stack.ports, "relay-quick": free_port()}
    quick.start("relay-quick")
    try:
        with impatient(quick, "relay-quick") as formation:
            idle(formation, LONGER_SECONDS)
    finally:
        stack.end("relay-quick")
    # That nginx would have closed them: with the real pings, every 15 seconds, it does.
    with (
        impatient(stack, *stack.names("relay")) as formation,
        pytest.raises((ConnectionClosed, httpx.RemoteProtocolError, StopIteration)),
    ):
        idle(formation, LONGER_SECONDS)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_SECONDS + 120)
def test_idle_streams_live_for_ten_minutes_with_the_real_limits(stack: Formation):
    idle(stack, SOAK_SECONDS)
