"""The most that a turn can cost, without the provider's tokenizer; its hold is computed from this (I6).

Every tokenizer in use falls back to bytes, so a text never has more tokens than bytes. What is counted here is never
below what a provider counts for the same prompt, and often four times as much.
"""

from decimal import Decimal
from typing import Final

from shared.money.price_table import Price
from shared.money.prices import most_cost

LEAST_OUTPUT_TOKENS: Final = 16
"""A shorter answer is useless: if a budget pays for less, the turn is refused, unless it asked for less itself."""
MESSAGE_TOKENS: Final = 8
"""What a chat template puts around a message: its role and marks, 3 to 6 tokens in the templates in use. It also covers
the empty line between two questions that are joined.
"""
REQUEST_TOKENS: Final = 128
"""What a template puts before the first message if no system prompt is given: a date, a default prompt."""
MOST_BYTES_PER_TOKEN: Final = 16
"""More than any text has on average: a longer text has more tokens than this says."""
_MOST_TOKENS_PER_ESTIMATED: Final = 4
"""A prompt is cut to `CONTEXT_TOKENS` by an estimate of one token for four bytes."""


def most_text_tokens(text: str) -> int:
    """Return the most tokens of a message with this text; 0 for an empty text."""
    return len(text.encode("utf-8", "replace")) + MESSAGE_TOKENS if text else 0


def most_prompt_tokens(text_tokens: int, context_tokens: int) -> int:
    """Return the most tokens of a prompt.

    Args:
        text_tokens: The sum of `most_text_tokens` of all that could be sent, the system prompt included.
        context_tokens: The setting to which the prompt is cut.
    """
    return min(text_tokens, context_tokens * _MOST_TOKENS_PER_ESTIMATED) + REQUEST_TOKENS


def output_token_usd(price: Price) -> Decimal:
    """Return what one token of the answer costs."""
    return most_cost(price, 0, 1)


def payable_tokens(price: Price, usd: Decimal, prompt_tokens: int, most: int) -> int:
    """Return how many tokens of an answer an amount pays for, from 0 to `most`.

    Args:
        price: The price for a prompt of that length.
        usd: The amount.
        prompt_tokens: The most tokens of the prompt, which is paid for first.
        most: How many tokens are asked for.
    """
    left = usd - most_cost(price, prompt_tokens, 0)
    if left < 0:
        return 0
    token_usd = output_token_usd(price)
    return most if left >= most * token_usd else int(left // token_usd)


def least_tokens(asked: int) -> int:
    """Return the fewest tokens that are worth a call when `asked` tokens are asked for."""
    return min(asked, LEAST_OUTPUT_TOKENS)
