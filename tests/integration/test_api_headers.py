"""The headers of real responses are those that the OpenAPI page describes."""

import re

from api.openapi import openapi_document
from shared.errors import UnavailableError
from tests.soak.api.fuzz import HARDLY_LIMITED, OF_ANY_ANSWER

TURNS = "/v1/sessions/{session_id}/turns"
LIMITS = {"RateLimit", "RateLimit-Policy"}


def described(method, path, answer):
    """Check a response's headers against their description and return their names."""
    document = openapi_document()["paths"][path][method]["responses"][str(answer.status_code)]["headers"]
    own = {name for name, _ in answer.headers if name.lower() not in OF_ANY_ANSWER}
    assert own <= document.keys(), own - document.keys()
    assert {name for name, of_one in document.items() if of_one.get("required")} <= own
    for name in own:
        schema = document[name]["schema"]
        value = answer.headers[name]
        assert re.search(schema.get("pattern", ""), value), (name, value)
        assert value in schema.get("enum", [value])
        if schema["type"] == "integer":
            assert int(value) >= schema["minimum"]
    return own - {"X-Request-Id"}


def test_what_a_turn_is_answered_with_is_described(api, keys):
    opened = api.post("/v1/sessions", keys.alice, json={})
    assert described("post", "/v1/sessions", opened) == {"Location"}
    session = f"/v1/sessions/{opened.json['id']}/turns"
    limits = HARDLY_LIMITED | {"turns_per_minute_per_user": 2, "turns_per_hour": 10}
    assert api.call("PUT", "/v1/budget", keys.admin, json=limits).status_code == 200

    def ask(key=None):
        answer = api.post(
            session, keys.alice, json={"content": "Hello"}, headers=key and {"Idempotency-Key": key}
        )
        return answer.status_code, described("post", TURNS, answer)

    assert ask("one") == (202, {"Location", *LIMITS})
    assert ask("one") == (200, {"Location", "Idempotency-Replayed"})
    assert ask() == (409, {"Retry-After"})  # it is busy, and what was refused is not counted
    other = api.session(keys.alice)
    api.turn(keys.alice, other)
    assert ask() == (429, {"Retry-After", *LIMITS})


def test_what_a_stranger_and_an_admin_are_answered_with_is_described(api, keys):
    assert described("get", "/v1/ledger", api.get("/v1/ledger")) == {"WWW-Authenticate"}
    assert described("get", "/v1/ledger", api.get("/v1/ledger", keys.admin)) == set()
    table = api.get("/v1/ledger", keys.admin, headers={"Accept": "text/csv"})
    assert described("get", "/v1/ledger", table) == {"Content-Disposition"}


def test_what_is_answered_while_the_database_is_away_is_described(api, keys, monkeypatch):
    def fail(*_arguments, **_options):
        raise UnavailableError("the database cannot be reached")

    monkeypatch.setattr("api.ledger.ledger_rows", fail)
    answer = api.get("/v1/ledger", keys.admin)
    assert answer.status_code == 503
    assert described("get", "/v1/ledger", answer) == {"Retry-After"}
