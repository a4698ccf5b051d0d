"""The options of the commands that talk to a running service as its users do: `smoke` and `chat`."""

import os

import click

from turnkeeper.cli.options import Command, Declared, up_option
from turnkeeper.up.records import Folder


def _service_options(command: Declared) -> Declared:
    """Give a command the options that choose the service."""
    for option in (
        up_option,
        click.option(
            "--key", metavar="KEY", show_default="TURNKEEPER_KEY, or the `up`'s user key", help="API key"
        ),
        click.option(
            "--url",
            metavar="URL",
            show_default="that of the `up` that runs here",
            help="address of the service",
        ),
    ):
        command = option(command)
    return command


def where(url: str | None, key: str | None, data: Folder) -> tuple[str, str]:
    """Return the address and key of the service.

    Raises:
        SettingsError: Neither the options nor a running `up` provide them.
    """
    state = data.state()
    url = url or (state.url if state else "")
    key = key or os.environ.get("TURNKEEPER_KEY", "") or (state.user_key if state else "")
    missing = [name for name, value in (("--url", url), ("--key (or TURNKEEPER_KEY)", key)) if not value]
    if missing:
        raise data.lacks(missing)
    return url.rstrip("/"), key


@click.command(cls=Command)
@_service_options
@click.option("--message", metavar="MESSAGE", help="what to say")
def smoke(url: str | None, key: str | None, data: Folder, message: str | None) -> int:
    """Replay a turn against a running service and check it."""
    from turnkeeper.commands.smoke import smoke

    return smoke(*where(url, key, data), message)


@click.command(cls=Command)
@_service_options
@click.option("--message", hidden=True, expose_value=False)
def chat(url: str | None, key: str | None, data: Folder) -> int:
    """Chat on the terminal with a running service."""
    from turnkeeper.commands.chat import chat

    return chat(*where(url, key, data))
