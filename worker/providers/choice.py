"""Chooses the provider that answers a turn, and the next one if it fails: the configured ones, in their order.

A turn takes name, model, price and capabilities from the provider chosen for it, never from the process.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from shared.configuration.provider_settings import ProviderSettings
from worker.providers.breaker import Breaker
from worker.providers.context import ContextMemory
from worker.providers.oddities import Oddities
from worker.providers.provider import Provider


class Asking(Protocol):
    """A turn for which a provider is chosen."""

    @property
    def id(self) -> UUID:
        """Return the turn's id."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A configured provider.

    Args:
        settings: Its name, model and price.
        provider: Streams its answers.
        breaker: Decides whether it is called at all; it learns only about this provider.
        context: What is known of the length of its model's context.
        oddities: Counts what its answers have that their protocol does not.
    """

    settings: ProviderSettings
    provider: Provider
    breaker: Breaker
    context: ContextMemory = field(default_factory=ContextMemory)
    oddities: Oddities = field(default_factory=Oddities)


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
        """Return the provider that answers a turn."""
        return self.first

    def after(self, choice: Choice) -> Choice | None:
        """Return the provider to ask if `choice` does not answer; None if none is left."""
        return self._next.get(choice)

    async def aclose(self) -> None:
        """Close every provider's connections."""
        for choice in self._all:
            await choice.provider.aclose()
