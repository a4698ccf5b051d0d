"""Which calls are tried again, how often and how late: without a network."""

import inspect
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from turnkeeper_client import (
    KEEP,
    ApiError,
    AsyncClient,
    BudgetExceededError,
    Client,
    ConnectionFailedError,
    Limits,
    ProtocolError,
    RateLimitedError,
    SessionBusyError,
    TimeLimitError,
    TurnkeeperError,
    Via,
    calls,
    errors,
)
from turnkeeper_client.asking import Progress, Question, ask, wait_for_turn
from turnkeeper_client.exchange import Call, exchange
from turnkeeper_client.retry import retry_after_of
from turnkeeper_client.steps import Lost, Received, Reply, Send

from clients.python.tests import wire
from clients.python.tests.wire import LOST, Service, answer, log_of, means, problem

SESSION = {
    "id": "s",
    "user": "ada",
    "title": None,
    "status": "active",
    "provider": "scripted",
    "model": "scripted",
    "system_prompt": None,
    "max_turns": 50,
    "turn_count": 0,
    "usage": {"input_tokens": 1, "output_tokens": 2, "nanotokens": 3},
    "cost_usd": "0.001230",
    "active_turn_id": None,
    "flagged": False,
    "metadata": {},
    "created_at": "2026-01-31T09:30:00.000Z",
    "last_activity_at": "2026-01-31T09:30:00.000Z",
    "a_field_of_tomorrow": {},
}
TURN = {
    "id": "t",
    "session_id": "s",
    "status": "queued",
    "attempt": 0,
    "provider": "scripted",
    "model": "scripted",
    "message_id": None,
    "user_message_id": "m",
    "finish_reason": None,
    "stop_reason": None,
    "usage": {},
    "cost_usd": "0.000000",
    "usage_source": None,
    "error": None,
    "last_seq": 1,
    "history_trimmed": 0,
    "queued_at": "2026-01-31T09:30:00.000Z",
    "started_at": None,
    "first_token_at": None,
    "stop_requested_at": None,
    "stop_observed_at": None,
    "finished_at": None,
    "metadata": {},
    "links": {},
}


def run(call: Call, replies: list[Reply], **policy: float) -> tuple[object, Service]:
    """Exchange a call with a network that answers so."""
    service = Service([])
    left = iter(replies)
    service.answers = {call.path: lambda step: next(left)}
    try:
        return service.run(exchange(call, means(service.clock, **policy))), service
    except TurnkeeperError as error:
        return error, service


def test_a_turn_that_is_posted_again_has_the_same_key_and_body():
    call = calls.create_turn("s", "Hello")
    turn, service = run(call, [LOST, problem(503, "unavailable"), LOST, answer(TURN, 202)])
    assert turn.id == "t"
    assert len(service.sent) == 4
    assert len({json.dumps([dict(each.headers), dict(each.body)]) for each in service.sent}) == 1
    assert service.sent[0].headers["Idempotency-Key"]
    assert calls.create_turn("s", "Hello").headers != call.headers


def test_what_cannot_be_repeated_is_only_sent_again_when_it_did_not_arrive():
    call = calls.create_session(user="ada")
    session, service = run(
        call, [Lost("refused", was_sent=False), problem(429, "rate_limited"), answer(SESSION, 201)]
    )
    assert (session.user, session.cost_usd, len(service.sent)) == ("ada", Decimal("0.001230"), 3)
    assert session.usage.output_tokens == 2
    for reply in (LOST, problem(500, "internal"), problem(503, "unavailable"), Received(502)):
        failed, service = run(call, [reply])
        assert isinstance(failed, ConnectionFailedError | ApiError)
        assert len(service.sent) == 1


@pytest.mark.parametrize(
    ("status", "code", "tries"),
    [
        (400, "invalid_request", 1),
        (401, "unauthorized", 1),
        (402, "budget_exceeded", 1),
        (403, "ai_disabled", 1),
        (404, "not_found", 1),
        (408, "request_timeout", 6),
        (431, "headers_too_large", 1),
        (409, "session_busy", 1),
        (409, "idempotency_in_progress", 6),
        (409, "session_closed", 1),
        (410, "session_expired", 1),
        (422, "idempotency_conflict", 1),
        (429, "turn_limit_reached", 1),
        (429, "rate_limited", 6),
        (429, "too_many_turns", 6),
        (500, "internal", 6),
        (501, "not_supported_on_provider", 1),
        (503, "queue_full", 6),
        (503, "unavailable", 6),
        (418, "of_tomorrow", 1),
    ],
)
def test_each_refusal_is_an_error_of_its_own_and_tried_again_where_that_helps(
    status: int, code: str, tries: int
):
    failed, service = run(calls.create_turn("s", "Hello"), [problem(status, code)] * 6)
    assert type(failed) is errors.CLASSES.get(code, ApiError)
    assert (failed.status, failed.code, failed.request_id) == (status, code, "r-1")
    assert len(service.sent) == tries


def test_every_code_of_the_reference_has_a_class():
    from shared.errors import ProblemCode

    unasked = {
        "method_not_allowed",
        "not_acceptable",
        "internal",
        "upgrade_required",
    }  # no call of this client is answered so by design
    assert set(errors.CLASSES) == {code.value for code in ProblemCode} - unasked


def test_own_members_of_a_problem_are_kept():
    refused = problem(
        402, "budget_exceeded", period="day", limit_usd="1", errors=[{"pointer": "/a", "detail": "b"}]
    )
    failed, _ = run(calls.create_turn("s", "Hello"), [refused])
    assert isinstance(failed, BudgetExceededError)
    assert failed.members == {"period": "day", "limit_usd": "1"}
    assert failed.errors == ({"pointer": "/a", "detail": "b"},)
    busy, _ = run(calls.create_turn("s", "Hello"), [problem(409, "session_busy", active_turn_id="t")])
    assert isinstance(busy, SessionBusyError)
    assert busy.members["active_turn_id"] == "t"


def test_retry_after_is_obeyed_and_one_that_is_too_late_is_said():
    limited = problem(429, "rate_limited", {"retry-after": "7"})
    turn, service = run(calls.create_turn("s", "Hello"), [limited, answer(TURN, 202)])
    assert turn.id == "t"
    assert 7 <= service.pauses[0] < 8
    limited = problem(429, "rate_limited", {"retry-after": "7"}, retry_after_ms=300_000)
    failed, service = run(calls.create_turn("s", "Hello"), [limited])
    assert isinstance(failed, RateLimitedError)
    assert (failed.retry_after, service.pauses) == (300.0, [])


def test_the_tries_of_a_call_end_in_time():
    failed, service = run(calls.get_session("s"), [LOST] * 99, tries=99, limit_seconds=20)
    assert isinstance(failed, ConnectionFailedError)
    assert service.clock.now <= 1020
    assert service.sent[-1].limit_seconds <= 20

    def slow(step: Send) -> Reply:
        service.clock.now += step.limit_seconds
        return LOST

    service = Service([])
    service.answers = {"/v1/sessions/s": slow}
    with pytest.raises((ConnectionFailedError, TimeLimitError)):
        service.run(exchange(calls.get_session("s"), means(service.clock)))
    assert service.clock.now <= 1060


def test_the_time_limit_of_a_question_is_kept_while_its_turn_goes_on():
    service = Service(
        log_of(["One "])[:4], answers={f"/v1/sessions/{wire.SESSION}/turns": lambda step: posted}
    )
    posted = answer(TURN | {"id": wire.TURN, "session_id": wire.SESSION}, 202)
    begun = service.clock.now
    question, progress = Question("Hello", wire.SESSION, None, {}), Progress()
    with pytest.raises(TimeLimitError):
        service.run(ask(question, progress, means(service.clock, reconnect_seconds=1e9), Via.WEBSOCKET, 100))
    assert 100 <= service.clock.now - begun < 102
    assert progress.follower is not None
    assert progress.follower.reading.text == "One "


def test_without_a_place_to_wait_a_client_looks_until_the_turn_is_over():
    service = Service([])
    statuses = iter(["running", "running", "completed"])

    def refused(step: Send) -> Reply:
        if "wait" in step.query:
            return problem(429, "rate_limited", {"retry-after": "5"}, scope="waits")
        return answer(TURN | {"status": next(statuses)})

    service.answers = {"/v1/turns/t": refused}
    assert service.run(wait_for_turn("t", means(service.clock), 900)).status == "completed"
    assert min(service.pauses[:1]) >= 5


def test_a_wait_for_a_turn_asks_again_until_it_is_over_or_the_limit_is():
    service = Service([])
    statuses = iter(["queued", "running", "running", "completed"])

    def held(step: Send) -> Reply:
        service.clock.now += int(step.query.get("wait", 0))
        return answer(TURN | {"status": next(statuses)})

    service.answers = {"/v1/turns/t": held}
    assert service.run(wait_for_turn("t", means(service.clock), 900)).status == "completed"
    statuses = iter(["running"] * 99)
    begun = service.clock.now
    with pytest.raises(TimeLimitError):
        service.run(wait_for_turn("t", means(service.clock), 70))
    assert 70 <= service.clock.now - begun < 72


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{}", b'{"id": 1}', b"[" * 50_000, json.dumps(SESSION | {"flagged": 1}).encode()],
)
def test_an_answer_that_is_none_is_a_clear_error(body: bytes):
    failed, _ = run(calls.get_session("s"), [Received(200, {}, body)])
    assert isinstance(failed, ProtocolError)


def test_a_page_of_something_in_between_is_no_problem_of_the_service():
    html = Received(502, {"content-type": "text/html", "retry-after": "1"}, b"<h1>Bad gateway</h1>")
    failed, service = run(calls.get_session("s"), [html] * 6)
    assert type(failed) is ApiError
    assert (failed.code, failed.status, failed.retry_after, len(service.sent)) == ("", 502, 1.0, 6)
    assert "Bad gateway" not in str(failed)


def test_retry_after_is_seconds_or_a_date_or_nothing():
    now = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    assert retry_after_of({"retry-after": " 12 "}, {}, now) == 12
    assert retry_after_of({"retry-after": "Sat, 31 Jan 2026 09:31:00 GMT"}, {}, now) == 60
    assert retry_after_of({"retry-after": "Sat, 31 Jan 2026 09:29:00 GMT"}, {}, now) == 0
    assert retry_after_of({"retry-after": "12"}, {"retry_after_ms": 250}, now) == 0.25
    for said in ("", "soon", "-1", "1e9", "9" * 30):
        assert retry_after_of({"retry-after": said}, {"retry_after_ms": True}, now) is None


def test_ids_cannot_reach_another_path():
    assert calls.get_turn("../keys?x=1#").path == "/v1/turns/..%2Fkeys%3Fx%3D1%23"
    assert calls.get_turn("..").path == calls.get_turn("").path == "/v1/turns/-"


def test_requests_say_what_was_given_and_nothing_else():
    assert calls.create_session(user="ada").body == {"user": "ada"}
    assert calls.update_session("s", title=None).body == {"title": None}
    assert calls.update_session("s", title=KEEP, metadata={}).body == {"metadata": {}}
    assert calls.put_budget(Limits(daily_usd=Decimal("1E+2"))).body["daily_usd"] == "100"
    for key in ("a b", "ä", "", "x" * 256, "a\r\nX: y"):
        if key:
            with pytest.raises(ValueError, match="visible ASCII"):
                calls.create_turn("s", "Hello", idempotency_key=key)


def test_both_clients_have_the_same_methods_with_the_same_arguments():
    def public(kind: type) -> dict[str, inspect.Signature]:
        renamed = {"aclose": "close"}
        found = {name: member for name, member in vars(kind).items() if not name.startswith("_")}
        return {
            renamed.get(name, name): inspect.signature(member).replace(return_annotation=None)
            for name, member in found.items()
            if callable(member)
        }

    ours, theirs = public(Client), public(AsyncClient)
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if str(ours[name]) != str(theirs[name])} == {"every"}
    assert "Idempotency" in (Client.create_turn.__doc__ or "") or "idempotency_key" in (
        Client.create_turn.__doc__ or ""
    )


def test_every_operation_of_the_api_has_a_method():
    page = Path(__file__).parents[3] / "docs" / "reference" / "openapi.json"
    operations = {
        operation["operationId"]
        for path in json.loads(page.read_text())["paths"].values()
        for operation in path.values()
        if isinstance(operation, dict) and "operationId" in operation
    }
    renamed = {"healthz": "get_health", "readyz": "get_readiness"}
    assert {renamed.get(name, name) for name in operations} <= set(vars(Client))


@pytest.mark.parametrize("key", ["", "tk key", "ké", "tk\r\nX: y"])
def test_a_key_that_can_be_none_is_refused_and_not_repeated(key: str):
    with pytest.raises(ValueError, match="key must be") as raised:
        Client("http://127.0.0.1:1", key)
    assert not key or key not in str(raised.value)


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://x", "http://", "http://u:p@x", "http://x/?a=b"])
def test_an_address_that_can_be_none_is_refused(url: str):
    with pytest.raises(ValueError, match="url must"):
        Client(url, "tk_key")


def test_the_key_goes_with_requests_and_stands_in_nothing_that_is_shown():
    asked: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(307, headers={"Location": "http://elsewhere.example/"})

    with Client("http://x/base/", "tk_secret", transport=httpx.MockTransport(respond)) as client:
        with pytest.raises(ApiError) as raised:
            client.get_session("s")
        # A redirect is not followed: the key is for the service that was named.
        assert [str(request.url) for request in asked] == ["http://x/base/v1/sessions/s"]
        assert asked[0].headers["authorization"] == "Bearer tk_secret"
        assert "tk_secret" not in repr(client) + repr(raised.value) + repr(vars(client)["_address"])
