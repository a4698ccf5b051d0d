"""Event streams under a server whose connection cannot be taken: the same delivery through the response."""

import pytest

from api.relay.face import FaceKind
from shared.errors import UnavailableError
from tests.integration.relay_app import create_app
from tests.integration.relay_world import Rows, Worker, eventually


@pytest.fixture
def app(redis_url, tmp_path, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("STORE_FOLDER", str(tmp_path))
    app = create_app()
    yield app
    app.extensions["hub"].shutdown()


@pytest.fixture
def worker(redis_url, tmp_path):
    worker = Worker(Rows(tmp_path), redis_url).accept().begin()
    yield worker
    worker.redis.close()


def test_a_finished_turn_is_one_response(app, worker):
    worker.deltas(50, size=5000)
    worker.finish()
    response = app.test_client().get(f"/v1/turns/{worker.turn_id}/events?after=3")
    assert response.mimetype == "text/event-stream"
    assert response.data.count(b"event: content_delta\n") == 50
    assert response.data.rstrip().rpartition(b"event: ")[2].startswith(b"done")
    response.close()


def test_a_response_that_is_closed_early_ends_the_stream(app, worker):
    response = app.test_client().get(f"/v1/turns/{worker.turn_id}/events", buffered=False)
    pieces = iter(response.response)
    assert next(pieces).startswith(b"retry: 1000\n\n")
    assert app.extensions["hub"].counts().streams[FaceKind.BARE_EVENT_STREAM] == 1
    response.close()
    eventually(lambda: app.extensions["hub"].counts().streams[FaceKind.BARE_EVENT_STREAM] == 0)


def test_an_application_that_serves_no_stream_starts_no_thread(app):
    counts = app.extensions["hub"].counts()
    assert (counts.streams.total(), counts.is_connected) == (0, False)


def test_a_hub_that_has_shut_down_says_so(app, worker):
    worker.finish()
    client = app.test_client()
    client.get(f"/v1/turns/{worker.turn_id}/events").close()
    app.extensions["hub"].shutdown()
    app.extensions["hub"].shutdown()
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(UnavailableError):
        client.get(f"/v1/turns/{worker.turn_id}/events")
