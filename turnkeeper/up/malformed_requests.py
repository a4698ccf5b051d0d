"""Refuses requests that are not valid HTTP, or whose line or headers are too large, in our own words.

gunicorn repeats the line that it could not read, in its response and in the log, and that line may be a header with a
key in it (I10).
"""

import json
import logging
from http import HTTPStatus
from typing import Final

from gunicorn.http.errors import (
    ConfigurationProblem,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    ParseException,
)

from shared.errors import PROBLEMS, ProblemCode, problem_type
from shared.ids import new_id

_log = logging.getLogger("turnkeeper.requests")

_OURS: Final = (ConfigurationProblem, InvalidResponseHeader, InvalidResponseHeaderName)
"""Errors that gunicorn counts as parse errors but that are not the client's."""

_RETRY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


def refusal_of(error: BaseException) -> tuple[ProblemCode, bytes]:
    """Log why a request was not served; return the code and the response, after which the connection is closed."""
    request_id = new_id().hex
    if isinstance(error, ParseException) and not isinstance(error, _OURS):
        code, detail = (
            ProblemCode.INVALID_REQUEST,
            "the request is no HTTP/1.1, or its line or headers are too large",
        )
        _log.warning(
            "a request could not be read", extra={"request_id": request_id, "reason": type(error).__name__}
        )
    else:
        code, detail = ProblemCode.INTERNAL, "something went wrong here: it was logged under the request's id"
        _log.error("internal error", exc_info=error, extra={"request_id": request_id})
    return code, _encoded(code, detail, request_id)


def refusal(code: ProblemCode, detail: str) -> bytes:
    """Log that a request reaches no application and return the response, after which the connection is closed."""
    request_id = new_id().hex
    _log.warning("a request was not served", extra={"request_id": request_id, "reason": code.value})
    return _encoded(code, detail, request_id)


def _encoded(code: ProblemCode, detail: str, request_id: str) -> bytes:
    problem = PROBLEMS[code]
    body = json.dumps(
        {
            "type": problem_type(code),
            "title": problem.title,
            "status": problem.status,
            "detail": detail,
            "code": code.value,
            "request_id": request_id,
            "retryable": problem.retryable,
            **({"retry_after_ms": 1000} if problem.status in _RETRY else {}),
            **({"scope": "requests"} if code is ProblemCode.RATE_LIMITED else {}),
        }
    ).encode()
    retry = "Retry-After: 1\r\n" if problem.status in _RETRY else ""
    head = (
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n{retry}"
        "Connection: close\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\n"
        f"X-Content-Type-Options: nosniff\r\nX-Request-Id: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
