"""Renders every error as problem+json (RFC 9457), whether raised by us, by Flask, or because the database is down."""

import errno
import json
import logging
from http import HTTPStatus
from typing import Any, Final

from flask import Flask, Response, g
from werkzeug.exceptions import HTTPException

from shared.errors import PROBLEMS, ProblemCode, RefusedError, UnavailableError, problem_type

_log = logging.getLogger("turnkeeper.api")

MEDIA_TYPE: Final = "application/problem+json"
_UNAVAILABLE_RETRY_MS: Final = 1000
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})
"""Errors of the system that pass: there are no open files, buffers or memory left, or no more threads."""
_OF_HTTP_STATUS: Final = {
    HTTPStatus.UNAUTHORIZED: ProblemCode.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN: ProblemCode.FORBIDDEN,
    HTTPStatus.NOT_FOUND: ProblemCode.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED: ProblemCode.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_ACCEPTABLE: ProblemCode.NOT_ACCEPTABLE,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ProblemCode.PAYLOAD_TOO_LARGE,
    HTTPStatus.SERVICE_UNAVAILABLE: ProblemCode.UNAVAILABLE,
}
_DETAILS: Final = {
    ProblemCode.NOT_FOUND: "there is no such thing here",
    ProblemCode.METHOD_NOT_ALLOWED: "this path does not take that method: see the `Allow` header",
    ProblemCode.PAYLOAD_TOO_LARGE: "the body is larger than 1 MiB",
    ProblemCode.INVALID_REQUEST: "the request could not be read",
    ProblemCode.UNAVAILABLE: "the service cannot answer now: try again",
}


def register_problems(app: Flask) -> None:
    """Answer every error of `app` with a problem."""
    app.register_error_handler(RefusedError, problem_of)
    app.register_error_handler(UnavailableError, _unavailable)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(Exception, _unexpected)


def problem_body(refused: RefusedError, request_id: str) -> dict[str, Any]:
    """Return the problem as it is sent."""
    problem = PROBLEMS[refused.code]
    body: dict[str, Any] = {
        "type": problem_type(refused.code),
        "title": problem.title,
        "status": problem.status,
        "detail": refused.detail,
        "code": refused.code.value,
        "request_id": request_id,
        "retryable": problem.retryable,
    }
    if refused.retry_after_ms is not None:
        body["retry_after_ms"] = refused.retry_after_ms
    if refused.errors:
        body["errors"] = [dict(error) for error in refused.errors]
    return body | refused.members


def problem_of(refused: RefusedError) -> Response:
    """Return the response to a refused request."""
    g.refused = refused
    body = problem_body(refused, g.get("request_id", ""))
    status = PROBLEMS[refused.code].status
    answer = Response(encode_problem(body), status=status, content_type=MEDIA_TYPE)
    if refused.retry_after_ms is not None:
        answer.headers["Retry-After"] = retry_after(refused.retry_after_ms)
    answer.headers.update(refused.headers)
    if refused.code is ProblemCode.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def encode_problem(body: dict[str, Any]) -> bytes:
    """Return a problem's bytes."""
    return json.dumps(body).encode()


def retry_after(retry_after_ms: int) -> str:
    """Return the value of `Retry-After`, which has whole seconds."""
    return str(-(-retry_after_ms // 1000))


def unavailable() -> RefusedError:
    """Return the refusal while the database cannot be reached."""
    return RefusedError(
        ProblemCode.UNAVAILABLE, _DETAILS[ProblemCode.UNAVAILABLE], retry_after_ms=_UNAVAILABLE_RETRY_MS
    )


def _unavailable(error: UnavailableError) -> Response:
    _log.error("unavailable", exc_info=error)
    return problem_of(unavailable())


def _of_http(error: HTTPException) -> Response:
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _OF_HTTP_STATUS:
        return _unexpected(error)
    code = _OF_HTTP_STATUS.get(HTTPStatus(status), ProblemCode.INVALID_REQUEST)
    answer = problem_of(RefusedError(code, _DETAILS.get(code, "refused")))
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        answer.headers["Allow"] = ", ".join(sorted(allowed))
    return answer


def _unexpected(error: Exception) -> Response:
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        return _unavailable(UnavailableError(f"this process has run out of something: {error.strerror}"))
    _log.error("internal error", exc_info=error)
    return problem_of(
        RefusedError(ProblemCode.INTERNAL, "something went wrong here: it was logged under the request's id")
    )
