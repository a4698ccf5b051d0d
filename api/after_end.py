"""Answers a request once its turn has ended, without holding what other requests need.

Under gunicorn the connection is handed to the hub, whose loop waits and answers: a wait costs a socket, and a place of
its organization and user. A server whose connection cannot be taken waits in the request's thread.
"""

from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from uuid import UUID

from flask import Response, request

from api.operation import COMMON_HEADERS, Call, Reply
from api.problems import MEDIA_TYPE, encode_problem, problem_body, retry_after, unavailable
from api.relay import handover
from api.relay.places import Reader, address_of
from api.relay.sse import TRY_AGAIN_MS, Taken
from api.relay.waits import Waited
from shared.errors import PROBLEMS, ProblemCode, RefusedError, UnavailableError


def answer_after_end(
    call: Call, turn_id: UUID, seconds: float, read: Callable[[], Reply]
) -> Reply | Response | None:
    """Answer the current request with what `read` returns once the turn has ended, or `seconds` have passed.

    Args:
        call: The request.
        turn_id: The turn; it has not ended yet.
        seconds: How long to wait at most.
        read: Reads the answer, in another thread: it must not use Flask's request.

    Returns:
        What the view returns; None if there is no place to wait.

    Raises:
        UnavailableError: The process is ending, or PostgreSQL cannot be reached.
    """
    environ, hub = request.environ, call.services.hub
    if request.method == "HEAD":
        return read()
    if "gunicorn.socket" not in environ or not handover.can_take(environ):
        call.services.waiting.until_ended(call.caller, turn_id, seconds)
        return read()
    reader = Reader(call.caller, address_of(request.remote_addr))
    hub.start()
    if not hub.take_wait_place(reader):
        return None
    waited = Waited(
        turn_id=turn_id,
        seconds=seconds,
        answer=partial(_answered, call.request_id, read),
        unavailable=_encoded(call.request_id, unavailable(), closes=True),
        may_continue=hub.gives_back() and handover.may_continue(environ),
    )
    try:
        taken = handover.take(environ)
    except BaseException:
        hub.give_wait_place_back(reader)
        raise
    hub.carry_wait(taken, reader, waited)
    return Taken()


def no_place() -> RefusedError:
    """Return the refusal of a request that wants to wait when there is no place for it."""
    return RefusedError(
        ProblemCode.RATE_LIMITED,
        "too many requests wait for a turn's end: ask again without `wait`, or later",
        retry_after_ms=TRY_AGAIN_MS,
        members={"scope": "waits"},
    )


def _answered(request_id: str, read: Callable[[], Reply], closes: bool) -> bytes:
    try:
        answer: Reply | RefusedError = read()
    except RefusedError as refused:
        answer = refused
    except UnavailableError:
        answer = unavailable()
    return _encoded(request_id, answer, closes=closes)


def _encoded(request_id: str, answer: Reply | RefusedError, *, closes: bool) -> bytes:
    """Return a whole response, as the server would send it."""
    headers: dict[str, str] = {"Date": formatdate(usegmt=True), "X-Request-Id": request_id}
    headers |= {**COMMON_HEADERS, "Cache-Control": "no-store"}
    if isinstance(answer, RefusedError):
        status = PROBLEMS[answer.code].status
        body = encode_problem(problem_body(answer, request_id))
        headers |= {"Content-Type": MEDIA_TYPE}
        if answer.retry_after_ms is not None:
            headers["Retry-After"] = retry_after(answer.retry_after_ms)
    else:
        assert answer.body is not None
        status = answer.status
        body = answer.body.model_dump_json(by_alias=True).encode()
        headers |= {"Content-Type": "application/json"} | dict(answer.headers)
    headers |= {"Content-Length": str(len(body))} | ({"Connection": "close"} if closes else {})
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *map(": ".join, headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
