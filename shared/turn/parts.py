"""The parts of a message: an ordered list, each part of one kind, and the JSON in which it is stored and shown.

A prompt, an answer and a stored message are lists of the same parts. Today they hold text and reasoning. A new kind
is a class in `Part`, and each `match` over parts that lacks it then fails the type check. Deltas do not pass through
here.
"""

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import msgspec


class Text(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Text for the reader."""

    text: str


class Reasoning(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """The model's thinking, kept separate from the text."""

    text: str


Part: TypeAlias = Text | Reasoning
Parts: TypeAlias = tuple[Part, ...]

_JOINT: Final = "\n\n"
_decode: Final = msgspec.json.Decoder(tuple[Part, ...]).decode
_encode: Final = msgspec.json.Encoder().encode


def parts_of(content: str, reasoning: str = "") -> Parts:
    """Return the parts of a message with this text and reasoning; an empty one makes no part."""
    thought: Parts = (Reasoning(reasoning),) if reasoning else ()
    return (*thought, Text(content)) if content else thought


def text_of(parts: Iterable[Part]) -> str:
    """Return the text of all parts, without reasoning, in order."""
    return "".join(part.text for part in parts if isinstance(part, Text))


def reasoning_of(parts: Iterable[Part]) -> str:
    """Return the reasoning of all parts, in order."""
    return "".join(part.text for part in parts if isinstance(part, Reasoning))


def join_parts(first: Parts, second: Parts) -> Parts:
    """Return two messages as one, with a blank line between the texts that meet."""
    if first and second and isinstance(end := first[-1], Text) and isinstance(start := second[0], Text):
        return (*first[:-1], Text(f"{end.text}{_JOINT}{start.text}"), *second[1:])
    return (*first, *second)


def encode_parts(parts: Sequence[Part]) -> bytes:
    """Return the parts as JSON, each an object with its `type` first."""
    return _encode(parts)


def decode_parts(encoded: bytes | str) -> Parts:
    """Read parts from JSON; unknown members are ignored.

    Raises:
        msgspec.DecodeError: It is not JSON, or not a list of parts of known types.
    """
    return _decode(encoded)
