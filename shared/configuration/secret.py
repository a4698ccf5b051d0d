"""Wraps a string that must not be shown, such as a key or a password."""


class Secret:
    """A string that does not show itself: not in a repr, a log line or a traceback (I10)."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the string, for the one line that sends it."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__
