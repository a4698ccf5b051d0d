"""Who may see and do what (I9)."""

import pytest
import redis

from shared.postgres.accounts import digest
from shared.redis.names import ticket_key

PROTECTED = [
    ("POST", "/v1/sessions", {}),
    ("GET", "/v1/sessions", None),
    ("GET", "/v1/sessions/search?q=x", None),
    ("GET", "/v1/sessions/{session}", None),
    ("PATCH", "/v1/sessions/{session}", {"title": "x"}),
    ("DELETE", "/v1/sessions/{session}", None),
    ("POST", "/v1/sessions/{session}/flag", {}),
    ("GET", "/v1/sessions/{session}/messages", None),
    ("POST", "/v1/sessions/{session}/pause", {}),
    ("POST", "/v1/sessions/{session}/approve-plan", {}),
    ("POST", "/v1/sessions/{session}/abort-plan", {}),
    ("POST", "/v1/sessions/{session}/turns", {"content": "Hi"}),
    ("GET", "/v1/sessions/{session}/turns", None),
    ("GET", "/v1/turns/{turn}", None),
    ("POST", "/v1/turns/{turn}/stop", {}),
    ("GET", "/v1/turns/{turn}/events", None),
    ("POST", "/v1/tickets", {"session_id": "{session}"}),
    ("POST", "/v1/keys", {"role": "service"}),
    ("GET", "/v1/keys", None),
    ("DELETE", "/v1/keys/{session}", None),
    ("DELETE", "/v1/sessions/{session}/flag", None),
    ("GET", "/v1/budget", None),
    ("PUT", "/v1/budget", {}),
    ("GET", "/v1/usage", None),
    ("GET", "/v1/ledger", None),
]
OF_ONE = [
    entry
    for entry in PROTECTED
    if any(name in str(entry) for name in ("{session}", "{turn}"))
    and not entry[1].startswith("/v1/keys")
    and entry[:2] != ("DELETE", "/v1/sessions/{session}/flag")  # only an admin gets as far as the session
]


@pytest.fixture
def alices(api, keys):
    session = api.session(keys.alice, title="secret plans")
    return {"session": session, "turn": api.turn(keys.alice, session, "secret words")}


def send(api, key, entry, names, **options):
    method, path, body = entry
    for name, value in names.items():
        path = path.replace("{" + name + "}", value)
        body = body and {
            field: names[name] if value == "{" + name + "}" else value for field, value in body.items()
        }
    return api.call(method, path, key, **({} if body is None else {"json": body}), **options)


def test_every_operation_but_health_needs_a_key(api, missing_id):
    names = {"session": missing_id, "turn": missing_id}
    for entry in PROTECTED:
        answer = send(api, None, entry, names)
        assert (answer.status_code, answer.json["code"]) == (401, "unauthorized"), entry
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_what_is_no_valid_key_is_unauthorized(api, keys):
    for header in (
        "",
        "Bearer",
        "Bearer ",
        "Basic " + keys.alice,
        keys.alice,
        "Bearer tsk_aaaaaaaa_" + "b" * 43,
        "Bearer " + keys.alice[:-1],
        "Bearer " + keys.alice + "x",
        "Bearer " + "x" * 10_000,
        "Bearer é",
    ):
        answer = api.get("/v1/sessions", headers={"Authorization": header.encode().decode("latin-1")})
        assert answer.status_code == 401, header


def test_a_key_works_whatever_the_case_of_the_scheme(api, keys):
    assert api.get("/v1/sessions", headers={"Authorization": f"bearer {keys.alice}"}).status_code == 200


def test_an_expired_key_is_unauthorized(api, keys, as_owner):
    as_owner("update turnkeeper.api_keys set expires_at = now() - interval '1 second'")
    assert api.get("/v1/sessions", keys.alice).status_code == 401


def test_a_stranger_is_told_that_there_is_no_such_thing(api, keys, strangers, alices):
    before = api.get(f"/v1/turns/{alices['turn']}", keys.alice).json
    for key in (keys.bob, strangers.alice, strangers.service, strangers.admin):
        for entry in OF_ONE:
            answer = send(api, key, entry, alices)
            assert (answer.status_code, answer.json["code"]) == (404, "not_found"), entry
    assert api.get(f"/v1/turns/{alices['turn']}", keys.alice).json == before
    session = api.get(f"/v1/sessions/{alices['session']}", keys.alice).json
    assert (session["status"], session["flagged"], session["title"]) == ("active", False, "secret plans")
    assert api.call("DELETE", f"/v1/sessions/{alices['session']}/flag", strangers.admin).status_code == 404


def test_what_is_not_there_and_what_is_not_yours_look_the_same(api, keys, alices, missing_id):
    def shown(answer):
        return {
            name: value for name, value in answer.json.items() if name != "request_id"
        }, answer.status_code

    for entry in OF_ONE:
        theirs = send(api, keys.bob, entry, alices)
        nothing = send(api, keys.bob, entry, {"session": missing_id, "turn": missing_id})
        assert shown(theirs) == shown(nothing), entry


def test_lists_and_searches_show_a_stranger_nothing(api, keys, strangers, alices):
    for key in (keys.bob, strangers.service, strangers.admin):
        assert api.get("/v1/sessions", key).json["data"] == []
        assert api.get("/v1/sessions/search?q=secret", key).json["data"] == []
        assert api.get("/v1/sessions?user=alice", key).json["data"] == []


def test_a_service_sees_the_sessions_of_every_user_of_its_organization(api, keys, alices):
    for key in (keys.service, keys.admin):
        assert [session["id"] for session in api.get("/v1/sessions", key).json["data"]] == [alices["session"]]
        assert api.get(f"/v1/turns/{alices['turn']}", key).status_code == 200


def test_an_id_that_is_none_is_not_found(api, keys):
    for bad in (
        "x",
        "1",
        "%00",
        "null",
        "01890A5D-AC96-774B-BCCE-B302099A8057",
        "{01890a5d-ac96-774b-bcce-b302099a8057}",
        "01890a5dac96774bbcceb302099a8057",
        "..",
        "é",
        "' or 1=1",
        "x" * 1000,
    ):
        for entry in OF_ONE:
            if entry[1] != "/v1/tickets":
                answer = send(api, keys.service, entry, {"session": bad, "turn": bad})
                assert (answer.status_code, answer.json["code"]) == (404, "not_found"), (bad, entry)


# Keys


def test_only_an_admin_manages_keys(api, keys, missing_id):
    for key in (keys.alice, keys.service):
        for method, path, body in (
            ("POST", "/v1/keys", {"role": "service"}),
            ("GET", "/v1/keys", None),
            ("DELETE", f"/v1/keys/{missing_id}", None),
        ):
            answer = api.call(method, path, key, **({} if body is None else {"json": body}))
            assert (answer.status_code, answer.json["code"]) == (403, "forbidden")


def test_a_key_that_is_made_is_shown_once_and_works(api, keys):
    made = api.post("/v1/keys", keys.admin, json={"role": "user", "user": "carol", "name": "Carol's"})
    assert made.status_code == 201
    secret = made.json["key"]
    assert secret.startswith(made.json["prefix"] + "_")
    assert api.post("/v1/sessions", secret, json={}).json["user"] == "carol"
    listed = api.get("/v1/keys", keys.admin)
    assert listed.json["data"][0]["id"] == made.json["id"]
    assert secret not in listed.text
    assert len(listed.json["data"]) == 5


def test_keys_are_paged(api, keys):
    first = api.get("/v1/keys?limit=3", keys.admin).json
    second = api.get(f"/v1/keys?limit=3&cursor={first['next_cursor']}", keys.admin).json
    assert len({key["id"] for key in first["data"] + second["data"]}) == 4
    assert second["next_cursor"] is None


def test_a_wrong_key_request_is_refused(api, keys):
    for body, pointer in (
        ({}, "/role"),
        ({"role": "root"}, "/role"),
        ({"role": "user"}, "/user"),
        ({"role": "service", "user": "x"}, "/user"),
        ({"role": "service", "name": "x" * 201}, "/name"),
        ({"role": "service", "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"role": "service", "expires_at": "2999-01-01T00:00:00"}, "/expires_at"),
        ({"role": "service", "expires_at": "soon"}, "/expires_at"),
    ):
        answer = api.post("/v1/keys", keys.admin, json=body)
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, pointer), body


def test_a_key_may_have_an_end(api, keys):
    body = {"role": "service", "expires_at": "2999-01-01T00:00:00+02:00"}
    made = api.post("/v1/keys", keys.admin, json=body).json
    assert made["expires_at"] == "2998-12-31T22:00:00.000Z"


def test_a_revoked_key_stops_working(api, keys):
    made = api.post("/v1/keys", keys.admin, json={"role": "service"}).json
    assert api.get("/v1/sessions", made["key"]).status_code == 200
    assert api.call("DELETE", f"/v1/keys/{made['id']}", keys.admin).status_code == 204
    assert api.get("/v1/sessions", made["key"]).status_code == 401
    assert api.call("DELETE", f"/v1/keys/{made['id']}", keys.admin).status_code == 204
    listed = {key["id"]: key for key in api.get("/v1/keys", keys.admin).json["data"]}
    assert listed[made["id"]]["revoked_at"] is not None


def test_a_stranger_cannot_revoke_a_key(api, keys, strangers):
    made = api.post("/v1/keys", keys.admin, json={"role": "service"}).json
    assert api.call("DELETE", f"/v1/keys/{made['id']}", strangers.admin).status_code == 404
    assert api.get("/v1/sessions", made["key"]).status_code == 200


def test_the_server_knows_whose_request_it_is_once_a_key_was_seen_and_however_long_ago(api, keys, strangers):
    tenant_of = api.app.extensions["turnkeeper_tenant_of"]
    assert tenant_of(f"Bearer {keys.alice}".encode()) is None
    for key in (keys.alice, keys.bob, strangers.alice):
        assert api.get("/v1/sessions", key).status_code == 200
    assert api.get("/v1/sessions", "guessed").status_code == 401
    alice, bob, stranger = (
        tenant_of(f"bearer  {key}".encode()) for key in (keys.alice, keys.bob, strangers.alice)
    )
    assert alice == bob != stranger
    assert stranger is not None
    assert [tenant_of(said) for said in (b"", b"Bearer", b"Bearer guessed", b"Basic x", b"Bearer \xff")] == [
        None
    ] * 5


def test_another_process_stops_trusting_a_revoked_key_within_seconds(database, keys, redis_url, as_owner):
    from api.auth import TRUST_SECONDS, Authenticator

    now = [0.0]
    with redis.Redis.from_url(redis_url) as client:
        authenticator = Authenticator(database, client, clock=lambda: now[0])
        assert authenticator.of_key(keys.alice) is not None
        as_owner("update turnkeeper.api_keys set revoked_at = now()")
        now[0] = TRUST_SECONDS - 0.1
        assert authenticator.of_key(keys.alice) is not None
        now[0] = TRUST_SECONDS
        assert authenticator.of_key(keys.alice) is None
    assert TRUST_SECONDS <= 60


# Tickets


def test_a_ticket_opens_one_stream_of_one_session(api, keys, alices, redis_url):
    made = api.post("/v1/tickets", keys.alice, json={"session_id": alices["session"], "ttl_seconds": 30})
    assert made.status_code == 201
    assert set(made.json) == {"ticket", "expires_at"}
    ticket = made.json["ticket"]
    with redis.Redis.from_url(redis_url) as client:
        assert 0 < client.ttl(ticket_key(digest(ticket).hex())) <= 30
        assert all(ticket.encode() not in key for key in client.scan_iter())
    caller = api.services.authenticator.redeem_ticket(ticket)
    assert (str(caller.session_id), caller.role, caller.user) == (alices["session"], "user", "alice")
    assert api.services.authenticator.redeem_ticket(ticket) is None  # good once


def test_a_ticket_of_a_revoked_key_opens_nothing(api, keys, alices, as_owner):
    ticket = api.post("/v1/tickets", keys.alice, json={"session_id": alices["session"]}).json["ticket"]
    as_owner("update turnkeeper.api_keys set revoked_at = now()")
    assert api.services.authenticator.redeem_ticket(ticket) is None


def test_a_ticket_is_no_key(api, keys, alices):
    ticket = api.post("/v1/tickets", keys.alice, json={"session_id": alices["session"]}).json["ticket"]
    assert api.get("/v1/sessions", ticket).status_code == 401


def test_a_wrong_ticket_request_is_refused(api, keys, alices):
    for body, pointer in (
        ({}, "/session_id"),
        ({"session_id": "x"}, "/session_id"),
        ({"session_id": alices["session"], "ttl_seconds": 0}, "/ttl_seconds"),
        ({"session_id": alices["session"], "ttl_seconds": 61}, "/ttl_seconds"),
        ({"session_id": alices["session"], "ttl_seconds": "60"}, "/ttl_seconds"),
    ):
        answer = api.post("/v1/tickets", keys.alice, json=body)
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, pointer), body


def test_what_is_no_ticket_opens_nothing(api):
    for text in ("", "tkt_x", "x" * 10_000, "é\0"):
        assert api.services.authenticator.redeem_ticket(text) is None
