"""Reads requests: ids, queries and JSON bodies, as strictly as the models say.

Python's JSON parser accepts NaN, duplicate names, lone surrogates and any depth. Each of them breaks
something later (PostgreSQL, another parser, the stack), so each is refused here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar
from uuid import UUID

from flask import Request, g
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import ProblemCode, RefusedError
from shared.ids import new_id, parse_id

BODY_BYTES: Final = 1_048_576
DEPTH: Final = 64
"""Far deeper than any metadata, and far below the limit of the interpreter's stack."""
_MOST_ERRORS: Final = 50
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_UNSAFE: Final = re.compile("[\0\ud800-\udfff]")

ModelT = TypeVar("ModelT", bound=BaseModel)


def request_id_of(request: Request) -> str:
    """Return the client's request id if it is valid, else a new one."""
    sent = request.headers.get("X-Request-Id", "")
    return sent if _REQUEST_ID.fullmatch(sent) else new_id().hex


def traceparent_of(request: Request) -> str:
    """Return the W3C trace context for a turn: the request's own span, or the one that was sent; empty for none."""
    own: str | None = g.get("traceparent")
    if own is not None:
        return own
    sent = request.headers.get("traceparent", "")
    return sent if _TRACEPARENT.fullmatch(sent) else ""


def idempotency_key_of(request: Request) -> str | None:
    """Return the Idempotency-Key; None if there is none.

    Raises:
        RefusedError: It is not 1 to 255 visible ASCII characters.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None or _IDEMPOTENCY_KEY.fullmatch(key):
        return key
    raise invalid("/headers/Idempotency-Key", "must be 1 to 255 visible ASCII characters")


def path_id(text: str) -> UUID:
    """Return the id in a path.

    Raises:
        RefusedError: The text is not an id, so nothing can be found under it.
    """
    found = parse_id(text)
    if found is None:
        raise RefusedError(ProblemCode.NOT_FOUND, "there is no such thing here")
    return found


def invalid(pointer: str, detail: str) -> RefusedError:
    """Return the refusal of one wrong field."""
    return RefusedError(
        ProblemCode.VALIDATION_FAILED,
        "a field is wrong: see `errors`",
        errors=[{"pointer": pointer, "detail": detail}],
    )


def read_query(request: Request, model: type[ModelT]) -> ModelT:
    """Read the query parameters that `model` knows; others are ignored.

    Raises:
        RefusedError: A value is wrong.
    """
    names = (field.alias or name for name, field in model.model_fields.items())
    given = {name: request.args[name] for name in names if name in request.args}
    for name, value in given.items():
        if _UNSAFE.search(value):
            raise invalid(f"/query/{name}", "must not contain NUL")
    try:
        return model.model_validate(given)
    except ValidationError as exc:
        raise _validation_failed(exc, "/query") from exc


def read_body(request: Request, model: type[ModelT], *, is_optional: bool) -> ModelT:
    """Read and validate the JSON body.

    Args:
        request: The request.
        model: What it must hold.
        is_optional: Whether a missing body stands for `{}`.

    Raises:
        RefusedError: The body is too large or not JSON, or a field is wrong.
    """
    raw = request.get_data(cache=False)
    if len(raw) > BODY_BYTES:
        raise RefusedError(ProblemCode.PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB")
    if not raw and is_optional:
        return _validated({}, model)
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if request.mimetype != "application/json" or charset not in {"utf-8", "utf8"}:
        raise RefusedError(
            ProblemCode.INVALID_REQUEST, "the body must be JSON: send `Content-Type: application/json`"
        )
    document = parse_json(raw)
    if b"\\u" in raw:  # only an escape can spell characters that UTF-8 and raw JSON cannot hold
        _refuse_unsafe_text(document)
    return _validated(document, model)


def parse_json(raw: bytes) -> Any:
    """Parse one JSON document.

    Raises:
        RefusedError: It is not UTF-8 or not JSON, holds NaN, an infinity or a duplicate name, or is nested
            too deeply.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise RefusedError(ProblemCode.INVALID_REQUEST, "the body is not UTF-8") from None
    try:
        document = json.loads(
            text,
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        # The decoder's message quotes only offsets of the body, but nothing promises that it always will.
        raise RefusedError(ProblemCode.INVALID_REQUEST, "the body is not valid JSON") from None
    if text.count("[") + text.count("{") > DEPTH and _depth(document) > DEPTH:
        raise _too_deep()
    return document


def _validated(document: object, model: type[ModelT]) -> ModelT:
    try:
        return model.model_validate(document)
    except ValidationError as exc:
        raise _validation_failed(exc, "") from exc


def _validation_failed(error: ValidationError, prefix: str) -> RefusedError:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return RefusedError(
        ProblemCode.VALIDATION_FAILED,
        "a field is wrong: see `errors`"
        if len(found) == 1
        else f"{len(found)} fields are wrong: see `errors`",
        errors=[
            {"pointer": prefix + pointer(entry["loc"]), "detail": _detail(entry)}
            for entry in found[:_MOST_ERRORS]
        ],
    )


def _detail(entry: ErrorDetails) -> str:
    if entry["type"] == "extra_forbidden":
        return "is not a known field"
    if entry["type"] == "missing":
        return "is required"
    message = entry["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return message[:1].lower() + message[1:]


def pointer(parts: tuple[int | str, ...]) -> str:
    """Return the JSON pointer (RFC 6901) of a place in a document."""
    return "".join("/" + _shown(str(part)).replace("~", "~0").replace("/", "~1") for part in parts)


def _shown(name: str) -> str:
    """Make a name from the client's body safe to send back."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", name)[:200]


def _refuse_unsafe_text(document: object) -> None:
    errors = [
        {"pointer": pointer(place), "detail": "must not contain NUL or half of a surrogate pair"}
        for place, text in _strings(document)
        if _UNSAFE.search(text)
    ]
    if errors:
        raise RefusedError(
            ProblemCode.VALIDATION_FAILED,
            "a text is not valid Unicode: see `errors`",
            errors=errors[:_MOST_ERRORS],
        )


def _strings(document: object) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Yield every string and every name with its location, without recursion."""
    waiting: list[tuple[tuple[int | str, ...], object]] = [((), document)]
    while waiting:
        place, value = waiting.pop()
        match value:
            case str():
                yield place, value
            case Mapping():
                yield from (((*place, name), name) for name in value)
                waiting.extend(((*place, name), item) for name, item in value.items())
            case list():
                waiting.extend(((*place, index), item) for index, item in enumerate(value))


def _depth(document: object) -> int:
    """Return the nesting depth of lists and objects, counted up to one more than is allowed."""
    level, depth = [document], 0
    while depth <= DEPTH:
        level = [
            item
            for value in level
            if isinstance(value, list | dict)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return depth + 1
        depth += 1
    return depth


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is out of range")
    return number


def _too_deep() -> RefusedError:
    return RefusedError(ProblemCode.INVALID_REQUEST, f"the body is nested deeper than {DEPTH} levels")
