"""The figures of a chat completion's usage, which servers name, place and split differently.

`total_tokens` is a witness. OpenAI counts thinking within the completion, xAI beside it; OpenAI counts cached tokens
within the prompt, others beside it. Where the total agrees with one way of counting, that one is meant.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from worker.providers.provider import UsageConflict
from worker.providers.reading import MOST_TOKENS, token_count

_MOST_DEPTH: Final = 4
_ROUNDING: Final = 2
"""Figures with fractions are rounded up one by one, so that their sum may be off by this much."""

_PROMPT: Final = ("prompt_tokens", "input_tokens")
_COMPLETION: Final = ("completion_tokens", "output_tokens")
_PROMPT_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details")
_COMPLETION_DETAILS: Final = ("completion_tokens_details", "output_tokens_details")
_CACHED: Final = ("prompt_cache_hit_tokens", "cache_read_input_tokens")
"""DeepSeek's name, and Anthropic's, which gateways pass on."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one usage says: `prompt` and `output` are totals, the others are parts of them."""

    prompt: int
    cached: int
    written: int
    output: int
    reasoning: int
    conflict: UsageConflict | None


def figures_of(usage: dict[str, Any]) -> Figures:
    """Read a usage; what is missing or cannot be a number of tokens is 0."""
    prompt, completion = _first(usage, _PROMPT), _first(usage, _COMPLETION)
    total = token_count(usage.get("total_tokens"))
    cached = _detail(usage, _PROMPT_DETAILS, "cached_tokens") or _first(usage, _CACHED)
    written = _first(usage, ("cache_creation_input_tokens",))
    reasoning = _detail(usage, _COMPLETION_DETAILS, "reasoning_tokens") or _first(
        usage, ("reasoning_tokens",)
    )
    prompt = prompt or _missed(usage, cached)
    if total > prompt + completion and not (prompt and completion):
        # One of the two is missing, and the total says what it is.
        prompt, completion = (total - completion, completion) if completion else (prompt, completion)
        completion = completion or (total - prompt if prompt else 0)
    beside = cached + written
    if "prompt_tokens" not in usage and usage.get("cache_read_input_tokens") is not None:
        prompt, beside = prompt + beside, 0  # Anthropic's own way of counting
    whole, output, agrees = _counted(prompt, beside, completion, reasoning, total)
    whole, output = min(whole, MOST_TOKENS), min(output, MOST_TOKENS)
    cached = min(cached, whole)
    conflict = None if agrees else UsageConflict(prompt, completion, reasoning, total)
    return Figures(whole, cached, min(written, whole - cached), output, min(reasoning, output), conflict)


def usages_in(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yield every object named `usage`, the outermost first, wherever a server puts it.

    Moonshot puts it into the choice, Groq into a member of its own, others into the message.
    """
    if depth >= _MOST_DEPTH:
        return
    if isinstance(value, dict):
        usage = value.get("usage")
        if isinstance(usage, dict):
            yield usage
        for each in value.values():
            if each is not usage:
                yield from usages_in(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            yield from usages_in(each, depth + 1)


def _counted(prompt: int, beside: int, completion: int, reasoning: int, total: int) -> tuple[int, int, bool]:
    """Return the whole prompt, the whole output, and whether the total agrees with them.

    Without a total, or where it agrees with no way of counting, parts are within the whole, as OpenAI counts; but a
    part that is larger than its whole is beside it, if the total leaves room for it.
    """
    ways = (
        (prompt, completion),
        (prompt, completion + reasoning),
        (prompt + beside, completion),
        (prompt + beside, completion + reasoning),
    )
    if not (prompt and completion and total):
        return prompt, completion, True
    for whole, output in ways:
        if whole + output == total:
            return whole, output, True
    if abs(prompt + completion - total) <= _ROUNDING:
        return prompt, completion, True
    whole = prompt + beside if beside > prompt and total >= prompt + beside + completion else prompt
    output = completion + reasoning if reasoning > completion and total > whole + completion else completion
    return whole, output, False


def _first(usage: dict[str, Any], names: tuple[str, ...]) -> int:
    for name in names:
        if count := token_count(usage.get(name)):
            return count
    return 0


def _detail(usage: dict[str, Any], groups: tuple[str, ...], name: str) -> int:
    for group in groups:
        details = usage.get(group)
        if isinstance(details, dict) and (count := token_count(details.get(name))):
            return count
    return 0


def _missed(usage: dict[str, Any], cached: int) -> int:
    """Return DeepSeek's prompt where only its two halves are there."""
    missed = token_count(usage.get("prompt_cache_miss_tokens"))
    return missed + cached if missed else 0
