"""A quote says for ever what a model cost at a moment, for prompts of every length."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money.price_table import FREE, Entry, LongPrompt, Price, PriceTable
from shared.money.prices import PricedModel, price_of
from shared.money.quotes import quote_of, read_quote
from shared.money.usage import Usage

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def flat(rate) -> Price:
    return Price(*[Decimal(rate)] * 5)


TABLE = PriceTable(
    "here",
    None,
    (
        Entry("p", "steady", None, flat(1)),
        Entry("p", "steady", date(2026, 7, 1), flat(9)),
        Entry("p", "stepped", None, flat(2), LongPrompt(100, flat(4))),
        Entry("p", "far", None, flat(3), LongPrompt(1000, flat(8))),
    ),
)
MODELS = [
    PricedModel("p", "steady", TABLE, None),
    PricedModel("p", "stepped", TABLE, None),
    PricedModel("p", "far", TABLE, None),
    PricedModel("p", "unknown", TABLE, None),  # billed as the most expensive, which depends on the prompt
    PricedModel("p", "declared", TABLE, flat(7)),
    PricedModel("nobody", "free", TABLE, None),
    PricedModel("scripted", "m", TABLE, None),
]


@given(st.sampled_from(MODELS), st.integers(0, 2000))
def test_it_is_the_price_of_its_moment_for_every_prompt(model, tokens):
    usage = Usage(cache_read_tokens=tokens, output_tokens=7)
    stored = json.loads(json.dumps(quote_of(model, NOON).as_dict()))
    assert read_quote(stored).of(usage) == price_of(model, usage, NOON)


def test_it_stays_when_the_price_changes():
    quote = quote_of(MODELS[0], NOON)
    assert quote.of(Usage()) == flat(1)
    assert price_of(MODELS[0], Usage(), datetime(2026, 7, 2, tzinfo=UTC)) == flat(9)


def test_it_is_of_one_model_of_one_provider():
    quote = quote_of(MODELS[0], NOON)
    assert quote.is_of(MODELS[0])
    assert not quote.is_of(MODELS[1])
    assert not quote.is_of(PricedModel("q", "steady", TABLE, None))


@pytest.mark.parametrize(
    "stored",
    [
        None,
        {},
        {"provider": "p"},
        {"provider": "p", "model": "m", "price": {}, "longer": []},
        {"provider": "p", "model": "m", "price": FREE.as_dict(), "longer": [[1, {}]]},
        {"provider": "p", "model": "m", "price": FREE.as_dict(), "longer": [1]},
        {"provider": "p", "model": "m", "price": {**FREE.as_dict(), "input_per_m_usd": "much"}, "longer": []},
    ],
)
def test_what_is_no_quote_is_none(stored):
    assert read_quote(stored) is None
