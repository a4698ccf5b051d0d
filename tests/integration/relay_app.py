"""A small service around the relay, for its tests: Flask under gunicorn, with a folder of files as its store.

The tests write the rows; everything behind them is under test.
"""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from flask import Flask, Response, jsonify, request

from api.caller import Caller
from api.relay.face import FaceKind
from api.relay.hub import Hub
from api.relay.places import StreamLimits
from api.relay.sse import parse_cursor, stream_events
from api.relay.store import TurnState
from api.relay.websocket import register
from shared.errors import PROBLEMS, RefusedError, UnavailableError
from shared.ids import parse_id
from shared.turn.turns import TERMINAL, TurnStatus
from turnkeeper.up.serve import BEGIN_METRICS, GIVE_BACK, SHUTDOWN

ORGANIZATION = UUID(int=1)


@dataclass(frozen=True)
class FolderStore:
    """Turns as JSON files in acceptance order; `down` makes every question fail, `broken` breaks the code."""

    folder: Path

    def session_is_visible(self, caller, session_id):
        self._check()
        return (self.folder / f"{session_id}.session").exists()

    def active_turn(self, caller, session_id):
        active = (turn for turn in self._turns(session_id) if TurnStatus(turn["status"]) not in TERMINAL)
        return next((UUID(turn["turn_id"]) for turn in active), None)

    def newest_turn(self, caller, session_id):
        turns = self._turns(session_id)
        return UUID(turns[-1]["turn_id"]) if turns else None

    def turns_since(self, caller, session_id, known):
        ids = [UUID(turn["turn_id"]) for turn in self._turns(session_id)]
        return ids[ids.index(known) + 1 :] if known else ids

    def turn(self, caller, turn_id):
        self._check()
        path = self.folder / f"{turn_id}.turn"
        return _state(json.loads(path.read_text())) if path.exists() else None

    def turns_ahead(self, seen):
        states = {turn_id: self.turn(None, turn_id) for turn_id in seen}
        return {
            turn_id
            for turn_id, state in states.items()
            if state is None or state.done is not None or state.text_seq > seen[turn_id]
        }

    def missing_sessions(self, sessions):
        self._check()
        return {session for session in sessions if not (self.folder / f"{session}.session").exists()}

    def request_stop(self, caller, turn_id):
        state = self.turn(caller, turn_id)
        if state is not None:
            (self.folder / f"{turn_id}.stop").touch()
        return state is not None

    def caller_is_valid(self, caller):
        return not (self.folder / "revoked").exists()

    def _turns(self, session_id):
        self._check()
        turns = [json.loads(path.read_text()) for path in self.folder.glob("*.turn")]
        return sorted((t for t in turns if t["session_id"] == str(session_id)), key=lambda t: t["position"])

    def _check(self):
        if (self.folder / "down").exists():
            raise UnavailableError("down")
        if (self.folder / "broken").exists():
            raise RuntimeError("a mistake of ours")


def _state(row):
    return TurnState(
        turn_id=UUID(row["turn_id"]),
        session_id=UUID(row["session_id"]),
        status=TurnStatus(row["status"]),
        attempt=row["attempt"],
        last_seq=row["last_seq"],
        message_id=None if row["message_id"] is None else UUID(row["message_id"]),
        content=row["content"],
        reasoning=row["reasoning"],
        text_seq=row["text_seq"],
        done=None if row["done"] is None else row["done"].encode(),
    )


def authenticate(bearer, ticket):
    if bearer == "good-key":
        return Caller(ORGANIZATION, UUID(int=2), "service", None, None)
    if ticket is not None and ticket.startswith("for-"):
        return Caller(ORGANIZATION, UUID(int=3), "user", "alice", UUID(ticket.removeprefix("for-")))
    return None


def create_app():
    app = Flask(__name__)
    store = FolderStore(Path(os.environ["STORE_FOLDER"]))
    limits = StreamLimits(
        most_sockets_per_key=int(os.environ.get("MOST_SOCKETS", "5000")),
        most_sockets_per_organization=int(os.environ.get("MOST_OF_ORGANIZATION", "5000")),
        most_sockets_per_address=int(os.environ.get("MOST_OF_ADDRESS", "0")),
        most_age_seconds=float(os.environ.get("MOST_AGE", "3600")),
        recheck_seconds=float(os.environ.get("RECHECK", "60")),
        heartbeat_seconds=float(os.environ.get("HEARTBEAT", "15")),
    )
    hub = Hub(os.environ["REDIS_URL"], store, limits)
    app.extensions["hub"] = hub
    register(
        app, hub, authenticate=authenticate, origin_is_allowed=lambda origin: origin == "https://app.example"
    )

    @app.errorhandler(RefusedError)
    def refused(error):
        response = jsonify(code=error.code)
        response.content_type = "application/problem+json"
        response.headers.update(error.headers)
        return response, PROBLEMS[error.code].status

    @app.get("/health")
    def health():
        counts, occurred = hub.counts(), hub.occurred
        return jsonify(
            pid=os.getpid(),
            websockets=counts.streams[FaceKind.WEBSOCKET],
            event_streams=counts.streams[FaceKind.EVENT_STREAM] + counts.streams[FaceKind.BARE_EVENT_STREAM],
            occurred={
                "websockets": occurred.opened[FaceKind.WEBSOCKET],
                "overflows": occurred.overflows,
                "replays": occurred.replays,
                "gaps": occurred.gaps,
            },
        )

    @app.get("/v1/turns/<turn_id>/events")
    def events(turn_id) -> Response:
        caller = authenticate("good-key", None)
        turn = store.turn(caller, parse_id(turn_id))
        after = parse_cursor(request.headers.get("Last-Event-ID") or request.args.get("after"))
        return stream_events(hub, caller, turn, after=after, request_id="r-1")

    return app


def create_served_app(role):
    """Make the application for `turnkeeper.up.serve`, which takes connections back."""
    del role
    app = create_app()
    app.extensions[SHUTDOWN] = app.extensions["hub"].shutdown
    app.extensions[GIVE_BACK] = app.extensions["hub"].give_back_to
    app.extensions[BEGIN_METRICS] = lambda: None
    return app


def post_worker_init(worker):
    """Close the streams on SIGTERM, before gunicorn waits for its threads."""
    before = signal.getsignal(signal.SIGTERM)

    def terminate(number, frame):
        worker.wsgi.extensions["hub"].shutdown()
        before(number, frame)

    signal.signal(signal.SIGTERM, terminate)
