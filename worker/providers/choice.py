"""Which provider answers a turn, and which one is next: the configured ones, in their order.

A turn takes name, model, price and capabilities from what was chosen for it, and never from the process.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from shared.configuration.provider_settings import ProviderSettings
from worker.providers.breaker import Breaker
from worker.providers.provider import Provider


class Asking(Protocol):
    """A turn that a provider is chosen for."""

    @property
    def id(self) -> UUID:
        """Return the turn's id."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A configured provider.

    Args:
        settings: Its name, model and price.
        provider: Streams its answers.
        breaker: Says whether it is called at all; what it learns is of this provider alone.
    """

    settings: ProviderSettings
    provider: Provider
    breaker: Breaker


class Choices:
    """The configured providers, in their order.

    Args:
        choices: At least one.
    """

    def __init__(self, choices: Iterable[Choice]) -> None:
        self._all = tuple(choices)
        self._next = dict(zip(self._all, self._all[1:], strict=False))
        self.first = self._all[0]

    def __iter__(self) -> Iterator[Choice]:
        return iter(self._all)

    def choose(self, turn: Asking) -> Choice:  # noqa: ARG002 -- no turn names a provider yet
        """Return who answers a turn."""
        return self.first

    def after(self, choice: Choice) -> Choice | None:
        """Return who is asked when `choice` does not answer; None when nobody is left."""
        return self._next.get(choice)

    async def aclose(self) -> None:
        """Close every provider's connections."""
        for choice in self._all:
            await choice.provider.aclose()
