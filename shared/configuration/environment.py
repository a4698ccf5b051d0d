"""Reads environment variables and gathers what is wrong with them, so that an operator mends it in one go."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

from shared.configuration.variables import VARIABLES
from shared.money.price_table import RATE, is_rate

_DEFAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {variable.name: variable.default for variable in VARIABLES}
)


class Reader:
    """Reads variables and gathers what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        """Return the value or its default; an empty or blank value counts as unset."""
        return self._environ.get(name, "").strip() or _DEFAULTS[name]

    def required(self, name: str, because: str) -> str:
        """Return the value; a missing one is a problem, `because` says when it is needed."""
        value = self.text(name)
        if not value:
            self.problems.append(f"{name} is required {because}: set it")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        """Return one of the allowed words; the first stands for a wrong one."""
        value = self.text(name)
        if value not in allowed:
            self.problems.append(f"{name} is {value!r}: use one of {', '.join(allowed)}")
            return allowed[0]
        return value

    def whole(self, name: str, least: int) -> int:
        """Return a whole number of at least `least`."""
        value = self.text(name)
        if not (value.isascii() and value.isdigit() and len(value) <= 12) or int(value) < least:
            self.problems.append(f"{name} is {value!r}: use a whole number of at least {least}")
            return least
        return int(value)

    def optional_whole(self, name: str, least: int, most: int) -> int | None:
        """Return a whole number within bounds, None when the variable is empty."""
        value = self.text(name)
        if not value:
            return None
        number = self.whole(name, least)
        if number > most:
            self.problems.append(f"{name} is {value!r}: use a whole number of at most {most}")
        return number

    def seconds(self, name: str) -> float:
        """Return seconds, more than none."""
        amount = self.amount(name)
        if amount <= 0:
            self.problems.append(f"{name} is {self.text(name)!r}: use a number of seconds above 0")
            return 1.0
        return float(amount)

    def amount(self, name: str) -> Decimal:
        """Read a plain decimal: digits with at most one point, nothing before or behind."""
        value = self.text(name)
        plain = value.isascii() and value.replace(".", "", 1).isdigit()
        try:
            return Decimal(value) if plain else self._refuse_amount(name, value)
        except InvalidOperation:
            return self._refuse_amount(name, value)

    def rate(self, name: str) -> Decimal:
        """Return a price in US dollars for a million tokens."""
        rate = self.amount(name)
        if not is_rate(rate):
            self.problems.append(f"{name} is {self.text(name)!r}: use {RATE}")
        return rate

    def _refuse_amount(self, name: str, value: str) -> Decimal:
        self.problems.append(f"{name} is {value!r}: use a decimal number that is not negative, such as 0.15")
        return Decimal(1)

    def is_set(self, name: str) -> bool:
        """Say whether the variable has a value of its own."""
        return bool(self._environ.get(name, "").strip())

    def package(self, module: str, name: str, extra: str) -> None:
        """Note a problem where a variable wants a package that is not installed.

        Args:
            module: What it is imported as.
            name: The variable.
            extra: What our package calls it.
        """
        try:
            is_there = find_spec(module) is not None
        except ModuleNotFoundError:  # the package around it is missing
            is_there = False
        if not is_there:
            self.problems.append(
                f"{name} is set, and what it needs is not installed: pip install 'turnkeeper[{extra}]', or unset it"
            )

    def flag(self, name: str) -> bool:
        """Return a truth."""
        return self.choice(name, ("false", "true")) == "true"

    def names(self, name: str) -> frozenset[str]:
        """Return what a list with commas names, in lower case."""
        return frozenset(part.strip().lower() for part in self.text(name).split(",") if part.strip())
