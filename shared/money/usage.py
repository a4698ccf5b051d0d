"""The tokens that a turn used, in classes that do not overlap.

Dialects count differently (OpenAI's prompt tokens include the cached ones, Anthropic's do not). Each adapter
translates once; everything behind it adds up plain numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, TypedDict


class UsageSource(StrEnum):
    """Who says how much was used."""

    PROVIDER = "provider"
    """The provider's final figures."""
    PARTIAL = "partial"
    """The provider's running figures, up to where the stream ended."""
    ESTIMATED = "estimated"
    """Our estimate: the provider sent no figures."""
    DISPUTED = "disputed"
    """The provider's figures were above what the turn can have used: the bound is billed, and theirs kept beside it."""


class UsageCounts(TypedDict):
    """Tokens by class, as they stand on the wire."""

    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts in disjoint classes, with two exceptions.

    `reasoning_tokens` are part of `output_tokens`; `cache_write_1h_tokens`, which cost more, are part of
    `cache_write_tokens` and are not on the wire.
    """

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_1h_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
        )

    def as_dict(self) -> UsageCounts:
        """Return the wire form."""
        return {
            "input_tokens": self.input_tokens,
            "cache_read_tokens": self.cache_read_tokens,
            "cache_write_tokens": self.cache_write_tokens,
            "output_tokens": self.output_tokens,
            "reasoning_tokens": self.reasoning_tokens,
        }

    def prompt_tokens(self) -> int:
        """Return the number of tokens in the prompt, cached or not."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    def is_empty(self) -> bool:
        """Return whether no token was used at all."""
        return self == Usage()


@dataclass(frozen=True, slots=True)
class Reported:
    """What a provider said of calls whose figures are not billed as they are, or contradict each other.

    Args:
        usage: Its own figures.
        total_tokens: Its own total; None if it named none, or the total agrees.
    """

    usage: Usage
    total_tokens: int | None = None

    def __add__(self, other: "Reported") -> "Reported":
        totals = [total for total in (self.total_tokens, other.total_tokens) if total is not None]
        return Reported(self.usage + other.usage, sum(totals) if totals else None)

    def as_dict(self) -> dict[str, int]:
        """Return what the ledger stores: every class, and the total if there is one."""
        counts = {name: int(getattr(self.usage, name)) for name in COLUMNS}
        return counts if self.total_tokens is None else {**counts, "total_tokens": self.total_tokens}


def reported_of(stored: Mapping[str, int] | None) -> Reported | None:
    """Return what `Reported.as_dict` stored; a release before or after may know other classes."""
    if stored is None:
        return None
    return Reported(Usage(**{name: stored.get(name, 0) for name in COLUMNS}), stored.get("total_tokens"))


@dataclass(frozen=True, slots=True)
class ShownTokens:
    """What rows of turns, sessions and the ledger count: every class that is on the wire."""

    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int


COLUMNS: Final = tuple(field.name for field in fields(Usage))
"""Its fields, as checkpoints and the ledger name their columns; statements are put together from these."""
SHOWN_COLUMNS: Final = tuple(field.name for field in fields(ShownTokens))
"""Those that turns, messages, sessions and spend have: what is on the wire."""


PROMPT_COLUMNS: Final = tuple(name for name in COLUMNS if name not in {"output_tokens", "reasoning_tokens"})
"""Those that a prompt has; in the order in which a note of a call holds them."""


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of `text` without the provider's tokenizer: at least 1 unless it is empty.

    Four characters of English are about one token (OpenAI's and Anthropic's rule of thumb); other scripts
    take more tokens per character, and counting UTF-8 bytes follows that.
    """
    return -(-len(text.encode("utf-8", "replace")) // 4)
