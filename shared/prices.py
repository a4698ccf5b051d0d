"""What tokens cost, in exact decimals.

A price is kept with the ledger row that used it, so a later change of the table changes no bill.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from shared.settings import ProviderName, ProviderSettings
from shared.usage import Usage

_MILLION: Final = Decimal(1_000_000)
_LONG_PROMPT_TOKENS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens, one rate for each class that does not overlap."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal
    known: bool = True
    """False when the model is in no table and the most expensive known price stands in."""

    def cost(self, usage: Usage) -> Decimal:
        """Return the exact cost of `usage` in US dollars; nothing is rounded."""
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_read_tokens * self.cache_read
            + usage.cache_write_tokens * self.cache_write
        ) / _MILLION

    def as_dict(self) -> dict[str, str | bool]:
        """Return what the ledger keeps."""
        return {
            "input_per_m_usd": str(self.input),
            "output_per_m_usd": str(self.output),
            "cache_read_per_m_usd": str(self.cache_read),
            "cache_write_per_m_usd": str(self.cache_write),
            "known": self.known,
        }


def _price(input_: str, output: str, cache_read: str, cache_write: str) -> Price:
    return Price(Decimal(input_), Decimal(output), Decimal(cache_read), Decimal(cache_write))


# Source: platform.claude.com, "Pricing", as of 2026-11; cache writes are those that live 5 minutes.
_ANTHROPIC: Final[Mapping[str, Price]] = MappingProxyType(
    {
        "claude-fable-5-1": _price("10", "50", "0.25", "12.50"),
        "claude-fable-5": _price("10", "50", "1", "12.50"),
        "claude-opus-5-5": _price("4", "20", "0.20", "5"),
        "claude-opus-5": _price("5", "25", "0.50", "6.25"),
        "claude-opus-4-8": _price("5", "25", "0.50", "6.25"),
        "claude-opus-4-7": _price("5", "25", "0.50", "6.25"),
        "claude-opus-4-6": _price("5", "25", "0.50", "6.25"),
        "claude-opus-4-5": _price("5", "25", "0.50", "6.25"),
        "claude-opus-4-1": _price("15", "75", "1.50", "18.75"),
        "claude-opus-4": _price("15", "75", "1.50", "18.75"),
        "claude-sonnet-5-5": _price("2", "10", "0.10", "2.50"),
        "claude-sonnet-5": _price("2", "10", "0.20", "2.50"),
        "claude-sonnet-4-6": _price("3", "15", "0.30", "3.75"),
        "claude-sonnet-4-5": _price("3", "15", "0.30", "3.75"),
        "claude-sonnet-4": _price("3", "15", "0.30", "3.75"),
        "claude-haiku-5-5": _price("0.10", "0.50", "0.01", "0.125"),
        "claude-haiku-4-5": _price("1", "5", "0.10", "1.25"),
        "claude-haiku-3-5": _price("0.80", "4", "0.08", "1"),
    }
)
_ANTHROPIC_LONG_PROMPT: Final[Mapping[str, Price]] = MappingProxyType(
    {"claude-haiku-5-5": _price("0.50", "2.50", "0.05", "0.625")}
)
"""Rates of every token of a request whose prompt, cached or not, is over 100,000 tokens."""

_SCRIPTED: Final = _price("3", "15", "0.30", "3.75")
"""The scripted provider costs nothing; a price lets a demonstration show costs."""


def price_of(provider: ProviderSettings, usage: Usage) -> Price:
    """Return the price that `usage` of the configured provider is billed at."""
    match provider.name:
        case ProviderName.OPENAI_COMPATIBLE:
            read = provider.price_input_per_m_usd
            return Price(read, provider.price_output_per_m_usd, read, read)
        case ProviderName.SCRIPTED:
            return _SCRIPTED
        case ProviderName.ANTHROPIC:
            return _anthropic_price(provider.model, usage)


def is_known(provider: ProviderSettings) -> bool:
    """Say whether the configured model stands in a table or has a declared price."""
    return price_of(provider, Usage()).known


def _anthropic_price(model: str, usage: Usage) -> Price:
    name = _family(model)
    prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    if prompt > _LONG_PROMPT_TOKENS and name in _ANTHROPIC_LONG_PROMPT:
        return _ANTHROPIC_LONG_PROMPT[name]
    if name in _ANTHROPIC:
        return _ANTHROPIC[name]
    dearest = max(_ANTHROPIC.values(), key=lambda price: (price.output, price.input))
    return Price(dearest.input, dearest.output, dearest.cache_read, dearest.cache_write, known=False)


def _family(model: str) -> str:
    """Return the table's name of a model: `claude-opus-4-5-20251101` is priced as `claude-opus-4-5`."""
    name, _, last = model.rpartition("-")
    return name if name and (last == "latest" or (len(last) == 8 and last.isdigit())) else model
