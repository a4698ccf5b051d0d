"""The headers of responses, as the OpenAPI page describes them."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from api.operation import Operation
from shared.errors import ProblemCode

_REQUEST_ID: Final = "X-Request-Id"
_RETRY_AFTER: Final = "Retry-After"
_RATE_LIMITS: Final = ("RateLimit-Policy", "RateLimit")
_SCOPE: Final = '"(user|organization)"'
_POLICY: Final = rf"{_SCOPE};q=\d+;w=\d+"
_STANDING: Final = rf"{_SCOPE};r=\d+;t=\d+"


def _header(description: str, **schema: Any) -> Mapping[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}}


_HEADERS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        _REQUEST_ID: _header("The client's own, when it sent one that is taken."),
        "Location": _header("Where what was made is.", format="uri-reference"),
        "Idempotency-Replayed": _header(
            "The turn was made by an earlier request with this key.", enum=["true"]
        ),
        "Content-Disposition": _header("Of a table: its file's name."),
        "RateLimit-Policy": _header(
            "The limits that hold: `q` turns in `w` seconds. Absent where none does.",
            pattern=f"^{_POLICY}(, {_POLICY})*$",
        ),
        "RateLimit": _header(
            "What is left of them: `r` turns, for `t` seconds.", pattern=f"^{_STANDING}(, {_STANDING})*$"
        ),
        _RETRY_AFTER: _header("Seconds after which another try makes sense.", type="integer", minimum=1),
        "WWW-Authenticate": _header("The scheme that is asked for.", enum=["Bearer"]),
    }
)
_ALWAYS: Final = frozenset({_REQUEST_ID, "Location", "WWW-Authenticate"})
_MUST_WAIT: Final = frozenset(
    {
        ProblemCode.SESSION_BUSY,
        ProblemCode.IDEMPOTENCY_IN_PROGRESS,
        ProblemCode.RATE_LIMITED,
        ProblemCode.TOO_MANY_TURNS,
        ProblemCode.QUEUE_FULL,
        ProblemCode.UNAVAILABLE,
    }
)


def answer_headers(operation: Operation, status: int) -> dict[str, Any]:
    """Describe the headers of an operation's own response."""
    return _described([_REQUEST_ID, *operation.sends.get(status, ())], _ALWAYS)


def problem_headers(operation: Operation, codes: Iterable[ProblemCode]) -> dict[str, Any]:
    """Describe the headers of the operation's refusals that share a status."""
    meant = frozenset(codes)
    names = [_REQUEST_ID]
    if ProblemCode.UNAUTHORIZED in meant:
        names.append("WWW-Authenticate")
    if ProblemCode.RATE_LIMITED in meant and any(
        _RATE_LIMITS[0] in sent for sent in operation.sends.values()
    ):
        names += _RATE_LIMITS
    if meant & _MUST_WAIT:
        names.append(_RETRY_AFTER)
    return _described(names, _ALWAYS | {_RETRY_AFTER} if meant <= _MUST_WAIT else _ALWAYS)


def _described(names: Iterable[str], always: Iterable[str]) -> dict[str, Any]:
    return {name: {**({"required": True} if name in always else {}), **_HEADERS[name]} for name in names}
