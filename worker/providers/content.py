"""What a message's content may look like: a text, a part, or a list of parts, each a text, thinking or something else.

Mistral documents `content` as a string or a list of chunks; gateways pass on the parts of other dialects.
"""

from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, Final, TypeAlias

_MOST_DEPTH: Final = 8
"""Parts hold parts, such as a thinking part with text parts in it; nobody nests deeper than two."""

_TEXTS: Final = frozenset({"", "text", "output_text", "input_text", "text_delta"})
_THOUGHTS: Final = frozenset(
    {
        "thinking",
        "reasoning",
        "reasoning_content",
        "reasoning_text",
        "reasoning.text",
        "reasoning.summary",
        "summary_text",
        "thought",
        "thinking_delta",
    }
)
_HIDDEN: Final = frozenset({"redacted_thinking", "reasoning.encrypted", "signature"})
"""Thinking that is not shown: a sign of life and nothing else."""
_CALLS: Final = frozenset({"tool_use", "tool_call", "function_call", "server_tool_use", "mcp_tool_use"})
_CALL_FIELDS: Final = ("name", "arguments", "input", "function", "custom")
_THOUGHT_FIELDS: Final = ("text", "thinking", "reasoning", "content", "summary", "reasoning_content", "value")


class PartKind(Enum):
    """What a part is."""

    TEXT = auto()
    THOUGHT = auto()
    REFUSAL = auto()
    CALL = auto()
    HIDDEN = auto()
    UNKNOWN = auto()


Piece: TypeAlias = tuple[PartKind, str]
"""A kind with its text; of an unknown part, the name of its type."""


def pieces_of(content: Any, depth: int = 0) -> Iterator[Piece]:
    """Yield the pieces of a `content`, in order; nothing for null and for what is empty.

    Raises:
        ValueError: There may be text in it, and it is not readable as such.
    """
    if isinstance(content, str):
        if content:
            yield PartKind.TEXT, content
    elif isinstance(content, list):
        if depth >= _MOST_DEPTH:
            raise ValueError("parts in parts in parts")
        for part in content:
            yield from pieces_of(part, depth + 1)
    elif isinstance(content, dict):
        yield from _pieces_of_part(content, depth)
    elif content is not None and content is not False:
        raise ValueError("the content is neither text nor parts")


def _pieces_of_part(part: dict[str, Any], depth: int) -> Iterator[Piece]:
    kind = part.get("type")
    name = kind if isinstance(kind, str) else ""
    if name in _TEXTS:
        text = part.get("text")
        if isinstance(text, dict):  # OpenAI's Assistants wrap it once more
            text = text.get("value")
        yield from pieces_of(text, depth + 1)
    elif name in _THOUGHTS:
        yield PartKind.THOUGHT, thought_in(part)
    elif name in _HIDDEN:
        yield PartKind.HIDDEN, ""
    elif name in _CALLS:
        yield PartKind.CALL, ""
    elif name == "refusal":
        words = part.get("refusal")
        yield PartKind.REFUSAL, words if isinstance(words, str) else ""
    else:
        yield PartKind.UNKNOWN, name


def text_in(content: Any) -> str:
    """Return the text of a `content`, without what is not text; empty if it cannot be read."""
    try:
        return "".join(text for kind, text in pieces_of(content) if kind is PartKind.TEXT)
    except ValueError:
        return ""


def thought_in(value: Any, depth: int = 0) -> str:
    """Return the text of a field that holds thinking: a text, an object with one, or a list of them.

    Thinking is shown where it can be read, and no answer depends on it: what is not text is passed over.
    """
    if isinstance(value, str):
        return value
    if depth >= _MOST_DEPTH:
        return ""
    if isinstance(value, list):
        return "".join(thought_in(each, depth + 1) for each in value)
    if isinstance(value, dict):
        for field in _THOUGHT_FIELDS:
            if text := thought_in(value.get(field), depth + 1):
                return text
    return ""


def is_call(value: Any, depth: int = 0) -> bool:
    """Return whether a field for calls of tools calls one: a name, or arguments, that are not empty.

    Some servers send the field with every delta, with an object of empty strings or with an index alone.
    """
    if depth >= _MOST_DEPTH:
        return False
    if isinstance(value, str):
        return value.strip() not in {"", "{}", "null"}
    if isinstance(value, list):
        return any(is_call(each, depth + 1) for each in value)
    if isinstance(value, dict):
        arguments = value.get("arguments")
        if isinstance(arguments, dict) and arguments:
            return True
        return any(is_call(value.get(field), depth + 1) for field in _CALL_FIELDS)
    return False
