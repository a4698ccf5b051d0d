"""How what a provider does wrong is named."""

from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.configuration.provider_settings import ProviderName
from shared.errors import Fault, ProviderError
from worker.providers.faults import (
    error_of_response,
    error_of_transport,
    fault_of_error,
    fault_of_status,
    known_kinds,
    retry_after_ms,
)
from worker.providers.registration import error_names_of
from worker.providers.said import Discretion

NAMES = error_names_of(ProviderName.OPENAI_COMPATIBLE)
NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3000),
        ({"retry-after": " 3 "}, 3000),
        ({"retry-after": "0.5"}, 500),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "999999999"}, 86_400_000),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Sat, 31 Jan 2026 09:30:20 GMT"}, 20_000),
        ({"retry-after": "Sat, 31 Jan 2026 09:29:00 GMT"}, 0),
        ({"retry-after": "Sat, 31 Jan 2099 09:29:00 GMT"}, 86_400_000),
        ({"retry-after": "Sat, 31 Jan 2026 10:30:20 +0100"}, 20_000),
        ({"retry-after": "99 Jan 2026"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 250),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9000),
    ],
)
def test_the_time_to_wait_is_read_in_every_form_and_bounded(headers, expected):
    assert retry_after_ms(httpx.Headers(headers), NOW) == expected


@given(st.text(max_size=40))
def test_no_retry_after_is_too_odd_to_read(value):
    headers = httpx.Headers([(b"retry-after", value.encode("utf-8"))])
    waited = retry_after_ms(headers, NOW)
    assert waited is None or 0 <= waited <= 86_400_000


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"type": "overloaded_error"}, Fault.PROVIDER_OVERLOADED),
        ({"type": "server_error", "code": None}, Fault.PROVIDER_OVERLOADED),
        ({"type": "BadRequestError", "code": 400}, Fault.PROVIDER_REJECTED),
        ({"type": "NotFoundError", "code": 404}, Fault.PROVIDER_REJECTED),
        ({"type": None, "code": 429}, Fault.PROVIDER_RATE_LIMITED),
        ({"code": "500", "message": "x"}, Fault.PROVIDER_OVERLOADED),
        ({"code": 401}, Fault.PROVIDER_AUTH),
        ({"type": "requests", "code": "rate_limit_exceeded"}, Fault.PROVIDER_RATE_LIMITED),
        ({"type": "insufficient_quota", "code": "insufficient_quota"}, Fault.PROVIDER_RATE_LIMITED),
        ({"type": "invalid_request_error", "code": "context_length_exceeded"}, Fault.CONTEXT_TOO_LONG),
        ({"type": "exceed_context_size_error", "code": 400}, Fault.CONTEXT_TOO_LONG),
        (
            {"type": "BadRequestError", "code": 400, "message": "This model's maximum context length is 8"},
            Fault.CONTEXT_TOO_LONG,
        ),
        ({"type": "server_error", "message": "maximum context length"}, Fault.PROVIDER_OVERLOADED),
        ({"message": "prompt is too long"}, Fault.PROVIDER_PROTOCOL),
        ({"code": 200}, Fault.PROVIDER_PROTOCOL),
        ({"code": True}, Fault.PROVIDER_PROTOCOL),
        ({"type": ["a"], "code": {"b": 1}}, Fault.PROVIDER_PROTOCOL),
        ({}, Fault.PROVIDER_PROTOCOL),
        ("overloaded_error", Fault.PROVIDER_PROTOCOL),
        (None, Fault.PROVIDER_PROTOCOL),
        ([], Fault.PROVIDER_PROTOCOL),
    ],
)
def test_an_error_object_is_named_by_its_code_or_type(error, fault):
    assert fault_of_error(error, NAMES) is fault


@given(st.integers(100, 599))
def test_every_status_has_a_fault(status):
    fault = fault_of_status(status)
    assert (fault is Fault.PROVIDER_PROTOCOL) == (status < 400)
    assert (fault is Fault.PROVIDER_OVERLOADED) == (status >= 500)


@pytest.mark.parametrize(
    ("status", "may_repeat"),
    [(408, True), (409, True), (425, True), (400, None), (404, None), (422, None), (429, None), (503, None),
     (201, False), (204, False), (302, False), (307, False)],
)  # fmt: skip
def test_a_status_says_whether_the_same_request_may_succeed_a_moment_later(status, may_repeat):
    assert (
        error_of_response(status, httpx.Headers(), b"{}", NOW, NAMES, Discretion()).may_repeat is may_repeat
    )


@pytest.mark.parametrize("body", [b"", b"\xff", b"[", b"[]", b"5", b'{"error":[1]}', b"[" * 9000])
def test_a_refusal_with_any_body_is_named_by_its_status(body):
    error = error_of_response(400, httpx.Headers(), body, NOW, NAMES, Discretion())
    assert (error.fault, error.detail) == (
        Fault.PROVIDER_REJECTED,
        "the model provider rejected the request (status 400)",
    )


def test_a_status_of_overload_is_not_renamed_by_its_body():
    body = b'{"error":{"code":"context_length_exceeded"}}'
    assert (
        error_of_response(503, httpx.Headers(), body, NOW, NAMES, Discretion()).fault
        is Fault.PROVIDER_OVERLOADED
    )
    assert (
        error_of_response(413, httpx.Headers(), body, NOW, NAMES, Discretion()).fault
        is Fault.CONTEXT_TOO_LONG
    )


@pytest.mark.parametrize(
    ("exc", "answered", "fault"),
    [
        (httpx.ConnectTimeout("x"), False, Fault.PROVIDER_TIMEOUT),
        (httpx.PoolTimeout("x"), False, Fault.PROVIDER_TIMEOUT),
        (httpx.WriteTimeout("x"), False, Fault.PROVIDER_TIMEOUT),
        (httpx.ReadTimeout("x"), True, Fault.PROVIDER_TIMEOUT),
        (httpx.ConnectError("x"), False, Fault.PROVIDER_UNREACHABLE),
        (httpx.WriteError("x"), False, Fault.PROVIDER_UNREACHABLE),
        (httpx.ReadError("x"), False, Fault.PROVIDER_UNREACHABLE),
        (httpx.ReadError("x"), True, Fault.PROVIDER_PROTOCOL),
        (httpx.RemoteProtocolError("x"), False, Fault.PROVIDER_PROTOCOL),
        (httpx.RemoteProtocolError("x"), True, Fault.PROVIDER_PROTOCOL),
        (httpx.LocalProtocolError("x"), False, Fault.INTERNAL),
        (httpx.UnsupportedProtocol("x"), False, Fault.INTERNAL),
    ],
)
def test_a_failed_exchange_is_named_and_says_whether_it_was_sent(exc, answered, fault):
    for sent in (True, False):
        error = error_of_transport(exc, sent=sent, answered=answered)
        assert isinstance(error, ProviderError)
        assert (error.fault, error.sent) == (fault, sent)


@given(st.one_of(st.text(), st.integers(), st.lists(st.text()), st.none()))
def test_of_a_providers_error_only_names_that_are_known_reach_the_log(word):  # I10
    known = {"type": "overloaded_error", "code": "529"}
    assert known_kinds({**known, "message": word, "param": word}, NAMES) == ["529", "overloaded_error"]
    for kind in known_kinds({"type": word, "code": word}, NAMES):
        assert fault_of_error({"type": kind}, NAMES) is not Fault.PROVIDER_PROTOCOL
        assert kind == str(word).lower()
    assert known_kinds({"type": "sk-ant-api03-SECRETSECRET", "code": "what you asked"}, NAMES) == []
    assert known_kinds(word, NAMES) == []
