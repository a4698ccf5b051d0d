"""Money on the wire: exact decimal strings.

A turn of a cheap model costs less than a millionth of a dollar; rounding would make it free.
"""

from decimal import Decimal
from typing import Final

_LEAST_DECIMALS: Final = 6


def format_usd(amount: Decimal) -> str:
    """Format US dollars in plain digits.

    Returns:
        At least 6 decimals, more if the amount has them, never an exponent: `0.001230`, `0.00000012`.

    Raises:
        ValueError: `amount` is not finite.
    """
    if not amount.is_finite():
        raise ValueError(f"{amount} is no amount of money")
    digits = f"{amount:f}"
    whole, _, decimals = digits.partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(_LEAST_DECIMALS, '0')}"
