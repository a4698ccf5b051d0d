"""The dialects that a worker speaks; a new one is registered here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from shared.configuration.provider_settings import ProviderName, ProviderSettings
from worker.providers import anthropic, openai_compatible
from worker.providers.dialect import Declaration, Dialect
from worker.providers.faults import ErrorNames, merged

DIALECTS: Final[Mapping[ProviderName, Declaration]] = MappingProxyType(
    {
        each.name: each
        for each in (anthropic.DECLARATION, openai_compatible.DECLARATION, openai_compatible.SCRIPTED)
    }
)


def dialect_of(settings: ProviderSettings) -> Dialect:
    """Return the adapter for a provider's dialect."""
    return DIALECTS[settings.name].make(settings, error_names_of(settings.name))


def error_names_of(name: ProviderName) -> ErrorNames:
    """Return the names of errors that a dialect's responses may have: its own first, then those of all others.

    A gateway speaks one dialect and passes on the errors of servers that speak another.
    """
    return merged((DIALECTS[name].error_names, *(each.error_names for each in DIALECTS.values())))
