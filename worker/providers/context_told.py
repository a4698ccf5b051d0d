"""Reads from a refusal how long the model's context is, and how long the server counted the prompt to be.

llama.cpp says so in fields. All others say it in a sentence, each in its own: those of OpenAI, vLLM, SGLang, Anthropic,
text-generation-inference, Mistral, xAI, Google and OpenRouter are known. Nothing else of the sentence is used.
"""

import re
from collections.abc import Sequence
from typing import Final

from shared.errors import ContextTold

_NUMBER: Final = r"(\d{1,9})(?!\d)"
_LIMITS: Final = tuple(
    re.compile(pattern.replace("#", _NUMBER))
    for pattern in (
        r"(?:context|prompt|model|input) (?:length|window|size|limit) ?(?:is|of)? ?(?:only )?\(?#",
        r"with # maximum context length",
        r" > #",
        r"must be <= #",
        r"maximum number of tokens allowed \(#",
        r"cannot exceed #",
        r"tokens per min(?:ute)? \(tpm\): limit #",
    )
)
_PROMPTS: Final = tuple(
    re.compile(pattern.replace("#", _NUMBER))
    for pattern in (
        r"# in the messages",
        r"messages resulted in # tokens",
        r"(?:has|passed) (?:at least )?# input tokens",
        r"# tokens from the input",
        r"# of text input",
        r"prompt is too long: #",
        r"# \+ \d+ > ",
        r"(?:prompt|request) contains (?:at least )?# (?:input )?tokens",
        r"(?:input|request|prompt) \((?:length )?# ?(?:tokens)?\)",
        r"input token count \(#\)",
        r"given: # `inputs` tokens",
        r"requested tokens \(#\)",
    )
)
_FIELDS: Final = ("n_ctx", "n_prompt_tokens")


def context_told(error: object, sentence: str) -> ContextTold:
    """Return what a refusal tells of the context; a figure is None if it is not told.

    Args:
        error: The error object, if there is one.
        sentence: What the error says, in any case.
    """
    limit, prompt = (_field(error, name) for name in _FIELDS)
    text = sentence.lower().replace("_", "").replace(",", "")
    return ContextTold(limit or _first(_LIMITS, text), prompt or _first(_PROMPTS, text))


def _field(error: object, name: str) -> int | None:
    value = error.get(name) if isinstance(error, dict) else None
    return value if type(value) is int and 0 < value < 10**9 else None


def _first(patterns: Sequence[re.Pattern[str]], text: str) -> int | None:
    for pattern in patterns:
        if found := pattern.search(text):
            return int(found[1]) or None
    return None
