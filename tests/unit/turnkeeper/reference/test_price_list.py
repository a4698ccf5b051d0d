"""The shipped prices beside a list that others maintain: what is reported, and what counts as a difference."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal

from shared.money.price_table import Entry, LongPrompt, Price, PriceTable
from turnkeeper.reference.price_list import Steps, compare, steps_of

NOW = datetime(2026, 12, 1, tzinfo=UTC)


def price(first: str, *others: str) -> Price:
    return Price(*(Decimal(rate) for rate in (first, *others)))


USUAL = price("3", "15", "0.30", "3.75", "6")
LONG = price("6", "30", "0.6", "7.5", "12")


def remarks(entries: list[Entry], listed: dict[str, Steps]) -> list[tuple[str, str, bool]]:
    found = compare(PriceTable("ours", None, tuple(entries)), lambda _, model: listed.get(model), NOW)
    return [(remark.model, remark.what, remark.is_difference) for remark in found]


def entry(model: str, rates: Price = USUAL, valid_from: date | None = None, **more: LongPrompt) -> Entry:
    return Entry("anthropic", model, valid_from, rates, **more)


def test_prices_that_are_the_same_are_not_mentioned():
    theirs = {0: price("3.0", "15", "0.3", "3.75", "6").rates()}
    assert remarks([entry("m")], {"m": theirs}) == []


def test_each_rate_that_differs_is_named_with_both_prices():
    theirs = {0: price("3", "16", "0.3", "3.75", "6.5").rates()}
    assert remarks([entry("m")], {"m": theirs}) == [
        ("m", "output is 15 here, 16 there", True),
        ("m", "cache_write_1h is 6 here, 6.5 there", True),
    ]


def test_a_model_or_rate_that_is_unknown_there_is_named_and_is_no_difference():
    theirs = {0: {"input": Decimal(3), "output": Decimal(15)}}
    assert remarks([entry("a"), entry("m")], {"m": theirs}) == [
        ("a", "unknown there", False),
        ("m", "cache_read is 0.30 here, unknown there", False),
        ("m", "cache_write_5m is 3.75 here, unknown there", False),
        ("m", "cache_write_1h is 6 here, unknown there", False),
    ]


def test_a_price_for_long_prompts_that_only_one_side_has_is_a_difference():
    with_long = entry("m", long_prompt=LongPrompt(200_000, LONG))
    both = {0: USUAL.rates(), 200_000: LONG.rates()}
    assert remarks([with_long], {"m": both}) == []
    rates = "input 6, output 30, cache_read 0.6, cache_write_5m 7.5, cache_write_1h 12"
    only_here = ("m", f"prompts over 200,000 tokens: {rates} here, no price of their own there", True)
    only_there = ("m", f"prompts over 200,000 tokens: no price of their own here, {rates} there", True)
    assert remarks([with_long], {"m": {0: USUAL.rates()}}) == [only_here]
    assert remarks([entry("m")], {"m": both}) == [only_there]


def test_the_price_that_holds_today_is_compared_and_no_later_one():
    entries = [entry("m"), entry("m", LONG, date(2026, 12, 2))]
    assert remarks(entries, {"m": {0: USUAL.rates()}}) == []


@dataclass
class TheirTier:
    start: int
    price: Decimal


@dataclass
class TheirTiers:
    base: Decimal
    tiers: list[TheirTier] = field(default_factory=list)


@dataclass
class TheirPrice:
    input_mtok: Decimal | TheirTiers | None = None
    output_mtok: Decimal | TheirTiers | None = None
    cache_read_mtok: Decimal | TheirTiers | None = None
    cache_write_mtok: Decimal | TheirTiers | None = None


def test_their_tiers_become_the_rates_of_longer_prompts():
    tiers = [TheirTier(400_000, Decimal(9)), TheirTier(200_000, Decimal(6))]
    theirs = TheirPrice(TheirTiers(Decimal(3), tiers), Decimal(15), cache_write_mtok=Decimal("3.75"))
    common = {"output": Decimal(15), "cache_write_5m": Decimal("3.75")}
    assert steps_of(theirs) == {
        0: {"input": Decimal(3), **common},
        200_000: {"input": Decimal(6), **common},
        400_000: {"input": Decimal(9), **common},
    }
