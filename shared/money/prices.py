"""What the configured model costs: by the variables that declare a price, otherwise by the price table.

The price is stored in the ledger row that used it, so changing the table changes no bill.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Protocol

from shared.money.price_table import FREE, Price, PriceTable
from shared.money.usage import Usage

_MILLION: Final = Decimal(1_000_000)
_SCRIPTED: Final = Price(Decimal(3), Decimal(15), Decimal("0.30"), Decimal("3.75"), Decimal(6))
"""The scripted provider is free; a price lets a demonstration show costs."""


class Priced(Protocol):
    """A model that costs something, and what is known about its price."""

    @property
    def name(self) -> str:
        """Return the provider's name, as in the settings."""

    @property
    def model(self) -> str:
        """Return the model's name."""

    @property
    def prices(self) -> PriceTable:
        """Return the table in force."""

    @property
    def declared_price(self) -> Price | None:
        """Return the price that the variables declare, or None."""


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A plain implementation of `Priced`."""

    name: str
    model: str
    prices: PriceTable
    declared_price: Price | None


def price_of(priced: Priced, usage: Usage, at: datetime) -> Price:
    """Return the price at which `usage` of the configured model is billed.

    Args:
        priced: The model.
        usage: The prompt's length may decide; for an upper bound pass the most tokens that it can have.
        at: When the turn is settled; the day in UTC counts.
    """
    if priced.declared_price is not None:
        return priced.declared_price
    if priced.name == "scripted":
        return _SCRIPTED
    return priced.prices.price(priced.name, priced.model, usage, at.astimezone(UTC).date()) or FREE


def is_known(priced: Priced) -> bool:
    """Return whether the model has a price of its own, now or at another time."""
    return not price_of(priced, Usage(), datetime.now(UTC)).assumed


def is_free(priced: Priced) -> bool:
    """Return whether the model costs nothing, or no price for it is known."""
    return price_of(priced, Usage(), datetime.now(UTC)).is_free()


def most_cost(price: Price, input_tokens_upper_bound: int, max_output_tokens: int) -> Decimal:
    """Return the most that a call can cost, in US dollars.

    Every token of the prompt counts as its dearest class: only afterwards is it known whether the provider
    read it from a cache, wrote it to one or did neither.

    Args:
        price: From `price_of`, for a usage of `input_tokens_upper_bound` input tokens.
        input_tokens_upper_bound: The most tokens that the prompt can have.
        max_output_tokens: The limit that the provider is sent, reasoning included.
    """
    dearest = max(price.input, price.cache_read, price.cache_write_5m, price.cache_write_1h)
    return (input_tokens_upper_bound * dearest + max_output_tokens * price.output) / _MILLION
