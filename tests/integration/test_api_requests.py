"""Errors that any request can make, and what every response contains."""

import gzip
import json
import logging

import pytest
from openapi_spec_validator import validate

from api.app import create_app
from api.openapi import openapi_document
from api.routes import OPERATIONS
from shared.configuration.settings import load_settings
from shared.errors import SettingsError, UnavailableError


def post_raw(api, key, data, content_type="application/json", **options):
    return api.post("/v1/sessions", key, data=data, content_type=content_type, **options)


def test_what_is_not_json_is_refused(api, keys):
    for data in (
        b"",
        b"{",
        b"{'title': 1}",
        b"null x",
        b'{"title": NaN}',
        b'{"metadata": {"x": Infinity}}',
        b'{"metadata": {"x": -Infinity}}',
        b'{"metadata": {"x": 1e999}}',
        b'{"title": "a", "title": "b"}',
        b'{"metadata": {"x": {"y": 1, "y": 1}}}',
        b'{"title": "\xff"}',
        b'{"title": "\xed\xa0\x80"}',
        b'{"title": "a\x00b"}',
        '{"title": "a"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"title": "a"}',
        b"1" * 5_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"metadata": ' + b'{"a":' * 100 + b"1" + b"}" * 100 + b"}",
    ):
        answer = post_raw(api, keys.alice, data)
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request"), data[:40]
    assert api.get("/v1/sessions", keys.alice).json["data"] == []


def test_json_that_is_no_object_is_a_wrong_field(api, keys):
    for data in (b"[]", b"null", b'"x"', b"5", b"true"):
        answer = post_raw(api, keys.alice, data)
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, ""), data


def test_metadata_may_be_nested_as_deep_as_anyone_needs(api, keys):
    nested = b'{"metadata": ' + b'{"a":' * 60 + b"1" + b"}" * 60 + b"}"
    assert post_raw(api, keys.alice, nested).status_code == 201


def test_brackets_in_a_text_are_not_depth(api, keys):
    assert post_raw(api, keys.alice, json.dumps({"metadata": {"x": "[" * 1000}})).status_code == 201


def test_a_body_of_another_type_is_refused(api, keys):
    for content_type in (
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin-1",
        "multipart/form-data; boundary=x",
    ):
        answer = post_raw(api, keys.alice, b'{"title": "a"}', content_type)
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request"), content_type
    assert post_raw(api, keys.alice, b"{}", "application/json; charset=UTF-8").status_code == 201


def test_nul_and_half_characters_are_named_by_their_pointer(api, keys):
    for body, pointer in (
        (b'{"title": "a\\u0000b"}', "/title"),
        (b'{"title": "\\ud83d"}', "/title"),
        (b'{"metadata": {"a": ["x", "\\udc00"]}}', "/metadata/a/1"),
        (b'{"metadata": {"\\u0000": 1}}', "/metadata/\ufffd"),
    ):
        answer = post_raw(api, keys.alice, body)
        assert (answer.status_code, answer.json["code"]) == (422, "validation_failed"), body
        assert answer.json["errors"][0]["pointer"] == pointer
    whole = post_raw(api, keys.alice, b'{"title": "\\ud83d\\ude00"}')
    assert (whole.status_code, whole.json["title"]) == (201, "\N{GRINNING FACE}")


def test_a_body_over_a_mebibyte_is_too_large(api, keys):
    answer = post_raw(api, keys.alice, b" " * 1_048_577)
    assert (answer.status_code, answer.json["code"]) == (413, "payload_too_large")


def test_a_body_of_unknown_length_is_bounded_too(api, keys):
    import io

    def chunked(size):
        return api.post(
            "/v1/sessions",
            keys.alice,
            input_stream=io.BytesIO(b"{}" + b" " * size),
            content_type="application/json",
            environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
        )

    assert chunked(0).status_code == 201
    assert chunked(2_000_000).status_code == 413


def test_a_compressed_body_is_refused(api, keys):
    answer = post_raw(api, keys.alice, gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400


def test_a_path_that_is_not_there_is_not_found(api, keys):
    for path in (
        "/v1",
        "/v1/",
        "/v1/sessions/",
        "//v1/sessions",
        "/v1//sessions",
        "/v2/sessions",
        "/v1/Sessions",
    ):
        answer = api.get(path, keys.alice)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found"), path
        assert answer.mimetype == "application/problem+json"


def test_a_method_that_a_path_does_not_take_says_which_it_takes(api, keys):
    answer = api.call("PUT", "/v1/sessions", keys.alice)
    assert (answer.status_code, answer.json["code"]) == (405, "method_not_allowed")
    assert {name.strip() for name in answer.headers["Allow"].split(",")} == {"GET", "HEAD", "OPTIONS", "POST"}


def test_head_and_options_are_answered(api, keys):
    head = api.call("HEAD", "/v1/sessions", keys.alice)
    assert (head.status_code, head.data) == (200, b"")
    options = api.call("OPTIONS", "/v1/sessions")
    assert options.status_code == 200
    assert "POST" in options.headers["Allow"]
    assert "Access-Control-Allow-Origin" not in options.headers


def test_a_request_id_is_echoed_when_it_is_one(api, keys):
    assert (
        api.get("/healthz", headers={"X-Request-Id": "abc-DEF_123"}).headers["X-Request-Id"] == "abc-DEF_123"
    )
    for sent in ("", "a b", "x" * 65, "é", "a\tb", "<x>"):
        got = api.get("/healthz", headers={"X-Request-Id": sent.encode().decode("latin-1")}).headers[
            "X-Request-Id"
        ]
        assert got != sent
        assert 1 <= len(got) <= 64


def test_every_answer_carries_a_request_id_and_is_not_sniffed_or_stored(api, keys, missing_id):
    for path, key in (
        ("/healthz", None),
        ("/v1/sessions", keys.alice),
        ("/v1/sessions", None),
        (f"/v1/turns/{missing_id}", keys.alice),
        ("/nowhere", None),
        ("/openapi.json", None),
    ):
        answer = api.get(path, key)
        assert answer.headers["X-Request-Id"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        if answer.status_code >= 400:
            assert answer.json["request_id"] == answer.headers["X-Request-Id"]
            assert answer.json["status"] == answer.status_code
            assert answer.json["type"].endswith(answer.json["code"])


def test_an_unexpected_error_tells_nothing_and_is_logged_under_the_requests_id(
    api, keys, monkeypatch, caplog
):
    def fail(*_args, **_kwargs):
        raise RuntimeError("select secret from diary")

    monkeypatch.setattr("api.statements.sessions.list_sessions", fail)
    with caplog.at_level(logging.ERROR):
        answer = api.get("/v1/sessions", keys.alice, headers={"X-Request-Id": "r1"})
    assert (answer.status_code, answer.json["code"]) == (500, "internal")
    assert "diary" not in answer.text
    assert any(record.exc_info for record in caplog.records)


def test_postgres_away_is_unavailable_and_says_when_to_try_again(api, keys, monkeypatch):
    def fail(*_args, **_kwargs):
        raise UnavailableError("the database cannot be reached")

    monkeypatch.setattr("api.statements.sessions.list_sessions", fail)
    answer = api.get("/v1/sessions", keys.alice)
    assert (answer.status_code, answer.json["code"], answer.json["retryable"]) == (503, "unavailable", True)
    assert answer.json["retry_after_ms"] >= 1
    assert int(answer.headers["Retry-After"]) >= 1


def test_the_log_line_of_a_request_has_its_pattern_and_no_content(api, keys, caplog):
    session = api.session(keys.alice)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="turnkeeper.requests"):
        api.post(f"/v1/sessions/{session}/turns", keys.alice, json={"content": "my diary"})
    (record,) = [record for record in caplog.records if record.name == "turnkeeper.requests"]
    assert record.route == "/v1/sessions/<session_id>/turns"
    assert (record.method, record.status) == ("POST", 202)
    assert "diary" not in str(vars(record))
    assert keys.alice not in str(vars(record))


def test_the_openapi_page_is_valid_and_names_every_operation(api):
    served = api.get("/openapi.json").json
    assert served == json.loads(json.dumps(openapi_document()))
    validate(served)
    assert served["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, methods in served["paths"].items() for method in methods}
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}
    routed = {
        (method, str(rule.rule).replace("<", "{").replace(">", "}"))
        for rule in api.app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/v1") and rule.rule != "/v1/stream"
    }
    assert routed <= described


def test_health_needs_no_key(api):
    assert (api.get("/healthz").status_code, api.get("/healthz").json) == (200, {"status": "ok"})


def test_readiness_names_each_part(api, as_owner):
    without = api.get("/readyz")
    assert (without.status_code, without.json["status"]) == (503, "degraded")
    assert without.json["checks"]["postgres"]["ok"] is True
    assert without.json["checks"]["redis"]["ok"] is True
    assert without.json["checks"]["worker"]["ok"] is False
    as_owner("insert into turnkeeper.workers (id) values (gen_random_uuid())")
    ready = api.get("/readyz")
    assert (ready.status_code, ready.json["status"]) == (200, "ok")
    as_owner("update turnkeeper.workers set renewed_at = now() - interval '16 seconds'")
    assert api.get("/readyz").status_code == 503


def test_a_deaf_worker_is_told_from_a_healthy_one(api, as_owner):
    deaf = "insert into turnkeeper.workers (id, heard_at) values (gen_random_uuid(), now() - interval '61 seconds')"
    as_owner(deaf)
    answer = api.get("/readyz")
    assert answer.status_code == 503
    assert "doorbell" in answer.json["checks"]["worker"]["detail"]
    as_owner("insert into turnkeeper.workers (id) values (gen_random_uuid())")
    assert api.get("/readyz").status_code == 200


def test_a_powerful_role_is_refused_at_boot(environment, owner_url):
    with pytest.raises(SettingsError, match="superuser"):
        create_app("web", load_settings(environment | {"DATABASE_URL": owner_url}))


def test_boot_needs_postgres(environment):
    unreachable = "postgresql://nobody:x@127.0.0.1:1/none"
    with pytest.raises(UnavailableError):
        create_app("web", load_settings(environment | {"DATABASE_URL": unreachable}))


def test_what_an_operator_should_know_is_said_at_boot(environment, caplog):
    settings = load_settings(
        environment
        | {
            "MCP_LLM_PROVIDER": "openai-compatible",
            "MCP_LLM_BASE_URL": "http://127.0.0.1:9/v1",
            "MCP_LLM_MODEL": "m",
            "MCP_LLM_API_KEY": "k",
        }
    )
    create_app("relay", settings).extensions["turnkeeper"].close()
    assert "cost tracking and budgets do nothing" in caplog.text


def test_the_page_is_served_under_a_strict_policy(api):
    answer = api.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert answer.mimetype == "text/html"
    for directive in (
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    ):
        assert directive in policy
    assert "ws://localhost" in policy
    assert "unsafe" not in policy
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    again = api.get("/", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304
    for path, module in (("/", "chat.js"), ("/usage", "usage.js"), ("/operations", "operations.js")):
        assert f'<link rel="modulepreload" href="/page/{module}">' in api.get(path).text


def test_the_page_gives_out_no_other_file(api):
    for path in (
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/..%2fapp.py",
        "/page/nothing.js",
        "/page/",
        "/page//etc/passwd",
    ):
        answer = api.get(path)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found"), path


def test_a_host_that_is_none_gets_into_no_header():
    from api.site import content_security_policy

    assert "ws:" not in content_security_policy("x; script-src *")
    assert "wss://[::1]:8080" in content_security_policy("[::1]:8080")


def test_the_page_is_sent_compressed_to_whoever_takes_that(api):
    plain = api.get("/page/main.js", headers={"Accept-Encoding": "identity"})
    sent = api.get("/page/main.js", headers={"Accept-Encoding": "gzip, br"})
    assert "Content-Encoding" not in plain.headers
    assert sent.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(sent.data) == plain.data
    assert len(sent.data) < len(plain.data)
    assert plain.headers["Vary"] == sent.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["ETag"] != sent.headers["ETag"]
    assert plain.mimetype == sent.mimetype == "text/javascript"
