"""The operations of the HTTP API, each as a value that says how to send it and how to read its response.

Both clients take their methods from here, so that each signature and description exists once.
"""

import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, auto
from typing import Any, Final, TypeVar
from urllib.parse import quote

from turnkeeper_client import models
from turnkeeper_client.decoding import decode
from turnkeeper_client.errors import ProtocolError
from turnkeeper_client.exchange import Call, json_of
from turnkeeper_client.models import Page, page_of
from turnkeeper_client.steps import Received

T = TypeVar("T")


class Keep(Enum):
    """Stands for a value that stays as it is, whereas None removes it."""

    AS_IT_IS = auto()


KEEP: Final = Keep.AS_IT_IS
LONGEST_KEY: Final = 255
LONGEST_WAIT_SECONDS: Final = 60
"""The longest that the service holds `GET /v1/turns/{id}?wait=`."""


def create_session(
    *,
    user: str | None = None,
    title: str | None = None,
    system_prompt: str | None = None,
    max_turns: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Call[models.Session]:
    """Open a session; a key that is not bound to a user must name one.

    It is not sent again if its response was lost: there could be two sessions.
    """
    body = _given(user=user, title=title, system_prompt=system_prompt, max_turns=max_turns, metadata=metadata)
    return Call("POST", "/v1/sessions", _as(models.Session), body=body, is_repeatable=False)


def list_sessions(
    *, status: str | None = None, user: str | None = None, limit: int = 20, cursor: str | None = None
) -> Call[Page[models.Session]]:
    """List sessions, newest activity first."""
    query = _query(status=status, user=user, limit=limit, cursor=cursor)
    return Call("GET", "/v1/sessions", _pages_of(models.Session), query)


def search_sessions(q: str, *, limit: int = 20, cursor: str | None = None) -> Call[Page[models.FoundSession]]:
    """Search titles and messages; each session is returned once."""
    query = _query(q=q, limit=limit, cursor=cursor)
    return Call("GET", "/v1/sessions/search", _pages_of(models.FoundSession), query)


def get_session(session_id: str) -> Call[models.Session]:
    """Read a session."""
    return Call("GET", _path("sessions", session_id), _as(models.Session))


def update_session(
    session_id: str, *, title: str | Keep | None = KEEP, metadata: Mapping[str, Any] | Keep | None = KEEP
) -> Call[models.Session]:
    """Change a session's title or metadata; a title of None is removed."""
    changes = {"title": title, "metadata": metadata}
    body = {name: value for name, value in changes.items() if value is not KEEP}
    return Call("PATCH", _path("sessions", session_id), _as(models.Session), body=body)


def close_session(session_id: str) -> Call[None]:
    """Close a session; a queued or running turn is stopped."""
    return Call("DELETE", _path("sessions", session_id), _nothing)


def flag_session(session_id: str, *, reason: str | None = None) -> Call[models.Session]:
    """Mark a session for review."""
    return Call(
        "POST", _path("sessions", session_id, "flag"), _as(models.Session), body=_given(reason=reason)
    )


def unflag_session(session_id: str) -> Call[models.Session]:
    """Remove a session's mark; requires an admin's key."""
    return Call("DELETE", _path("sessions", session_id, "flag"), _as(models.Session))


def pause_session(session_id: str, *, paused: bool = True) -> Call[models.Session]:
    """Pause or resume a session's tools; `NotSupportedOnProviderError` on a provider without tools."""
    return Call("POST", _path("sessions", session_id, "pause"), _as(models.Session), body={"paused": paused})


def approve_plan(session_id: str, *, approved: bool = True) -> Call[models.Session]:
    """Approve or refuse a plan; `NotSupportedOnProviderError` on a provider without tools."""
    path = _path("sessions", session_id, "approve-plan")
    return Call("POST", path, _as(models.Session), body={"approved": approved})


def abort_plan(session_id: str) -> Call[models.Session]:
    """Abort a plan; `NotSupportedOnProviderError` on a provider without tools."""
    return Call("POST", _path("sessions", session_id, "abort-plan"), _as(models.Session), body={})


def list_messages(
    session_id: str, *, limit: int = 20, cursor: str | None = None
) -> Call[Page[models.Message]]:
    """List a session's messages in the order of the conversation."""
    path = _path("sessions", session_id, "messages")
    return Call("GET", path, _pages_of(models.Message), _query(limit=limit, cursor=cursor))


def create_turn(
    session_id: str,
    content: str,
    *,
    max_output_tokens: int | None = None,
    multitask_strategy: str | None = None,
    recovery: str | None = None,
    deadline_seconds: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    traceparent: str | None = None,
) -> Call[models.Turn]:
    """Ask for an answer; when this returns, the message and the turn are committed.

    Args:
        session_id: The session to ask in.
        content: 1 to 32,000 characters; stored as written.
        max_output_tokens: The most that the answer may use.
        multitask_strategy: If a turn is queued or running: `reject` (the default), `enqueue`, `interrupt` or
            `rollback`.
        recovery: What happens if an attempt dies after text was shown: `restart` (the default) or `fail`.
        deadline_seconds: For the whole turn.
        metadata: Yours; at most 16 KiB.
        idempotency_key: For 24 hours, the same request with the same key makes only one turn. By default all tries of
            this call share a generated key; pass one to be able to post again after a restart of your program.
        traceparent: W3C trace context; it goes with the turn to the provider.

    Raises:
        ValueError: The key does not consist of 1 to 255 visible ASCII characters.
    """
    body = {
        "content": content,
        **_given(
            max_output_tokens=max_output_tokens,
            multitask_strategy=multitask_strategy,
            recovery=recovery,
            deadline_seconds=deadline_seconds,
            metadata=metadata,
        ),
    }
    headers = {"Idempotency-Key": _visible(idempotency_key or uuid.uuid4().hex)}
    if traceparent is not None:
        headers["traceparent"] = traceparent
    return Call("POST", _path("sessions", session_id, "turns"), _as(models.Turn), headers=headers, body=body)


def list_turns(session_id: str, *, limit: int = 20, cursor: str | None = None) -> Call[Page[models.Turn]]:
    """List a session's turns, newest first."""
    path = _path("sessions", session_id, "turns")
    return Call("GET", path, _pages_of(models.Turn), _query(limit=limit, cursor=cursor))


def get_turn(turn_id: str, *, wait_seconds: int = 0) -> Call[models.Turn]:
    """Read a turn; with `wait_seconds` (at most 60), wait until it has ended or that time is over."""
    query = _query(wait=wait_seconds or None)
    return Call("GET", _path("turns", turn_id), _as(models.Turn), query, waits_seconds=wait_seconds)


def stop_turn(turn_id: str, *, wait_ms: int = 0) -> Call[models.Turn]:
    """Stop a turn in any phase; with `wait_ms` (at most 30,000), wait up to that long for its end.

    May be called again at any time. The returned turn is over, or `stopping`.
    """
    path, body = _path("turns", turn_id, "stop"), {"wait_ms": wait_ms}
    return Call("POST", path, _as(models.Turn), body=body, waits_seconds=wait_ms / 1000)


def list_events(turn_id: str, *, after: int = 0, limit: int | None = None) -> Call[models.EventPage]:
    """Read a turn's events after a known `seq`, as many as there are; `read_event` makes them typed."""
    query = _query(after=after, limit=limit)
    headers = {"Accept": "application/json"}
    return Call("GET", events_path(turn_id), _as(models.EventPage), query, headers)


def events_path(turn_id: str) -> str:
    """Return the path of a turn's events, as a page or as a stream."""
    return _path("turns", turn_id, "events")


def create_ticket(session_id: str, *, ttl_seconds: int | None = None) -> Call[models.Ticket]:
    """Create a ticket that opens one stream of one session, for a browser."""
    body = {"session_id": session_id, **_given(ttl_seconds=ttl_seconds)}
    return Call("POST", "/v1/tickets", _as(models.Ticket), body=body)


def create_key(
    role: str, *, user: str | None = None, name: str = "", expires_at: datetime | None = None
) -> Call[models.CreatedKey]:
    """Create a key with the role `user`, `service` or `admin`; requires an admin's key.

    Its secret is in this response and nowhere else. The call is not sent again if its response was lost.
    """
    if expires_at is not None and expires_at.tzinfo is None:
        raise ValueError("expires_at must have a time zone")
    expiry = None if expires_at is None else expires_at.isoformat()
    body = {"role": role, "name": name, **_given(user=user, expires_at=expiry)}
    return Call("POST", "/v1/keys", _as(models.CreatedKey), body=body, is_repeatable=False)


def list_keys(*, limit: int = 20, cursor: str | None = None) -> Call[Page[models.Key]]:
    """List keys, newest first, including revoked ones; requires an admin's key."""
    return Call("GET", "/v1/keys", _pages_of(models.Key), _query(limit=limit, cursor=cursor))


def revoke_key(key_id: str) -> Call[None]:
    """Revoke a key; requires an admin's key."""
    return Call("DELETE", _path("keys", key_id), _nothing)


def get_budget() -> Call[models.Budget]:
    """Read the organization's limits and how much of them is used; requires an admin's key."""
    return Call("GET", "/v1/budget", _as(models.Budget))


def put_budget(limits: models.Limits) -> Call[models.Budget]:
    """Replace all of the organization's limits; requires an admin's key."""
    body = {
        "enabled": limits.enabled,
        "daily_usd": _plain(limits.daily_usd),
        "monthly_usd": _plain(limits.monthly_usd),
        "max_turns_per_session": limits.max_turns_per_session,
        "turns_per_minute_per_user": limits.turns_per_minute_per_user,
        "turns_per_hour": limits.turns_per_hour,
        "max_concurrent_turns": limits.max_concurrent_turns,
    }
    return Call("PUT", "/v1/budget", _as(models.Budget), body=body)


def stop_organization(*, reason: str | None = None) -> Call[models.StoppedTurns]:
    """Stop everything that the organization has queued and running; requires an admin's key.

    Args:
        reason: For the service's log, at most 200 characters.
    """
    body = {} if reason is None else {"reason": reason}
    return Call("POST", "/v1/organization/stop", _as(models.StoppedTurns), body=body)


def get_usage(
    *,
    first_day: date | None = None,
    last_day: date | None = None,
    group_by: str = "day",
    limit: int = 20,
    cursor: str | None = None,
) -> Call[models.UsageReport]:
    """Add up tokens and costs by `day`, `user` or `model`, including both days; requires an admin's key."""
    query = _days(first_day, last_day) | _query(group_by=group_by, limit=limit, cursor=cursor)
    return Call("GET", "/v1/usage", _usage_report, query)


def list_ledger(
    *,
    first_day: date | None = None,
    last_day: date | None = None,
    user: str | None = None,
    session_id: str | None = None,
    turn_id: str | None = None,
    model: str | None = None,
    limit: int = 20,
    cursor: str | None = None,
) -> Call[Page[models.LedgerRow]]:
    """List what attempts cost, newest first; requires an admin's key."""
    filters = _query(user=user, session_id=session_id, turn_id=turn_id, model=model)
    query = _days(first_day, last_day) | filters | _query(limit=limit, cursor=cursor)
    return Call("GET", "/v1/ledger", _pages_of(models.LedgerRow), query)


def list_refusals(
    *, first_day: date | None = None, last_day: date | None = None, limit: int = 20
) -> Call[Mapping[str, Any]]:
    """List who was refused a turn, by which limit and how often; requires an admin's key. Returns the JSON as it is."""
    query = _days(first_day, last_day) | _query(limit=limit)
    return Call("GET", "/v1/refusals", _object, query)


def get_operations_summary() -> Call[Mapping[str, Any]]:
    """Summarize the organization's turns at this moment; requires an admin's key. Returns the JSON as it is."""
    return Call("GET", "/v1/operations/summary", _object)


def get_delays() -> Call[Mapping[str, Any]]:
    """Read how long turns of the last hour waited; requires an admin's key. Returns the JSON as it is."""
    return Call("GET", "/v1/operations/delays", _object)


def list_organization_turns(
    *, status: str | None = None, code: str | None = None, limit: int = 20, cursor: str | None = None
) -> Call[Mapping[str, Any]]:
    """List the organization's turns, newest first; requires an admin's key. Returns the JSON as it is."""
    query = _query(status=status, code=code, limit=limit, cursor=cursor)
    return Call("GET", "/v1/operations/turns", _object, query)


def get_turn_report(turn_id: str) -> Call[Mapping[str, Any]]:
    """Read a turn's timeline and attempts; requires an admin's key. Returns the JSON as it is."""
    return Call("GET", _path("operations", "turns", turn_id), _object)


def list_workers() -> Call[Mapping[str, Any]]:
    """List the workers, and the organization's turns on them; requires an admin's key. Returns the JSON as it is."""
    return Call("GET", "/v1/operations/workers", _object)


def list_flagged_sessions(*, limit: int = 20, cursor: str | None = None) -> Call[Mapping[str, Any]]:
    """List flagged sessions, the last flagged first; requires an admin's key. Returns the JSON as it is."""
    return Call("GET", "/v1/operations/flagged", _object, _query(limit=limit, cursor=cursor))


def get_health() -> Call[models.Health]:
    """Ask whether the process answers."""
    return Call("GET", "/healthz", _as(models.Health))


def get_readiness() -> Call[models.Readiness]:
    """Ask whether the service can do its work, part by part; a degraded service is a result, not an error."""
    return Call("GET", "/readyz", _as(models.Readiness), also_accepts=frozenset({503}))


def get_openapi() -> Call[Mapping[str, Any]]:
    """Read the service's own description of its API."""
    return Call("GET", "/openapi.json", _object)


def ledger_csv_query(
    *,
    first_day: date | None = None,
    last_day: date | None = None,
    user: str | None = None,
    session_id: str | None = None,
    turn_id: str | None = None,
    model: str | None = None,
) -> Mapping[str, str]:
    """Return the query of the ledger as CSV."""
    filters = _query(user=user, session_id=session_id, turn_id=turn_id, model=model)
    return _days(first_day, last_day) | filters


def _path(*parts: str) -> str:
    # An invalid id (empty, `..`) must not reach another path: `-` is not found.
    return "/v1/" + "/".join(quote(part, safe="") if part.strip(".") else "-" for part in parts)


def _visible(key: str) -> str:
    if not (key.isascii() and key.isprintable() and " " not in key and len(key) <= LONGEST_KEY):
        raise ValueError(f"idempotency_key must be 1 to {LONGEST_KEY} visible ASCII characters")
    return key


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _query(**fields: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in fields.items() if value is not None}


def _days(first: date | None, last: date | None) -> dict[str, str]:
    return {name: day.isoformat() for name, day in (("from", first), ("to", last)) if day is not None}


def _plain(amount: Decimal | None) -> str | None:
    # Never `1E+2`, which the API does not accept as a decimal.
    return None if amount is None else f"{amount:f}"


def _as(kind: type[T]) -> Callable[[Received], T]:
    return lambda answer: decode(kind, json_of(answer))


def _pages_of(kind: type[T]) -> Callable[[Received], Page[T]]:
    return lambda answer: page_of(kind, json_of(answer))


def _usage_report(answer: Received) -> models.UsageReport:
    found = json_of(answer)
    page = page_of(models.UsageRow, found)
    return models.UsageReport(page.data, page.next_cursor, decode(models.UsageTotals, found.get("totals")))


def _object(answer: Received) -> Mapping[str, Any]:
    found = json_of(answer)
    if not isinstance(found, dict):
        raise ProtocolError("an answer is no JSON object")
    return found


def _nothing(answer: Received) -> None:
    del answer
