"""What the configured model costs: by the variables that declare it, else by the table of prices.

A price is kept with the ledger row that used it, so a later change of the table changes no bill.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Protocol

from shared.money.price_table import FREE, Price, PriceTable
from shared.money.usage import Usage

_MILLION: Final = Decimal(1_000_000)
_SCRIPTED: Final = Price(Decimal(3), Decimal(15), Decimal("0.30"), Decimal("3.75"), Decimal(6))
"""The scripted provider costs nothing; a price lets a demonstration show costs."""


class Priced(Protocol):
    """A model that costs something, and what is known about that."""

    @property
    def name(self) -> str:
        """Name the provider as settings do."""

    @property
    def model(self) -> str:
        """Name the model."""

    @property
    def prices(self) -> PriceTable:
        """Return the table in force."""

    @property
    def declared_price(self) -> Price | None:
        """Return what the variables say, None when they say nothing."""


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A `Priced` and nothing else."""

    name: str
    model: str
    prices: PriceTable
    declared_price: Price | None


def price_of(priced: Priced, usage: Usage, at: datetime) -> Price:
    """Return the price that `usage` of the configured model is billed at.

    Args:
        priced: Which model.
        usage: Its prompt's length may decide; for an upper bound give the most tokens it can have.
        at: When it is settled; the day in UTC counts.
    """
    if priced.declared_price is not None:
        return priced.declared_price
    if priced.name == "scripted":
        return _SCRIPTED
    return priced.prices.price(priced.name, priced.model, usage, at.astimezone(UTC).date()) or FREE


def is_known(priced: Priced) -> bool:
    """Say whether the model has a price of its own, now or at another time."""
    return not price_of(priced, Usage(), datetime.now(UTC)).assumed


def is_free(priced: Priced) -> bool:
    """Say whether nothing is known of what the model costs, or that it costs nothing."""
    return price_of(priced, Usage(), datetime.now(UTC)).is_free()


def most_cost(price: Price, input_tokens_upper_bound: int, max_output_tokens: int) -> Decimal:
    """Return the most that a call can cost, in US dollars.

    Every token of the prompt counts as its dearest class: whether the provider reads it from a cache,
    writes it to one or does neither is known afterwards only.

    Args:
        price: As `price_of` gives it for a usage of `input_tokens_upper_bound` input tokens.
        input_tokens_upper_bound: The most tokens that the prompt can have.
        max_output_tokens: The limit that the provider is sent, reasoning included.
    """
    dearest = max(price.input, price.cache_read, price.cache_write_5m, price.cache_write_1h)
    return (input_tokens_upper_bound * dearest + max_output_tokens * price.output) / _MILLION
