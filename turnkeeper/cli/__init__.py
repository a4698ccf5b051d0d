"""The `turnkeeper` command: its grammar, and how errors become exit codes.

The modules here declare commands and options, and load nothing else: a command imports what it needs when it runs.
So `--help` and completion are quick, and need no package that the command itself does not need.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from shared.errors import SettingsError, TurnkeeperError
from turnkeeper.cli.completion import VARIABLE, completion, is_asked_by_shell
from turnkeeper.cli.doctor import doctor
from turnkeeper.cli.dump import dump
from turnkeeper.cli.keys import keys
from turnkeeper.cli.ledger import ledger
from turnkeeper.cli.migrate import migrate
from turnkeeper.cli.options import PROGRAM, Group
from turnkeeper.cli.orgs import orgs
from turnkeeper.cli.prices import prices
from turnkeeper.cli.processes import provider, relay, web, worker
from turnkeeper.cli.service import chat, smoke
from turnkeeper.cli.up import up
from turnkeeper.cli.users import users
from turnkeeper.exits import FAILED, INTERRUPTED, WRONG_USE

_WIDTH = 110


@click.group(
    cls=Group,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": _WIDTH,
        "show_default": True,
    },
)
def top() -> None:
    """Durable LLM chat turns."""


for _command in (
    up,
    web,
    relay,
    worker,
    migrate,
    orgs,
    keys,
    prices,
    doctor,
    ledger,
    dump,
    users,
    smoke,
    chat,
    provider,
    completion,
):
    top.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit code: 0 done, 1 failed, 2 wrong use or configuration."""
    asked = os.environ.get(VARIABLE, "")
    if is_asked_by_shell(asked, os.environ):
        from click.shell_completion import shell_complete

        return run(lambda: shell_complete(top, {}, PROGRAM, VARIABLE, asked))
    arguments = sys.argv[1:] if argv is None else argv
    return run(lambda: int(invoke(arguments)))


def invoke(arguments: Sequence[str]) -> Any:
    """Parse a command line, run its command and return the exit code.

    click's own `main` does this too, but it also handles Ctrl-C and the end of input.
    """
    with top.make_context(PROGRAM, list(arguments)) as context:
        return top.invoke(context)


def run(command: Callable[[], int]) -> int:
    """Run a command and print its errors in readable form."""
    try:
        return command()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as refused:
        refused.show()
        return WRONG_USE
    except SettingsError as refused:
        print(f"turnkeeper: {refused}", file=sys.stderr)
        return WRONG_USE
    except TurnkeeperError as failed:
        print(f"turnkeeper: {failed}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
