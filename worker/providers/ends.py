"""The words with which providers say why an answer ended, in one table.

A gateway speaks one dialect and passes on the words of servers that speak another, so all providers' words are looked
up together; no two of them mean different things by one word. A word that is not here is `unknown`, never `stop`: a
reader who is told `stop` takes a cut answer for a whole one.
"""

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Final, TypeAlias

from shared.turn.turns import FinishReason


class Cut(Enum):
    """Ends of a stream that are not the end of an answer."""

    TOOL_CALL = auto()
    """The model called a tool."""
    BROKEN = auto()
    """The provider gave the generation up."""


End: TypeAlias = FinishReason | Cut

_STOP, _LENGTH = FinishReason.STOP, FinishReason.LENGTH
_FILTER, _REFUSAL = FinishReason.CONTENT_FILTER, FinishReason.REFUSAL

WORDS: Final[Mapping[str, Mapping[str, End]]] = MappingProxyType(
    {
        "OpenAI": {
            "stop": _STOP,
            "length": _LENGTH,
            "content_filter": _FILTER,
            "refusal": _REFUSAL,
            "tool_calls": Cut.TOOL_CALL,
            "function_call": Cut.TOOL_CALL,
            "max_output_tokens": _LENGTH,
        },
        "Anthropic": {
            "end_turn": _STOP,
            "stop_sequence": _STOP,
            "max_tokens": _LENGTH,
            "model_context_window_exceeded": _LENGTH,
            "tool_use": Cut.TOOL_CALL,
            "pause_turn": Cut.TOOL_CALL,
        },
        "vLLM, SGLang": {"abort": Cut.BROKEN, "error": Cut.BROKEN},
        "Mistral": {"model_length": _LENGTH},
        "DeepSeek": {"insufficient_system_resource": Cut.BROKEN},
        "Zhipu": {"sensitive": _FILTER, "network_error": Cut.BROKEN},
        "Text Generation Inference, Together": {"eos_token": _STOP, "eos": _STOP},
        "llama.cpp": {"limit": _LENGTH},
        "Cohere": {
            "complete": _STOP,
            "error_toxic": _FILTER,
            "error_limit": _LENGTH,
            "tool_call": Cut.TOOL_CALL,
            "timeout": Cut.BROKEN,
        },
        "Gemini": {
            "safety": _FILTER,
            "recitation": _FILTER,
            "blocklist": _FILTER,
            "prohibited_content": _FILTER,
            "spii": _FILTER,
            "image_safety": _FILTER,
            "model_armor": _FILTER,
            "malformed_function_call": Cut.TOOL_CALL,
            "unexpected_tool_call": Cut.TOOL_CALL,
        },
        "Bedrock": {"guardrail_intervened": _FILTER, "content_filtered": _FILTER},
    }
)
"""By provider, in lower case; Gemini and Cohere write theirs in capitals."""

_ENDS: Final[Mapping[str, End]] = MappingProxyType(
    {word: end for words in WORDS.values() for word, end in words.items()}
)


def end_of(word: str) -> End | None:
    """Return what a provider's word for the end says; None if nobody is known to use it."""
    return _ENDS.get(word.strip().lower().removeprefix("finish_reason_").replace("-", "_"))


def is_whitewashed(said: End | None, later: End | None) -> bool:
    """Return whether a later word would make a whole answer of a cut one: some gateways add a `stop` of their own."""
    return isinstance(said, FinishReason) and said is not _STOP and later in {_STOP, None}
