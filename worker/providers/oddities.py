"""Counts a provider's oddities, and logs each kind once, so that a stream of them fills no log."""

import logging
import re
from collections import Counter
from typing import Final

from shared.oddities import Oddity

_MOST_LOGGED: Final = 100
"""Words logged for one provider; what makes up new ones for ever is only counted."""
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")

_log = logging.getLogger("turnkeeper.provider")


class Oddities:
    """The oddities of one provider. Belongs to the loop's thread; metrics read the counts from another."""

    __slots__ = ("_logged", "counts")

    def __init__(self) -> None:
        self._logged: set[tuple[Oddity, str]] = set()
        self.counts: Counter[Oddity] = Counter()

    def note(self, oddity: Oddity, word: str = "") -> None:
        """Count an oddity; log it if it is the first of its kind and word.

        Args:
            oddity: The kind.
            word: The provider's name for something. It is logged only if it has the form of a name (I10).
        """
        self.counts[oddity] += 1
        if not _NAME.fullmatch(word):
            word = ""
        if (oddity, word) in self._logged or len(self._logged) >= _MOST_LOGGED:
            return
        self._logged.add((oddity, word))
        _log.warning("the provider did something odd", extra={"oddity": oddity.value, "word": word})
