"""What an attempt may cost: its hold, less what its earlier calls used (I6).

The limit sent to the provider is computed from the very prompt sent with it. So an answer within the limit is paid
for, however the history has changed since the turn was accepted. A provider that ignores the limit is cut off.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from shared.money.holds import (
    MOST_BYTES_PER_TOKEN,
    least_tokens,
    most_prompt_tokens,
    most_text_tokens,
    payable_tokens,
)
from shared.money.price_table import Price
from shared.money.prices import Priced, price_of
from shared.money.quotes import Quote
from shared.money.usage import Usage
from worker.providers.provider import Prompt


@dataclass(frozen=True, slots=True)
class Allowance:
    """An attempt's hold.

    Args:
        priced: The model that answers, with its prices.
        hold_usd: What the attempt may cost.
        context_tokens: The length to which prompts are cut.
        quote: The price at which it was held, and is billed; None if it is not known, or another model's.
    """

    priced: Priced
    hold_usd: Decimal
    context_tokens: int
    quote: Quote | None = None

    def limited(self, prompt: Prompt, spent: Usage) -> Prompt | None:
        """Return the prompt with the highest limit that the hold pays for.

        Args:
            prompt: What is to be sent.
            spent: What earlier calls of the attempt used.

        Returns:
            None if the hold pays for no answer that is worth a call.
        """
        texts = (prompt.system or "", *(message.content for message in prompt.messages))
        most = most_prompt_tokens(sum(most_text_tokens(text) for text in texts), self.context_tokens)
        price = self._price(Usage(input_tokens=most))
        left = self.hold_usd - self._price(spent).cost(spent)
        payable = payable_tokens(price, left, most, prompt.max_output_tokens)
        if payable < least_tokens(prompt.max_output_tokens):
            return None
        return replace(prompt, max_output_tokens=payable)

    def tokens_after(self, prompt: Usage, spent: Usage, most: int) -> int:
        """Return how many tokens of the answer the hold pays for, now that the provider has counted the prompt.

        Args:
            prompt: The prompt's figures, without those of the answer.
            spent: What earlier calls of the attempt used.
            most: The limit that was sent.
        """
        price = self._price(prompt)
        left = self.hold_usd - price.cost(prompt) - self._price(spent).cost(spent)
        return payable_tokens(price, left, 0, most)

    def _price(self, usage: Usage) -> Price:
        return price_of(self.priced, usage, datetime.now(UTC)) if self.quote is None else self.quote.of(usage)


def within_limit(estimate: int, characters: int, most: int) -> int:
    """Return an estimate of an answer's tokens, at most the limit that was sent to the provider.

    Tokens may be longer than the estimate assumes. But if the text is too long for the limit in any language, the
    provider did not keep to the limit, and the estimate counts.
    """
    return estimate if characters > most * MOST_BYTES_PER_TOKEN else min(estimate, most)
