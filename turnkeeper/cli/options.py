"""What the commands have in common: the order of their lists, and the options and values that several take."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from turnkeeper.up.records import DATA_FOLDER

PROGRAM: Final = "turnkeeper"
MOST_PROCESSES: Final = 32
"""Of one kind in `up`: it is for one machine; more are started one by one."""

PROCESSES: Final = click.IntRange(1, MOST_PROCESSES)
PORT: Final = click.IntRange(0, 65535)
"""A TCP port; 0 is any free one."""
FILE: Final = click.Path(path_type=Path)

Declared = TypeVar("Declared", bound=Callable[..., Any])


class Group(click.Group):
    """Lists its commands in the order in which they were added; click's own list is alphabetical."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """Return the names of the commands."""
        return list(self.commands)


class Seconds(click.FloatRange):
    """A number of seconds. `nan` is none, though it lies outside no range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or refuse it."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail("use a number", param, ctx)
        return seconds


def data_option(words: str) -> Callable[[Declared], Declared]:
    """Return the option `--data`."""
    return click.option("--data", type=FILE, default=DATA_FOLDER, metavar="DIR", help=words)


def is_given(name: str, context: click.Context) -> bool:
    """Return whether the command line itself has an option, rather than the environment or its default."""
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE
