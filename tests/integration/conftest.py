"""The API on real servers, called without a socket in between."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url
from werkzeug.test import TestResponse

from api.app import create_app
from shared.configuration.settings import Settings
from shared.ids import new_id
from shared.money.price_table import FREE
from shared.postgres.database import Database
from worker.providers.choice import Choice, Choices

MISSING_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
"""A well-formed id that belongs to nothing."""
LIMIT_SECONDS = 60.0
"""Time limit for everything that a test waits for; the service is not to blame for a busy machine."""
LONG_LEASES = {"LEASE_SECONDS": "240", "LEASE_TRUST_SECONDS": "200", "LEASE_RENEW_SECONDS": "0.2"}
"""Leases that outlast any pause of this process: a test that needs one to run out makes it run out."""


def until(condition: Callable[[], Any]) -> Any:
    """Wait for a condition and return its value."""
    give_up_at = time.monotonic() + LIMIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < give_up_at, "the condition did not come true in time"
        threading.Event().wait(0.01)
    return value


def choices_of(settings: Settings) -> Choices:
    """Return the configured providers for what calls none of them."""
    return Choices(Choice(each, None, None) for each in settings.providers)


class Api:
    """Calls the application with a key."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.services = app.extensions["turnkeeper"]

    def call(
        self,
        method: str,
        path: str,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> TestResponse:
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        return self.app.test_client().open(path, method=method, headers=sent, **{"buffered": True, **options})

    def get(self, path: str, key: str | None = None, **options: Any) -> TestResponse:
        return self.call("GET", path, key, **options)

    def post(self, path: str, key: str | None = None, **options: Any) -> TestResponse:
        return self.call("POST", path, key, **options)

    def session(self, key: str, **fields: Any) -> str:
        """Open a session and return its id."""
        answer = self.post("/v1/sessions", key, json=fields)
        assert answer.status_code == 201, answer.json
        return answer.json["id"]

    def turn(self, key: str, session_id: str, content: str = "Hello", **options: Any) -> str:
        """Post a turn and return its id."""
        answer = self.post(f"/v1/sessions/{session_id}/turns", key, json={"content": content}, **options)
        assert answer.status_code == 202, answer.json
        return answer.json["id"]


def be_patient(database: Database) -> None:
    """Let every request to a database wait as long as a busy machine needs.

    A service's own limits, after which it treats the database as unavailable, are tested elsewhere.
    """
    engine = database._engine
    engine.pool._timeout = LIMIT_SECONDS

    @event.listens_for(engine, "connect")
    def _let_wait(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        connection.execute(
            f"set lock_timeout = '{LIMIT_SECONDS:g}s'; set statement_timeout = '{LIMIT_SECONDS:g}s'"
        )
        connection.autocommit = False

    @event.listens_for(engine, "do_connect")
    def _wait_for_it(_dialect: Any, _record: Any, _args: Any, options: dict[str, Any]) -> None:
        options["connect_timeout"] = int(LIMIT_SECONDS)

    for connection in [engine.connect() for _ in range(engine.pool.checkedin())]:
        connection.invalidate()  # opened before, with the service's own limits
        connection.close()


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    """The application on the test's servers."""
    app = create_app("web", settings)
    be_patient(app.extensions["turnkeeper"].database)
    yield Api(app)
    app.extensions["turnkeeper"].close()


@pytest.fixture
def one_day() -> None:
    """Let no test begin in the last seconds of a day: budgets, refusals and reports are by UTC day and month."""
    until(lambda: time.time() % 86_400 < 86_400 - 50)


@pytest.fixture
def missing_id() -> str:
    """A well-formed id that belongs to nothing."""
    return MISSING_ID


@pytest.fixture
def as_owner(owner_url: str) -> Iterator[Callable[..., list[Any]]]:
    """Run statements as the owner: for what only a worker or the passage of time would do."""
    engine = create_engine(make_url(owner_url).set(drivername="postgresql+psycopg"))

    def run(statement: str, **parameters: Any) -> list[Any]:
        with engine.begin() as db:
            found = db.execute(text(statement), parameters)
            return list(found) if found.returns_rows else []

    yield run
    engine.dispose()


@pytest.fixture
def bill(as_owner: Callable[..., list[Any]], organization: UUID) -> Callable[..., str]:
    """Write a row of the ledger at a time of the test's choice and return its id."""

    def write(at: str, cost: str = "0.5", **columns: Any) -> str:
        row = {
            "organization_id": organization,
            "id": new_id(),
            "turn_id": new_id(),
            "session_id": new_id(),
            "user_name": "alice",
            "attempt": 1,
            "provider": "anthropic",
            "model": "claude-x",
            "input_tokens": 10,
            "cache_read_tokens": 4,
            "cache_write_tokens": 3,
            "cache_write_1h_tokens": 1,
            "output_tokens": 5,
            "reasoning_tokens": 2,
            "usage_source": "provider",
            "price": json.dumps(FREE.as_dict()),
            "cost_usd": Decimal(cost),
            "created_at": at,
            "day": datetime.fromisoformat(at).astimezone(UTC).date(),
            **columns,
        }
        as_owner(
            f"insert into turnkeeper.ledger ({', '.join(row)}) values ({', '.join(f':{name}' for name in row)})",
            **row,
        )
        return str(row["id"])

    return write
