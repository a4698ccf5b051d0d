"""What several commands share: groups that list commands in order, types of values, and common options."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from turnkeeper.up.records import DATA_FOLDER, Folder

PROGRAM: Final = "turnkeeper"
DATA_VARIABLE: Final = "TURNKEEPER_DATA"
MOST_PROCESSES: Final = 32
"""Most processes of one kind in `up`, which is for one machine; more are started one by one."""

PROCESSES: Final = click.IntRange(1, MOST_PROCESSES)
PORT: Final = click.IntRange(0, 65535)
"""A TCP port; 0 for any free one."""
FILE: Final = click.Path(path_type=Path)

Declared = TypeVar("Declared", bound=Callable[..., Any])


class Group(click.Group):
    """Lists its commands in the order in which they were added; click's own list is alphabetical."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """Return the names of the commands."""
        return list(self.commands)


class Seconds(click.FloatRange):
    """A number of seconds; refuses `nan`, which a range check lets through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or refuse it."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail("use a number", param, ctx)
        return seconds


def data_option(
    words: str, callback: Callable[[click.Context, click.Parameter, Path], object] | None = None
) -> Callable[[Declared], Declared]:
    """Return the option `--data`; the command receives the path, or what `callback` makes of it."""
    return click.option(
        "--data",
        type=FILE,
        default=DATA_FOLDER,
        envvar=DATA_VARIABLE,
        show_envvar=True,
        metavar="DIR",
        callback=callback,
        shell_complete=_folders,
        help=words,
    )


def up_option(command: Declared) -> Declared:
    """Give a command the option `--data`, with which it finds a running `up`; the command receives a `Folder`."""

    def as_folder(context: click.Context, _: click.Parameter, path: Path) -> Folder:
        return Folder(path, is_named=is_given("data", context))

    return data_option("folder of the `up`", as_folder)(command)


def is_given(name: str, context: click.Context) -> bool:
    """Return whether an option is on the command line itself, and not from the environment or its default."""
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _folders(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete folders: a folder may not exist yet, so the option's type cannot do this."""
    return [CompletionItem(incomplete, type="dir")]
