"""What can go wrong, sorted by who must act.

TurnkeeperError
├── ApiError               the caller: the service refused a request; one class for each `code`
├── TurnEndedError         the caller: `ask` was given a turn that failed or expired (in `asking`)
├── ConnectionFailedError  the network: all tries are used up, or the response cannot be waited for any longer
│   └── StreamLostError    the same while a stream was read; it can be resumed from its cursor
├── TimeLimitError         the caller's own time limit has passed; the turn itself goes on
└── ProtocolError          us: the service sent what the protocol does not allow
└── TextMismatchError  the text is not the one that `done` names, even after it was fetched again
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final


class TurnkeeperError(Exception):
    """Any error that this client raises on purpose."""


class ApiError(TurnkeeperError):
    """The service refused a request (RFC 9457).

    Attributes:
        status: The HTTP status; 0 if a websocket was refused.
        code: What a program branches on; unknown codes are possible.
        title: The code's name for people.
        detail: What was wrong, and the remedy.
        request_id: The id by which an operator finds the request; None on websockets.
        retryable: Whether the same request may succeed later.
        retry_after: Seconds after which that makes sense; None if the service did not say.
        errors: The invalid fields, as `{"pointer", "detail"}`.
        members: The problem's other members, such as `active_turn_id` or `resets_at`.
    """

    code_of_class: ClassVar[str] = ""

    def __init__(
        self,
        detail: str,
        *,
        status: int = 0,
        code: str | None = None,
        title: str = "",
        request_id: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        errors: tuple[Mapping[str, str], ...] = (),
        members: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.status = status
        self.code = code or self.code_of_class
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.retryable = retryable
        self.retry_after = retry_after
        self.errors = errors
        self.members = members
        super().__init__(f"{self.code}: {detail}" if self.code else detail)


class InvalidRequestError(ApiError):
    """Not JSON, or the wrong content type."""

    code_of_class = "invalid_request"


class UnauthorizedError(ApiError):
    """The key or the ticket is missing, unknown, revoked, expired or used."""

    code_of_class = "unauthorized"


class BudgetExceededError(ApiError):
    """The organization's budget cannot cover the turn; `members` has `period`, `limit_usd` and `resets_at`."""

    code_of_class = "budget_exceeded"


class AiDisabledError(ApiError):
    """AI is disabled for the organization."""

    code_of_class = "ai_disabled"


class ForbiddenError(ApiError):
    """The key's role does not allow it."""

    code_of_class = "forbidden"


class NotFoundError(ApiError):
    """It does not exist, or does not belong to the caller."""

    code_of_class = "not_found"


class SessionBusyError(ApiError):
    """A turn is queued or running; `members["active_turn_id"]` is its id."""

    code_of_class = "session_busy"


class IdempotencyInProgressError(ApiError):
    """The first request with this key has not finished."""

    code_of_class = "idempotency_in_progress"


class SessionClosedError(ApiError):
    """The session was closed."""

    code_of_class = "session_closed"


class SessionExpiredError(ApiError):
    """The session has exceeded its idle or age limit."""

    code_of_class = "session_expired"


class RequestTimeoutError(ApiError):
    """The request came too slowly, every time that it was sent; the service has done nothing with it."""

    code_of_class = "request_timeout"


class HeadersTooLargeError(ApiError):
    """The request's line or headers exceed the limit."""

    code_of_class = "headers_too_large"


class PayloadTooLargeError(ApiError):
    """The body exceeds the limit."""

    code_of_class = "payload_too_large"


class ValidationFailedError(ApiError):
    """A field is invalid; `errors` names it."""

    code_of_class = "validation_failed"


class IdempotencyConflictError(ApiError):
    """The same key was used for another body."""

    code_of_class = "idempotency_conflict"


class TurnLimitReachedError(ApiError):
    """The session's `max_turns` is used up."""

    code_of_class = "turn_limit_reached"


class RateLimitedError(ApiError):
    """Too many requests by this user or organization."""

    code_of_class = "rate_limited"


class TooManyTurnsError(ApiError):
    """The organization's limit on concurrent turns is reached."""

    code_of_class = "too_many_turns"


class NotSupportedOnProviderError(ApiError):
    """The provider has no tools, so there is nothing to pause or approve."""

    code_of_class = "not_supported_on_provider"


class QueueFullError(ApiError):
    """The service's backlog exceeds its limit."""

    code_of_class = "queue_full"


class UnavailableError(ApiError):
    """The service's database cannot be reached."""

    code_of_class = "unavailable"


CLASSES: Final[Mapping[str, type[ApiError]]] = MappingProxyType(
    {one.code_of_class: one for one in ApiError.__subclasses__()}
)
"""By code; any other code is a plain `ApiError`."""


class ConnectionFailedError(TurnkeeperError):
    """The service could not be reached or did not answer, within all tries and the time for them.

    Attributes:
        retry_after: Seconds after which the service asked to come back; None if it did not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class StreamLostError(ConnectionFailedError):
    """A stream's connection was lost and could not be opened again in time.

    Attributes:
        after: The last `seq` that was read; the stream can be resumed from there. 0 for a session's stream.
    """

    def __init__(self, message: str, *, after: int = 0, retry_after: float | None = None) -> None:
        self.after = after
        super().__init__(message, retry_after=retry_after)


class TimeLimitError(TurnkeeperError, TimeoutError):
    """The caller's time limit has passed. The service continues its work."""


class ProtocolError(TurnkeeperError):
    """The service sent something that the protocol does not allow."""


class TextMismatchError(ProtocolError):
    """By its SHA-256 the text is not the stored one, even after it was fetched again.

    Attributes:
        text: The text that was read.
    """

    def __init__(self, turn_id: str, text: str) -> None:
        self.text = text
        super().__init__(f"the text of turn {turn_id} is not the one that its `done` names")
