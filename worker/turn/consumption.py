"""What the calls of one attempt received and used: the provider's figures if it sent any, else an estimate."""

from dataclasses import replace
from typing import Final

from shared.errors import Fault, ProviderError
from shared.money.usage import Usage, UsageSource, estimate_tokens
from worker.providers.provider import Capabilities, Prompt
from worker.turn.allowance import within_limit
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
        "_earlier_source",
        "_error",
        "_final",
        "_is_begun",
        "_is_sent",
        "_longest",
        "_prompt",
        "_prompt_tokens",
        "_reasoning",
        "_running",
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

    def broke_off(self, error: BaseException | None) -> None:
        """Note the error with which the call ended; None for a cancellation."""
        self._error = error

    def end_call(self, capabilities: Capabilities) -> None:
        """Forget the call, except for what it may have cost: another one follows."""
        usage, source = self._of_call(capabilities)
        if not usage.is_empty():
            self._earlier_source = source if self.earlier.is_empty() else UsageSource.ESTIMATED
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
        if self._running is not None:
            source = UsageSource.PARTIAL if self.earlier.is_empty() else UsageSource.ESTIMATED
            return prompt_of(self.earlier) + prompt_of(self._running), source
        if self.earlier.is_empty() or self._prompt is None:
            return None
        sent = Usage(input_tokens=prompt_tokens(self._prompt))
        return prompt_of(self.earlier) + sent, UsageSource.ESTIMATED

    def usage(self, capabilities: Capabilities) -> tuple[Usage, UsageSource]:
        """Return what all calls used; the sum is an estimate if one of them is."""
        usage, source = self._of_call(capabilities)
        if self.earlier.is_empty():
            return usage, source
        if usage.is_empty():
            return self.earlier, self._earlier_source
        return usage + self.earlier, UsageSource.ESTIMATED

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
        """Return the provider's final figures if it sent any, else its running ones, else an estimate.

        A delta is at least one token, so at least as many tokens as deltas were generated.
        """
        if self._final is not None:
            return self._final, UsageSource.PROVIDER
        if self._prompt is None or not self._is_sent or self._is_free():
            return _NOTHING, UsageSource.ESTIMATED
        # Copies: the loop may append to the lists meanwhile.
        content, reasoning = "".join(list(self._content)), "".join(list(self._reasoning))
        thought = estimate_tokens(reasoning)
        most = self._prompt.max_output_tokens
        estimate = within_limit(estimate_tokens(content) + thought, self.length, most)
        output = max(estimate, self.deltas)
        thought = min(thought, output)
        running = self._running
        if running is None:
            return Usage(
                input_tokens=prompt_tokens(self._prompt), output_tokens=output, reasoning_tokens=thought
            ), UsageSource.ESTIMATED
        if capabilities.running_usage and (running.output_tokens or not self.deltas):
            return running, UsageSource.PARTIAL
        return replace(
            running,
            output_tokens=max(output, running.output_tokens),
            reasoning_tokens=max(thought, running.reasoning_tokens),
        ), UsageSource.PARTIAL


def prompt_of(usage: Usage) -> Usage:
    """Return the usage without the answer's tokens."""
    return replace(usage, output_tokens=0, reasoning_tokens=0)


def _longer(one: Usage, other: Usage) -> Usage:
    """Return the usage with the longer prompt."""
    return max(one, other, key=Usage.prompt_tokens)
