"""The interface of a dialect's adapter, and what a dialect declares of itself.

A dialect is a module with an adapter and a `Declaration`; nothing else in the worker checks a dialect's name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.configuration.provider_settings import ProviderName, ProviderSettings
from worker.providers.faults import ErrorNames
from worker.providers.oddities import Oddities
from worker.providers.provider import Capabilities, Prompt
from worker.providers.reading import Reader, Reading


class Dialect(Protocol):
    """How to build a dialect's requests and read its answers."""

    url: str
    headers: dict[str, str]
    capabilities: Capabilities
    error_names: ErrorNames

    def body(self, prompt: Prompt) -> bytes:
        """Encode a request."""

    def refused_field(self, sent: bytes, refusal: bytes) -> str | None:
        """Return which field of a request its refusal complains of, if another form of the request has it not.

        Later requests take that form.

        Args:
            sent: The request's body.
            refusal: The beginning of the response's body.
        """

    def reader(self, reading: Reading, oddities: Oddities) -> Reader:
        """Return a reader that writes one stream to `reading`, and counts in `oddities` what is odd about it."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """A dialect.

    Args:
        name: Its name in the settings and in the ledger.
        make: Makes the adapter, given the names of errors that it may meet.
        error_names: The names of its servers' errors.
        trace_name: Its name in OpenTelemetry's conventions, which name dialects; the address distinguishes servers.
        is_context_known: Whether the default of `CONTEXT_TOKENS` fits all its models.
    """

    name: ProviderName
    make: Callable[[ProviderSettings, ErrorNames], Dialect]
    error_names: ErrorNames
    trace_name: str
    is_context_known: bool = False
