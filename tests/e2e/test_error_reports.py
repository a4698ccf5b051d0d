"""Errors of real processes at Sentry: all three report, and nothing of what went through them stands in a report."""

from collections.abc import Iterator

import pytest

from tests import sentry
from tests.e2e.conftest import Service, running_service, temporary_folder
from tests.marks import leaks, marked, secrets_of

PLACES = "after_accept=raise,before_settle=raise"
"""In web and relay behind the commit, in the worker with the whole answer at hand."""


@pytest.fixture(scope="module")
def taken(openai_compatible) -> Iterator[tuple[Service, sentry.Sentry]]:
    with sentry.playing() as played, temporary_folder() as folder:
        variables = {**openai_compatible, "SENTRY_DSN": played.dsn, "TURNKEEPER_FAILPOINTS": PLACES}
        with running_service(folder, **variables) as service:
            yield service, played


def test_an_error_of_each_process_is_reported_with_ids_and_without_content(taken):
    service, played = taken
    api = service.api()
    session = api.session(user="alice")
    secret = marked("header")
    headers = {"Cookie": f"session={secret}", "X-Own": secret}
    path = f"/v1/sessions/{session}/turns"
    said = {"content": "[[tokens=5]] my dear diary", "metadata": {"diary": secret}}
    answer = api.call("POST", path, json=said, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    beside = service.api()  # the front gives a whole connection to web or to relay, by its first request
    beside.call(
        "POST",
        path,
        json={**said, "multitask_strategy": "enqueue"},
        headers={**headers, "Accept": "text/event-stream"},
    )
    found = {
        process: played.await_event(lambda event, name=process: event["tags"]["process"] == name, process)
        for process in ("web", "relay", "worker")
    }
    assert found["web"]["tags"]["request_id"] == answer.json()["request_id"]
    assert {event["tags"]["session_id"] for event in found.values()} == {session}
    assert all(event["tags"]["turn_id"] for event in found.values())
    assert found["worker"]["tags"]["attempt"] == "1"
    for event in found.values():
        (error,) = event["exception"]["values"]
        assert (error["type"], error["value"]) == ("FailpointError", "")
        assert error["stacktrace"]["frames"][-1]["function"] == "_fail"
        allowed = {"filename", "function", "lineno", "module", "in_app"}
        assert all(frame.keys() <= allowed for frame in error["stacktrace"]["frames"])
        assert not event.keys() & {"request", "user", "breadcrumbs", "extra", "modules", "contexts"}
        assert event["release"].startswith("turnkeeper@")
    known = secrets_of({}, (service.folder / "state.json").read_text())
    for body in played.bodies:
        assert leaks(body, [*known, secret, "diary"]) == []
