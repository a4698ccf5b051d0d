"""A quote: what a model costs at one moment, by the length of the prompt, kept with the hold that was computed from it.

Prices change with a restart or at midnight. What was held at a price is billed at that price, so that no cost is above
its hold because the price rose in between.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shared.money.price_table import Price, read_price
from shared.money.prices import Priced, price_of
from shared.money.usage import Usage


@dataclass(frozen=True, slots=True)
class Quote:
    """A model's price.

    Args:
        provider: The provider's name, as in the settings.
        model: The model's name. The price of one model is no other's.
        price: For prompts that are not longer than the first of `longer`.
        longer: Lengths of prompts in tokens, rising, each with the price of all that are longer.
    """

    provider: str
    model: str
    price: Price
    longer: tuple[tuple[int, Price], ...] = ()

    def of(self, usage: Usage) -> Price:
        """Return the price at which a request with this usage is billed."""
        found = self.price
        for above_tokens, price in self.longer:
            if usage.prompt_tokens() > above_tokens:
                found = price
        return found

    def is_of(self, priced: Priced) -> bool:
        """Return whether it is this model's."""
        return (self.provider, self.model) == (str(priced.name), priced.model)

    def as_dict(self) -> dict[str, Any]:
        """Return what a hold stores."""
        return {
            "provider": self.provider,
            "model": self.model,
            "price": self.price.as_dict(),
            "longer": [[above_tokens, price.as_dict()] for above_tokens, price in self.longer],
        }


def quote_of(priced: Priced, at: datetime) -> Quote:
    """Return what a model costs at a moment; its day in UTC counts."""
    holding = priced.prices.holding(priced.name, at.astimezone(UTC).date())
    limits = sorted({entry.long_prompt.above_tokens for entry in holding.values() if entry.long_prompt})
    price = price_of(priced, Usage(), at)
    longer: list[tuple[int, Price]] = []
    for limit in limits:
        above = price_of(priced, Usage(input_tokens=limit + 1), at)
        if above != (longer[-1][1] if longer else price):  # the limit of another model changes nothing
            longer.append((limit, above))
    return Quote(str(priced.name), priced.model, price, tuple(longer))


def read_quote(stored: Mapping[str, Any] | None) -> Quote | None:
    """Return what `Quote.as_dict` stored; None if there is none, or another release wrote another form."""
    if stored is None:
        return None
    try:
        price = read_price(stored["price"])
        longer = [(int(above_tokens), read_price(above)) for above_tokens, above in stored["longer"]]
        provider, model = str(stored["provider"]), str(stored["model"])
    except (KeyError, TypeError, ValueError):
        return None
    known = tuple((above_tokens, above) for above_tokens, above in longer if above is not None)
    return None if price is None or len(known) < len(longer) else Quote(provider, model, price, known)
