"""The options of `turnkeeper doctor`; one of them takes any number of ports."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import click

from turnkeeper.cli.options import PORT, PROCESSES, Command, Declared, Seconds, up_option
from turnkeeper.doctor import PROCFILE
from turnkeeper.up.records import Folder

_LIMIT_SECONDS: Final = 20.0
_MOST_LIMIT_SECONDS: Final = 300.0


def _ports(text: str) -> tuple[int, ...]:
    """Return ports that are separated by spaces; none for an empty text."""
    return tuple(PORT(word) for word in text.split())


class ManyPorts(Command):
    """Takes any number of values after `--ports`, even none: click's options have a fixed number."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, with all ports in one word."""
        return super().parse_args(ctx, list(_joined(args)))


def _joined(words: Sequence[str]) -> Iterator[str]:
    """Yield the words, with `--ports 1 2` as `--ports=1 2`."""
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--ports":
            first = at
            while at < len(words) and not words[at].startswith("-"):
                at += 1
            word = f"--ports={' '.join(words[first:at])}"
        yield word


def _processes(kind: str) -> Callable[[Declared], Declared]:
    return click.option(
        f"--{kind}",
        type=PROCESSES,
        metavar="N",
        show_default=f"those of the `up`, else {PROCFILE[kind]}",
        help=f"{kind} processes, for the count of connections",
    )


@click.command(cls=ManyPorts)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object instead of lines")
@click.option(
    "--limit",
    type=Seconds(0, _MOST_LIMIT_SECONDS, min_open=True),
    default=_LIMIT_SECONDS,
    metavar="SECONDS",
    help="for all checks",
)
@up_option
@_processes("web")
@_processes("relay")
@_processes("worker")
@click.option(
    "--ports",
    type=_ports,
    metavar="[PORT ...]",
    show_default="that of the `up`, else 8080 and 8081",
    help="ports that must be free or ours",
)
def doctor(
    as_json: bool,
    limit: float,
    data: Folder,
    web: int | None,
    relay: int | None,
    worker: int | None,
    ports: tuple[int, ...] | None,
) -> int:
    """Check everything that the service needs."""
    from turnkeeper.doctor.command import doctor

    processes = {"web": web, "relay": relay, "worker": worker}
    return doctor(data.state(), processes, ports, limit_seconds=limit, as_json=as_json)
