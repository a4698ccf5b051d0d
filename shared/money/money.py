"""Money on the wire: decimal strings, exact.

A cheap model's turn costs less than a millionth of a dollar; rounding it away made such turns free.
"""

from decimal import Decimal
from typing import Final

_LEAST_DECIMALS: Final = 6


def format_usd(amount: Decimal) -> str:
    """Format US dollars in plain digits.

    Args:
        amount: Any finite amount.

    Returns:
        At least 6 decimals, more where the amount has them, never an exponent: `0.001230`, `0.00000012`.

    Raises:
        ValueError: `amount` is not finite.
    """
    if not amount.is_finite():
        raise ValueError(f"{amount} is no amount of money")
    digits = f"{amount:f}"
    whole, _, decimals = digits.partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(_LEAST_DECIMALS, '0')}"
