"""What both dialects must be able to encode; the choreography in `play` is written against this."""

import json
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from turnkeeper.scripted.script import Finish

SECRET_MARK: Final = "sk-scripted-c0ffee-must-never-be-shown"  # noqa: S105  # a mark, not a secret
"""Appears in every error that a script causes, as a provider's body may contain a key.

A test that finds it in an answer, a log or a row has found a leak.
"""

ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
"""What a status is called unless the script says otherwise; all others are an `api_error`."""


class Delta(NamedTuple):
    """The text of one event; `raw` replaces its JSON."""

    text: str
    tokens: int
    reasoning: bool
    raw: bytes | None = None


@dataclass(slots=True)
class Tally:
    """What has been generated so far, and whether the token limit ended it."""

    content_tokens: int = 0
    reasoning_tokens: int = 0
    cut_short: bool = False

    def add(self, delta: Delta) -> None:
        """Count a delta."""
        if delta.reasoning:
            self.reasoning_tokens += delta.tokens
        else:
            self.content_tokens += delta.tokens

    @property
    def output_tokens(self) -> int:
        """Everything that was generated: reasoning is part of the output."""
        return self.content_tokens + self.reasoning_tokens


class Wire(Protocol):
    """One answer's encoder. Its events are complete, with LF as the line end and a blank line."""

    @property
    def reported(self) -> dict[str, Any] | None:
        """The usage that was last reported, as it was reported."""

    def opening(self) -> bytes:
        """Return the events before the first delta."""

    def affixes(self, delta: Delta, tally: Tally) -> tuple[bytes, bytes]:
        """Return what comes before and after the JSON of a delta's text; `tally` already counts it."""

    def closing(self, finish: Finish, tally: Tally) -> list[bytes]:
        """Return the last events, including the terminal mark."""

    def ping(self) -> bytes:
        """Return an event without meaning."""

    def in_band_error(self, error_type: str, code: str | None) -> bytes:
        """Return an error as an event, and what follows it."""

    def error_body(self, status: int, message: str, error_type: str | None, code: str | None) -> bytes:
        """Return the body of an HTTP error."""

    def whole(self, text: str, reasoning: str, finish: Finish, tally: Tally) -> bytes:
        """Return the body of an answer that is not streamed."""


def error_type_of(status: int) -> str:
    """Return the type of an error with this status."""
    return ERROR_TYPES.get(status, "api_error")


def as_json(value: Any) -> bytes:
    """Encode `value`, escaping lone surrogates, which only JSON in ASCII can carry."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        # A message that is kept as it came is JSON inside the JSON.
        return json.dumps(value, separators=(",", ":"), default=lambda raw: json.loads(bytes(raw))).encode()
