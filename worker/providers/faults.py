"""Translates every upstream failure into a `ProviderError`, once.

Readers get our words alone. What the provider said goes into the log and to admins, after `Discretion` has cut it and
masked what may not be repeated (I10).
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import httpx

from shared.errors import REFUSED_FAULTS, Fault, ProviderError
from worker.providers.context_told import context_told
from worker.providers.said import Hush, said_in

MAX_RETRY_AFTER_SECONDS: Final = 86_400.0
"""A provider that asks for more than a day means "not now", and a client's timer should not overflow."""

_REPEATABLE: Final = frozenset({408, 409, 425})
"""Refusals of the moment and not of the request: a timeout (RFC 9110 section 15.5.9), a conflict (15.5.10; OpenAI's and
Anthropic's own clients repeat it, because their servers answer so when a lock was not free) and "too early" (RFC 8470
section 5.2)."""

_LARGER_THAN_ITS_RATE: Final = "request too large for"
"""OpenAI's and Groq's words for one request with more tokens than a minute may have: no wait makes it smaller."""

NO_ERRORS: Final[tuple[object, ...]] = (None, False, "", {})
"""What stands in an event's `error` where there is none: some servers send every field that they have."""

_log = logging.getLogger("turnkeeper.provider")

_DETAILS: Final[Mapping[Fault, str]] = MappingProxyType(
    {
        Fault.PROVIDER_AUTH: "the model provider refused the credentials",
        Fault.PROVIDER_RATE_LIMITED: "the model provider limits the rate of requests",
        Fault.PROVIDER_OVERLOADED: "the model provider is overloaded or failed",
        Fault.PROVIDER_REJECTED: "the model provider rejected the request",
        Fault.CONTEXT_TOO_LONG: "the prompt is longer than the model's context",
        Fault.PROVIDER_PROTOCOL: "the model provider reported an error within its answer",
    }
)


@dataclass(frozen=True, slots=True)
class ErrorNames:
    """How servers name errors; of an error, only these and statuses reach the log.

    Args:
        faults: By type or code, in lower case.
        context_phrases: In lower case; an ordinary rejection with one of them says that the prompt is too long.
    """

    faults: Mapping[str, Fault]
    context_phrases: tuple[str, ...] = ()

    def is_of_context(self, sentence: str) -> bool:
        """Return whether a rejection with this sentence says that the prompt is too long."""
        lowered = sentence.lower()
        return any(phrase in lowered for phrase in self.context_phrases)


NO_NAMES: Final = ErrorNames(MappingProxyType({}))


def error_names(kinds: Mapping[Fault, str], *context_phrases: str) -> ErrorNames:
    """Return the types and codes, listed with spaces between them for each fault, and the phrases."""
    faults = {kind: fault for fault, listed in kinds.items() for kind in listed.split()}
    return ErrorNames(MappingProxyType(faults), context_phrases)


def merged(every: Sequence[ErrorNames]) -> ErrorNames:
    """Return the names of all; where two differ about one, the first counts."""
    faults = {kind: fault for names in reversed(every) for kind, fault in names.faults.items()}
    phrases = dict.fromkeys(phrase for names in every for phrase in names.context_phrases)
    return ErrorNames(MappingProxyType(faults), tuple(phrases))


def fault_of_status(status: int) -> Fault:
    """Return the fault for the status of a response that is not an answer."""
    match status:
        case 401 | 403:
            return Fault.PROVIDER_AUTH
        case 429:
            return Fault.PROVIDER_RATE_LIMITED
        case _ if status >= 500:
            return Fault.PROVIDER_OVERLOADED
        case _ if status >= 400:
            return Fault.PROVIDER_REJECTED
        case _:
            return Fault.PROVIDER_PROTOCOL  # a redirect, or a success that is not a stream


def fault_of_error(error: object, names: ErrorNames) -> Fault:
    """Return the fault for an error object in a stream or a body; `provider_protocol` if it is unknown."""
    if not isinstance(error, dict):
        return Fault.PROVIDER_PROTOCOL
    kinds = known_kinds(error, names)
    faults = [names.faults[kind] for kind in kinds if kind in names.faults]
    faults += [fault_of_status(int(kind)) for kind in kinds if kind not in names.faults]
    if Fault.CONTEXT_TOO_LONG in faults:
        return Fault.CONTEXT_TOO_LONG
    fault = faults[0] if faults else Fault.PROVIDER_PROTOCOL
    if fault is Fault.PROVIDER_REJECTED and names.is_of_context(str(error.get("message", ""))):
        return Fault.CONTEXT_TOO_LONG
    return fault


def known_kinds(error: object, names: ErrorNames) -> list[str]:
    """Return the code and the type of an error object, if they are known names or statuses."""
    if not isinstance(error, dict):
        return []
    kinds = [str(error[field]).lower() for field in ("code", "type") if error.get(field) is not None]
    return [kind for kind in kinds if kind in names.faults or re.fullmatch(r"[45][0-9]{2}", kind)]


def error_in_stream(error: object, names: ErrorNames, hush: Hush) -> ProviderError:
    """Translate an error that came instead of a piece of the answer.

    Args:
        error: As it was decoded.
        names: How its server names errors.
        hush: Returns what may be repeated of it.
    """
    fault, said = fault_of_error(error, names), hush(error)
    _log.warning(
        "the provider reported an error within its answer",
        extra={"fault": fault.value, "provider_error": _named(error, names), "provider_said": said},
    )
    told = context_told(error, said_in(error)) if fault is Fault.CONTEXT_TOO_LONG else None
    return ProviderError(fault, _DETAILS[fault], said=said or None, told=told)


def error_of_response(
    status: int, headers: httpx.Headers, body: bytes, now: datetime, names: ErrorNames, hush: Hush
) -> ProviderError:
    """Translate a response whose status is not 200.

    Args:
        status: The response's status.
        headers: The response's headers.
        body: The beginning of its body.
        now: The current time, for a Retry-After with a date.
        names: How its server names errors.
        hush: Returns what may be repeated of the body.
    """
    fault, error = fault_of_status(status), _error_in(body)
    said = hush(body if error is None else error)
    sentence = said_in(body if error is None else error)
    # 500 is what a server answers whose own code for the prompt raised an error.
    if (fault is Fault.PROVIDER_REJECTED or status == HTTPStatus.INTERNAL_SERVER_ERROR) and (
        fault_of_error(error, names) is Fault.CONTEXT_TOO_LONG or names.is_of_context(sentence)
    ):
        fault = Fault.CONTEXT_TOO_LONG
    if fault is Fault.PROVIDER_RATE_LIMITED and _LARGER_THAN_ITS_RATE in sentence.lower():
        fault = Fault.CONTEXT_TOO_LONG
    # 413 is often a proxy's: it counts bytes, and a shorter prompt has fewer.
    is_too_long = fault is Fault.CONTEXT_TOO_LONG or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    _log.warning(
        "the provider refused a request",
        extra={
            "fault": fault.value,
            "provider_status": status,
            "provider_error": _named(error, names),
            "provider_said": said,
        },
    )
    if fault is Fault.PROVIDER_PROTOCOL:
        detail = f"the model provider answered with status {status}, which is no answer"
    else:
        detail = f"{_DETAILS[fault]} (status {status})"
    may_repeat = None
    if fault is Fault.PROVIDER_PROTOCOL:
        may_repeat = False
    elif fault is Fault.PROVIDER_REJECTED and status in _REPEATABLE:
        may_repeat = True
    return ProviderError(
        fault,
        detail,
        retry_after_ms=retry_after_ms(headers, now),
        said=said or None,
        may_repeat=may_repeat,
        told=context_told(error, sentence) if is_too_long else None,
    )


def error_of_other_content(body: bytes, names: ErrorNames, hush: Hush) -> ProviderError:
    """Translate a 200 that is not an event stream: some gateways report errors like that."""
    error = _error_in(body)
    said = hush(body if error is None else error)
    # What refuses the prompt is that, whatever its status; the rest is no better if it is asked again.
    named = fault_of_error(error, names)
    fault = named if named in REFUSED_FAULTS else Fault.PROVIDER_PROTOCOL
    _log.warning(
        "the provider's answer is no event stream",
        extra={
            "fault": fault.value,
            "provider_error": _named(error, names),
            "provider_said": said,
        },
    )
    detail = "the model provider's answer is no event stream"
    told = context_told(error, said_in(error)) if fault is Fault.CONTEXT_TOO_LONG else None
    if fault is not Fault.PROVIDER_PROTOCOL:
        detail = f"{_DETAILS[fault]} (status 200)"
    return ProviderError(fault, detail, said=said or None, may_repeat=False, told=told)


def retry_after_ms(headers: httpx.Headers, now: datetime) -> int | None:
    """Return how long the response asks to wait, in milliseconds and at most a day; None if it does not ask.

    `retry-after-ms` is what OpenAI and Azure send in addition to the standard header (RFC 9110 section 10.2.3).
    """
    seconds = _number(headers.get("retry-after-ms", ""))
    if seconds is not None:
        seconds /= 1000
    else:
        value = headers.get("retry-after", "").strip()
        seconds = _number(value)
        if seconds is None:
            seconds = _seconds_until(value, now)
    return None if seconds is None else round(min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS) * 1000)


def error_of_transport(exc: httpx.TransportError, *, sent: bool, answered: bool) -> ProviderError:
    """Translate a failed exchange.

    Args:
        exc: httpx's exception.
        sent: Whether the request had been written.
        answered: Whether the response had begun.
    """
    broke_off = False
    match exc:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            fault, detail = (
                Fault.PROVIDER_TIMEOUT,
                "no connection to the model provider within the time limit",
            )
        case httpx.TimeoutException():
            fault, detail = Fault.PROVIDER_TIMEOUT, "the model provider did not take the request in time"
        case httpx.LocalProtocolError() | httpx.UnsupportedProtocol():
            fault, detail = Fault.INTERNAL, "the request to the model provider could not be written"
        case httpx.RemoteProtocolError() if answered:
            fault, detail, broke_off = (
                Fault.PROVIDER_PROTOCOL,
                "the model provider's answer broke off",
                True,
            )
        case httpx.RemoteProtocolError():
            fault, detail, broke_off = (
                Fault.PROVIDER_PROTOCOL,
                "the model provider closed the connection or sent no HTTP",
                True,
            )
        case _ if answered:
            fault, detail, broke_off = (
                Fault.PROVIDER_PROTOCOL,
                "the connection broke within the model provider's answer",
                True,
            )
        case _:
            fault, detail = Fault.PROVIDER_UNREACHABLE, "the model provider could not be reached"
    return ProviderError(fault, detail, sent=sent, broke_off=broke_off)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text.strip()) else None


def _seconds_until(text: str, now: datetime) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds()


def _error_in(body: bytes) -> Any:
    """Find the error object in a body: most servers nest it in `error`, older vLLM does not."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed.get("error", parsed) if isinstance(parsed, dict) else None


def _named(error: object, names: ErrorNames) -> str:
    """Describe an error for the log, by its known names."""
    return " ".join(known_kinds(error, names)) or "unknown"
