"""The most tokens that a call can have used, whatever its provider says: figures above it are disputed.

Every tokenizer in use falls back to bytes, so a text has no more tokens than bytes, and an answer that is not shown as
text (thinking that the provider hides, or sums up) is within the limit that was sent. An honest provider's figures are
below both; one that ignores its limit is below the first. What is billed in place of disputed figures is what a hold
counts on, so that no lie costs more than was held for it (I6).
"""

from dataclasses import replace
from typing import Final

from shared.money.holds import MESSAGE_TOKENS, MOST_BYTES_PER_TOKEN, REQUEST_TOKENS, most_text_tokens
from shared.money.usage import Usage
from worker.providers.provider import Prompt

OVERSHOOT_TOKENS: Final = 256
"""What a server may generate past the limit before it looks, and what some count beside it: figures of 212 above a
limit of 4,096 were seen where thinking is counted beside the answer.
"""

ADDED_TOKENS: Final = 16_384
"""What a provider or a gateway may put before the first message: a template, a system prompt of its own, descriptions
of tools. Up to 14,400 tokens of it were seen with a prompt of one line. A hold counts on fewer: what is above that is
billed as the provider says, up to here.
"""


def held_prompt_tokens(prompt: Prompt) -> int:
    """Return the most tokens of a prompt that a hold counts on: its bytes, and the marks of a chat template."""
    texts = (prompt.system or "", *(message.content for message in prompt.messages))
    return sum(most_text_tokens(text) for text in texts) + REQUEST_TOKENS


def most_prompt_tokens(held: int) -> int:
    """Return the most tokens that a provider can count in a prompt, from what a hold counts on."""
    return held - REQUEST_TOKENS + ADDED_TOKENS


def most_output_tokens(limit: int, text_bytes: int) -> int:
    """Return the most tokens of an answer.

    Args:
        limit: The limit that was sent: of an answer that is not shown, or not all of it.
        text_bytes: The length of text and thinking that were received; thinking has marks of its own.
    """
    return max(limit + OVERSHOOT_TOKENS, text_bytes + 2 * MESSAGE_TOKENS)


def held_output_tokens(limit: int, text_bytes: int, characters: int) -> int:
    """Return the tokens that are billed where an answer's figure is disputed: the limit, or a text too long for it."""
    return limit if characters <= limit * MOST_BYTES_PER_TOKEN else text_bytes


def cut_prompt(usage: Usage, most: int) -> Usage:
    """Return the usage with no more tokens of the prompt than `most`: what was not cached is believed first."""
    plain = min(usage.input_tokens, most)
    read = min(usage.cache_read_tokens, most - plain)
    written = min(usage.cache_write_tokens, most - plain - read)
    return replace(
        usage,
        input_tokens=plain,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(usage.cache_write_1h_tokens, written),
    )


def cut_output(usage: Usage, most: int) -> Usage:
    """Return the usage with no more tokens of the answer than `most`."""
    output = min(usage.output_tokens, most)
    return replace(usage, output_tokens=output, reasoning_tokens=min(usage.reasoning_tokens, output))
