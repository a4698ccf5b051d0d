"""Cleans text so that PostgreSQL, Redis and JSON can all carry it.

A model can emit NUL and lone surrogates. PostgreSQL refuses the first and UTF-8 the second, so a single one
that goes unnoticed would lose the whole message at the end of the turn.
"""

from typing import Final

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class TextCleaner:
    r"""Makes a stream of text pieces safe: joins surrogate pairs across pieces, drops NUL.

    JSON may split one character into two `\uXXXX` escapes in two deltas; the first half waits here for the
    second, and is replaced if that does not arrive.
    """

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def feed(self, piece: str) -> str:
        """Return the part of `piece` that is ready; it may be empty."""
        if piece.isascii() and not self._half:
            return piece.replace("\0", "") if "\0" in piece else piece
        text = self._half + piece
        self._half = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._half = text[-1]
            text = text[:-1]
        return clean(text)

    def flush(self) -> str:
        """Return what was still pending at the end of the stream."""
        pending, self._half = self._half, ""
        return _REPLACEMENT if pending else ""


def clean(text: str) -> str:
    """Return `text` with surrogate pairs joined, lone surrogates replaced by U+FFFD and NUL dropped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", "") if "\0" in text else text
