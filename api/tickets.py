"""Tickets: with one a browser opens a stream, instead of with a key that its page must not show."""

from typing import Final

from api import models
from api.operation import Call, Operation, Reply
from api.requests import invalid
from api.sessions import require_session
from shared.errors import ProblemCode
from shared.ids import parse_id
from shared.turn.events import timestamp


def create_ticket(call: Call, body: models.NewTicket) -> Reply:
    """Make a ticket for one stream of one session; it is good once and for a minute at most."""
    session_id = parse_id(body.session_id)
    if session_id is None:
        raise invalid("/session_id", "must be an id")
    longest = call.services.settings.ticket_ttl_seconds
    ttl_seconds = body.ttl_seconds or longest
    if ttl_seconds > longest:
        raise invalid("/ttl_seconds", f"must not be more than {longest}")
    session = require_session(call, session_id)
    call.services.ticket_limits.take(call.caller)
    ticket = call.services.authenticator.issue_ticket(call.caller, session_id, session.user_name, ttl_seconds)
    return Reply(201, models.Ticket(ticket=ticket.secret, expires_at=timestamp(ticket.expires_at)))


OPERATIONS: Final = (
    Operation(
        "POST",
        "/v1/tickets",
        "Streams",
        {201: models.Ticket},
        create_ticket,
        (ProblemCode.NOT_FOUND, ProblemCode.RATE_LIMITED),
        body=models.NewTicket,
    ),
)
