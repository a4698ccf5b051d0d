"""The note of a provider's call, in Redis: what is known of an attempt that dies before its first renewal.

Without it a call that was not answered yet would be lost, and of one that was answered the prompt's figures, which
no event has: what was written to a cache costs more than any estimate says.
"""

from dataclasses import dataclass

from shared.money.usage import Usage, UsageSource


@dataclass(frozen=True, slots=True)
class CallNote:
    """That an attempt called its provider.

    Args:
        attempt: Which.
        prompt: What all its calls' prompts had, as soon as the provider has told the last one's; nothing of an answer.
        source: What those figures are worth.
    """

    attempt: int
    prompt: Usage | None = None
    source: UsageSource = UsageSource.ESTIMATED

    def encoded(self) -> str:
        """Return what is kept: the attempt, and behind it the source and the figures."""
        if self.prompt is None:
            return str(self.attempt)
        told = self.prompt
        figures = (
            told.input_tokens,
            told.cache_read_tokens,
            told.cache_write_tokens,
            told.cache_write_1h_tokens,
        )
        return f"{self.attempt} {self.source} {' '.join(map(str, figures))}"


def read_note(kept: bytes) -> CallNote | None:
    """Return the note; None where that is none."""
    try:
        attempt, *told = kept.decode().split()
        if not told:
            return CallNote(int(attempt))
        source, read, cached, written, written_1h = told
        prompt = Usage(
            input_tokens=int(read),
            cache_read_tokens=int(cached),
            cache_write_tokens=int(written),
            cache_write_1h_tokens=int(written_1h),
        )
        return CallNote(int(attempt), prompt, UsageSource(source))
    except ValueError:
        return None
