"""What providers charge for their models, read from a file and validated as a whole.

A price belongs to a provider and a model and is valid from a day on, so that a change can be entered in
advance.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from shared.money.usage import Usage

SHIPPED: Final = Path(__file__).with_name("prices.toml")

_MILLION: Final = Decimal(1_000_000)
_MOST_FILE_BYTES: Final = 1 << 20
_MOST_USD: Final = Decimal(1_000_000)
"""Per million tokens; a higher rate is a misplaced point."""
_MOST_PLACES: Final = 9
"""With more decimals a cost would not fit into the 28 digits of Python's decimals and would be rounded."""
RATE: Final = f"a number from 0 to {_MOST_USD} with at most {_MOST_PLACES} places"
"""What `is_rate` accepts, in words."""
RATES: Final = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
"""The names of all rates."""
_ENTRY_KEYS: Final = frozenset({"provider", "model", "valid_from", "long_prompt", *RATES})
_FILE_KEYS: Final = frozenset({"source", "as_of", "prices"})


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens: one rate for each class of tokens; the classes do not overlap."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    assumed: bool = False
    """True if the model has no price and the most expensive one of its provider stands in."""

    def cost(self, usage: Usage) -> Decimal:
        """Return the exact cost of `usage` in US dollars; nothing is rounded."""
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_read_tokens * self.cache_read
            + (usage.cache_write_tokens - usage.cache_write_1h_tokens) * self.cache_write_5m
            + usage.cache_write_1h_tokens * self.cache_write_1h
        ) / _MILLION

    def is_free(self) -> bool:
        """Return whether every token is free."""
        return not any(self.rates().values())

    def rates(self) -> dict[str, Decimal]:
        """Return the rates by name."""
        return {name: getattr(self, name) for name in RATES}

    def as_dict(self) -> dict[str, str | bool]:
        """Return what the ledger stores."""
        kept = {f"{name}_per_m_usd": f"{rate:f}" for name, rate in self.rates().items()}
        return {**kept, "assumed": self.assumed}


def read_price(stored: Mapping[str, Any]) -> Price | None:
    """Return the price that `Price.as_dict` stored; None if another release wrote another form."""
    try:
        rates = {name: Decimal(stored[f"{name}_per_m_usd"]) for name in RATES}
        return Price(**rates, assumed=bool(stored["assumed"]))
    except (KeyError, TypeError, ValueError, InvalidOperation):
        return None


FREE: Final = Price(Decimal(0), Decimal(0), Decimal(0), Decimal(0), Decimal(0))


@dataclass(frozen=True, slots=True)
class LongPrompt:
    """The rates for every token of a request whose prompt, cached or not, is longer than a limit."""

    above_tokens: int
    price: Price


@dataclass(frozen=True, slots=True)
class Entry:
    """One price in a file."""

    provider: str
    model: str
    valid_from: date | None
    price: Price
    long_prompt: LongPrompt | None = None

    def of(self, usage: Usage) -> Price:
        """Return the rates at which a request with this usage is billed."""
        if self.long_prompt is not None and usage.prompt_tokens() > self.long_prompt.above_tokens:
            return self.long_prompt.price
        return self.price


@dataclass(frozen=True, slots=True)
class PriceTable:
    """The prices in a file.

    Args:
        source: Where they come from, in the file's own words; otherwise the file's name.
        as_of: The date of that source.
        entries: All prices, including those that are no longer or not yet valid.
    """

    source: str
    as_of: date | None = None
    entries: tuple[Entry, ...] = ()

    def price(self, provider: str, model: str, usage: Usage, day: date) -> Price | None:
        """Return what `usage` of a model costs on a day (UTC).

        A model without a price is billed as the most expensive one of its provider, marked as assumed.

        Returns:
            None if the provider has no price at all.
        """
        holding = self.holding(provider, day)
        for name in (model, family(model)):
            if name in holding:
                return holding[name].of(usage)
        prices = [entry.of(usage) for entry in holding.values()]
        if not prices:
            return None
        return replace(max(prices, key=lambda price: (price.output, price.input)), assumed=True)

    def holding(self, provider: str, day: date) -> dict[str, Entry]:
        """Return each model's entry for a day; before the first day of its prices, the first one."""
        found: dict[str, Entry] = {}
        by_day = sorted(self.entries, key=lambda entry: entry.valid_from or date.min)
        for entry in by_day:
            if entry.provider == provider and (
                entry.model not in found or entry.valid_from is None or entry.valid_from <= day
            ):
                found[entry.model] = entry
        return found


def is_rate(value: Decimal) -> bool:
    """Return whether a number can be a price for a million tokens; see `RATE`."""
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_MOST_PLACES and 0 <= value <= _MOST_USD


def family(model: str) -> str:
    """Return the name under which a dated model is priced: `claude-opus-4-5` for `claude-opus-4-5-20251101`."""
    name, _, last = model.rpartition("-")
    return name if name and (last == "latest" or (len(last) == 8 and last.isdigit())) else model


def read_price_table(path: Path, required: Mapping[str, frozenset[str]], problems: list[str]) -> PriceTable:
    """Read a file of prices.

    Args:
        path: The file, in the format of `shared/money/prices.toml`.
        required: The providers that it may price, and the rates that each must have.
        problems: Receives a line for everything that is wrong with it.

    Returns:
        What could be read; not to be used if there were problems.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_FILE_BYTES + 1)
    except OSError as exc:
        problems.append(f"the prices in {path} cannot be read ({exc.strerror or type(exc).__name__})")
        return PriceTable(str(path))
    if len(content) > _MOST_FILE_BYTES:
        problems.append(f"the prices in {path} have more than {_MOST_FILE_BYTES} bytes")
        return PriceTable(str(path))
    try:
        parsed = tomllib.loads(content.decode(), parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as exc:
        problems.append(f"the prices in {path} are no TOML: {exc}")
        return PriceTable(str(path))
    found = _Reading(path, required)
    table = found.table(parsed)
    problems += found.problems
    return table


class _Reading:
    """Reads one file and collects what is wrong with it."""

    def __init__(self, path: Path, required: Mapping[str, frozenset[str]]) -> None:
        self._path = path
        self._required = required
        self.problems: list[str] = []

    def table(self, parsed: Mapping[str, Any]) -> PriceTable:
        self._refuse_unknown("the file", parsed, _FILE_KEYS)
        source, as_of = parsed.get("source", str(self._path)), parsed.get("as_of")
        if not isinstance(source, str):
            self._problem("source is no text")
        rows = parsed.get("prices")
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            self._problem("it holds no [[prices]]")
            rows = []
        entries = [self._entry(number, row) for number, row in enumerate(rows, 1)]
        self._refuse_doubles(entries)
        return PriceTable(str(source), self._day("as_of", as_of), tuple(entries))

    def _entry(self, number: int, row: Mapping[str, Any]) -> Entry:
        provider, model = row.get("provider"), row.get("model")
        where = f"price {number} ({model!r})"
        self._refuse_unknown(where, row, _ENTRY_KEYS)
        if not isinstance(provider, str) or provider not in self._required:
            self._problem(
                f"{where}: provider is {provider!r}, not one of {', '.join(sorted(self._required))}"
            )
        if not isinstance(model, str) or not model.strip():
            self._problem(f"{where}: model must be its name")
        required = self._required.get(str(provider), frozenset())
        price = self._price(where, row, required)
        return Entry(
            provider=str(provider),
            model=str(model),
            valid_from=self._day(f"{where}: valid_from", row.get("valid_from")),
            price=price,
            long_prompt=self._long_prompt(where, row.get("long_prompt"), required, price),
        )

    def _long_prompt(self, where: str, row: Any, required: frozenset[str], price: Price) -> LongPrompt | None:
        if row is None:
            return None
        where = f"{where}: long_prompt"
        if not isinstance(row, dict):
            self._problem(f"{where} is no table")
            return None
        self._refuse_unknown(where, row, frozenset({"above_tokens", *RATES}))
        above = row.get("above_tokens")
        if type(above) is not int or above < 1:
            self._problem(f"{where}: above_tokens is {above!r}, not a whole number of at least 1")
            above = 1
        long = self._price(where, row, required)
        for name, rate in long.rates().items():
            # A hold is computed from the most tokens that a prompt can have, so long prompts must be the
            # dearer ones.
            if rate < price.rates()[name]:
                self._problem(f"{where}: {name} is less than for a short prompt")
        return LongPrompt(above, long)

    def _price(self, where: str, row: Mapping[str, Any], required: frozenset[str]) -> Price:
        rates = {name: self._rate(f"{where}: {name}", row[name]) for name in RATES if name in row}
        missing = sorted(required - rates.keys())
        if missing:
            self._problem(f"{where}: {', '.join(missing)} missing")
        paid = rates.get("input", Decimal(0))
        return Price(
            input=paid,
            output=rates.get("output", Decimal(0)),
            cache_read=rates.get("cache_read", paid),
            cache_write_5m=rates.get("cache_write_5m", paid),
            cache_write_1h=rates.get("cache_write_1h", paid),
        )

    def _rate(self, where: str, value: Any) -> Decimal:
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            rate = Decimal(value)
            if is_rate(rate):
                return rate
        self._problem(f"{where} is {value!s:.40}, not {RATE}")
        return Decimal(0)

    def _day(self, where: str, value: Any) -> date | None:
        if value is None or (isinstance(value, date) and not isinstance(value, datetime)):
            return value
        self._problem(f"{where} is {value!s:.40}, not a day such as 2026-11-01, without quotes")
        return None

    def _refuse_unknown(self, where: str, row: Mapping[str, Any], known: frozenset[str]) -> None:
        for name in sorted(row.keys() - known):
            self._problem(f"{where}: {name!r} means nothing here")

    def _refuse_doubles(self, entries: Iterable[Entry]) -> None:
        seen = set()
        for entry in entries:
            key = (entry.provider, entry.model, entry.valid_from)
            if key in seen:
                since = f" from {entry.valid_from}" if entry.valid_from else ""
                self._problem(f"{entry.model!r} of {entry.provider} has two prices{since}")
            seen.add(key)

    def _problem(self, what: str) -> None:
        self.problems.append(f"the prices in {self._path}: {what}")
