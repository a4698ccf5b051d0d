from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money.money import format_usd


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "0.000000"),
        ("0.00123", "0.001230"),
        ("12", "12.000000"),
        ("1E+3", "1000.000000"),
        ("1E-9", "0.000000001"),
        ("0.000000120", "0.00000012"),
        ("-0.5", "-0.500000"),
    ],
)
def test_money_has_plain_digits_and_at_least_six_decimals(amount, shown):
    assert format_usd(Decimal(amount)) == shown


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value="-1e12", max_value="1e12"))
def test_money_is_never_rounded(amount):
    shown = format_usd(amount)
    assert Decimal(shown) == amount
    assert "e" not in shown.lower()
    assert len(shown.split(".")[1]) >= 6


@pytest.mark.parametrize("amount", ["NaN", "Infinity"])
def test_what_is_no_amount_is_refused(amount):
    with pytest.raises(ValueError, match="no amount"):
        format_usd(Decimal(amount))
