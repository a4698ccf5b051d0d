"""What several commands share: groups that list commands in order, types of values, and common options."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
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

FILE: Final = click.Path(path_type=Path)
_NUMBER: Final = re.compile(r"-\d+(?:\.\d*)?|-\.\d+")
"""A negative number is a value, as argparse has it."""
_SPAN: Final = re.compile(r"(\d{1,6})([hdw])")
_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

Declared = TypeVar("Declared", bound=Callable[..., Any])


class Command(click.Command):
    """Refuses an option whose value is missing; click takes the next option for it.

    With an unset variable, `keys create --name $NAME --role=admin` would make a key of another role, and name it so.
    A value that begins with a dash is written `--name=-x`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; while completing, the last value may still be missing."""
        if not ctx.resilient_parsing:
            self._refuse_missing_values(ctx, args)
        return super().parse_args(ctx, args)

    def _refuse_missing_values(self, ctx: click.Context, args: Sequence[str]) -> None:
        valued = {
            name
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and not (param.is_flag or param.count)
            for name in param.opts
        }
        for word, following in pairwise(args):
            if word == "--":
                return
            if word in valued and following.startswith("-") and not _NUMBER.fullmatch(following):
                raise click.BadOptionUsage(word, f"Option {word!r} requires an argument.", ctx)


class Group(click.Group):
    """Lists its commands in the order in which they were added; click's own list is alphabetical."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """Return the names of the commands."""
        return list(self.commands)


class Whole(click.IntRange):
    """A whole number within bounds."""

    name = "whole number"


PROCESSES: Final = Whole(1, MOST_PROCESSES)
PORT: Final = Whole(0, 65535)
"""A TCP port; 0 for any free one."""


class Seconds(click.FloatRange):
    """A number of seconds; refuses `nan`, which a range check lets through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or refuse it."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail("use a number", param, ctx)
        return seconds


class Moment(click.ParamType[datetime]):
    """A time to come: a day or a time as RFC 3339 has it, in UTC unless it says otherwise, or a span such as `90d`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time, or refuse it."""
        now = datetime.now(UTC)
        try:
            moment = _moment(str(value).strip(), now)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time: write 2027-01-31, 2027-01-31T12:00:00Z, 90d or 12h", param, ctx)
        if moment <= now:
            self.fail(f"{value!r} is past", param, ctx)
        return moment


def _moment(text: str, now: datetime) -> datetime:
    if span := _SPAN.fullmatch(text):
        return now + int(span[1]) * _UNITS[span[2]]
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


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
