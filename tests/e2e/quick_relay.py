"""The application with quick pings, for `turnkeeper relay --app`: tests nginx's time limits without a long wait."""

from functools import partial

from flask import Flask

import api.app
from api.relay.hub import StreamLimits

HEARTBEAT_SECONDS = 1.0


def create_app(role: str) -> Flask:
    api.app.StreamLimits = partial(StreamLimits, heartbeat_seconds=HEARTBEAT_SECONDS)  # type: ignore[assignment,misc]
    return api.app.create_app(role)
