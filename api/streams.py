"""Turns a request into a stream: answers with an event stream, and checks the handshake of a websocket."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from flask import Request, Response, request

from api.auth import Authenticator
from api.caller import Caller
from api.negotiation import EVENT_STREAM, prefers
from api.operation import Call
from api.relay.places import Reader, address_of
from api.relay.sse import no_room, stream_events
from shared.configuration.settings import Settings
from shared.errors import ProblemCode, RefusedError

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def wants_stream(given: Request) -> bool:
    """Return whether `Accept` names an event stream, and JSON with no higher quality; `*/*` does not name one."""
    return prefers(given, EVENT_STREAM, wins_ties=True)


def refuse_without_room(call: Call) -> None:
    """Refuse a request that could not be streamed, before anything is written.

    Raises:
        RefusedError: Too many streams are open.
    """
    if not call.services.hub.has_room(Reader(call.caller, address_of(request.remote_addr))):
        raise no_room()


def stream_of(
    call: Call, turn_id: UUID, *, after: int, headers: Mapping[str, str] = MappingProxyType({})
) -> Response:
    """Answer with a turn's events after `after`, ending with `done`.

    Raises:
        RefusedError: The caller sees no such turn, or too many streams are open.
    """
    state = call.services.store.turn(call.caller, turn_id)
    if state is None:
        raise RefusedError(ProblemCode.NOT_FOUND, "there is no such turn")
    answer = stream_events(
        call.services.hub, call.caller, state, after=after, request_id=call.request_id, headers=headers
    )
    # Werkzeug runs the functions for close only with an iterator of its own.
    answer.direct_passthrough = False
    return answer


def handshake_authenticator(
    authenticator: Authenticator,
) -> Callable[[str | None, str | None], Caller | None]:
    """Return a function that finds the caller of a websocket's handshake: a key's, else a ticket's."""

    def authenticate(bearer: str | None, ticket: str | None) -> Caller | None:
        if bearer:
            return authenticator.of_key(bearer)
        return authenticator.redeem_ticket(ticket) if ticket else None

    return authenticate


def origin_check(settings: Settings) -> Callable[[str], bool]:
    """Return a function that checks a websocket's origin: the service's own is allowed, and those configured."""

    def is_allowed(origin: str) -> bool:
        return origin.lower() in settings.allowed_origins or is_same_host(origin, request.host)

    return is_allowed


def is_same_host(origin: str, host: str) -> bool:
    """Return whether an `Origin` has the host and port of a `Host` header."""
    try:
        of_origin, of_host = urlsplit(origin), urlsplit(f"//{host}")
        default = _DEFAULT_PORTS.get(of_origin.scheme)
        return (
            default is not None
            and of_origin.hostname is not None
            and of_origin.hostname == of_host.hostname
            and (of_origin.port or default) == (of_host.port or default)
        )
    except ValueError:
        return False
