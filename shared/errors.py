"""All errors, their codes and titles, sorted by who must act.

    TurnkeeperError
    ├── RefusedError        the caller: a `ProblemCode`, rendered as problem+json
    ├── ProviderError       the upstream: a `Fault`, stored with the turn and shown
    ├── SettingsError       the operator: every problem of a configuration at once
    └── UnavailableError    infrastructure: PostgreSQL or Redis did not answer in time
        ├── NotServingError it answered that it does not serve us: "not here", "not now"
        └── ConflictError   a transaction gave way to another: the same one may succeed at once

`PROBLEMS` maps codes to HTTP. Whether a retry can help is a property of the code or the fault, never of the
call site.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NotRequired, TypedDict


class ProblemCode(StrEnum):
    """The code that a client's program branches on."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHORIZED = "unauthorized"
    BUDGET_EXCEEDED = "budget_exceeded"
    AI_DISABLED = "ai_disabled"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_ACCEPTABLE = "not_acceptable"
    REQUEST_TIMEOUT = "request_timeout"
    SESSION_BUSY = "session_busy"
    IDEMPOTENCY_IN_PROGRESS = "idempotency_in_progress"
    SESSION_CLOSED = "session_closed"
    SESSION_EXPIRED = "session_expired"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    VALIDATION_FAILED = "validation_failed"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    UPGRADE_REQUIRED = "upgrade_required"
    TURN_LIMIT_REACHED = "turn_limit_reached"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_TURNS = "too_many_turns"
    HEADERS_TOO_LARGE = "headers_too_large"
    INTERNAL = "internal"
    NOT_SUPPORTED_ON_PROVIDER = "not_supported_on_provider"
    QUEUE_FULL = "queue_full"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Problem:
    """The HTTP status and title of a code, and whether repeating the request can help."""

    status: int
    title: str
    retryable: bool = False


PROBLEMS: Final[Mapping[ProblemCode, Problem]] = MappingProxyType(
    {
        ProblemCode.INVALID_REQUEST: Problem(400, "Invalid request"),
        ProblemCode.UNAUTHORIZED: Problem(401, "Unauthorized"),
        ProblemCode.BUDGET_EXCEEDED: Problem(402, "Budget exceeded"),
        ProblemCode.AI_DISABLED: Problem(403, "AI is disabled"),
        ProblemCode.FORBIDDEN: Problem(403, "Forbidden"),
        ProblemCode.NOT_FOUND: Problem(404, "Not found"),
        ProblemCode.METHOD_NOT_ALLOWED: Problem(405, "Method not allowed"),
        ProblemCode.NOT_ACCEPTABLE: Problem(406, "Not acceptable"),
        ProblemCode.REQUEST_TIMEOUT: Problem(408, "Request timeout", retryable=True),
        ProblemCode.SESSION_BUSY: Problem(409, "Session is busy", retryable=True),
        ProblemCode.IDEMPOTENCY_IN_PROGRESS: Problem(409, "Request in progress", retryable=True),
        ProblemCode.SESSION_CLOSED: Problem(409, "Session is closed"),
        ProblemCode.SESSION_EXPIRED: Problem(410, "Session has expired"),
        ProblemCode.PAYLOAD_TOO_LARGE: Problem(413, "Payload too large"),
        ProblemCode.VALIDATION_FAILED: Problem(422, "Validation failed"),
        ProblemCode.IDEMPOTENCY_CONFLICT: Problem(422, "Idempotency key was used for another request"),
        ProblemCode.UPGRADE_REQUIRED: Problem(426, "Another version of the protocol is required"),
        ProblemCode.TURN_LIMIT_REACHED: Problem(429, "Turn limit reached"),
        ProblemCode.RATE_LIMITED: Problem(429, "Rate limited", retryable=True),
        ProblemCode.TOO_MANY_TURNS: Problem(429, "Too many turns at once", retryable=True),
        ProblemCode.HEADERS_TOO_LARGE: Problem(431, "Request header fields too large"),
        ProblemCode.INTERNAL: Problem(500, "Internal error", retryable=True),
        ProblemCode.NOT_SUPPORTED_ON_PROVIDER: Problem(501, "NOT_SUPPORTED_ON_PROVIDER"),
        ProblemCode.QUEUE_FULL: Problem(503, "Queue is full", retryable=True),
        ProblemCode.UNAVAILABLE: Problem(503, "Service unavailable", retryable=True),
    }
)


class Fault(StrEnum):
    """Why a turn failed: safe to store, count and show."""

    PROVIDER_UNREACHABLE = "provider_unreachable"
    PROVIDER_REJECTED = "provider_rejected"
    PROVIDER_AUTH = "provider_auth"
    PROVIDER_RATE_LIMITED = "provider_rate_limited"
    PROVIDER_OVERLOADED = "provider_overloaded"
    PROVIDER_PROTOCOL = "provider_protocol"
    PROVIDER_TIMEOUT = "provider_timeout"
    TURN_TIMEOUT = "turn_timeout"
    TOOL_CALL_UNSUPPORTED = "tool_call_unsupported"
    TOOL_USE_IN_HISTORY = "tool_use_in_history"
    CONTEXT_TOO_LONG = "context_too_long"
    WORKER_LOST = "worker_lost"
    AI_DISABLED = "ai_disabled"
    INTERNAL = "internal"


FAULT_TITLES: Final[Mapping[Fault, str]] = MappingProxyType(
    {
        Fault.PROVIDER_UNREACHABLE: "The model provider could not be reached",
        Fault.PROVIDER_REJECTED: "The model provider rejected the request",
        Fault.PROVIDER_AUTH: "The model provider refused the credentials",
        Fault.PROVIDER_RATE_LIMITED: "The model provider limits the rate of requests",
        Fault.PROVIDER_OVERLOADED: "The model provider is overloaded",
        Fault.PROVIDER_PROTOCOL: "The model provider's answer broke off or could not be read",
        Fault.PROVIDER_TIMEOUT: "The model provider took too long",
        Fault.TURN_TIMEOUT: "The turn took too long",
        Fault.TOOL_CALL_UNSUPPORTED: "The model called a tool, which this provider does not support",
        Fault.TOOL_USE_IN_HISTORY: "The session used tools, which this provider does not support",
        Fault.CONTEXT_TOO_LONG: "The message is too long for the model's context",
        Fault.WORKER_LOST: "The workers that ran the turn were lost",
        Fault.AI_DISABLED: "AI is disabled",
        Fault.INTERNAL: "Internal error",
    }
)

PASSING_FAULTS: Final = frozenset(
    {
        Fault.PROVIDER_UNREACHABLE,
        Fault.PROVIDER_RATE_LIMITED,
        Fault.PROVIDER_OVERLOADED,
        Fault.PROVIDER_TIMEOUT,
    }
)
"""Faults that do not lie in the request: the same request may succeed a moment later."""

RETRYABLE_FAULTS: Final = frozenset(
    {
        Fault.PROVIDER_UNREACHABLE,
        Fault.PROVIDER_RATE_LIMITED,
        Fault.PROVIDER_OVERLOADED,
        Fault.PROVIDER_PROTOCOL,
        Fault.PROVIDER_TIMEOUT,
        Fault.TURN_TIMEOUT,
        Fault.WORKER_LOST,
        Fault.INTERNAL,
    }
)
"""Faults after which the same question may be answered if it is posted again."""

REFUSED_FAULTS: Final = frozenset(
    {
        Fault.PROVIDER_REJECTED,
        Fault.CONTEXT_TOO_LONG,
        Fault.TOOL_CALL_UNSUPPORTED,
        Fault.TOOL_USE_IN_HISTORY,
    }
)
"""Refusals of the question itself. What a provider refuses once it refuses always, so the turn is left out of later
prompts. A refused key is the operator's to mend, and says nothing about the question.
"""


class TurnProblem(TypedDict):
    """Why a turn failed: a problem without status and request id."""

    type: str
    title: str
    detail: str
    code: Fault
    retryable: bool
    retry_after_ms: NotRequired[int]


def fault_error(fault: Fault, detail: str, retry_after_ms: int | None = None) -> TurnProblem:
    """Return the `error` object of a failed turn."""
    error: TurnProblem = {
        "type": problem_type(fault),
        "title": FAULT_TITLES[fault],
        "detail": detail,
        "code": fault,
        "retryable": fault in RETRYABLE_FAULTS,
    }
    if retry_after_ms is not None:
        error["retry_after_ms"] = retry_after_ms
    return error


def problem_type(code: ProblemCode | Fault) -> str:
    """Return the `type` URI of a code (RFC 9457 section 3.1.1), stable and not resolvable."""
    return f"urn:turnkeeper:error:{code.value}"


class TurnkeeperError(Exception):
    """Any error that this system raises on purpose."""


class RefusedError(TurnkeeperError):
    """A request that is refused with a problem.

    Args:
        code: What the client's program branches on.
        detail: The sentence for people: lower case, values quoted, the remedy named.
        errors: The invalid fields, as `{"pointer", "detail"}`.
        retry_after_ms: After how long a retry makes sense.
        members: Members that only this code has.
        headers: Response headers in addition to those that every problem has.
    """

    def __init__(
        self,
        code: ProblemCode,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        retry_after_ms: int | None = None,
        members: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after_ms = retry_after_ms
        self.members = dict(members or {})
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class ContextTold:
    """What a provider that refuses a prompt as too long tells of it, in its own tokens.

    Args:
        limit: The most that prompt and answer may have together; None if it was not told.
        prompt: What the prompt had; None if it was not told.
    """

    limit: int | None = None
    prompt: int | None = None

    def is_of_prompt_alone(self) -> bool:
        """Return whether the prompt is too long however short the answer."""
        return self.limit is not None and self.prompt is not None and self.prompt >= self.limit


class ProviderError(TurnkeeperError):
    """The upstream failed.

    Args:
        fault: The kind, stored with the turn.
        detail: In our own words; never the provider's body, a key or a URL.
        retry_after_ms: How long the provider asked us to wait.
        sent: Whether the request had been written to the connection, so that tokens may have been used.
        broke_off: The connection ended before the answer did, and neither side is known to be at fault.
        said: What the provider said, cut and without secrets or what it was sent; for admins alone. None if it said
            nothing.
        told: What is told of the length, if that is why the prompt was refused.
        may_repeat: Whether the same request may succeed a moment later; None if the fault's kind says so.
    """

    def __init__(
        self,
        fault: Fault,
        detail: str,
        *,
        retry_after_ms: int | None = None,
        sent: bool = True,
        broke_off: bool = False,
        said: str | None = None,
        told: ContextTold | None = None,
        may_repeat: bool | None = None,
    ) -> None:
        super().__init__(detail)
        self.fault = fault
        self.said = said
        self.told = told
        self.detail = detail
        self.retry_after_ms = retry_after_ms
        self.sent = sent
        self.may_repeat = may_repeat
        self.is_passing = broke_off or fault in PASSING_FAULTS


class SettingsError(TurnkeeperError):
    """A configuration that cannot run; `problems` lists everything wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("configuration refused:\n" + "\n".join(f"  - {problem}" for problem in problems))
        self.problems = tuple(problems)


class UnavailableError(TurnkeeperError):
    """PostgreSQL or Redis did not answer within its limit."""


class NotServingError(UnavailableError):
    """PostgreSQL answered that it does not serve us now; the connection is not used again."""


class ConflictError(UnavailableError):
    """PostgreSQL rolled a transaction back for the sake of another: a serialization failure or a deadlock."""
