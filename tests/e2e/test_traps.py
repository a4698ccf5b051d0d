"""The traps that the system before this one fell into, and what a crash may do, each with real processes.

The provider's own account decides what was asked of it and when its connection was closed; the service
is never asked about itself where somebody else can tell.
"""

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal

import httpx
import pytest
import redis

from tests.e2e.conftest import PROVIDER_KEY, Service
from tests.e2e.protocol_client import Api, Oracle, Reading, Socket, wait_until, websocket
from turnkeeper.up.embedded import temporary_postgres, temporary_redis

ENDLESS = "[[tokens=100000 rate=50]]"
SLOW = 4
"""Tokens a second of an answer that must not end before a test has acted on it."""
RETRY_SECONDS = 100
"""The `Retry-After` of a provider: longer than `Api.stopped` waits."""


@pytest.fixture
def marker() -> str:
    """A marker with which the provider's record of this test's requests is found."""
    return uuid.uuid4().hex


@pytest.fixture
def socket(stack: Service) -> Iterator[Socket]:
    with websocket(stack.url, stack.key()) as opened:
        yield opened


@pytest.fixture
def other(stack: Service, api: Api) -> Iterator[Api]:
    """A client that is served by another web process."""
    client = stack.api_beside(api)
    yield client
    client.close()


def streaming(api: Api, socket: Socket, content: str, **fields) -> Reading:
    """Begin a turn that the socket follows, and return once its text arrives."""
    session = api.session(user="alice")
    socket.subscribe(session)
    reading = Reading(api.turn(session, content, **fields), session)
    socket.until(lambda event: event["type"] == "content_delta", reading)
    return reading


# --- the flag ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """Servers for services that come one after another, of which nothing is asked here."""
    with temporary_postgres() as postgres, temporary_redis() as redis_server:
        yield {
            "DATABASE_URL": postgres.app_url,
            "DATABASE_OWNER_URL": postgres.owner_url,
            "REDIS_URL": redis_server.url,
        }


@pytest.mark.parametrize(
    ("flag", "dialect", "provider"),
    [
        ("openai-compatible", "openai", "openai-compatible"),
        ("anthropic", "anthropic", "anthropic"),
        ("", "anthropic", "anthropic"),
        ("scripted", "openai", "scripted"),
    ],
)
def test_the_flag_decides_where_the_request_really_goes(
    start_service, folder, scripted: Oracle, openai_compatible, servers, marker, flag, dialect, provider
):
    everything = {
        **openai_compatible,
        **servers,
        "MCP_LLM_PROVIDER": flag,
        "MCP_LLM_MODEL": "from-mcp",
        "ANTHROPIC_API_KEY": "sk-ant-secret",
        "ANTHROPIC_BASE_URL": scripted.url,
        "ANTHROPIC_MODEL": "from-anthropic",
        "SCRIPTED_BASE_URL": f"{scripted.url}/v1",
    }
    with start_service(folder, **everything) as service:
        turn = service.api().ask(f"[[tokens=3]] {marker}")
    (record,) = scripted.records(marker)
    assert record["dialect"] == dialect
    assert turn["status"] == "completed"
    assert (turn["provider"], turn["model"]) == (provider, record["model"])
    model = {"openai-compatible": "from-mcp", "anthropic": "from-anthropic", "scripted": "scripted"}[provider]
    assert record["model"] == model


# --- processes ---------------------------------------------------------------------------------------


def test_of_many_turns_posted_at_once_to_two_processes_one_is_accepted(stack: Service, api: Api, other: Api):
    session = api.session(user="alice")
    clients = [api, other, *(stack.api() for _ in range(6))]
    at_once = threading.Barrier(len(clients))

    def post(client: Api) -> httpx.Response:
        at_once.wait()
        return client.call("POST", f"/v1/sessions/{session}/turns", json={"content": ENDLESS})

    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(post, clients))
    accepted = [each.json()["id"] for each in answers if each.status_code == 202]
    refused = [each.json() for each in answers if each.status_code == 409]
    assert (len(accepted), len(refused)) == (1, len(clients) - 1)
    assert {each["active_turn_id"] for each in refused} == set(accepted)
    assert api.stopped(accepted[0])["status"] == "stopped"


PHASES = {
    "connecting": ("[[hang_headers=1]]", "received_ns"),
    "before the first token": ("[[first=60 tokens=5]]", "first_byte_ns"),
    "streaming": (ENDLESS, "first_token_ns"),
    "stalled in the stream": ("[[tokens=50 hang=5]]", "first_token_ns"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_stop_at_another_process_closes_the_providers_connection_in_every_phase(
    api: Api, other: Api, socket: Socket, scripted: Oracle, marker: str, phase: str
):
    script, reached = PHASES[phase]
    session = api.session(user="alice")
    socket.subscribe(session)
    reading = Reading(api.turn(session, f"{script} {marker}"), session)
    scripted.record(marker, has=reached)
    answer = other.stop(reading.turn_id)
    assert answer.status_code in {200, 202}
    record = scripted.record(marker, has="finished_ns")
    assert record["outcome"] == "client_disconnected"
    socket.until_done(reading)
    assert reading.is_whole
    turn = api.get_turn(reading.turn_id)
    assert (turn["status"], turn["stop_reason"]) == ("stopped", "user")
    assert turn["stop_requested_at"] <= turn["stop_observed_at"] <= turn["finished_at"]
    # What was consumed is billed: the prompt at least, and each token that was shown.
    assert Decimal(turn["cost_usd"]) > 0
    assert turn["usage"]["input_tokens"] > 0
    if reading.text:
        assert turn["usage"]["output_tokens"] > 0
        assert api.answer_to(turn) == reading.text
    assert other.stop(reading.turn_id).status_code == 200
    assert len(scripted.records(marker)) == 1


def test_a_stop_while_waiting_to_retry_ends_the_wait(api: Api, other: Api, scripted: Oracle, marker: str):
    turn_id = api.turn(
        api.session(user="alice"), f"[[status=503 retry_after={RETRY_SECONDS} tokens=5]] {marker}"
    )
    scripted.record(marker, has="finished_ns")
    turn = other.stopped(turn_id)
    assert (turn["status"], turn["stop_reason"]) == ("stopped", "user")
    assert len(scripted.records(marker)) == 1
    waited = datetime.fromisoformat(turn["finished_at"]) - datetime.fromisoformat(turn["started_at"])
    assert waited < timedelta(seconds=RETRY_SECONDS)


def test_a_turn_that_is_stopped_in_the_queue_costs_nothing_and_reaches_no_provider(
    stack: Service, api: Api, other: Api, socket: Socket, scripted: Oracle, marker: str
):
    session = api.session(user="alice")
    socket.subscribe(session)
    workers = stack.pids("worker")
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        reading = Reading(api.turn(session, f"[[tokens=5]] {marker}"), session)
        turn = other.stop(reading.turn_id).json()
        socket.until_done(reading)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    assert (turn["status"], turn["stop_reason"]) == ("stopped", "user")
    assert (Decimal(turn["cost_usd"]), turn["started_at"]) == (0, None)
    assert "turn_started" not in reading.types
    # The doorbell still rings for it: the next turn's answer shows that the workers are past that.
    assert api.ask("[[tokens=3]] next")["status"] == "completed"
    assert scripted.records(marker) == []
    assert api.get_turn(reading.turn_id)["status"] == "stopped"
    assert api.expect(200, "GET", f"/v1/sessions/{session}")["turn_count"] == 0


def test_a_stop_right_after_acceptance_stops_that_turn_and_never_the_one_before(
    api: Api, other: Api, scripted: Oracle, marker: str
):
    session = api.session(user="alice")
    before = api.ask("[[tokens=3]] before", session)
    turn = other.stopped(api.turn(session, f"{ENDLESS} {marker}"))
    assert turn["status"] == "stopped"
    assert api.get_turn(before["id"]) == before
    if scripted.records(marker):
        assert scripted.record(marker, has="finished_ns")["outcome"] == "client_disconnected"
    late = other.stop(before["id"])
    assert (late.status_code, late.json()["status"]) == (200, "completed")


def test_a_late_stop_does_not_hit_the_next_turn(api: Api, other: Api):
    session = api.session(user="alice")
    first = api.ask("[[tokens=3]] first", session)
    second = api.turn(session, "[[tokens=20 rate=40]] second")
    other.stop(first["id"])
    assert api.final(second)["status"] == "completed"


def test_deleting_a_session_at_another_process_stops_its_turn_and_tells_who_watches(
    api: Api, other: Api, socket: Socket, scripted: Oracle, marker: str
):
    reading = streaming(api, socket, f"{ENDLESS} {marker}")
    other.expect(204, "DELETE", f"/v1/sessions/{reading.session_id}")
    socket.until_done(reading)
    assert (reading.done["status"], reading.done["stop_reason"]) == ("stopped", "session_closed")
    assert reading.is_whole
    assert Decimal(reading.done["cost_usd"]) > 0
    assert scripted.record(marker, has="finished_ns")["outcome"] == "client_disconnected"
    assert api.expect(200, "GET", f"/v1/sessions/{reading.session_id}")["status"] == "closed"


# --- events ------------------------------------------------------------------------------------------


def test_the_title_reaches_who_subscribes_late(api: Api, socket: Socket):
    session = api.session(user="alice")
    # It runs until it is stopped, so that nobody comes too late.
    content = f"Where  does\nthe  river end? {ENDLESS} {'very ' * 30}long"
    turn_id = api.turn(session, content)
    shown = api.expect(200, "GET", f"/v1/sessions/{session}")["title"]
    reading = Reading(turn_id, session)
    for event in socket.subscribe(session)[1]:
        reading.take(event)
    api.stop(turn_id)
    socket.until_done(reading)
    assert reading.title == shown
    assert shown.startswith("Where does the river end?")
    assert shown.endswith("…")
    assert len(shown) <= 81


def test_events_carry_their_turn_so_the_end_of_one_never_runs_into_the_next(api: Api, socket: Socket):
    first = streaming(api, socket, ENDLESS)
    api.stopped(first.turn_id)
    second = Reading(api.turn(first.session_id, "[[tokens=5]] next"), first.session_id)
    readings = {each.turn_id: each for each in (first, second)}
    while second.done is None:
        event = socket.receive()
        readings[event["turn_id"]].take(event)
    assert [each.done["status"] for each in (first, second)] == ["stopped", "completed"]
    assert first.is_whole
    assert second.is_whole


def test_whoever_reads_again_on_done_sees_the_final_state(api: Api, socket: Socket):
    session = api.session(user="alice")
    socket.subscribe(session)
    for _ in range(10):
        reading = Reading(api.turn(session, "[[tokens=5]] final"), session)
        socket.until_done(reading)
        turn = api.get_turn(reading.turn_id)
        assert (turn["status"], turn["cost_usd"]) == ("completed", reading.done["cost_usd"])
        assert api.answer_to(turn) == reading.text
        shown = api.expect(200, "GET", f"/v1/sessions/{session}")
        assert shown["active_turn_id"] is None


# --- outcomes ----------------------------------------------------------------------------------------

FAILURES = {
    "an in-band error": ("tokens=9 error_after=4", "provider_overloaded", 4),
    "a plain JSON error with status 200": ("json=1", "provider_protocol", 0),
    "a page of HTML": ("html=1", "provider_protocol", 0),
    "an empty answer": ("empty=1", "provider_protocol", 0),
    "a cut connection": ("tokens=9 cut=4", "provider_protocol", 4),
    "a connection closed in the body": ("tokens=9 fin=4", "provider_protocol", 4),
    "an end without its mark": ("tokens=9 eof=4", "provider_protocol", 4),
    "a broken event": ("tokens=9 garbage=4", "provider_protocol", 4),
    "a tool call": ("tokens=4 tool_call=1", "tool_call_unsupported", 4),
    "a redirect": ("redirect=http://127.0.0.1:1/", "provider_protocol", 0),
    "a refusal": ("status=400", "provider_rejected", 0),
    "a refused key": ("status=401", "provider_auth", 0),
}


@pytest.mark.parametrize("what", FAILURES)
def test_what_is_no_answer_is_a_failure_and_keeps_the_text_that_was_shown(api: Api, what: str):
    script, code, least_tokens = FAILURES[what]
    session = api.session(user="alice")
    turn = api.ask(f"[[{script} rate=200]] fails", session, recovery="fail")
    reading = api.read(turn["id"])
    assert (turn["status"], turn["error"]["code"]) == ("failed", code), turn
    assert reading.types[-2:] == ["error", "done"]
    assert reading.is_whole
    assert api.answer_to(turn) == reading.text
    assert len(reading.text.split()) >= least_tokens
    if least_tokens:
        assert Decimal(turn["cost_usd"]) > 0
        (question, answer) = api.messages(session)
        assert (question["status"], answer["status"]) == ("complete", "partial")
    # Some chat templates refuse two questions in a row: the history must not hold the one that failed so.
    assert api.ask("[[tokens=3 strict_roles=1]] and now?", session)["status"] == "completed"
    shown = api.expect(200, "GET", f"/v1/sessions/{session}")
    assert shown["status"] == "active"
    assert shown["active_turn_id"] is None


SHAPES = {
    "usage in a last event without its blank line": "no_final_blank=2",
    "text after the terminal mark": "after_done=1",
    "an empty list of tool calls": "empty_tool_calls=1",
    "events over two data lines": "multiline=1",
    "CR line ends, a byte at a time": "newline=cr drip=1",
    "a byte order mark and CRLF": "bom=1 newline=crlf",
    "U+2028 inside an event": "u2028=1",
    "half an emoji": "lone_surrogate=1",
    "NUL": "nul=1",
    "an emoji in two deltas": "split_surrogates=1",
}


@pytest.mark.parametrize("what", SHAPES)
def test_an_unusual_stream_is_read_like_any_other(api: Api, scripted: Oracle, marker: str, what: str):
    turn = api.ask(f"[[tokens=6 {SHAPES[what]}]] {marker}")
    assert turn["status"] == "completed", turn["error"]
    reading = api.read(turn["id"])
    assert reading.is_whole
    assert api.answer_to(turn) == reading.text
    record = scripted.record(marker, has="finished_ns")
    assert turn["usage_source"] == "provider"
    assert turn["usage"]["output_tokens"] == record["output_tokens"]
    assert turn["usage"]["input_tokens"] == record["input_tokens"]
    if what not in {"half an emoji", "NUL", "an emoji in two deltas"}:
        assert reading.text == record["text"]


def test_the_history_holds_each_message_once_and_the_question_last(api: Api, scripted: Oracle, marker: str):
    session = api.session(user="alice")
    contents = [f"[[tokens=3]] {word} {marker}" for word in ("one", "two", "three")]
    answers = [api.answer_to(api.ask(content, session)) for content in contents]
    sent = scripted.record(marker)["messages"]
    said = [(each["role"], each["content"]) for each in sent if each["role"] != "system"]
    expected = [
        pair for q, a in zip(contents, answers, strict=True) for pair in (("user", q), ("assistant", a))
    ]
    assert said == expected[:-1]


def test_a_chat_only_provider_gets_a_chat_only_prompt(api: Api, scripted: Oracle, marker: str):
    api.ask(f"[[tokens=3]] {marker}")
    record = scripted.record(marker)
    assert "tools" not in record["fields"]
    assert "tool" not in record["system"].lower()
    assert record["include_usage"] is True


# --- secrets and strangers ---------------------------------------------------------------------------


@pytest.mark.parametrize("script", [{"status": 400}, {"status": 429}, {"error_after": 2}, {"json": True}])
def test_what_a_provider_says_in_an_error_is_repeated_nowhere(
    stack: Service, api: Api, scripted: Oracle, script: dict
):
    secret = f"sk-proj-{uuid.uuid4().hex}"
    session = api.session(user="alice")
    with scripted.scripted(tokens=5, error_type=secret, error_code=secret, **script):
        turn = api.ask("no directives here", session, recovery="fail")
    assert turn["status"] == "failed"
    said = [
        turn,
        api.page(turn["id"]),
        api.messages(session),
        api.expect(200, "GET", f"/v1/sessions/{session}"),
        api.expect(200, "GET", f"/v1/sessions/{session}/turns"),
    ]
    assert secret not in str(said)
    assert secret not in stack.logs()


def test_no_key_and_no_content_stands_in_a_log(stack: Service, api: Api, socket: Socket, marker: str):
    reading = streaming(api, socket, f"[[tokens=20 rate=100]] {marker}")
    socket.until_done(reading)
    api.call("POST", f"/v1/sessions/{reading.session_id}/turns", content=f'{{"content": "{marker}')
    logs = wait_until(lambda: stack.logs_with(reading.turn_id), "a line about the turn")
    for secret in (marker, PROVIDER_KEY, *(stack.key(role) for role in ("service", "user", "admin"))):
        assert secret not in logs


def test_a_colleague_can_neither_see_nor_touch_anothers_session(stack: Service, api: Api):
    session = api.session(user="mallory")
    turn_id = api.turn(session, ENDLESS)
    colleague = stack.api("user")
    own = colleague.session()
    assert colleague.expect(200, "GET", f"/v1/sessions/{own}")["user"] != "mallory"
    listed = colleague.expect(200, "GET", "/v1/sessions?limit=100")["data"]
    assert session not in {each["id"] for each in listed}
    for method, path in (
        ("GET", f"/v1/sessions/{session}"),
        ("DELETE", f"/v1/sessions/{session}"),
        ("GET", f"/v1/sessions/{session}/messages"),
        ("GET", f"/v1/sessions/{session}/turns"),
        ("GET", f"/v1/turns/{turn_id}"),
        ("GET", f"/v1/turns/{turn_id}/events"),
        ("POST", f"/v1/turns/{turn_id}/stop"),
    ):
        assert colleague.expect(404, method, path)["code"] == "not_found"
    body = {"content": "[[tokens=1]] intrude"}
    assert colleague.call("POST", f"/v1/sessions/{session}/turns", json=body).status_code == 404
    with websocket(stack.url, stack.key("user")) as opened:
        opened.send("subscribe", session_id=session)
        assert opened.receive()["type"] == "refused"
        opened.send("stop", turn_id=turn_id)
        assert opened.receive()["type"] == "refused"
    untouched = api.get_turn(turn_id)
    assert (untouched["stop_requested_at"], untouched["finished_at"]) == (None, None)
    assert api.stopped(turn_id)["status"] == "stopped"


# --- crashes -----------------------------------------------------------------------------------------


def test_everything_in_redis_may_be_lost_in_the_middle_of_a_turn(stack: Service, api: Api, socket: Socket):
    reading = streaming(api, socket, "[[tokens=120 rate=40]] flush")
    with redis.Redis.from_url(stack.state["redis_url"]) as client:
        client.flushall()
    assert api.get_turn(reading.turn_id)["status"] in {"running", "completed"}
    meanwhile = api.ask("[[tokens=3]] meanwhile")
    assert meanwhile["status"] == "completed"
    late = api.read(reading.turn_id)
    socket.until_done(reading)
    turn = api.final(reading.turn_id)
    assert turn["status"] == "completed"
    assert turn["usage"]["output_tokens"] == 120
    assert reading.is_whole
    assert late.is_whole


def test_a_turn_whose_worker_is_killed_is_run_again_and_the_reader_ends_with_the_exact_text(
    stack: Service, api: Api, socket: Socket, scripted: Oracle, marker: str
):
    with scripted.scripted(rate=SLOW):
        reading = streaming(api, socket, f"[[tokens=60]] {marker}")
    workers = stack.kill_workers(reading.turn_id)
    socket.until_done(reading)
    assert (reading.done["status"], reading.attempt) == ("completed", 2)
    assert reading.resets == 1
    assert reading.types.count("done") == 1
    assert reading.is_whole
    scripted.record(marker, has="finished_ns")
    outcomes = [each["outcome"] for each in scripted.records(marker)]
    assert outcomes == ["client_disconnected", "completed"]
    turn = api.get_turn(reading.turn_id)
    assert reading.text == scripted.records(marker)[1]["text"] == api.answer_to(turn)
    assert len(api.messages(reading.session_id)) == 2
    assert api.read(reading.turn_id).is_whole
    stack.await_pids("worker", workers)


def test_a_turn_that_asks_to_fail_when_its_worker_dies_keeps_its_text(
    stack: Service, api: Api, socket: Socket, scripted: Oracle, marker: str
):
    reading = streaming(api, socket, f"{ENDLESS} {marker}", recovery="fail")
    shown = reading.text
    workers = stack.kill_workers(reading.turn_id)
    socket.until_done(reading)
    assert (reading.done["status"], reading.done["error"]["code"]) == ("failed", "worker_lost")
    assert reading.is_whole
    assert reading.text.startswith(shown)
    assert Decimal(reading.done["cost_usd"]) > 0
    assert len(scripted.records(marker)) == 1
    stack.await_pids("worker", workers)


def test_a_worker_that_is_told_to_end_loses_no_turn(
    stack: Service, api: Api, socket: Socket, scripted: Oracle, marker: str
):
    brief = streaming(api, socket, f"[[tokens=40 rate=40]] brief {marker}")
    with websocket(stack.url, stack.key()) as second:
        with scripted.scripted(rate=SLOW):
            long = streaming(api, second, f"[[tokens=160]] long {marker}")
        workers = stack.pids("worker")
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        socket.until_done(brief)
        second.until_done(long)
    # What ends within the grace ends; what does not is handed on, and a deploy is not the turn's fault.
    assert (brief.done["status"], brief.resets) == ("completed", 0)
    assert long.done["status"] == "completed"
    assert brief.is_whole
    assert long.is_whole
    assert len(scripted.records(f"brief {marker}")) == 1
    stack.await_pids("worker", workers)


def test_a_relay_that_is_killed_costs_its_readers_a_reconnect_and_nothing_else(stack: Service, api: Api):
    session = api.session(user="alice")
    relays = stack.pids("relay")
    with websocket(stack.url, stack.key()) as first:
        first.subscribe(session)
        reading = Reading(api.turn(session, "[[tokens=100 rate=40]] relay"), session)
        first.until(lambda event: event["type"] == "content_delta", reading)
        for pid in relays:
            os.kill(pid, signal.SIGKILL)
    stack.await_pids("relay", relays)
    with websocket(stack.url, stack.key()) as second:
        _, replayed = second.subscribe(session, turn_id=reading.turn_id, after=reading.seq)
        for event in replayed:
            reading.take(event)
        second.until_done(reading)
    assert (reading.done["status"], reading.snapshots) == ("completed", [])
    assert reading.is_whole


def test_a_turn_survives_the_end_and_the_next_start_of_the_whole_service(
    start_service, folder, openai_compatible, scripted: Oracle, marker: str
):
    with start_service(folder, **{**openai_compatible, "DRAIN_SECONDS": "0.5"}) as service:
        api = service.api()
        turn_id = api.turn(api.session(user="alice"), f"[[tokens=80 rate=20]] {marker}")
        scripted.record(marker, has="first_token_ns")
        assert service.end(signal.SIGTERM) == []
    with start_service(folder, **openai_compatible) as service:
        api = service.api()
        turn = api.final(turn_id)
        assert turn["status"] == "completed"
        assert api.read(turn_id).is_whole
