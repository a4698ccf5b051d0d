"""The list of all environment variables, for the pages and tests that show it."""

from collections.abc import Iterator
from typing import Any, Final

from shared.configuration.environment import Section, Variable, variables_of
from shared.configuration.provider_settings import DIALECT_VARIABLES, PROVIDER, ProviderSettings
from shared.configuration.settings import Settings


def _declared() -> Iterator[Variable[Any]]:
    yield PROVIDER
    for dialect in DIALECT_VARIABLES.values():
        yield from dialect.variables()  # together, although they fill several fields
    yield from variables_of(ProviderSettings)
    yield from variables_of(Settings)


VARIABLES: Final[tuple[Variable[Any], ...]] = tuple(
    sorted(dict.fromkeys(_declared()), key=lambda variable: list(Section).index(variable.section))
)
"""By section, in the order of the reference page and `.env.example`."""
