"""The note in Redis of a provider's call: what is known of an attempt that dies before its first renewal.

Without it, a call that was not answered yet would be lost. Of an answered call, the prompt's figures would be lost,
which no event carries: tokens written to a cache cost more than any estimate assumes.
"""

from dataclasses import dataclass
from typing import Final

from shared.money.usage import PROMPT_COLUMNS, Usage, UsageSource

_LEAST_FIGURES: Final = 4
"""As many as any release has written."""


@dataclass(frozen=True, slots=True)
class CallNote:
    """States that an attempt called its provider.

    Args:
        attempt: Its number.
        prompt: The tokens of all its calls' prompts, once the provider has reported the last one's; none of an answer.
        source: Where those figures come from.
    """

    attempt: int
    prompt: Usage | None = None
    source: UsageSource = UsageSource.ESTIMATED

    def encoded(self) -> str:
        """Return the stored form: the attempt, then the source and the figures."""
        if self.prompt is None:
            return str(self.attempt)
        figures = (str(getattr(self.prompt, name)) for name in PROMPT_COLUMNS)
        return f"{self.attempt} {self.source} {' '.join(figures)}"


def read_note(kept: bytes) -> CallNote | None:
    """Return the note; None if `kept` is not one."""
    try:
        attempt, *told = kept.decode().split()
        if not told:
            return CallNote(int(attempt))
        source, *figures = told
        if len(figures) < _LEAST_FIGURES:
            return None
        # A release with fewer or more classes may have written it; a new class is the last one.
        prompt = Usage(**dict(zip(PROMPT_COLUMNS, map(int, figures), strict=False)))
        return CallNote(int(attempt), prompt, UsageSource(source))
    except ValueError:
        return None
