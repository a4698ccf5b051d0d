"""What the calls of one attempt received and used: the provider's figures if it sent any, else an estimate.

A figure of 0 for a prompt that was sent or a text that was received is none. One above what prompt, text and limit can
have is not billed: the bound is, and the provider's own figure is kept beside it (`worker/turn/bounds.py`).
"""

from dataclasses import replace
from typing import Final

from shared.errors import Fault, ProviderError
from shared.money.usage import Reported, Usage, UsageSource, estimate_tokens
from worker.providers.provider import Capabilities, Prompt
from worker.turn.allowance import within_limit
from worker.turn.bounds import (
    cut_output,
    cut_prompt,
    held_output_tokens,
    held_prompt_tokens,
    most_output_tokens,
    most_prompt_tokens,
)
from worker.turn.prompt import prompt_tokens

_NOTHING: Final = Usage()
_REFUSALS: Final = frozenset(
    {
        Fault.PROVIDER_REJECTED,
        Fault.PROVIDER_AUTH,
        Fault.PROVIDER_RATE_LIMITED,
        Fault.PROVIDER_OVERLOADED,
        Fault.PROVIDER_PROTOCOL,
        Fault.CONTEXT_TOO_LONG,
    }
)
"""Faults that cost nothing before an answer has begun: the provider did not accept the request."""


class Consumption:
    """The text and the tokens of an attempt, call after call; other threads may read what the loop writes.

    `called`: whether any request reached the provider. `deltas` and `length`: how many pieces of text were received,
    and their characters. `earlier`: what the calls before this one used.
    """

    __slots__ = (
        "_content",
        "_earlier_reported",
        "_earlier_source",
        "_error",
        "_final",
        "_held_prompt",
        "_is_begun",
        "_is_sent",
        "_longest",
        "_prompt",
        "_prompt_tokens",
        "_reasoning",
        "_running",
        "_said",
        "_total",
        "called",
        "deltas",
        "earlier",
        "length",
    )

    def __init__(self) -> None:
        self.called = False
        self.deltas = 0
        self.length = 0
        self.earlier = _NOTHING
        self._earlier_source = UsageSource.ESTIMATED
        self._earlier_reported: Reported | None = None
        self._longest = _NOTHING
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._prompt: Prompt | None = None
        self._final: Usage | None = None
        self._begin_call()

    def _begin_call(self) -> None:
        self._is_sent = False
        self._is_begun = False
        self._running: Usage | None = None
        self._prompt_tokens = 0
        self._held_prompt: int | None = None
        self._total: int | None = None
        self._said: Usage | None = None
        self._error: BaseException | None = None

    # Noted by the attempt.

    def sent(self, prompt: Prompt) -> None:
        """Note that a call's request has reached the provider."""
        self._prompt = prompt
        self.called = self._is_sent = True

    def begun(self) -> None:
        """Note that the provider has begun to answer."""
        self._is_begun = True

    def add(self, reasoning: bool, text: str) -> None:
        """Note a piece of the answer or of the thinking."""
        self.deltas += 1
        self.length += len(text)
        (self._reasoning if reasoning else self._content).append(text)

    def follow(self, usage: Usage) -> bool:
        """Note the provider's figures so far; return whether those of the prompt are new."""
        self._running = usage
        length = usage.prompt_tokens()
        is_news = length != self._prompt_tokens
        self._prompt_tokens = length
        return is_news

    def finished(self, usage: Usage | None) -> None:
        """Note the provider's final figures; None if it sent none."""
        self._final = usage

    def contradicted(self, total_tokens: int, said: Usage | None = None) -> None:
        """Note that the provider's own total is not the sum of its figures: what it said is kept beside them.

        Args:
            total_tokens: The total that it named.
            said: The figures as it sent them, if those that are billed were read from them in another way.
        """
        self._total, self._said = total_tokens, said

    def broke_off(self, error: BaseException | None) -> None:
        """Note the error with which the call ended; None for a cancellation."""
        self._error = error

    def end_call(self, capabilities: Capabilities) -> None:
        """Forget the call, except for what it may have cost: another one follows."""
        usage, source = self._of_call(capabilities)
        self._earlier_reported = self.reported(capabilities)
        if not usage.is_empty():
            self._earlier_source = (
                source if self.earlier.is_empty() else _together(source, self._earlier_source)
            )
        self.earlier += usage
        self._longest = _longer(self._longest, usage)
        self._begin_call()

    # What is known.

    def content(self) -> str:
        """Return the answer's text so far."""
        return "".join(self._content)

    def reasoning(self) -> str:
        """Return the thinking so far."""
        return "".join(self._reasoning)

    def is_refused(self) -> bool:
        """Return whether the provider refused the request that it was sent."""
        return self._is_sent and self._is_free()

    def prompts(self) -> tuple[Usage, UsageSource] | None:
        """Return the tokens of all calls' prompts, and the source of that figure; None while nothing is known."""
        if self._is_free():
            return prompt_of(self.earlier), self._earlier_source
        if self._running is not None and self._running.prompt_tokens():
            counted = self.prompt_counted(self._running)
            is_disputed = counted != prompt_of(self._running)
            source = UsageSource.DISPUTED if is_disputed else UsageSource.PARTIAL
            if not self.earlier.is_empty():
                source = _together(source, self._earlier_source)
            return prompt_of(self.earlier) + counted, source
        if self.earlier.is_empty() or self._prompt is None:
            return None
        sent = Usage(input_tokens=prompt_tokens(self._prompt))
        return prompt_of(self.earlier) + sent, _together(UsageSource.ESTIMATED, self._earlier_source)

    def prompt_counted(self, usage: Usage) -> Usage:
        """Return the provider's figures of the prompt; those that a hold counts on, if they cannot be."""
        counted = prompt_of(usage)
        if self._prompt is None:
            return counted
        held = self._held_prompt_of(self._prompt)
        return counted if counted.prompt_tokens() <= most_prompt_tokens(held) else cut_prompt(counted, held)

    def is_possible(self, output_tokens: int) -> bool:
        """Return whether the answer can have so many tokens: its text does, or the limit that was sent."""
        prompt = self._prompt
        if prompt is None or output_tokens <= most_output_tokens(prompt.max_output_tokens, 0):
            return True
        return output_tokens <= most_output_tokens(prompt.max_output_tokens, self._text_bytes())

    def usage(self, capabilities: Capabilities) -> tuple[Usage, UsageSource]:
        """Return what all calls used; the sum is an estimate if one of them is."""
        usage, source = self._of_call(capabilities)
        if self.earlier.is_empty():
            return usage, source
        if usage.is_empty():
            return self.earlier, self._earlier_source
        return usage + self.earlier, _together(source, self._earlier_source)

    def reported(self, capabilities: Capabilities) -> Reported | None:
        """Return what the provider said of the calls whose figures are disputed or contradictory; None without any."""
        said = self._said or self._final or self._running
        is_kept = self._total is not None or self._of_call(capabilities)[1] is UsageSource.DISPUTED
        if said is None or not is_kept:
            return self._earlier_reported
        reported = Reported(said, self._total)
        return reported if self._earlier_reported is None else self._earlier_reported + reported

    def longest_call(self, capabilities: Capabilities) -> Usage | None:
        """Return the call with the longest prompt; None if there was only one call."""
        if self.earlier.is_empty():
            return None
        return _longer(self._longest, self._of_call(capabilities)[0])

    def _is_free(self) -> bool:
        return (
            not self._is_begun
            and self._running is None
            and isinstance(self._error, ProviderError)
            and self._error.fault in _REFUSALS
        )

    def _of_call(self, capabilities: Capabilities) -> tuple[Usage, UsageSource]:
        """Return the provider's final figures if it sent any, else its running ones, else an estimate."""
        prompt, running = self._prompt, self._running
        if self._final is not None:
            return self._counted(self._final, UsageSource.PROVIDER)
        if prompt is None or not self._is_sent or self._is_free():
            return _NOTHING, UsageSource.ESTIMATED
        if running is None:
            output, thought = self._estimated_output(prompt)
            estimate = Usage(prompt_tokens(prompt), output_tokens=output, reasoning_tokens=thought)
            return estimate, UsageSource.ESTIMATED
        if not capabilities.running_usage or (self.deltas and not running.output_tokens):
            output, thought = self._estimated_output(prompt)
            running = replace(
                running,
                output_tokens=max(output, running.output_tokens),
                reasoning_tokens=max(thought, running.reasoning_tokens),
            )
        return self._counted(running, UsageSource.PARTIAL)

    def _counted(self, usage: Usage, source: UsageSource) -> tuple[Usage, UsageSource]:
        """Return the provider's figures, estimated where they say nothing and cut where they say too much."""
        prompt = self._prompt
        if prompt is None:
            return usage, source
        if not usage.prompt_tokens():
            usage, source = replace(usage, input_tokens=prompt_tokens(prompt)), UsageSource.ESTIMATED
        if self.deltas and not usage.output_tokens:
            output, thought = self._estimated_output(prompt)
            usage = replace(usage, output_tokens=output, reasoning_tokens=thought)
            source = UsageSource.ESTIMATED
        counted = self.prompt_counted(usage)
        possible = replace(
            counted, output_tokens=usage.output_tokens, reasoning_tokens=usage.reasoning_tokens
        )
        if not self.is_possible(usage.output_tokens):
            most = held_output_tokens(prompt.max_output_tokens, self._text_bytes(), self.length)
            possible = cut_output(possible, most)
        return (usage, source) if possible == usage else (possible, UsageSource.DISPUTED)

    def _estimated_output(self, prompt: Prompt) -> tuple[int, int]:
        """Estimate the tokens of the answer, and those of its thinking, which are part of them.

        A delta is at least one token, so at least as many tokens as deltas were generated.
        """
        # Copies: the loop may append to the lists meanwhile.
        content, reasoning = "".join(list(self._content)), "".join(list(self._reasoning))
        thought = estimate_tokens(reasoning)
        estimate = within_limit(estimate_tokens(content) + thought, self.length, prompt.max_output_tokens)
        output = max(estimate, self.deltas)
        return output, min(thought, output)

    def _held_prompt_of(self, prompt: Prompt) -> int:
        if self._held_prompt is None:  # once for a call: a long history takes its time
            self._held_prompt = held_prompt_tokens(prompt)
        return self._held_prompt

    def _text_bytes(self) -> int:
        pieces = (*list(self._content), *list(self._reasoning))
        return sum(len(piece.encode("utf-8", "replace")) for piece in pieces)


def prompt_of(usage: Usage) -> Usage:
    """Return the usage without the answer's tokens."""
    return replace(usage, output_tokens=0, reasoning_tokens=0)


def _longer(one: Usage, other: Usage) -> Usage:
    """Return the usage with the longer prompt."""
    return max(one, other, key=Usage.prompt_tokens)


def _together(one: UsageSource, other: UsageSource) -> UsageSource:
    """Return the source of the sum of two calls' figures: disputed if one of them is, else an estimate."""
    return UsageSource.DISPUTED if UsageSource.DISPUTED in {one, other} else UsageSource.ESTIMATED
