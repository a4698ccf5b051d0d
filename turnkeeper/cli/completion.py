"""`turnkeeper completion`: prints the script with which a shell completes commands and options."""

from collections.abc import Mapping
from typing import Final

import click
from click.shell_completion import get_completion_class

from turnkeeper.cli.options import PROGRAM, Command

VARIABLE: Final = "_TURNKEEPER_COMPLETE"
"""Set by the script: `bash_complete` asks for completions; `bash_source` for the script itself."""
SHELLS: Final = ("bash", "zsh", "fish")


def is_asked_by_shell(asked: str, environ: Mapping[str, str]) -> bool:
    """Return whether a shell asks for completions or their script; a variable that was left set asks for neither.

    Args:
        asked: The variable's value.
        environ: The environment, in which the shell puts the words that it completes.
    """
    return asked.endswith("_source") or (asked.endswith("_complete") and "COMP_WORDS" in environ)


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print what lets SHELL complete commands and options."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click knows no completion for {shell}", context)
    print(kind(context.find_root().command, {}, PROGRAM, VARIABLE).source(), end="")
    return 0
