"""Which media type a request asks for, by its `Accept` as RFC 9110 section 12.5.1 reads it.

Types and names of parameters have no case, the most specific range decides, and a quality of 0 refuses. A range with a
parameter that a response does not have does not match it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from flask import Request

_PIECE: Final = re.compile(r'(?:[^",;]|"(?:[^"\\]|\\.)*")+|[,;]')
"""A text without separators, in which a quoted string may hold some, or one separator."""
_QUALITY: Final = re.compile(r"(?:0|1)?(?:\.[0-9]*)?")
_WILDCARD: Final = 2
"""Up to here a range names no type."""
_MOST_RANGES: Final = 64
"""More than any client names; the rest is ignored."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """A type that a response may have.

    Attributes:
        kind: The part before the slash.
        subtype: The part behind it.
        parameters: The parameters of the response's `Content-Type`.
    """

    kind: str
    subtype: str
    parameters: Mapping[str, str]


EVENT_STREAM: Final = MediaType("text", "event-stream", MappingProxyType({"charset": "utf-8"}))
JSON: Final = MediaType("application", "json", MappingProxyType({"charset": "utf-8"}))
CSV: Final = MediaType("text", "csv", MappingProxyType({"charset": "utf-8", "header": "present"}))


@dataclass(frozen=True, slots=True)
class _Range:
    kind: str
    subtype: str
    parameters: Mapping[str, str]
    quality: float

    def specificity(self, offered: MediaType) -> int:
        """Return how exactly the range names a type, from 1 for `*/*`; 0 if it does not match."""
        if (self.kind, self.subtype) == ("*", "*"):
            return 1
        if self.kind != offered.kind or self.subtype not in {"*", offered.subtype}:
            return 0
        if self.subtype == "*":
            return 2
        has_all = all(offered.parameters.get(name) == value for name, value in self.parameters.items())
        return 3 + len(self.parameters) if has_all else 0


def prefers(given: Request, wanted: MediaType, *, wins_ties: bool) -> bool:
    """Return whether a request names `wanted` and prefers it to JSON; a wildcard names nothing.

    Args:
        given: The request.
        wanted: What there is besides JSON.
        wins_ties: Whether it is preferred if JSON has the same quality.
    """
    ranges = _ranges_of(given.headers.get("Accept", ""))
    specificity, quality = _best(ranges, wanted)
    of_json = _best(ranges, JSON)[1]
    return (
        specificity > _WILDCARD and quality > 0 and (quality > of_json or (wins_ties and quality == of_json))
    )


def _best(ranges: list[_Range], offered: MediaType) -> tuple[int, float]:
    """Return how exactly a type is named, and the quality with which."""
    found = ((each.specificity(offered), each.quality) for each in ranges)
    return max((each for each in found if each[0]), default=(0, 0.0))


def _ranges_of(accept: str) -> list[_Range]:
    ranges: list[_Range] = []
    pieces: list[str] = [""]
    for piece in [*_PIECE.findall(accept), ","]:
        if piece == ",":
            if (found := _range(pieces)) is not None:
                ranges.append(found)
            pieces = [""]
        elif piece == ";":
            pieces.append("")
        else:
            pieces[-1] += piece
    return [each for each in ranges[:_MOST_RANGES] if each.kind]


def _range(pieces: list[str]) -> _Range | None:
    """Read `type/subtype` and its parameters; None for what is not a range."""
    kind, slash, subtype = (part.strip().lower() for part in pieces[0].partition("/"))
    if not (kind and slash and subtype):
        return None
    parameters: dict[str, str] = {}
    for piece in pieces[1:]:
        name, _, value = (part.strip().lower() for part in piece.partition("="))
        if name == "q":
            # What follows was an extension of older versions of HTTP, and says nothing about the type.
            quality = _quality(value)
            return None if quality is None else _Range(kind, subtype, parameters, quality)
        if name:
            parameters[name] = value.strip('"')
    return _Range(kind, subtype, parameters, 1.0)


def _quality(text: str) -> float | None:
    if not text.strip(".") or not _QUALITY.fullmatch(text):
        return None
    return min(float(text), 1.0)
