"""The prompt's tokens as Anthropic's dialect reports them, more than once: in disjoint classes, cumulative.

Some servers count the whole prompt as fresh in `message_start` and split it by cache in `message_delta`. The larger
figure of each class would then bill the prompt twice, so the classes of one report belong together.
"""

from typing import Any

from worker.providers.reading import MOST_TOKENS, token_count


class PromptFigures:
    """The prompt of one answer: `fresh` tokens, those `read` from a cache and those `written` to one.

    Their sum never falls: a limit that was lowered to it would otherwise have been lowered too far.
    """

    __slots__ = ("fresh", "read", "written", "written_1h")

    def __init__(self) -> None:
        self.fresh = self.read = self.written = self.written_1h = 0

    def total(self) -> int:
        """Return the length of the prompt."""
        return self.fresh + self.read + self.written

    def take(self, usage: dict[str, Any]) -> None:
        """Take a report; a class that it lacks stays as it is, and a report that counts less says nothing new."""
        fresh = _figure(usage, "input_tokens", self.fresh)
        read = _figure(usage, "cache_read_input_tokens", self.read)
        written, written_1h = self._writes(usage)
        total, before = fresh + read + written, self.total()
        is_split = read + written > self.read + self.written
        if total > before or (total == before and read + written >= self.read + self.written):
            self.fresh, self.read, self.written = fresh, read, written
        elif is_split:
            # The later split is right, and its sum is below the first: what it does not explain stays fresh.
            self.read, self.written = max(read, self.read), max(written, self.written)
            self.fresh = max(0, before - self.read - self.written)
        self.written_1h = max(self.written_1h, written_1h)

    def _writes(self, usage: dict[str, Any]) -> tuple[int, int]:
        """Return the tokens written to caches, and how many of them live for an hour."""
        lives = usage.get("cache_creation")
        split = lives if isinstance(lives, dict) else {}
        short = token_count(split.get("ephemeral_5m_input_tokens"))
        long = token_count(split.get("ephemeral_1h_input_tokens"))
        written = _figure(usage, "cache_creation_input_tokens", 0 if short or long else self.written)
        return max(written, min(short + long, MOST_TOKENS)), long


def _figure(usage: dict[str, Any], name: str, before: int) -> int:
    """Return a class's figure; the one before where there is none, which null, text or a negative number is."""
    value = usage.get(name)
    count = token_count(value)
    return count if count or value == 0 else before
