"""Compares the shipped prices with the list that the package genai-prices maintains: `make prices-check`.

    python -m turnkeeper.reference.price_list

It changes nothing: which price is right, the provider's page says.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

from shared.configuration.provider_settings import PRICED
from shared.errors import SettingsError
from shared.money.price_table import SHIPPED, Entry, PriceTable, read_price_table

Steps: TypeAlias = Mapping[int, Mapping[str, Decimal]]
"""A model's rates by name, for prompts with more tokens than the number; 0 has those of every other prompt."""
Lookup: TypeAlias = Callable[[str, str], Steps | None]
"""Finds a model of a provider in the list; None when it is unknown there."""

_THEIR_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "input": ("input_mtok",),
    "output": ("output_mtok",),
    "cache_read": ("cache_read_mtok",),
    "cache_write_5m": ("cache_write_5m_mtok", "cache_write_mtok"),
    "cache_write_1h": ("cache_write_1h_mtok",),
}


@dataclass(frozen=True, slots=True)
class Remark:
    """What the list says otherwise, or does not say, of one model."""

    model: str
    what: str
    is_difference: bool


def compare(table: PriceTable, lookup: Lookup, at: datetime) -> Iterator[Remark]:
    """Yield what the list says otherwise of each model that has a price at a time, and what it does not know."""
    for provider in sorted({entry.provider for entry in table.entries}):
        for model, entry in sorted(table.holding(provider, at.date()).items()):
            theirs = lookup(provider, model)
            if theirs is None:
                yield Remark(model, "unknown there", is_difference=False)
            else:
                yield from _differences(model, _steps(entry), theirs)


def _steps(entry: Entry) -> Steps:
    long = entry.long_prompt
    return {0: entry.price.rates()} | ({} if long is None else {long.above_tokens: long.price.rates()})


def _differences(model: str, ours: Steps, theirs: Steps) -> Iterator[Remark]:
    for above in sorted({*ours, *theirs}):
        where = f"prompts over {above:,} tokens: " if above else ""
        if above not in theirs:
            yield Remark(
                model, f"{where}{_words(ours[above])} here, no price of their own there", is_difference=True
            )
            continue
        if above not in ours:
            yield Remark(
                model, f"{where}no price of their own here, {_words(theirs[above])} there", is_difference=True
            )
            continue
        for name, rate in ours[above].items():
            their_rate = theirs[above].get(name)
            if their_rate is None:
                yield Remark(model, f"{where}{name} is {rate:f} here, unknown there", is_difference=False)
            elif their_rate != rate:
                yield Remark(
                    model, f"{where}{name} is {rate:f} here, {their_rate:f} there", is_difference=True
                )


def _words(rates: Mapping[str, Decimal]) -> str:
    return ", ".join(f"{name} {rate:f}" for name, rate in rates.items())


def steps_of(price: Any) -> Steps:
    """Return the rates of a `ModelPrice` of genai-prices, where a rate is a number or has tiers."""
    rates = {
        name: found
        for name, keys in _THEIR_NAMES.items()
        if (found := next((rate for key in keys if (rate := getattr(price, key, None)) is not None), None))
        is not None
    }
    starts = {tier.start for rate in rates.values() for tier in getattr(rate, "tiers", ())}
    return {above: {name: _rate(rate, above) for name, rate in rates.items()} for above in {0, *starts}}


def _rate(rate: Any, above: int) -> Decimal:
    """Return what holds for prompts over `above` tokens; a rate without tiers holds for all."""
    if isinstance(rate, Decimal):
        return rate
    passed = [tier.price for tier in sorted(rate.tiers, key=lambda tier: tier.start) if tier.start <= above]
    return Decimal(passed[-1] if passed else rate.base)


def installed_list(at: datetime) -> Lookup:
    """Return the list in the installed genai-prices, as it holds at a time."""
    from genai_prices.data import providers

    known = {provider.id: provider for provider in providers}

    def lookup(provider: str, model: str) -> Steps | None:
        found = known[provider].find_model(model) if provider in known else None
        return None if found is None else steps_of(found.get_prices(at))

    return lookup


def main() -> int:
    """Print what differs; 1 when a price does."""
    from genai_prices import __version__

    now = datetime.now(UTC)
    problems: list[str] = []
    table = read_price_table(SHIPPED, PRICED, problems)
    if problems:
        raise SettingsError(problems)
    remarks = list(compare(table, installed_list(now), now))
    for remark in remarks:
        print(f"{remark.model}: {remark.what}")
    differing = {remark.model for remark in remarks if remark.is_difference}
    print(
        f"{len(table.entries)} prices as of {table.as_of}, compared with genai-prices {__version__}; "
        f"models that differ: {len(differing)}"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
