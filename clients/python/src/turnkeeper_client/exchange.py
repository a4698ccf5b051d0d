"""One call of the API, repeated until it is answered.

The request is built once, so that all tries are the same: a turn that is posted again has the same key.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from turnkeeper_client.errors import CLASSES, ApiError, ConnectionFailedError, ProtocolError, TimeLimitError
from turnkeeper_client.retry import Clock, RetryPolicy, Tries, may_retry, retry_after_of
from turnkeeper_client.steps import Lost, Received, Send, Steps, pause, send

T = TypeVar("T")

_OWN_MEMBERS: Final = frozenset(
    {"type", "title", "status", "detail", "code", "request_id", "retryable", "retry_after_ms", "errors"}
)


@dataclass(frozen=True, slots=True)
class Means:
    """What a decision depends on besides its subject: how hard to try, the time, and chance."""

    policy: RetryPolicy
    clock: Clock
    dice: random.Random


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One operation of the API, not yet sent.

    Attributes:
        read: Makes the result from a response that is not a refusal.
        is_repeatable: Whether sending it twice has the same effect as sending it once.
        waits_seconds: How long the service may wait before it answers, on top of the usual time.
        also_accepts: Statuses from 400 on that are not refusals.
    """

    method: str
    path: str
    read: Callable[[Received], T]
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    is_repeatable: bool = True
    waits_seconds: float = 0.0
    also_accepts: frozenset[int] = frozenset()


def exchange(call: Call[T], means: Means, limit_seconds: float | None = None) -> Steps[T]:
    """Send a call until it is answered, within the policy's bounds and `limit_seconds`.

    Raises:
        ApiError: It was refused, and waiting does not help or the time for it is over.
        ConnectionFailedError: Nobody answered.
        TimeLimitError: `limit_seconds` passed before it could be sent.
        ProtocolError: The response cannot be read.
    """
    limit = means.policy.limit_seconds + call.waits_seconds
    limit = limit if limit_seconds is None else min(limit, limit_seconds)
    tries = Tries(means.policy, means.clock, means.dice, limit)
    while True:
        remaining = tries.remaining_seconds()
        if remaining <= 0:
            raise TimeLimitError(f"{call.method} {call.path} was not answered in time")
        most = min(remaining, means.policy.answer_seconds + call.waits_seconds)
        request = Send(call.method, call.path, most, call.query, call.headers, call.body)
        answer = yield from send(request)
        if isinstance(answer, Lost):
            failure: ApiError | ConnectionFailedError = ConnectionFailedError(
                f"{call.method} {call.path} failed: {answer.why}"
            )
            is_worth_it = call.is_repeatable or not answer.was_sent
        elif answer.status < 300 or answer.status in call.also_accepts:
            return call.read(answer)
        else:
            failure = refusal_of(answer)
            is_worth_it = may_retry(failure, is_repeatable=call.is_repeatable)
        wait = tries.next_pause(failure.retry_after) if is_worth_it else None
        if wait is None:
            raise failure
        yield from pause(wait)


def refusal_of(answer: Received) -> ApiError:
    """Return the error for a response that is not a success."""
    problem = _problem_in(answer)
    code = str(problem.get("code") or "")
    errors = problem.get("errors")
    return CLASSES.get(code, ApiError)(
        str(problem.get("detail") or f"the answer has status {answer.status} and no problem in it"),
        status=answer.status,
        code=code,
        title=str(problem.get("title") or ""),
        request_id=answer.headers.get("x-request-id"),
        retryable=problem.get("retryable") is True,
        retry_after=retry_after_of(answer.headers, problem, datetime.now(UTC)),
        errors=tuple(each for each in errors if isinstance(each, dict)) if isinstance(errors, list) else (),
        members={name: value for name, value in problem.items() if name not in _OWN_MEMBERS},
    )


def json_of(answer: Received) -> Any:
    """Return a response's body, parsed.

    Raises:
        ProtocolError: It is not JSON.
    """
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        raise ProtocolError(f"an answer with status {answer.status} is no JSON") from None


def _problem_in(answer: Received) -> Mapping[str, Any]:
    """Return the problem in a response; empty if something on the way answered instead of the service."""
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    try:
        found = json_of(answer)
    except ProtocolError:
        return {}
    return found if isinstance(found, dict) else {}
