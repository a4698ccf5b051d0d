"""What a refusal of a request says about its fields.

A server's own structure is believed: `param`, or a path in `loc`. Its words are believed unless the question has them
too: some servers quote the question, and a user must not change by it how the process asks.
"""

import json
import re
from typing import Any, Final

_QUOTED: Final = frozenset({"input", "request", "ctx", "prompt", "messages"})
"""Members with which servers repeat what they were sent."""
_MOST_DEPTH: Final = 8
_ABOUT_THE_VALUE: Final = re.compile(
    r"too (large|long|high|big|small|low|many)|maximum|minimum|exceed|at (least|most)|(less|greater) than"
    r"|out of range|context|between|must be|should be"
)


class Refusal:
    """A refusal.

    Args:
        body: The beginning of the response's body.
        question: What the server was sent as messages, and may repeat.
    """

    __slots__ = ("_named", "_question", "_words")

    def __init__(self, body: bytes, question: str) -> None:
        self._named: set[str] = set()
        self._question = question.lower()
        words: list[str] = []
        try:
            self._read(json.loads(body), words, 0)
        except (ValueError, RecursionError):
            words.append(body.decode("utf-8", "replace"))
        self._words = " ".join(words).lower()

    def names(self, *fields: str) -> bool:
        """Return whether the refusal names one of these fields."""
        return any(
            field in self._named or (_has(self._words, field) and not _has(self._question, field))
            for field in fields
        )

    def is_about_a_value(self) -> bool:
        """Return whether it complains of how much was asked for, and not of the field that says so."""
        return _ABOUT_THE_VALUE.search(self._words) is not None

    def _read(self, value: Any, words: list[str], depth: int) -> None:
        if depth > _MOST_DEPTH:
            return
        if isinstance(value, str):
            words.append(value)
        elif isinstance(value, list):
            for each in value:
                self._read(each, words, depth + 1)
        elif isinstance(value, dict):
            for name, each in value.items():
                if name in {"param", "loc"}:
                    path = each if isinstance(each, list) else [each]
                    self._named.update(
                        word for part in path if isinstance(part, str) for word in re.split(r"[.\[\]]", part)
                    )
                elif name not in _QUOTED:
                    words.append(name)
                    self._read(each, words, depth + 1)


def _has(words: str, field: str) -> bool:
    return re.search(rf"(?<![a-z0-9_]){re.escape(field)}(?![a-z0-9_])", words) is not None
