"""The options of `turnkeeper up`."""

import os
from pathlib import Path

import click

from turnkeeper.cli.options import FILE, PORT, PROCESSES, Command, data_option


@click.command(cls=Command)
@click.option("--host", metavar="HOST", default="127.0.0.1", help="address to listen on")
@click.option(
    "--port", type=PORT, metavar="PORT", show_default="8080, or the next free", help="port to listen on"
)
@data_option("folder of the data")
@click.option("--state", type=FILE, metavar="FILE", help="write where it runs, as JSON, once it is ready")
@click.option("--web", type=PROCESSES, default=1, metavar="N", help="web processes")
@click.option("--relay", type=PROCESSES, default=1, metavar="N", help="relay processes")
@click.option("--worker", type=PROCESSES, default=1, metavar="N", help="worker processes")
def up(host: str, port: int | None, data: Path, state: Path | None, web: int, relay: int, worker: int) -> int:
    """Run everything here, servers included."""
    from rich.console import Console

    from shared import open_files
    from turnkeeper.up.up import Plan, up

    open_files.raise_limit()
    processes = {"web": web, "relay": relay, "worker": worker}
    return up(Plan(data, state, host, port, processes), os.environ, Console())
