"""Where an answer is cut off if its provider ignores the limit that was sent (I6)."""

from typing import Final

from shared.money.holds import MOST_BYTES_PER_TOKEN
from shared.money.usage import Usage
from worker.providers.provider import Capabilities, Prompt
from worker.turn.allowance import Allowance
from worker.turn.consumption import Consumption

_UNLIMITED: Final = 1 << 62


class Ceiling:
    """The longest that an attempt's answer may be, by each measure of its length.

    Args:
        allowance: What the attempt may cost; None without a budget, when nothing is cut off.
    """

    __slots__ = ("_allowance", "_most_deltas", "_most_length", "_most_tokens")

    def __init__(self, allowance: Allowance | None) -> None:
        self._allowance = allowance
        self._most_tokens = self._most_deltas = self._most_length = _UNLIMITED

    def limited(self, prompt: Prompt, used: Consumption, capabilities: Capabilities) -> Prompt | None:
        """Return the prompt with the limit that is paid for; None if no such answer is worth a call."""
        if self._allowance is None:
            return prompt
        limited = self._allowance.limited(prompt, used.earlier)
        if limited is None:
            return None
        self._most_tokens = limited.max_output_tokens
        self._most_length = used.length + self._most_tokens * MOST_BYTES_PER_TOKEN
        # A delta is at least one token, unless the provider itself counts the tokens.
        if not capabilities.running_usage:
            self._most_deltas = used.deltas + self._most_tokens
        return limited

    def lower(self, counted: Usage, earlier: Usage, limit: int) -> None:
        """Lower the ceiling if the prompt costs more than estimated: it may be larger than any text that we sent.

        Args:
            counted: The prompt's figures, as the provider reports them.
            earlier: What earlier calls of the attempt used.
            limit: The most tokens that the provider was asked for.
        """
        if self._allowance is None:
            return
        most = self._allowance.tokens_after(counted, earlier, limit)
        self._most_deltas -= self._most_tokens - most
        self._most_tokens = most

    def is_passed(self, used: Consumption) -> bool:
        """Return whether the text is longer than is paid for."""
        return used.deltas > self._most_deltas or used.length > self._most_length

    def is_passed_by(self, output_tokens: int) -> bool:
        """Return whether the provider has counted more tokens than are paid for."""
        return output_tokens > self._most_tokens
