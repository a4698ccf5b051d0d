"""The command line without running it: its commands, and the arguments that each would get."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from unittest.mock import patch

import click

from turnkeeper import cli


def parsed(arguments: Sequence[str]) -> SimpleNamespace:
    """Return the arguments that a command would get.

    Raises:
        click.UsageError: The command line is refused.
    """
    # Groups have their own `invoke`, which calls the next command: only the last one is replaced.
    with patch.object(click.Command, "invoke", lambda _, context: context.params):
        return SimpleNamespace(**cli.invoke(arguments))


def every_command() -> list[str]:
    """Return the words of every command and group; the program itself has none."""
    return [" ".join(names) for names, _ in _below(cli.top)]


def commands_with(option: str) -> list[str]:
    """Return the words of every command that has an option."""
    return [
        " ".join(names)
        for names, command in _below(cli.top)
        if any(option in parameter.opts for parameter in command.params)
    ]


def _below(command: click.Command, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield names, command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _below(each, *names, name)
