"""The wire protocol, as seen by someone who has only read its description."""

import asyncio
import json
import random
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.e2e.conftest import Service
from tests.e2e.protocol_client import (
    LIMIT_SECONDS,
    SUBPROTOCOL,
    Api,
    Reading,
    Socket,
    websocket,
)

MISSING = "0199f000-0000-7000-8000-000000000000"
ENDLESS = "[[tokens=100000 rate=50]]"
LEAST_CUTS = 4
"""Of each of twenty connections, which has ten turns of six events at least."""


@pytest.fixture
def socket(stack: Service) -> Iterator[Socket]:
    with websocket(stack.url, stack.key()) as opened:
        yield opened


# --- many readers, cut at random ---------------------------------------------------------------------


@dataclass
class Watched:
    """One session, its one turn, and the reader of it."""

    session_id: str
    turn_id: str | None = None
    reading: Reading | None = None
    trail: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.reading is not None and self.reading.done is not None

    def take(self, event: dict) -> None:
        if self.reading is None:
            self.reading = Reading(event["turn_id"], self.session_id)
        self.trail.append(f"{event['type']} {event.get('seq')}")
        try:
            self.reading.take(event)
        except AssertionError as broken:
            raise AssertionError(f"{broken}; what came before: {self.trail}") from broken

    def subscription(self) -> dict:
        """Return what to send: the cursor once the turn is known, else the session alone."""
        turn = {} if self.turn_id is None else {"turn_id": self.turn_id}
        after = {} if self.reading is None else {"turn_id": self.reading.turn_id, "after": self.reading.seq}
        return {"op": "subscribe", "session_id": self.session_id, **turn, **after}


@dataclass
class Connection:
    """One reader's connection over several sessions, cut and reopened until all turns are over."""

    url: str
    key: str
    watched: list[Watched]
    dice: random.Random
    cuts: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def watch(self) -> None:
        while not all(each.is_over for each in self.watched):
            # Cut soon at first, however few events a slow machine makes of a text.
            most = 80 if self.cuts >= LEAST_CUTS else 10
            await self.watch_until_cut(self.dice.randint(5, most))

    async def watch_until_cut(self, frames: int) -> None:
        address = self.url.replace("http", "ws", 1) + "/v1/stream"
        headers = {"Authorization": f"Bearer {self.key}"}
        async with connect(
            address,
            additional_headers=headers,
            subprotocols=[SUBPROTOCOL],
            open_timeout=LIMIT_SECONDS,
            proxy=None,
        ) as ws:
            for each in self.watched:
                if each.reading is not None:
                    each.reading.gap_until = None  # its snapshot may have been cut off with the connection
            missing = {each.session_id: each for each in self.watched if not each.is_over}
            for each in missing.values():
                each.trail.append(json.dumps(each.subscription()))
                await ws.send(json.dumps(each.subscription()))
            caught_up = 0
            while frames > 0 and not all(each.is_over for each in self.watched):
                event = json.loads(await asyncio.wait_for(ws.recv(), LIMIT_SECONDS))
                match event["type"]:
                    case "ping":
                        continue
                    case "subscribed":
                        missing[event["session_id"]].trail.append(json.dumps(event))
                    case "caught_up":
                        missing[event["session_id"]].trail.append("caught_up")
                        caught_up += 1
                        if caught_up == len(missing):
                            self.ready.set()
                    case _:
                        missing[event["session_id"]].take(event)
                        frames -= 1
            self.cuts += 1
            ws.transport.abort()


async def run_turns(
    stack: Service, sessions: list[str], content: str
) -> tuple[list[Connection], list[Watched]]:
    dice = random.Random(8)
    watched = [Watched(session) for session in sessions]
    connections = [
        Connection(stack.url, stack.key(), watched[number::20], random.Random(number)) for number in range(20)
    ]
    watchers = [asyncio.create_task(each.watch()) for each in connections]
    await asyncio.wait_for(asyncio.gather(*(each.ready.wait() for each in connections[:10])), LIMIT_SECONDS)
    limits = httpx.Limits(max_connections=8)
    headers = {"Authorization": f"Bearer {stack.key()}"}
    async with httpx.AsyncClient(
        base_url=stack.url, headers=headers, limits=limits, timeout=LIMIT_SECONDS, trust_env=False
    ) as client:

        async def post(one: Watched) -> None:
            answer = await client.post(f"/v1/sessions/{one.session_id}/turns", json={"content": content})
            assert answer.status_code == 202, answer.text
            one.turn_id = answer.json()["id"]

        await asyncio.gather(*(post(each) for each in dice.sample(watched, len(watched))))
        await asyncio.wait_for(asyncio.gather(*watchers), 2 * LIMIT_SECONDS)
    return connections, watched


def test_readers_that_are_cut_and_resume_at_random_get_every_event_once_and_the_whole_text(
    stack: Service, api: Api
):
    sessions = [api.session(user=f"reader-{number}") for number in range(200)]
    connections, watched = asyncio.run(run_turns(stack, sessions, "[[tokens=40 rate=40 jitter=0.5]] read me"))
    readings = [each.reading for each in watched]
    assert all(each.is_whole for each in readings)
    assert {each.done["status"] for each in readings} == {"completed"}
    assert {each.turn_id for each in readings} == {each.turn_id for each in watched}
    # Nothing was lost here, so a snapshot would be a way out where none is needed.
    assert [each.snapshots for each in readings if each.snapshots] == []
    for each in readings:
        assert each.resets == 0
        assert (each.types[0], each.types[-1]) == ("turn_queued", "done")
        assert api.answer_to(api.get_turn(each.turn_id)) == each.text
    assert all(each.cuts >= LEAST_CUTS for each in connections)


# --- a turn's events, whichever way ------------------------------------------------------------------


def test_a_turns_events_come_in_the_described_order(api: Api):
    turn = api.ask("[[tokens=5]] order")
    page = api.page(turn["id"])
    reading = Reading(turn["id"], turn["session_id"])
    for event in page["data"]:
        reading.take(event)
    assert page["done"] is True
    assert page["last_seq"] == turn["last_seq"] == reading.seq
    assert reading.is_whole
    seen = [each for each in reading.types if each not in {"title_updated", "content_delta"}]
    assert seen == ["turn_queued", "turn_started", "message_start", "message_end", "done"]
    done = reading.done
    for name in ("status", "finish_reason", "stop_reason", "usage", "usage_source", "cost_usd", "error"):
        assert done[name] == turn[name]


def test_a_page_websocket_and_event_stream_say_the_same(api: Api, socket: Socket):
    turn = api.ask("[[tokens=5]] same")
    page = api.page(turn["id"])["data"]
    with api.stream("GET", f"/v1/turns/{turn['id']}/events") as events:
        assert list(events) == page
    assert socket.subscribe(turn["session_id"], turn_id=turn["id"])[1] == page


@pytest.mark.parametrize("cursor", ["after", "Last-Event-ID"])
def test_an_event_stream_resumes_from_the_middle_while_the_turn_runs(api: Api, cursor: str):
    turn_id = api.turn(api.session(user="alice"), "[[tokens=60 rate=40]] resume")
    reading = Reading(turn_id, api.get_turn(turn_id)["session_id"])
    path = f"/v1/turns/{turn_id}/events"
    with api.stream("GET", path) as events:
        while "content_delta" not in reading.types:
            reading.take(next(events))
    query = f"?after={reading.seq}" if cursor == "after" else ""
    headers = {cursor: str(reading.seq)} if cursor != "after" else {}
    with api.stream("GET", path + query, headers=headers) as events:
        for event in events:
            reading.take(event)
    assert reading.is_whole


def test_a_turn_posted_for_an_event_stream_is_answered_with_its_events_from_the_first(api: Api):
    session = api.session(user="alice")
    with api.stream(
        "POST", f"/v1/sessions/{session}/turns", json={"content": "[[tokens=5 rate=50]] now"}
    ) as events:
        first = next(events)
        reading = Reading(first["turn_id"], session)
        reading.take(first)
        for event in events:
            reading.take(event)
    assert reading.is_whole
    assert api.get_turn(reading.turn_id)["status"] == "completed"


def test_json_pages_go_on_from_a_cursor(api: Api):
    turn = api.ask("[[tokens=30 rate=200]] pages")
    whole = api.page(turn["id"])["data"]
    assert api.page(turn["id"], after=3)["data"] == whole[3:]
    rest = api.page(turn["id"], after=turn["last_seq"])
    assert (rest["data"], rest["done"], rest["last_seq"]) == ([], True, turn["last_seq"])


def test_waiting_for_a_turn_ends_with_it_or_with_the_time(api: Api):
    turn_id = api.turn(api.session(user="alice"), f"{ENDLESS} wait")
    assert api.expect(200, "GET", f"/v1/turns/{turn_id}?wait=0.1")["status"] in {"queued", "running"}
    api.stop(turn_id)
    assert api.final(turn_id)["status"] == "stopped"


# --- the websocket -----------------------------------------------------------------------------------


def test_one_socket_follows_many_sessions_and_every_turn_of_each(api: Api, socket: Socket):
    sessions = [api.session(user="alice") for _ in range(3)]
    for session in sessions:
        subscribed, replayed = socket.subscribe(session)
        assert (subscribed["turn_id"], replayed) == (None, [])
    for _ in range(2):
        turns = {api.turn(session, "[[tokens=5]] many"): session for session in sessions}
        readings = {turn: Reading(turn, session) for turn, session in turns.items()}
        while not all(each.done for each in readings.values()):
            event = socket.receive()
            readings[event["turn_id"]].take(event)
        assert all(each.is_whole for each in readings.values())


def test_who_joins_in_the_middle_gets_the_active_turn_from_its_start(api: Api, socket: Socket):
    session = api.session(user="alice")
    turn_id = api.turn(session, f"{ENDLESS} join")
    api.await_text(turn_id)
    subscribed, replayed = socket.subscribe(session)
    assert subscribed["turn_id"] == turn_id
    reading = Reading(turn_id, session)
    for event in replayed:
        reading.take(event)
    assert reading.text
    api.stop(turn_id)
    assert socket.until_done(reading).is_whole


def test_a_snapshot_stands_for_the_replay_where_it_is_asked_for(api: Api, socket: Socket):
    turn = api.ask("[[tokens=20]] snapshot")
    _, (snapshot, *rest) = socket.subscribe(turn["session_id"], turn_id=turn["id"], replay="snapshot")
    reading = Reading(turn["id"], turn["session_id"])
    for event in (snapshot, *rest):
        reading.take(event)
    assert snapshot["type"] == "snapshot"
    assert snapshot["message_id"] == turn["message_id"]
    assert reading.text == api.answer_to(turn)
    assert reading.is_whole


def test_a_running_turn_goes_on_after_its_snapshot(api: Api, socket: Socket):
    session = api.session(user="alice")
    turn_id = api.turn(session, f"{ENDLESS} live snapshot")
    watching = Reading(turn_id, session)
    with api.stream("GET", f"/v1/turns/{turn_id}/events") as events:
        while "content_delta" not in watching.types:
            watching.take(next(events))
    _, replayed = socket.subscribe(session, turn_id=turn_id, replay="snapshot")
    reading = Reading(turn_id, session)
    for event in replayed:
        reading.take(event)
    assert len(reading.snapshots) == 1
    api.stop(turn_id)
    assert socket.until_done(reading).is_whole


def test_what_cannot_be_done_for_one_session_leaves_the_socket_open_for_the_others(api: Api, socket: Socket):
    socket.send("subscribe", session_id=MISSING)
    refused = socket.receive()
    assert (refused["type"], refused["op"], refused["session_id"], refused["code"]) == (
        "refused",
        "subscribe",
        MISSING,
        "not_found",
    )
    socket.send("stop", turn_id=MISSING)
    refused = socket.receive()
    assert (refused["type"], refused["op"], refused["turn_id"], refused["code"]) == (
        "refused",
        "stop",
        MISSING,
        "not_found",
    )
    socket.subscribe(api.session(user="alice"))


def test_a_socket_can_stop_a_turn(api: Api, socket: Socket):
    session = api.session(user="alice")
    socket.subscribe(session)
    turn_id = api.turn(session, "[[tokens=100000 rate=50]] stop me")
    reading = Reading(turn_id, session)
    socket.until(lambda event: event["type"] == "content_delta", reading)
    socket.send("stop", turn_id=turn_id)
    socket.until_done(reading)
    assert (reading.done["status"], reading.done["stop_reason"]) == ("stopped", "user")
    assert "stop_requested" in reading.types
    assert reading.is_whole


def test_after_unsubscribing_nothing_more_comes(api: Api, socket: Socket):
    session = api.session(user="alice")
    socket.subscribe(session)
    socket.send("unsubscribe", session_id=session)
    socket.send("ping")
    socket.until(lambda event: event["type"] == "pong")
    api.ask("[[tokens=5]] unheard", session)
    socket.send("ping")
    assert socket.receive() == {"type": "pong"}


@pytest.mark.parametrize("frame", ["{", "[]", '{"op":"dance"}', '{"op":"subscribe"}', b"\x00"])
def test_a_bad_frame_closes_the_socket_with_4400(socket: Socket, frame: str | bytes):
    socket.connection.send(frame)
    with pytest.raises(ConnectionClosed) as closed:
        socket.receive()
    assert closed.value.rcvd.code in {4400, 1003}  # 1003 is RFC 6455's own word for a binary frame


def test_a_frame_over_16_kib_closes_the_socket(socket: Socket):
    with suppress(ConnectionClosed):  # it may be closed before all is sent
        socket.send("subscribe", session_id=MISSING, padding="x" * 17_000)
    with pytest.raises(ConnectionClosed) as closed:
        socket.receive()
    assert closed.value.rcvd.code in {4400, 1009}


@pytest.mark.parametrize("key", [None, "tsk_aaaaaaaa_" + "A" * 43])
def test_without_a_valid_key_there_is_no_socket(stack: Service, key: str | None):
    assert refusal_of(stack, key) == 4401


def test_a_foreign_origin_gets_no_socket_and_a_missing_one_does(stack: Service):
    assert refusal_of(stack, stack.key(), headers={"Origin": "https://evil.example"}) == 4403
    assert refusal_of(stack, stack.key()) is None


def refusal_of(stack: Service, key: str | None, *subprotocols: str, **more) -> int | None:
    """Return the code with which a socket is refused, in the handshake or after it; None if it is not."""
    try:
        with websocket(stack.url, key, *subprotocols, **more) as opened:
            opened.send("ping")
            assert opened.receive() == {"type": "pong"}
            return None
    except InvalidStatus as refused:
        return 4000 + refused.response.status_code
    except ConnectionClosed as closed:
        return closed.rcvd.code


# --- tickets -----------------------------------------------------------------------------------------


def test_a_ticket_opens_one_socket_for_its_session_and_no_other(stack: Service, api: Api):
    session, other = api.session(user="alice"), api.session(user="alice")
    ticket = api.expect(201, "POST", "/v1/tickets", json={"session_id": session, "ttl_seconds": 60})
    assert {"ticket", "expires_at"} <= ticket.keys()
    subprotocols = (SUBPROTOCOL, f"ticket.{ticket['ticket']}")
    with websocket(stack.url, None, *subprotocols) as opened:
        opened.subscribe(session)
        opened.send("subscribe", session_id=other)
        refused = opened.receive()
        assert (refused["type"], refused["session_id"]) == ("refused", other)
        turn_id = api.turn(session, "[[tokens=5]] with a ticket")
        assert opened.until_done(Reading(turn_id, session)).is_whole
    assert refusal_of(stack, None, *subprotocols) == 4401
    assert refusal_of(stack, None, SUBPROTOCOL, "ticket.nonsense") == 4401


# --- posting a turn ----------------------------------------------------------------------------------


def test_a_repeated_idempotency_key_gives_the_same_turn_and_another_body_is_refused(api: Api):
    path = f"/v1/sessions/{api.session(user='alice')}/turns"
    body, headers = {"content": "[[tokens=3]] once"}, {"Idempotency-Key": str(uuid.uuid4())}
    first = api.call("POST", path, json=body, headers=headers)
    assert (first.status_code, first.headers["location"]) == (202, f"/v1/turns/{first.json()['id']}")
    assert "idempotency-replayed" not in first.headers
    again = api.call("POST", path, json=body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert again.headers["idempotency-replayed"] == "true"
    problem = api.expect(422, "POST", path, json={"content": "other"}, headers=headers)
    assert problem["code"] == "idempotency_conflict"
    api.final(first.json()["id"])


def test_what_is_accepted_is_committed_when_it_is_answered(api: Api):
    session = api.session(user="alice")
    turn_id = api.turn(session, "[[tokens=3]] committed", metadata={"a": 1})
    turn = api.get_turn(turn_id)
    (question, *_) = api.messages(session)
    assert question["id"] == turn["user_message_id"]
    assert (question["role"], question["content"]) == ("user", "[[tokens=3]] committed")
    assert turn["metadata"] == {"a": 1}
    assert turn["links"]["events"] == f"/v1/turns/{turn_id}/events"
    api.final(turn_id)


def test_messages_are_stored_as_written_and_read_back_in_the_conversations_order(api: Api):
    session = api.session(user="alice")
    contents = ["system: ignore [[tokens=2]]", "a\u00a0b\u202fc [[tokens=2]]", "<b>\u2028 [[tokens=2]]"]
    turns = [api.ask(content, session) for content in contents]
    messages = api.messages(session)
    assert [each["role"] for each in messages] == ["user", "assistant"] * 3
    assert [each["content"] for each in messages[::2]] == contents
    assert [each["turn_id"] for each in messages] == [turn["id"] for turn in turns for _ in range(2)]
    positions = [each["position"] for each in messages]
    assert positions == sorted(set(positions))
    assert {each["status"] for each in messages} == {"complete"}


def test_a_session_counts_its_turns_and_what_they_cost(api: Api):
    session = api.session(user="alice")
    turns = [api.ask("[[tokens=4]] count", session) for _ in range(2)]
    shown = api.expect(200, "GET", f"/v1/sessions/{session}")
    assert shown["turn_count"] == 2
    assert shown["active_turn_id"] is None
    assert shown["usage"]["output_tokens"] == 8
    assert all(isinstance(turn["cost_usd"], str) and "." in turn["cost_usd"] for turn in turns)
    assert (shown["provider"], shown["model"]) == ("openai-compatible", "scripted")


def test_lists_are_paged_without_losing_or_repeating_anything(api: Api):
    session = api.session(user="alice")
    turns = {api.ask("[[tokens=1]] page", session)["id"] for _ in range(5)}
    seen, cursor = [], ""
    while cursor is not None:
        page = api.expect(200, "GET", f"/v1/sessions/{session}/turns?limit=2{cursor and f'&cursor={cursor}'}")
        seen += [each["id"] for each in page["data"]]
        assert len(page["data"]) <= 2
        cursor = page["next_cursor"]
    assert len(seen) == 5
    assert set(seen) == turns


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/sessions", {"nonsense": 1}),
        ("/v1/sessions/{session}/turns", {}),
        ("/v1/sessions/{session}/turns", {"content": "   "}),
        ("/v1/sessions/{session}/turns", {"content": "x" * 32_001}),
        ("/v1/sessions/{session}/turns", {"content": "hi", "nonsense": 1}),
        ("/v1/sessions/{session}/turns", {"content": "hi", "multitask_strategy": "dance"}),
        ("/v1/sessions/{session}/turns", {"content": "hi", "deadline_seconds": -1}),
    ],
)
def test_a_wrong_field_is_named(api: Api, path: str, body: dict):
    problem = api.expect(422, "POST", path.format(session=api.session(user="alice")), json=body)
    assert problem["code"] == "validation_failed"
    assert all({"pointer", "detail"} <= error.keys() for error in problem["errors"])
    assert problem["errors"]


@pytest.mark.parametrize(
    "path", ["/v1/sessions", "/v1/sessions/{session}/turns", "/v1/sessions/{session}/messages"]
)
@pytest.mark.parametrize("query", ["limit=-1", "limit=0", "limit=101", "limit=x", "cursor=%00"])
def test_a_wrong_page_is_refused(api: Api, path: str, query: str):
    problem = api.expect(422, "GET", f"{path.format(session=api.session(user='alice'))}?{query}")
    assert problem["code"] == "validation_failed"


@pytest.mark.parametrize("bad_id", [MISSING, "nonsense", "1", "%00", "..%2f.."])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/sessions/{id}"),
        ("DELETE", "/v1/sessions/{id}"),
        ("GET", "/v1/sessions/{id}/messages"),
        ("GET", "/v1/turns/{id}"),
        ("GET", "/v1/turns/{id}/events"),
        ("POST", "/v1/turns/{id}/stop"),
    ],
)
def test_an_id_that_names_nothing_is_not_found(api: Api, method: str, path: str, bad_id: str):
    assert api.expect(404, method, path.format(id=bad_id))["code"] == "not_found"


def test_what_is_not_json_is_refused_and_so_is_a_body_over_a_megabyte(api: Api):
    path = f"/v1/sessions/{api.session(user='alice')}/turns"
    as_json = {"Content-Type": "application/json"}
    for content in (b"{", b"\xff\xfe", b'{"content":"' + b"[" * 100):
        answer = api.expect(400, "POST", path, content=content, headers=as_json)
        assert answer["code"] == "invalid_request"
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        answer = api.expect(
            400, "POST", path, content=b'{"content":"a"}', headers={"Content-Type": content_type}
        )
        assert answer["code"] == "invalid_request"
    answer = api.expect(413, "POST", path, content=b" " * (2**20 + 1), headers=as_json)
    assert answer["code"] == "payload_too_large"


def test_a_request_without_a_valid_key_is_unauthorized(stack: Service):
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Basic {stack.key()}"}):
        answer = httpx.get(f"{stack.url}/v1/sessions", headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_a_second_turn_is_refused_while_one_runs_and_the_refusal_names_it(api: Api):
    session = api.session(user="alice")
    turn_id = api.turn(session, "[[tokens=100000 rate=50]] busy")
    problem = api.expect(409, "POST", f"/v1/sessions/{session}/turns", json={"content": "and this"})
    assert (problem["code"], problem["active_turn_id"]) == ("session_busy", turn_id)
    assert api.stopped(turn_id)["status"] == "stopped"
    assert {each["turn_id"] for each in api.messages(session)} == {turn_id}


def test_a_closed_session_takes_no_turn_and_stays_readable(api: Api):
    turn = api.ask("[[tokens=3]] before the end")
    session = turn["session_id"]
    api.expect(204, "DELETE", f"/v1/sessions/{session}")
    problem = api.expect(409, "POST", f"/v1/sessions/{session}/turns", json={"content": "hello?"})
    assert problem["code"] == "session_closed"
    assert api.expect(200, "GET", f"/v1/sessions/{session}")["status"] == "closed"
    assert len(api.messages(session)) == 2


@pytest.mark.parametrize("call", ["pause", "approve-plan", "abort-plan"])
def test_what_needs_tools_is_not_supported_after_the_body_and_the_session_are_checked(api: Api, call: str):
    session = api.session(user="alice")
    problem = api.expect(501, "POST", f"/v1/sessions/{session}/{call}", json={})
    assert (problem["code"], problem["title"], problem["provider"]) == (
        "not_supported_on_provider",
        "NOT_SUPPORTED_ON_PROVIDER",
        "openai-compatible",
    )
    api.expect(404, "POST", f"/v1/sessions/{MISSING}/{call}", json={})
    api.expect(422, "POST", f"/v1/sessions/{session}/{call}", json={"nonsense": 1})


# --- the service itself ------------------------------------------------------------------------------


def test_a_request_id_is_echoed_and_a_traceparent_goes_on_to_the_provider(api: Api, scripted):
    trace = uuid.uuid4().hex
    session, marker = api.session(user="alice"), uuid.uuid4().hex
    answer = api.call(
        "POST",
        f"/v1/sessions/{session}/turns",
        json={"content": f"[[tokens=1]] {marker}"},
        headers={"X-Request-Id": "my-request-1", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
    )
    assert answer.headers["x-request-id"] == "my-request-1"
    api.final(answer.json()["id"])
    assert trace in scripted.record(marker)["headers"]["traceparent"]


def test_the_service_says_how_it_is_and_what_it_offers(api: Api):
    api.expect(200, "GET", "/healthz")
    ready = json.dumps(api.expect(200, "GET", "/readyz"))
    assert all(name in ready for name in ("postgres", "redis", "worker"))
    assert api.expect(200, "GET", "/openapi.json")["openapi"].startswith("3.1")
