"""Where an answer is cut off that its provider does not end at the limit which it was sent (I6)."""

from typing import Final

from shared.money.holds import MOST_BYTES_PER_TOKEN
from shared.money.usage import Usage
from worker.providers.provider import Capabilities, Prompt
from worker.turn.allowance import Allowance
from worker.turn.consumption import Consumption

_UNLIMITED: Final = 1 << 62


class Ceiling:
    """The most that an attempt's answer may have, by each measure of it.

    Args:
        allowance: What the attempt may cost; None where there is no budget, and so nothing is cut off.
    """

    __slots__ = ("_allowance", "_most_deltas", "_most_length", "_most_tokens")

    def __init__(self, allowance: Allowance | None) -> None:
        """Begin before the first call."""
        self._allowance = allowance
        self._most_tokens = self._most_deltas = self._most_length = _UNLIMITED

    def limited(self, prompt: Prompt, used: Consumption, capabilities: Capabilities) -> Prompt | None:
        """Return the prompt with the limit that is paid for; None when that is no answer worth a call."""
        if self._allowance is None:
            return prompt
        limited = self._allowance.limited(prompt, used.earlier)
        if limited is None:
            return None
        self._most_tokens = limited.max_output_tokens
        self._most_length = used.length + self._most_tokens * MOST_BYTES_PER_TOKEN
        # A delta is a token at least, unless the provider itself says how many there are.
        if not capabilities.running_usage:
            self._most_deltas = used.deltas + self._most_tokens
        return limited

    def lower(self, counted: Usage, earlier: Usage, limit: int) -> None:
        """Take back what the prompt costs more than was thought: it may be larger than any text that we sent.

        Args:
            counted: The prompt's figures, as the provider tells them.
            earlier: What earlier calls of the attempt used.
            limit: The most tokens that the provider was asked for.
        """
        if self._allowance is None:
            return
        most = self._allowance.tokens_after(counted, earlier, limit)
        self._most_deltas -= self._most_tokens - most
        self._most_tokens = most

    def is_passed(self, used: Consumption) -> bool:
        """Say whether the text has more than is paid for."""
        return used.deltas > self._most_deltas or used.length > self._most_length

    def is_passed_by(self, output_tokens: int) -> bool:
        """Say whether the provider has counted more than is paid for."""
        return output_tokens > self._most_tokens
