"""The commands that start one process of `up` by itself: `web`, `relay`, `worker` and `provider`."""

import os
from pathlib import Path

import click

from turnkeeper.cli.options import FILE, PROCESSES, Command, is_given


class PassedOn(click.Command):
    """Passes its command line on unchanged, including `--help`: the process has its own grammar."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments for the callback."""
        ctx.args = list(args)
        return ctx.args


def _serving(role: str, port: int) -> click.Command:
    """Return the command that serves one role."""

    @click.command(role, cls=Command, help=f"Run the {role} (gunicorn).")
    @click.option(
        "--bind",
        default=f"127.0.0.1:{port}",
        metavar="ADDRESS",
        help="HOST:PORT or unix:PATH to listen on",
    )
    @click.option(
        "--handoff", metavar="PATH", help="socket to take connections over from a front; excludes --bind"
    )
    @click.option("--processes", type=PROCESSES, default=1, metavar="N", help="serving processes")
    @click.option("--grace", type=int, default=25, metavar="SECONDS", help="for requests at a stop")
    @click.option("--pid-file", type=FILE, metavar="FILE", help="where to write which process serves")
    @click.option("--app", default="api.app:create_app", hidden=True)
    @click.pass_context
    def serve(
        context: click.Context,
        bind: str,
        handoff: str | None,
        processes: int,
        grace: int,
        pid_file: Path | None,
        app: str,
    ) -> int:
        if handoff is not None and is_given("bind", context):
            raise click.UsageError("--handoff is not allowed with --bind", context)

        from shared import open_files
        from shared.configuration.settings import load_settings
        from shared.observing.logs import configure_logging
        from turnkeeper.up.serve import Service, serve

        settings = load_settings(os.environ)
        configure_logging(settings.log_level, role, form=settings.log_format)
        open_files.raise_limit()
        service = Service(
            role=role,
            bind=handoff or bind,
            is_handoff=bool(handoff),
            factory=app,
            processes=processes,
            threads=settings.web_threads,
            grace_seconds=grace,
            pid_file=pid_file,
        )
        serve(service)  # gunicorn ends the process
        return 0

    return serve


web = _serving("web", 8080)
relay = _serving("relay", 8081)


@click.command(cls=PassedOn)
@click.pass_context
def worker(context: click.Context) -> int:
    """Run a worker (Celery)."""
    from worker.main import main

    return main(context.args)


@click.command(cls=PassedOn)
@click.pass_context
def provider(context: click.Context) -> int:
    """Run the scripted provider."""
    from turnkeeper.scripted import main

    return main(context.args)
