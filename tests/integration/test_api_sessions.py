import json
from uuid import UUID

import pytest

from shared.ids import parse_id


def test_a_session_that_is_opened_is_shown_as_the_protocol_says(api, keys):
    answer = api.post(
        "/v1/sessions",
        keys.service,
        json={
            "user": "ada",
            "title": "Engines",
            "system_prompt": "Be brief.",
            "max_turns": 3,
            "metadata": {"tags": ["a", {"b": None}], "n": 1.5},
        },
    )
    assert answer.status_code == 201
    shown = answer.json
    assert answer.headers["Location"] == f"/v1/sessions/{shown['id']}"
    assert parse_id(shown["id"]).version == 7
    assert set(shown) == {
        "id",
        "user",
        "title",
        "status",
        "provider",
        "model",
        "system_prompt",
        "max_turns",
        "turn_count",
        "usage",
        "cost_usd",
        "active_turn_id",
        "flagged",
        "metadata",
        "created_at",
        "last_activity_at",
    }
    assert (shown["user"], shown["title"], shown["status"]) == ("ada", "Engines", "active")
    assert (shown["max_turns"], shown["turn_count"], shown["cost_usd"]) == (3, 0, "0.000000")
    assert shown["metadata"] == {"tags": ["a", {"b": None}], "n": 1.5}
    assert shown["created_at"].endswith("Z")
    assert api.get(f"/v1/sessions/{shown['id']}", keys.service).json == shown


def test_a_session_shows_the_provider_and_model_that_turns_really_run_on(api, keys, settings):
    shown = api.post("/v1/sessions", keys.alice, json={}).json
    assert (shown["provider"], shown["model"]) == (settings.provider.name, settings.provider.model)


def test_a_users_key_opens_sessions_for_its_user(api, keys):
    assert api.post("/v1/sessions", keys.alice, json={}).json["user"] == "alice"
    assert api.post("/v1/sessions", keys.alice, json={"user": "alice"}).json["user"] == "alice"


def test_a_users_key_opens_no_session_for_another_user(api, keys):
    answer = api.post("/v1/sessions", keys.alice, json={"user": "bob"})
    assert (answer.status_code, answer.json["code"]) == (403, "forbidden")


@pytest.mark.parametrize("role", ["service", "admin"])
def test_a_key_that_is_bound_to_no_user_must_name_one(api, keys, role):
    answer = api.post("/v1/sessions", getattr(keys, role), json={})
    assert (answer.status_code, answer.json["code"]) == (422, "validation_failed")
    assert answer.json["errors"][0]["pointer"] == "/user"


def test_an_organizations_limit_bounds_the_turns_of_new_sessions(api, keys, as_owner, settings):
    open_one = {"json": {}}
    as_owner("update turnkeeper.organizations set max_turns_per_session = 7")
    assert api.post("/v1/sessions", keys.alice, **open_one).json["max_turns"] == 7
    assert api.post("/v1/sessions", keys.alice, json={"max_turns": 7}).json["max_turns"] == 7
    refused = api.post("/v1/sessions", keys.alice, json={"max_turns": 8})
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, "/max_turns")
    as_owner("update turnkeeper.organizations set max_turns_per_session = 10000")
    # Another key: what is known of one is kept for a moment.
    assert api.post("/v1/sessions", keys.bob, **open_one).json["max_turns"] == settings.max_turns_per_session
    as_owner("update turnkeeper.organizations set max_turns_per_session = 0")
    session = api.session(keys.service, user="carol")
    answer = api.post(f"/v1/sessions/{session}/turns", keys.service, json={"content": "Hi"})
    assert (answer.status_code, answer.json["code"], answer.json["max_turns"]) == (
        429,
        "turn_limit_reached",
        0,
    )


def test_a_session_without_max_turns_takes_the_configured_number(api, keys, settings):
    assert api.post("/v1/sessions", keys.alice, json={}).json["max_turns"] == settings.max_turns_per_session


WRONG = [
    ({"max_turns": "5"}, "/max_turns"),
    ({"max_turns": True}, "/max_turns"),
    ({"max_turns": 5.0}, "/max_turns"),
    ({"max_turns": 0}, "/max_turns"),
    ({"max_turns": -1}, "/max_turns"),
    ({"max_turns": 10_001}, "/max_turns"),
    ({"max_turns": 10**30}, "/max_turns"),
    ({"title": "x" * 201}, "/title"),
    ({"title": " "}, "/title"),
    ({"title": 5}, "/title"),
    ({"system_prompt": "x" * 32_001}, "/system_prompt"),
    ({"metadata": []}, "/metadata"),
    ({"metadata": {"k": "x" * 16_384}}, "/metadata"),
    ({"user": ""}, "/user"),
    ({"user": "x" * 201}, "/user"),
    ({"no_such": 1}, "/no_such"),
    ({"a/b~c": 1}, "/a~1b~0c"),
]


def test_a_wrong_field_of_a_session_is_named_by_its_pointer(api, keys):
    for fields, pointer in WRONG:
        answer = api.post("/v1/sessions", keys.service, json={"user": "ada"} | fields)
        assert (answer.status_code, answer.json["code"]) == (422, "validation_failed"), pointer
        assert [error["pointer"] for error in answer.json["errors"]] == [pointer]
    assert api.get("/v1/sessions", keys.service).json["data"] == []


def test_all_wrong_fields_are_named_at_once(api, keys):
    answer = api.post("/v1/sessions", keys.service, json={"title": 1, "max_turns": 0, "extra": 1})
    assert {error["pointer"] for error in answer.json["errors"]} == {"/title", "/max_turns", "/extra"}


def test_sessions_are_listed_by_their_last_activity(api, keys, as_owner):
    first, second, third = (api.session(keys.alice) for _ in range(3))
    as_owner(
        "update turnkeeper.sessions set last_activity_at = now() + interval '1 hour' where id = :id", id=first
    )
    listed = [session["id"] for session in api.get("/v1/sessions", keys.alice).json["data"]]
    assert listed == [first, third, second]


def test_a_list_is_read_page_by_page_without_repeating_or_missing_any(api, keys, as_owner):
    opened = [api.session(keys.alice) for _ in range(5)]
    as_owner("update turnkeeper.sessions set last_activity_at = now()")  # ties are broken by the id
    seen, cursor = [], ""
    while cursor is not None:
        page = api.get(
            f"/v1/sessions?limit=2&cursor={cursor}" if cursor else "/v1/sessions?limit=2", keys.alice
        )
        assert len(page.json["data"]) <= 2
        seen += [session["id"] for session in page.json["data"]]
        cursor = page.json["next_cursor"]
    assert seen == sorted(opened, reverse=True)


def test_the_last_page_has_no_cursor(api, keys):
    api.session(keys.alice)
    assert api.get("/v1/sessions?limit=1", keys.alice).json["next_cursor"] is None


def test_a_limit_that_is_no_number_from_1_to_100_is_refused(api, keys):
    session = api.session(keys.admin, user="ada")
    paths = ("", "/search", f"/{session}/turns", f"/{session}/messages")
    for path in (*(f"/v1/sessions{path}" for path in paths), "/v1/keys"):
        for limit in ("0", "-1", "101", "abc", "1.5", "", "1e2", "٣", "1" * 30, " 1"):
            answer = api.get(path, keys.admin, query_string={"q": "x", "limit": limit})
            assert (answer.status_code, answer.json["code"]) == (422, "validation_failed"), (path, limit)
            assert answer.json["errors"][0]["pointer"] == "/query/limit"


def test_a_cursor_that_is_not_ours_is_refused(api, keys):
    session = api.session(keys.admin, user="ada")
    for path in (
        "/v1/sessions",
        "/v1/keys",
        f"/v1/sessions/{session}/turns",
        f"/v1/sessions/{session}/messages",
    ):
        for cursor in ("x", "!!", "W10", "WyJhIiwiYiJd", "bnVsbA", "é", "A" * 500, "eyJhIjoxfQ", "\0", ""):
            answer = api.get(path, keys.admin, query_string={"cursor": cursor})
            assert (answer.status_code, answer.json["code"]) == (422, "validation_failed"), (path, cursor)
            assert answer.json["errors"][0]["pointer"] == "/query/cursor"


def test_an_unknown_query_parameter_is_ignored(api, keys):
    assert api.get("/v1/sessions?utm_source=x", keys.alice).status_code == 200


def test_sessions_are_filtered_by_status_and_user(api, keys):
    of_alice, of_bob = api.session(keys.alice), api.session(keys.bob)
    api.call("DELETE", f"/v1/sessions/{of_alice}", keys.alice)

    def found(query, key=keys.service):
        return [session["id"] for session in api.get(f"/v1/sessions?{query}", key).json["data"]]

    assert found("status=closed") == [of_alice]
    assert found("status=active") == [of_bob]
    assert found("user=bob") == [of_bob]
    assert found("user=nobody") == []
    assert found("user=bob", keys.alice) == []  # a filter shows nobody more than they may see
    assert api.get("/v1/sessions?status=open", keys.service).status_code == 422


def test_a_session_is_changed_by_what_is_named(api, keys):
    session = api.session(keys.alice, title="Old", metadata={"a": 1})
    path = f"/v1/sessions/{session}"
    changed = api.call("PATCH", path, keys.alice, json={"title": "New"})
    assert (changed.status_code, changed.json["title"], changed.json["metadata"]) == (200, "New", {"a": 1})
    changed = api.call("PATCH", path, keys.alice, json={"metadata": {"b": 2}})
    assert (changed.json["title"], changed.json["metadata"]) == ("New", {"b": 2})
    assert api.call("PATCH", path, keys.alice, json={}).json["title"] == "New"
    assert api.call("PATCH", path, keys.alice, json={"title": None}).json["title"] is None
    assert api.call("PATCH", path, keys.alice, json={"max_turns": 9}).status_code == 422


def test_a_closed_session_is_read_and_not_written(api, keys):
    session = api.session(keys.alice)
    path = f"/v1/sessions/{session}"
    assert api.call("DELETE", path, keys.alice).status_code == 204
    assert api.call("DELETE", path, keys.alice).status_code == 204
    assert api.get(path, keys.alice).json["status"] == "closed"
    for method, target, body in (
        ("POST", f"{path}/turns", {"content": "Hi"}),
        ("PATCH", path, {"title": "x"}),
        ("POST", f"{path}/pause", {}),
    ):
        answer = api.call(method, target, keys.alice, json=body)
        assert (answer.status_code, answer.json["code"]) == (409, "session_closed")


def test_closing_a_session_stops_its_queued_turn(api, keys):
    session = api.session(keys.alice)
    turn = api.turn(keys.alice, session)
    api.call("DELETE", f"/v1/sessions/{session}", keys.alice)
    stopped = api.get(f"/v1/turns/{turn}", keys.alice).json
    assert (stopped["status"], stopped["stop_reason"]) == ("stopped", "session_closed")
    events = api.get(f"/v1/turns/{turn}/events", keys.alice).json
    assert (events["data"][-1]["type"], events["done"]) == ("done", True)


def test_closing_a_session_asks_its_running_turn_to_stop(api, keys, as_owner):
    session = api.session(keys.alice)
    turn = api.turn(keys.alice, session)
    as_owner("update turnkeeper.turns set status = 'running', attempt = 1 where id = :id", id=turn)
    api.call("DELETE", f"/v1/sessions/{session}", keys.alice)
    asked = api.get(f"/v1/turns/{turn}", keys.alice).json
    assert (asked["status"], asked["stop_reason"]) == ("stopping", "session_closed")


def test_members_flag_and_admins_unflag(api, keys):
    session = api.session(keys.alice)
    path = f"/v1/sessions/{session}/flag"
    assert api.post(path, keys.alice, json={"reason": "rude"}).json["flagged"] is True
    assert api.post(path, keys.alice).status_code == 200  # the reason is optional, and so is the body
    for key in (keys.alice, keys.service):
        refused = api.call("DELETE", path, key)
        assert (refused.status_code, refused.json["code"]) == (403, "forbidden")
    assert api.call("DELETE", path, keys.admin).json["flagged"] is False


def test_a_search_finds_titles_and_messages_each_session_once(api, keys):
    by_title = api.session(keys.alice, title="The Analytical Engine")
    by_text = api.session(keys.alice)
    api.turn(keys.alice, by_text, "An ENGINE, an engine and another engine")
    api.session(keys.alice, title="Looms")
    found = api.get("/v1/sessions/search?q=engine", keys.alice).json["data"]
    assert {session["id"] for session in found} == {by_title, by_text}
    assert all("engine" in session["matched"].lower() for session in found)


def test_a_snippet_is_short_and_shows_the_hit(api, keys):
    session = api.session(keys.alice)
    api.turn(keys.alice, session, "before " * 500 + "NEEDLE" + " after" * 500)
    (found,) = api.get("/v1/sessions/search?q=needle", keys.alice).json["data"]
    assert "NEEDLE" in found["matched"]
    assert len(found["matched"]) <= 165


@pytest.mark.parametrize("query", ["%", "_", "\\", "100%", "a_b"])
def test_a_wildcard_in_a_search_means_itself(api, keys, query):
    api.session(keys.alice, title="plain axb 1000")
    assert api.get("/v1/sessions/search", keys.alice, query_string={"q": query}).json["data"] == []
    hit = api.session(keys.alice, title=f"with {query} in it")
    found = api.get("/v1/sessions/search", keys.alice, query_string={"q": query}).json["data"]
    assert [session["id"] for session in found] == [hit]


def test_a_search_is_paged(api, keys):
    opened = {api.session(keys.alice, title="same") for _ in range(3)}
    first = api.get("/v1/sessions/search?q=same&limit=2", keys.alice).json
    second = api.get(f"/v1/sessions/search?q=same&limit=2&cursor={first['next_cursor']}", keys.alice).json
    assert {session["id"] for session in first["data"] + second["data"]} == opened
    assert second["next_cursor"] is None


@pytest.mark.parametrize("query", ["", "   ", "x" * 201, "a\0b"])
def test_a_search_for_nothing_or_too_much_is_refused(api, keys, query):
    answer = api.get("/v1/sessions/search", keys.alice, query_string={"q": query})
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/query/q")
    assert api.get("/v1/sessions/search", keys.alice).status_code == 422


def test_messages_come_in_the_order_of_the_conversation(api, keys, as_owner):
    session = api.session(keys.alice)
    for content in ("one", "two", "three"):
        turn = api.turn(keys.alice, session, content)
        api.post(f"/v1/turns/{turn}/stop", keys.alice)
    path = f"/v1/sessions/{session}/messages"
    listed = api.get(path, keys.alice).json["data"]
    assert [message["content"] for message in listed] == ["one", "two", "three"]
    assert [message["position"] for message in listed] == [2, 4, 6]
    assert all(message["usage"] is None and message["role"] == "user" for message in listed)
    first = api.get(f"{path}?limit=2", keys.alice).json
    second = api.get(f"{path}?limit=2&cursor={first['next_cursor']}", keys.alice).json
    assert [message["content"] for message in first["data"] + second["data"]] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("path", "body"), [("pause", {"paused": False}), ("approve-plan", {"approved": True}), ("abort-plan", {})]
)
def test_what_needs_tools_is_not_supported_on_a_provider_without_them(api, keys, path, body):
    session = api.session(keys.alice)
    answer = api.post(f"/v1/sessions/{session}/{path}", keys.alice, json=body)
    assert (answer.status_code, answer.json["code"]) == (501, "not_supported_on_provider")
    assert answer.json["title"] == "NOT_SUPPORTED_ON_PROVIDER"
    assert answer.json["provider"] == "scripted"


@pytest.mark.parametrize(
    ("path", "body"),
    [("pause", {"paused": 1}), ("approve-plan", {"approved": "no"}), ("abort-plan", {"x": 1})],
)
def test_a_wrong_body_is_refused_before_the_provider_is_looked_at(api, keys, path, body, missing_id):
    session = api.session(keys.alice)
    assert api.post(f"/v1/sessions/{session}/{path}", keys.alice, json=body).status_code == 422
    assert api.post(f"/v1/sessions/{missing_id}/{path}", keys.alice, json={}).status_code == 404


def test_metadata_comes_back_as_it_was_sent(api, keys):
    metadata = {"": [1, -1.25, True, None, "é\U0001f600\u2028"], "deep": {"a": {"b": [[]]}}}
    session = api.session(keys.alice, metadata=metadata)
    shown = api.get(f"/v1/sessions/{session}", keys.alice)
    assert json.loads(shown.data)["metadata"] == metadata


def test_ids_are_uuids_of_version_7_that_sort_by_time(api, keys):
    ids = [UUID(api.session(keys.alice)) for _ in range(5)]
    assert ids == sorted(ids)
