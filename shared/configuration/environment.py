"""How an environment variable is declared and read, and how its text becomes the value of a field.

A variable is declared once, at the field that it fills. The reader, the checks, the reference page and `.env.example`
derive from the declaration. All problems are gathered, so that an operator can correct them in one go.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

_FILLED_BY: Final = "filled_by"
_MADE_FROM: Final = "made_from"


class Section(StrEnum):
    """The sections of the reference page and of `.env.example`, in their order."""

    PROVIDER = "Provider"
    SERVERS = "Servers"
    SERVICE = "Service"
    OBSERVING = "Observing"
    TIMEOUTS = "Timeouts"
    LIMITS = "Limits"
    INTERNAL = "Internal"


@dataclass(frozen=True, slots=True)
class Given:
    """What a rule sees of a variable: its text, and methods to report problems with it."""

    name: str
    text: str
    is_secret: bool
    problems: list[str]

    def problem(self, what: str) -> None:
        """Report a problem; `what` follows the variable's name and must not repeat a secret."""
        self.problems.append(f"{self.name} {what}")

    def refuse(self, remedy: str) -> None:
        """Report that the text cannot be used, and what to use instead."""
        self.problem(f"{'is not valid' if self.is_secret else f'is {self.text!r}'}: {remedy}")

    def needs(self, module: str, extra: str) -> None:
        """Report a package that the variable needs, if it is not installed.

        Args:
            module: Its import name.
            extra: The extra of our package that installs it.
        """
        try:
            is_there = find_spec(module) is not None
        except ModuleNotFoundError:  # the package around it is missing
            is_there = False
        if not is_there:
            self.problem(
                f"is set, and what it needs is not installed: pip install 'turnkeeper[{extra}]', or unset it"
            )


Rule: TypeAlias = Callable[[Given], T]
"""Turns a text into a value. An invalid text is reported, and some value of the type stands in for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Variable(Generic[T]):
    """One environment variable.

    Args:
        name: Its name in the environment.
        default: Its text if it is unset, blank or empty.
        meaning: One or two sentences for operators.
        section: Its place in the documentation.
        rule: Turns its text into a value.
        required: When it must be set, in words; empty if never.
        secret: Whether its text is a credential or may hold one.
    """

    name: str
    default: str
    meaning: str
    section: Section
    rule: Rule[T]
    required: str = ""
    secret: bool = False


def variable(
    name: str,
    default: str,
    meaning: str,
    section: Section,
    rule: Rule[T],
    *,
    required: str = "",
    secret: bool = False,
) -> T:
    """Declare the variable that fills a field of a dataclass; the arguments are those of `Variable`."""
    return filled_by(Variable(name, default, meaning, section, rule, required, secret))


def filled_by(declared: Variable[T]) -> T:
    """Declare that a variable fills a field of a dataclass; the field of a secret is not in the repr."""
    filled: T = field(repr=not declared.secret, metadata={_FILLED_BY: declared})
    return filled


def made_from(*declared: Variable[Any]) -> Any:
    """Declare that code computes a field of a dataclass from these variables."""
    return field(metadata={_MADE_FROM: declared})


def variables_of(settings: "type[DataclassInstance]") -> Iterator[Variable[Any]]:
    """Yield the variables of a dataclass in the order of its fields."""
    for each in fields(settings):
        if _FILLED_BY in each.metadata:
            yield each.metadata[_FILLED_BY]
        yield from each.metadata.get(_MADE_FROM, ())


class Reader:
    """Reads variables and gathers the problems with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def text(self, declared: Variable[Any]) -> str:
        """Return the variable's text or its default; a blank text counts as unset."""
        return self._own(declared) or declared.default

    def is_set(self, declared: Variable[Any]) -> bool:
        """Return whether the variable has a text of its own."""
        return bool(self._own(declared))

    def value(self, declared: Variable[T]) -> T:
        """Return the variable's value; if its text is missing or invalid, a value that stands in for it."""
        text = self.text(declared)
        given = Given(declared.name, text, declared.secret, self.problems)
        if declared.required and not text:
            given.problem(f"is required {declared.required}: set it")
        return declared.rule(given)

    def values(self, settings: "type[DataclassInstance]") -> dict[str, Any]:
        """Return, by field name, the value of every field of a dataclass that is filled by one variable."""
        return {
            each.name: self.value(each.metadata[_FILLED_BY])
            for each in fields(settings)
            if _FILLED_BY in each.metadata
        }

    def _own(self, declared: Variable[Any]) -> str:
        return self._environ.get(declared.name, "").strip()
