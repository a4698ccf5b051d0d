"""How an operation of the API is declared: what it takes, who may call it and what it answers, next to its function.

The routes, the checks before the function runs and the OpenAPI page all come from this one
declaration, so they cannot contradict each other.
"""

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from flask import Flask, Response, g, request
from pydantic import BaseModel

from api.caller import Caller
from api.requests import path_id, read_body, read_query, request_id_of
from api.services import Services, services
from shared.errors import ConflictError, ProblemCode, RefusedError
from shared.observing.logs import bind_log_ids, unbind_log_ids
from shared.postgres.accounts import KeyRole

_log = logging.getLogger("turnkeeper.requests")

COMMON_HEADERS: Final[Mapping[str, str]] = MappingProxyType({"X-Content-Type-Options": "nosniff"})
"""Of every response, besides the request's id."""
ANYONE: Final = frozenset(KeyRole)
ADMINS: Final = frozenset({KeyRole.ADMIN})
_TRIES: Final = 3
_PAUSE_SECONDS: Final = (0.01, 0.05)
"""Between two tries: about as long as the transaction that was in the way."""


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request."""

    services: Services
    caller: Caller
    request_id: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What an operation answers.

    Args:
        status: The HTTP status.
        body: The body; None for none.
        headers: Headers besides the common ones.
    """

    status: int
    body: BaseModel | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[..., Reply | Response]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Args:
        method: `GET`, `POST` …
        path: With its ids in braces, as in OpenAPI.
        tag: Its chapter in the reference.
        answers: The model of each successful status; None for no body.
        run: Its function: takes a `Call` (or `Services` if it is public), the ids by name, `query`
            and `body`.
        problems: The codes that it may answer besides those that any call may.
        body: The model of its body.
        is_body_optional: Whether a missing body stands for `{}`.
        query: The model of its query.
        roles: Who may call it; empty for anyone, without a key.
        headers: Request headers that it reads, with their meaning.
        sends: Headers of its own responses, by status, besides those that every response has.
        streams: Whether it may answer with an event stream.
        tables: Whether it may answer with CSV.
    """

    method: str
    path: str
    tag: str
    answers: Mapping[int, type[BaseModel] | None]
    run: Handler
    problems: tuple[ProblemCode, ...] = ()
    body: type[BaseModel] | None = None
    is_body_optional: bool = False
    query: type[BaseModel] | None = None
    roles: frozenset[KeyRole] = ANYONE
    headers: Mapping[str, str] = field(default_factory=dict)
    sends: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    streams: bool = False
    tables: bool = False

    @property
    def name(self) -> str:
        """Its `operationId`."""
        return self.run.__name__


def register_operations(app: Flask, operations: tuple[Operation, ...]) -> None:
    """Route `operations`."""
    for operation in operations:
        app.add_url_rule(
            operation.path.replace("{", "<").replace("}", ">"),
            endpoint=operation.name,
            view_func=_view(operation),
            methods=[operation.method],
        )


def begin_request() -> None:
    """Give the request its id (before every request)."""
    g.request_id = request_id_of(request)
    # For the whole request: an exception of its handler is logged after the handler.
    g.log_token = bind_log_ids(request_id=g.request_id)
    g.began = time.perf_counter()


def end_request(response: Response) -> Response:
    """Add the request's id to the response and a line to the log (after every request)."""
    request_id = g.get("request_id", "")
    response.headers["X-Request-Id"] = request_id
    response.headers.update(COMMON_HEADERS)
    if response.mimetype in {"application/json", "application/problem+json", "text/csv"}:
        response.headers.setdefault("Cache-Control", "no-store")
    if request.path.startswith("/v1"):
        seconds = time.perf_counter() - g.began if "began" in g else None
        services().metrics.answered(request.endpoint, response.status_code, seconds)
        if "refused" in g:
            services().metrics.refused(g.refused)
        # The route's pattern and never the path: a client can put anything there.
        _log.info(
            "request",
            extra={
                "method": request.method,
                "route": request.url_rule.rule if request.url_rule else None,
                "status": response.status_code,
                "duration_ms": None if seconds is None else round(seconds * 1000, 3),
            },
        )
    return response


def forget_request(_: BaseException | None) -> None:
    """Remove the request's ids from the thread, which serves other requests (at every request's end)."""
    token = g.pop("log_token", None)
    if token is not None:
        unbind_log_ids(token)


def _view(operation: Operation) -> Callable[..., Response]:
    def view(**path: str) -> Response:
        request_id: str = g.request_id
        arguments: dict[str, Any] = {}
        if operation.roles:
            caller = services().authenticator.of_header(request.headers.get("Authorization"))
            _check_role(operation, caller)
            context: Call | Services = Call(services(), caller, request_id)
        else:
            context = services()
        ids = _ids(path)
        bind_log_ids(**ids)
        arguments |= ids
        if operation.query is not None:
            arguments["query"] = read_query(request, operation.query)
        if operation.body is not None:
            arguments["body"] = read_body(request, operation.body, is_optional=operation.is_body_optional)
        return _response(_tried(lambda: operation.run(context, **arguments)))

    view.__doc__ = operation.run.__doc__
    return view


def _tried(run: Callable[[], Reply | Response]) -> Reply | Response:
    """Run an operation, again if its transaction had to give way to another.

    That is safe: an operation has one transaction that writes, and acts on the rest only after its commit.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            return run()
        except ConflictError as error:
            if tries_left == 0:
                raise
            _log.info("an operation is tried again: %s", error)
            time.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311 -- spreads the tries, protects nothing
    raise AssertionError("the last try returns or raises")


def _check_role(operation: Operation, caller: Caller) -> None:
    if caller.role not in operation.roles:
        raise RefusedError(
            ProblemCode.FORBIDDEN,
            f"a key of the role {caller.role!r} may not do this: use one of {', '.join(sorted(operation.roles))}",
        )


def _ids(path: Mapping[str, str]) -> dict[str, UUID]:
    return {name: path_id(value) for name, value in path.items()}


def _response(reply: Reply | Response) -> Response:
    if isinstance(reply, Response):
        return reply
    if reply.body is None:
        return Response(status=reply.status, headers=dict(reply.headers))
    return Response(
        reply.body.model_dump_json(by_alias=True),
        status=reply.status,
        headers=dict(reply.headers),
        content_type="application/json",
    )
