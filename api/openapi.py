"""The OpenAPI document, made from the same declarations and models that route and validate requests."""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api import models
from api.answer_headers import answer_headers, problem_headers
from api.operation import Operation
from api.routes import OPERATIONS
from shared.errors import PROBLEMS, ProblemCode, problem_type

_REF: Final = "#/components/schemas/{model}"
_OF_ANY_REQUEST: Final = (
    ProblemCode.INVALID_REQUEST,
    ProblemCode.REQUEST_TIMEOUT,
    ProblemCode.HEADERS_TOO_LARGE,
    ProblemCode.RATE_LIMITED,
)
"""What the server answers by itself: no HTTP, too slow, too large, or too many at once of one organization."""
_OF_ANY_CALL: Final = (ProblemCode.UNAUTHORIZED, ProblemCode.UNAVAILABLE, ProblemCode.INTERNAL)
_OF_ANY_BODY: Final = (
    ProblemCode.INVALID_REQUEST,
    ProblemCode.PAYLOAD_TOO_LARGE,
    ProblemCode.VALIDATION_FAILED,
)
_DESCRIPTION: Final = (
    "Durable, resumable, stoppable, metered LLM chat turns. Ids are UUIDv7, times RFC 3339 in UTC, money decimal "
    "strings in US dollars. A client ignores response fields and event types that it does not know. Every refusal "
    "is `application/problem+json`; programs branch on its `code`. Live events also come over a websocket at "
    "`GET /v1/stream`, subprotocol `turnkeeper.v1`."
)

_STREAM: Final = (
    "Server-sent events: `id` is the event's `seq`, `event` its type, `data` the envelope. "
    "The stream ends after `done`."
)
_TABLE: Final = "RFC 4180, with a header row; all rows, whatever `limit` and `cursor` say."

openapi = Blueprint("openapi", __name__)


@openapi.get("/openapi.json")
def openapi_page() -> Response:
    """Send the OpenAPI document."""
    return Response(_encoded(), content_type="application/json")


@cache
def _encoded() -> str:
    return json.dumps(openapi_document())


def openapi_document() -> dict[str, Any]:
    """Return the API's description in OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Turnkeeper",
            "version": "1",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key: `tsk_…`. Its role is `user`, `service` or `admin`.",
                }
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    summary = (operation.run.__doc__ or "").strip().splitlines()[0]
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": summary,
        "parameters": [*_path_parameters(operation.path), *_query(operation), *_headers(operation)],
        "responses": {**_answers(operation), **_problems(operation)},
    }
    if not operation.roles:
        described["security"] = []
    elif len(operation.roles) == 1:
        described["description"] = f"Takes a key of the role {', '.join(operation.roles)}."
    if operation.body is not None:
        described["requestBody"] = {
            "required": not operation.is_body_optional,
            "content": {"application/json": {"schema": _ref(operation.body)}},
        }
    return described


def _path_parameters(path: str) -> Iterable[Mapping[str, Any]]:
    return (
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        for name in re.findall(r"{(\w+)}", path)
    )


def _query(operation: Operation) -> Iterable[Mapping[str, Any]]:
    if operation.query is None:
        return
    schema = operation.query.model_json_schema(ref_template=_REF)
    for name, described in schema.get("properties", {}).items():
        shown = {key: value for key, value in described.items() if key not in {"title", "description"}}
        if shown.get("default", 0) is None:
            del shown["default"]
        yield {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            **({"description": described["description"]} if "description" in described else {}),
            "schema": shown,
        }


def _headers(operation: Operation) -> Iterable[Mapping[str, Any]]:
    return (
        {"name": name, "in": "header", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in operation.headers.items()
    )


def _answers(operation: Operation) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, model in operation.answers.items():
        content: dict[str, Any] = {} if model is None else {"application/json": {"schema": _ref(model)}}
        if operation.streams and status == HTTPStatus.OK:
            content["text/event-stream"] = {"schema": {"type": "string", "description": _STREAM}}
        if operation.tables and status == HTTPStatus.OK:
            content["text/csv"] = {"schema": {"type": "string", "description": _TABLE}}
        answers[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "headers": answer_headers(operation, status),
            **({"content": content} if content else {}),
        }
    return answers


def _problems(operation: Operation) -> dict[str, Any]:
    codes = [
        *_OF_ANY_REQUEST,
        *(_OF_ANY_CALL if operation.roles else (ProblemCode.INTERNAL,)),
        *(_OF_ANY_BODY if operation.body is not None else ()),
        *((ProblemCode.VALIDATION_FAILED,) if operation.query is not None else ()),
        *((ProblemCode.FORBIDDEN,) if len(operation.roles) == 1 else ()),
        *operation.problems,
    ]
    by_status: dict[int, list[ProblemCode]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    return {
        str(status): {
            "description": ", ".join(f"`{code}`" for code in of_status),
            "headers": problem_headers(operation, of_status),
            "content": {
                "application/problem+json": {
                    "schema": _ref(models.ProblemBody),
                    "examples": {code.value: {"value": _example(code)} for code in of_status},
                }
            },
        }
        for status, of_status in sorted(by_status.items())
        if str(status) not in {str(answer) for answer in operation.answers}
    }


def _example(code: ProblemCode) -> dict[str, Any]:
    problem = PROBLEMS[code]
    return {
        "type": problem_type(code),
        "title": problem.title,
        "status": problem.status,
        "detail": problem.title.lower(),
        "code": code.value,
        "request_id": "0198f0c2a1b27c3d8e4f5a6b7c8d9e0f",
        "retryable": problem.retryable,
    }


def _schemas() -> dict[str, Any]:
    requests = {operation.body for operation in OPERATIONS if operation.body is not None}
    answers = {model for operation in OPERATIONS for model in operation.answers.values() if model is not None}
    answers.add(models.ProblemBody)
    queries = {operation.query for operation in OPERATIONS if operation.query is not None}
    _, schema = models_json_schema(
        [
            *((model, "validation") for model in sorted(requests | queries, key=_name)),
            *((model, "serialization") for model in sorted(answers, key=_name)),
        ],
        ref_template=_REF,
    )
    definitions: dict[str, Any] = schema["$defs"]
    for query in queries:
        definitions.pop(query.__name__, None)  # shown as parameters; only what they refer to is needed
    return dict(sorted(definitions.items()))


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _name(model: type[BaseModel]) -> str:
    return model.__name__
